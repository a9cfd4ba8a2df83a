"""The graphs that an export writes besides `model.onnx`: entry points, and graphs for runtimes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.deploy.graph_sets import (
    Graphs,
    PreparedFrames,
    Session,
    any_batch,
    for_target,
    largest_difference,
    prepared_frames,
    write_graph_set,
)
from search.deploy.runtimes.target import Target
from spaces.bundle import Bundle
from spaces.entry_graphs import WHOLE, entry_graphs
from spaces.errors import MergeSearchError
from spaces.graph_export import BundleGraph, OnnxSession
from spaces.inputs import Frame
from spaces.precision import widen_weights

GRAPH_TOLERANCE = 1e-4
"""Largest difference between the answers of a graph and of the bundle, relative to the largest."""


class GraphCheckFailed(MergeSearchError):
    """A written graph gives other answers than the bundle: a fault of merge-search."""


@dataclass(frozen=True)
class GraphRequest:
    """Which graphs to write."""

    split: bool = False
    """Whether each entry point gets a graph of its own."""
    targets: Sequence[Target] = ()
    """The runtimes that get graphs in a folder of their own."""

    def write(self, bundle: Bundle, frames: Sequence[Frame], folder: Path) -> list[str]:
        """Write the graphs and run them on frames; return the checks as sentences.

        Raises:
            CannotSplit: the graphs of two entry points would have the same name.
            GraphCheckFailed: a graph gives other answers than the bundle.
            ExporterMissing: onnx, onnxscript or onnxruntime is not installed.
        """
        prepared, checks = prepared_frames(bundle, frames), list[str]()
        if self.split and not self.targets:
            graphs, checks = _exportable(entry_graphs(bundle))
            write_graph_set(graphs, prepared, any_batch, folder)
            checks.append(_describe_run(graphs, prepared, folder, OnnxSession, "onnxruntime"))
        for target in self.targets:
            checks += self._write_target(bundle, prepared, target, folder / target.name)
        return checks

    def _write_target(
        self, bundle: Bundle, prepared: PreparedFrames, target: Target, folder: Path
    ) -> list[str]:
        if not target.takes_compressed:
            bundle = copy.deepcopy(bundle)
            widen_weights(bundle.merged)
        parts = entry_graphs(bundle) if self.split else {}
        graphs, checks = _exportable({WHOLE: BundleGraph(bundle), **parts})
        if not graphs:
            return [f"{target.name}: {check}" for check in checks]
        folder.mkdir()
        write_graph_set(graphs, prepared, for_target(target), folder)
        checks.append(_describe_run(graphs, prepared, folder, target.open_session, target.runtime))
        checks += target.refusals([folder / f"{name}.onnx" for name in graphs])
        return [f"{target.name}: {check}" for check in checks]


def _exportable(graphs: Graphs) -> tuple[dict[str, BundleGraph], list[str]]:
    """Return the graphs that can be exported, and of the others why not."""
    missing = [
        f"without {name}.onnx: {'; '.join(graph.refusals)}"
        for name, graph in graphs.items()
        if graph.refusals
    ]
    return {name: graph for name, graph in graphs.items() if not graph.refusals}, missing


def _describe_run(
    graphs: Graphs,
    prepared: PreparedFrames,
    folder: Path,
    open_session: Callable[[Path], Session],
    runtime: str,
) -> str:
    """Run graphs on frames and say how near their answers are to the bundle's.

    Raises:
        GraphCheckFailed: they are not near enough.
    """
    names = ", ".join(f"{name}.onnx" for name in graphs)
    difference = largest_difference(graphs, prepared, lambda file: open_session(folder / file))
    if difference > GRAPH_TOLERANCE:
        raise GraphCheckFailed(
            f"{names}: their answers differ from the bundle's by {difference:.1e} of the greatest"
        )
    return (
        f"{names}: run with {runtime}, their answers differ from the bundle's by at most "
        f"{difference:.1g} of the greatest"
    )
