"""Write the graphs of a bundle, whole or by entry points, and check them on real frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spaces.bundle import Bundle
from spaces.entry_graphs import run_in_turn
from spaces.graph_export import (
    BundleGraph,
    export_fixed,
    export_program,
    max_relative_difference,
    missing_packages,
    onnx_model,
)
from spaces.inputs import Frame

if TYPE_CHECKING:
    import onnx_ir

    from search.deploy.runtimes.target import RuntimeTarget

Graphs = Mapping[str, BundleGraph]
Build = Callable[[BundleGraph, Sequence[Tensor]], "onnx_ir.Model"]
"""Exports one graph; its examples are the inputs for two frames."""


@dataclass(frozen=True)
class GraphForm:
    """The form in which graphs are written."""

    build: Build
    weights_beside: bool
    """Whether all graphs read their weights from one file, or each holds its own."""


class Session(Protocol):
    """A graph file that a runtime has loaded."""

    def run(self, inputs: Mapping[str, Tensor]) -> Mapping[str, NDArray[np.float32]]:
        """Return each output by name."""
        ...


def _build_any_batch(graph: BundleGraph, examples: Sequence[Tensor]) -> onnx_ir.Model:
    return onnx_model(graph, export_program(graph, examples))


ANY_BATCH = GraphForm(_build_any_batch, weights_beside=True)
"""Graphs for batches of any size, in torch's own set of operators."""


def form_for(target: RuntimeTarget) -> GraphForm:
    """Return the form that a runtime takes: graphs for one frame at a time."""

    def build(graph: BundleGraph, examples: Sequence[Tensor]) -> onnx_ir.Model:
        from spaces.portable.graph import (
            EXPORTED_OPSET,
            convert_integers_on_loading,
            make_portable,
        )
        from spaces.portable.raw_outputs import add_raw_outputs

        single = [example[:1] for example in examples]
        model = onnx_model(graph, export_fixed(graph, single), EXPORTED_OPSET)
        make_portable(model, target.opset, target.ir_version)
        if not target.keeps_integers:
            convert_integers_on_loading(model)
        for detector in graph.detectors:
            add_raw_outputs(model, detector)
        return model

    return GraphForm(build, target.weights_beside)


def write_graph_set(graphs: Graphs, frames: PreparedFrames, form: GraphForm, folder: Path) -> None:
    """Export graphs to `NAME.onnx` in a folder.

    Raises:
        ExporterMissing: onnx or onnxscript is not installed.
        NotPortable: a runtime's set of operators lacks one of a graph.
    """
    try:
        from spaces.onnx_files import write_with_shared_weights, write_with_weights_inside
    except ImportError as error:
        raise missing_packages(error) from error
    inputs = {name: torch.cat([values[0], values[-1]]) for name, values in frames.items()}
    known = dict(inputs)
    for outputs in _torch_answers(graphs, inputs).values():
        known |= outputs
    models = {
        f"{name}.onnx": form.build(graph, [known[key].clone() for key in graph.inputs])
        for name, graph in graphs.items()
    }
    write = write_with_shared_weights if form.weights_beside else write_with_weights_inside
    write(models, folder)


PreparedFrames = Mapping[str, Sequence[Tensor]]
"""By the name of an input: each frame prepared, as a batch of one."""


def prepared_frames(bundle: Bundle, frames: Sequence[Frame]) -> dict[str, list[Tensor]]:
    """Return frames as the inputs of a bundle's graphs."""
    prepared = [bundle.prepare_frames([frame]) for frame in frames]
    return {f"{name}_input": [frame[name] for frame in prepared] for name in prepared[0]}


def largest_difference(
    graphs: Graphs, frames: PreparedFrames, open_session: Callable[[str], Session]
) -> float:
    """Return the largest difference between graphs and the bundle, relative to the largest value.

    The graphs run one after another: each takes the representations that those before it computed.
    """
    sessions = {name: open_session(f"{name}.onnx") for name in graphs}

    def run(name: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = sessions[name].run(inputs)
        return {key: torch.from_numpy(outputs[key]) for key in graphs[name].outputs}

    differences = []
    for index in range(len(next(iter(frames.values())))):
        inputs = {name: values[index] for name, values in frames.items()}
        expected, actual = _torch_answers(graphs, inputs), run_in_turn(graphs, inputs, run)
        differences += [
            max_relative_difference([*expected[name].values()], [*actual[name].values()])
            for name in graphs
        ]
    return max(differences)


@torch.inference_mode()
def _torch_answers(graphs: Graphs, inputs: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    def run(name: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(graphs[name].outputs, graphs[name](*values.values()), strict=True))

    return run_in_turn(graphs, inputs, run)
