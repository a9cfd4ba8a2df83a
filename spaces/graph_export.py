"""A bundle as one graph of tensors: for ONNX runtimes, and as a `torch.export` program.

The inputs are those that the merged model reads, each (batch, 3, height, width), prepared as
`spaces.inputs.prepare` does it. A classifier gives its logits. A detector gives the boxes and
scores of all its anchors: non-maximum suppression has no fixed shape, and stays outside.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spaces.bundle import Bundle
from spaces.errors import MergeSearchError
from spaces.stages import DetectionHead

LARGEST_BATCH = 1024


class ExporterMissing(MergeSearchError):
    """What exports to ONNX, or runs it, is not installed."""


class BundleGraph(nn.Module):
    """Prepared inputs in, tensors out, in the order of `inputs` and `outputs`."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.merged = bundle.merged
        self._models = sorted(self.merged.inputs_read)
        self.inputs = [f"{name}_input" for name in self._models]
        self.outputs = [
            f"{name}_{part}"
            for name, task in bundle.tasks.items()
            for part in (["logits"] if task == "classification" else ["boxes", "scores"])
        ]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self._models, inputs, strict=True))
        answers = self.merged.answers(given, _read)
        return tuple(tensor for answer in answers.values() for tensor in answer)

    def named(self, prepared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A bundle's prepared inputs under the graph's names."""
        return {f"{name}_input": prepared[name] for name in self._models}


def _read(head: nn.Module, taps: list[Tensor]) -> tuple[Tensor, ...]:
    return head.dense(taps) if isinstance(head, DetectionHead) else (head(taps),)


def export_program(graph: BundleGraph, examples: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """The graph for batches of any size; `examples` are inputs of two frames or more."""
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    shapes = (tuple({0: batch} for _ in examples),)
    with _quiet(), torch.no_grad():
        return torch.export.export(graph, tuple(examples), dynamic_shapes=shapes)


def write_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write the program for `torch.export.load`."""
    with _quiet():
        torch.export.save(program, path)


def write_onnx(graph: BundleGraph, program: torch.export.ExportedProgram, path: Path) -> None:
    """Write the program as ONNX.

    Raises:
        NoExporter: onnx or onnxscript is not installed.
    """
    try:
        with _quiet():
            exported = torch.onnx.export(
                program, dynamo=True, input_names=graph.inputs, output_names=graph.outputs
            )
    except ImportError as error:
        raise ExporterMissing(_missing(error)) from error
    assert exported is not None
    exported.save(path)


def run_onnx(path: Path, inputs: Mapping[str, Tensor]) -> list[NDArray[np.float32]]:
    """What onnxruntime makes of the inputs, on the CPU.

    Raises:
        NoExporter: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExporterMissing(_missing(error)) from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return list(session.run(None, {name: t.numpy() for name, t in inputs.items()}))


def max_relative_difference(
    wanted: Sequence[Tensor], found: Sequence[Tensor | NDArray[np.float32]]
) -> float:
    """The greatest difference of any number, by the greatest number of its output."""
    return max(
        float((torch.as_tensor(f) - w).abs().max() / w.abs().max())
        for w, f in zip(wanted, found, strict=True)
    )


def _missing(error: ImportError) -> str:
    return f"ONNX needs more packages ({error}): pip install 'merge-search[onnx]'"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters tell of every step, and warn of what their own parts do."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
