"""Write the graph of a bundle in int8, with the quality that it keeps and what loses it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from search.config.search import ExportConfig
from search.data.frames import FrameSet, Sampling, Subset, batch_ranges
from search.data.ground_truth import Truth
from search.data.inputs.input_batches import input_batches
from search.deploy.int8.graph_answers import GraphAnswers, feed_inputs
from search.deploy.int8.int8_quality import Int8Quality, measure_int8
from search.deploy.int8.int8_report import (
    INT8,
    describe_drop,
    missing_section,
    print_quality,
    quality_section,
)
from search.evaluation.evaluate import EvaluationSetup
from search.statistics.observed import Observed
from search.utils.reporter import Reporter
from spaces.bundle import Bundle
from spaces.deployment import Deployment
from spaces.errors import MergeSearchError
from spaces.graph_export import (
    BundleGraph,
    NoGraph,
    export_program,
    missing_packages,
    write_onnx,
)
from spaces.inputs import InputSpec
from spaces.plan import HEAD, Ref
from spaces.stages import StagedModel

if TYPE_CHECKING:
    import onnx

CALIBRATION_FRAMES = 128
"""Frames of the statistics that the ranges of the activations are measured on, at most."""
BLAMED_FRAMES = 16
"""Frames of these that the loss of each stage is measured on, at most."""


class NoSuchStage(MergeSearchError):
    """A stage to keep in float is not in the merged model."""


@dataclass(frozen=True)
class Int8Export:
    """Writes `model_int8.onnx` into the folder of a bundle: a `BundleExtra`."""

    observed: Observed
    truth: Mapping[str, Truth]
    settings: ExportConfig
    batch: int
    """Frames per forward pass."""
    reporter: Reporter
    keep_float: Sequence[str] = ()
    """Stages and heads that stay in float, besides the heads of detectors, as `model:stage`."""

    def __call__(self, bundle: Bundle, folder: Path) -> str:
        """Write the graph; return the section of the card on its quality.

        Without a graph, the section and a warning say why there is none. A drop beyond `max_drop`
        is a warning that names the stages which lose most.

        Raises:
            NoSuchStage: a stage of `keep_float` is not in the merged model.
            ExporterMissing: onnx, onnxscript or onnxruntime is not installed.
        """
        owners = owners_in_float(bundle, self.keep_float)
        feeds = CalibrationFeeds(calibration_frames(self.observed), bundle)
        try:
            graphs = quantize_bundle(bundle, feeds, owners)
        except NoGraph as error:
            self.reporter.warn(f"without {INT8}: {error}")
            return missing_section(str(error))
        (folder / INT8).write_bytes(graphs.int8.SerializeToString())
        deployment = self.observed.deployment
        quality = measure_int8(
            self.observed,
            EvaluationSetup(deployment.deployed_models, deployment.facts, {}, self.batch),
            self.truth,
            GraphAnswers(graphs.folded.SerializeToString(), bundle.inputs, bundle.tasks),
            GraphAnswers(folder / INT8, bundle.inputs, bundle.tasks),
        )
        written = (folder / INT8).stat().st_size
        print_quality(quality, written, self.reporter)
        warning = self._warning(quality, graphs, feeds, deployment)
        if warning:
            self.reporter.warn(warning)
        return quality_section(quality, written, len(feeds), sorted(map(str, owners)), warning)

    def _warning(
        self,
        quality: Int8Quality,
        graphs: QuantizedGraphs,
        feeds: CalibrationFeeds,
        deployment: Deployment,
    ) -> str:
        """Return what to tell about the drop; nothing if it is at most `max_drop`."""
        if quality.drop is None or quality.drop.value <= self.settings.max_drop:
            return ""
        losses = stage_losses(graphs, feeds, deployment.models)
        return describe_drop(quality.drop, self.settings.max_drop, losses)


def owners_in_float(bundle: Bundle, keep_float: Sequence[str] = ()) -> frozenset[Ref]:
    """Return what stays in float: the heads of detectors, and the stages and heads named.

    A detector's scores and boxes suffer most from int8, see ADR 24.

    Raises:
        NoSuchStage: a name is none of the merged model's stages and heads.
    """
    owners = {str(owner): owner for _, owner, _ in bundle.merged.parts()}
    for name in keep_float:
        if name not in owners:
            raise NoSuchStage(
                f"--keep-float {name}: not in the merged model; it has {', '.join(owners)}"
            )
    heads = {owner for owner in owners.values() if owner.stage == HEAD}
    detectors = {head for head in heads if bundle.tasks[head.model] == "detection"}
    return frozenset(detectors | {owners[name] for name in keep_float})


@dataclass(frozen=True)
class CalibrationFeeds:
    """The inputs of the graph of a bundle, frame by frame, as often as they are read."""

    frames: FrameSet
    bundle: Bundle

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Mapping[str, torch.Tensor]]:
        names = [f"{name}_input" for name in sorted(self.bundle.merged.inputs_read)]
        feed = feed_inputs(names, self.bundle.inputs)
        for batch in input_batches(self.frames, batch_ranges(len(self.frames), 1), feed):
            yield batch.inputs


def calibration_frames(observed: Observed) -> Subset:
    """Return frames that the statistics were measured on, evenly spread."""
    used = observed.statistics_frames.indices
    chosen = Sampling(CALIBRATION_FRAMES).indices(len(used))
    return Subset(observed.frames, tuple(used[k] for k in chosen))


@dataclass(frozen=True)
class QuantizedGraphs:
    """The graph of a bundle in float and in int8."""

    folded: onnx.ModelProto
    """In float, with normalisations folded into the layers."""
    int8: onnx.ModelProto
    layers: Mapping[Ref, Sequence[str]]
    """By stage, head or map: the names of its layers in int8."""
    inputs: Mapping[str, InputSpec]
    """The input spec of each model."""


def quantize_bundle(
    bundle: Bundle, feeds: CalibrationFeeds, excluded: frozenset[Ref]
) -> QuantizedGraphs:
    """Export a bundle in float and in int8; the `excluded` stages and heads stay in float.

    The bundle is moved to the CPU.

    Raises:
        ExporterMissing: onnx, onnxscript or onnxruntime is not installed.
    """
    try:
        from spaces.onnx_int8 import fold_graph, layers_by_part, quantize_graph
    except ImportError as error:
        raise missing_packages(error) from error
    graph, example = BundleGraph(bundle.cpu()), next(iter(feeds))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        examples = [torch.cat([example[name]] * 2) for name in graph.inputs]
        write_onnx(graph, export_program(graph, examples), path)
        folded = fold_graph(path)
    parts = {part: owner for part, owner, _ in bundle.merged.parts()}
    layers: dict[Ref, list[str]] = {}
    for part, names in layers_by_part(folded, parts).items():
        layers.setdefault(parts[part], []).extend(names)
    kept = [name for owner in excluded for name in layers.pop(owner, [])]
    return QuantizedGraphs(folded, quantize_graph(folded, feeds, kept), layers, bundle.inputs)


def stage_losses(
    graphs: QuantizedGraphs, feeds: CalibrationFeeds, models: Mapping[str, StagedModel]
) -> dict[Ref, float]:
    """Return how much the answers change with one stage or head alone in int8, largest first.

    It is the mean over models and frames of 1 - `StagedModel.closeness`, as a rounding loss.
    """
    from spaces.onnx_grafts import with_int8_layers

    chosen = Sampling(BLAMED_FRAMES).indices(len(feeds))
    frames = [feeds.frames[k] for k in chosen]

    def answers(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
        tasks = {name: models[name].task for name in models}
        graph = GraphAnswers(model.SerializeToString(), graphs.inputs, tasks)
        return graph.comparables(frames)

    original = answers(graphs.folded)
    losses = {}
    for owner, names in graphs.layers.items():
        changed = answers(with_int8_layers(graphs.folded, graphs.int8, names))
        loss = [
            1 - float(models[name].closeness(changed[name], expected).mean())
            for name, expected in original.items()
        ]
        losses[owner] = sum(loss) / len(loss)
    return dict(sorted(losses.items(), key=lambda entry: -entry[1]))
