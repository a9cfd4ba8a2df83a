"""The graphs that an export writes besides `model.onnx`: entry points, and graphs for runtimes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from search.deploy.runtimes.graph_sets import (
    ANY_BATCH,
    Graphs,
    PreparedFrames,
    Session,
    form_for,
    largest_difference,
    prepared_frames,
    write_graph_set,
)
from search.deploy.runtimes.openvino_session import OpenvinoSession
from search.deploy.runtimes.registry import TARGETS
from search.deploy.runtimes.target import RuntimeTarget
from spaces.bundle import Bundle, load_bundle
from spaces.entry_graphs import WHOLE, entry_graphs
from spaces.errors import BadInput, MergeSearchError
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
    targets: Sequence[RuntimeTarget] = ()
    """The runtimes that get graphs in a folder of their own."""

    def write(self, bundle: Bundle, frames: Sequence[Frame], folder: Path) -> list[str]:
        """Write the graphs of the bundle in a folder, and run them on frames.

        Return the checks as sentences.

        Raises:
            CannotSplit: the graphs of two entry points would have the same name.
            GraphCheckFailed: a graph gives other answers than the bundle.
            ExporterMissing: onnx, onnxscript or onnxruntime is not installed.
        """
        prepared, checks = prepared_frames(bundle, frames), list[str]()
        if self.split and not self.targets:
            graphs, checks = _exportable(entry_graphs(bundle))
            if graphs:
                write_graph_set(graphs, prepared, ANY_BATCH, folder)
                checks.append(_describe_run(graphs, prepared, folder, ONNXRUNTIME))
        for targets in _by_form(self.targets):
            stored = bundle if targets[0].compressed_weights else _widened(folder)
            checks += self._write_targets(stored, prepared, targets, folder)
        return checks

    def _write_targets(
        self,
        bundle: Bundle,
        prepared: PreparedFrames,
        targets: Sequence[RuntimeTarget],
        folder: Path,
    ) -> list[str]:
        """Write graphs for runtimes that take the same form: they are exported once."""
        parts = entry_graphs(bundle) if self.split else {}
        graphs, missing = _exportable({WHOLE: BundleGraph(bundle), **parts})
        checks = [f"{target.name}: {reason}" for target in targets for reason in missing]
        if not graphs:
            return checks
        first = folder / targets[0].name
        first.mkdir()
        write_graph_set(graphs, prepared, form_for(targets[0]), first)
        for target in targets[1:]:
            shutil.copytree(first, folder / target.name)
        runs = {
            runner: _describe_run(graphs, prepared, first, runner)
            for runner in dict.fromkeys(map(_runner, targets))
        }
        for target in targets:
            found = [runs[_runner(target)], *_refusals(graphs, target, first)]
            checks += [f"{target.name}: {check}" for check in found]
        return checks


def _by_form(targets: Sequence[RuntimeTarget]) -> list[list[RuntimeTarget]]:
    """Return the targets that take the same graphs together."""
    groups: dict[tuple[bool, ...], list[RuntimeTarget]] = {}
    for target in targets:
        form = (target.compressed_weights, target.keeps_integers, target.weights_beside)
        groups.setdefault(form, []).append(target)
    return [*groups.values()]


def _widened(folder: Path) -> Bundle:
    """Return the bundle in a folder with all weights in float32."""
    bundle = load_bundle(folder)
    widen_weights(bundle.merged)
    return bundle


NO_GRAPHS = GraphRequest()


def request_graphs(split: bool, targets: Sequence[str]) -> GraphRequest:
    """Return the request for graphs of entry points, and of runtimes by their names.

    Raises:
        BadInput: there is no runtime of a name.
    """
    for name in targets:
        if name not in TARGETS:
            raise BadInput(f"no runtime {name!r}; there are {', '.join(TARGETS)}")
    return GraphRequest(split, tuple(TARGETS[name] for name in TARGETS if name in targets))


def _exportable(graphs: Graphs) -> tuple[dict[str, BundleGraph], list[str]]:
    """Return the graphs that can be exported, and of the others why not."""
    missing = [
        f"without {name}.onnx: {'; '.join(graph.refusals)}"
        for name, graph in graphs.items()
        if graph.refusals
    ]
    return {name: graph for name, graph in graphs.items() if not graph.refusals}, missing


def _refusals(graphs: Graphs, target: RuntimeTarget, folder: Path) -> list[str]:
    """Return what the published list of a runtime that was not run says against the graphs."""
    if target.operators is None:
        return []
    # are there: the graphs have been written with them
    import onnx

    from search.deploy.runtimes.graph_check import check_graph

    models = {
        name: onnx.load(folder / f"{name}.onnx", load_external_data=False) for name in graphs
    }
    found = [
        f"{name}.onnx: {problem}"
        for name, model in models.items()
        for problem in check_graph(model, target)
    ]
    return found or [f"its list of operators holds nothing against them ({target.title})"]


class _Runner(NamedTuple):
    """A runtime that is installed here."""

    name: str
    open_session: Callable[[Path], Session]


ONNXRUNTIME = _Runner("onnxruntime", OnnxSession)


def _runner(target: RuntimeTarget) -> _Runner:
    """Return the runtime of a target where it is installed, and otherwise onnxruntime."""
    if target.name == "openvino" and find_spec("openvino"):
        return _Runner("openvino", OpenvinoSession)
    return ONNXRUNTIME


def _describe_run(graphs: Graphs, prepared: PreparedFrames, folder: Path, runner: _Runner) -> str:
    """Run graphs on frames and say how near their answers are to the bundle's.

    Raises:
        GraphCheckFailed: they are not near enough.
    """
    names = ", ".join(f"{name}.onnx" for name in graphs)
    difference = largest_difference(
        graphs, prepared, lambda file: runner.open_session(folder / file)
    )
    if difference > GRAPH_TOLERANCE:
        raise GraphCheckFailed(
            f"{names}: their answers differ from the bundle's by {difference:.1e} of the greatest"
        )
    return (
        f"{names}: run with {runner.name}, their answers differ from the bundle's by at most "
        f"{difference:.1g} of the greatest"
    )
