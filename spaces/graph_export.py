"""Export a bundle as one graph of tensors: as ONNX, or as a `torch.export` program.

The inputs are those that the merged model reads, each (batch, c, height, width), prepared by
`spaces.inputs.prepare`. The outputs of each model are those of its task, see `spaces.tasks`.
Weights keep the precision in which the bundle stores them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spaces.bundle import Bundle
from spaces.errors import MergeSearchError
from spaces.execution import EntryPoint
from spaces.in_place_operations import replace_in_place
from spaces.node import Node
from spaces.plan import HEAD
from spaces.quiet import quiet
from spaces.tasks.registry import TASKS

if TYPE_CHECKING:
    import onnx_ir

LARGEST_BATCH = 1024
INPUTS_KEY = "merge_search.inputs"
"""Key of an ONNX file's metadata: JSON that says how each input is made of a frame."""


class ExporterMissing(MergeSearchError):
    """A package that exports to ONNX, or runs it, is not installed."""


class NoGraph(MergeSearchError):
    """A merged model cannot be one graph of tensors."""


class BundleGraph(nn.Module):
    """A merged model, or a part of one, as a function of tensors.

    Its arguments and results are in the order of `inputs` and `outputs`.
    """

    def __init__(self, bundle: Bundle, entry: EntryPoint | None = None) -> None:
        """Prepare for the whole merged model, or for the part `entry`."""
        super().__init__()
        self.merged = bundle.merged
        self.entry = entry or self.merged.whole
        self._input_specs = bundle.inputs
        self._models = sorted(self.entry.inputs_read)
        self._tasks = {name: bundle.tasks[name] for name in self.entry.models}
        self.inputs = [
            *(f"{name}_input" for name in self._models),
            *map(representation_name, self.entry.takes),
        ]
        self.outputs = [
            *map(representation_name, self.entry.gives),
            *(
                f"{name}_{part}"
                for name, task in self._tasks.items()
                for part in TASKS[task].graph_outputs
            ),
        ]
        heads = {o.model: head for _, o, head in self.merged.parts() if o.stage == HEAD}
        self.refusals = [
            f"{name}: {refusal}"
            for name, task in self._tasks.items()
            if (refusal := TASKS[task].graph_refusal(heads[name]))
        ]
        """Why the graph can be run, but not exported; empty if it can."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        by_name = dict(zip(self.inputs, inputs, strict=True))
        results = self.merged.run(
            self.entry,
            {name: by_name[f"{name}_input"] for name in self._models},
            {node: by_name[representation_name(node)] for node in self.entry.takes},
            lambda head, taps: (head, taps),
        )
        answers = (
            tensor
            for name, (head, taps) in results.answers.items()
            for tensor in TASKS[self._tasks[name]].graph_answers(head, taps)
        )
        return (*results.representations.values(), *answers)

    @property
    def detectors(self) -> tuple[str, ...]:
        """The detectors that the graph answers for."""
        return tuple(name for name, task in self._tasks.items() if task == "detection")

    @property
    def input_specs(self) -> dict[str, dict[str, Any]]:
        """The fields of the `InputSpec` of each input that is a frame, by the input's name."""
        return {f"{name}_input": asdict(self._input_specs[name]) for name in self._models}

    def rename_inputs(self, prepared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the prepared inputs of a bundle under the input names of the graph."""
        return {f"{name}_input": prepared[name] for name in self._models}


def representation_name(node: Node) -> str:
    """Return the name of a representation that one graph outputs and others take."""
    return f"{node.ref.model}/{node.ref.stage}"


def export_program(graph: BundleGraph, examples: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """Export the graph for batches of 1 to LARGEST_BATCH frames; `examples` have at least two.

    Raises:
        NoGraph: a head has no output of a fixed shape.
    """
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    return _exported(graph, examples, (tuple({0: batch} for _ in examples),))


def export_fixed(graph: BundleGraph, examples: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """Export the graph for inputs of the shapes of `examples` only.

    Raises:
        NoGraph: a head has no output of a fixed shape.
    """
    return _exported(graph, examples, None)


def _exported(
    graph: BundleGraph, examples: Sequence[Tensor], shapes: tuple[Any, ...] | None
) -> torch.export.ExportedProgram:
    if graph.refusals:
        raise NoGraph("; ".join(graph.refusals))
    with quiet(), torch.no_grad():
        program = torch.export.export(graph, tuple(examples), dynamic_shapes=shapes)
    _forget_origin(program)
    replace_in_place(program)
    return program


def _forget_origin(program: torch.export.ExportedProgram) -> None:
    """Remove the examples, which are frames of a camera, and where each operation comes from.

    Both would be written into the file: as many bytes as the weights of a small bundle, with
    paths of this machine.
    """
    program.example_inputs = None
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn"):
            node.meta.pop(key, None)


def write_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program that `torch.export.load` reads."""
    with quiet():
        torch.export.save(program, path)


def write_onnx(graph: BundleGraph, program: torch.export.ExportedProgram, path: Path) -> None:
    """Write the program as ONNX.

    Raises:
        ExporterMissing: onnx or onnxscript is not installed.
    """
    model = onnx_model(graph, program)
    import onnx_ir  # is there, or the export would have failed

    onnx_ir.save(model, path)


def onnx_model(
    graph: BundleGraph, program: torch.export.ExportedProgram, opset: int | None = None
) -> onnx_ir.Model:
    """Return the program as an ONNX graph in memory, by default in torch's set of operators.

    Raises:
        ExporterMissing: onnx or onnxscript is not installed.
    """
    try:
        from spaces.onnx_weights import optimize_graph

        with quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=graph.inputs,
                output_names=graph.outputs,
                opset_version=opset,
                optimize=False,
            )
            assert exported is not None
            optimize_graph(exported.model)
    except ImportError as error:
        raise missing_packages(error) from error
    exported.model.metadata_props[INPUTS_KEY] = json.dumps(graph.input_specs)
    model: onnx_ir.Model = exported.model
    return model


class OnnxSession:
    """An ONNX file, or its content, that onnxruntime runs on the CPU.

    `threads` is the number of threads; 0 takes all cores.

    Raises:
        ExporterMissing: onnxruntime is not installed.
    """

    def __init__(self, graph: Path | bytes, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_packages(error) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that wait in a loop slow down everything else that runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
        """Return each output by name."""
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return dict(zip(self.outputs, self._session.run(None, arrays), strict=True))


def run_onnx(path: Path, inputs: Mapping[str, Tensor]) -> list[NDArray[np.float32]]:
    """Run an ONNX file with onnxruntime on the CPU and return its outputs.

    Raises:
        ExporterMissing: onnxruntime is not installed.
    """
    return list(OnnxSession(path).run(inputs).values())


def max_relative_difference(
    expected: Sequence[Tensor], actual: Sequence[Tensor | NDArray[np.float32]]
) -> float:
    """Return the largest difference of any number, relative to the largest value of its output."""
    return max(
        float((torch.as_tensor(output) - reference).abs().max() / reference.abs().max())
        for reference, output in zip(expected, actual, strict=True)
    )


def missing_packages(error: ImportError) -> ExporterMissing:
    """Return the error that names the extra to install."""
    return ExporterMissing(f"ONNX needs more packages ({error}): pip install 'merge-search[onnx]'")
