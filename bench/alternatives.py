"""Compare merge-search with the alternatives: one table of bytes, accuracy and latency.

    MERGE_SEARCH_DATA=/path/to/data python bench/alternatives.py

There are two pairs: lite0 and lite1 with their ImageNet weights, on photos of imagenet1k_1000, and
the quickstart's classifier and detector on its rendered scenes. Each alternative becomes one ONNX
graph and is measured by onnxruntime, so that bytes (of the weights in the graph), accuracy and
milliseconds are comparable:

- identity sharing as in the original paper: no adapter, guided by CKA
- merge-search in float32, and with weights in any precision at several budgets; the chosen plan
  has the best fidelity within the budget, so no label is used
- each network with its weights in half precision, and in int8
- one trunk for both, on which the recipient's head is trained again with labels, on as many frames
- each network in int8 by onnxruntime: dynamic, and static on unlabelled frames as by
  `merge-search export --int8`; and a merged model in static int8
- the next smaller network of the family in both places, where there is one

Accuracy is measured on labelled frames that nothing else has used. `kept` is the mean over the
models of their main score over that of the unmerged model, with its 95% interval. Latency is that
of one frame's tensors through the graph on one core, without preparing the frame and without
non-maximum suppression, which are the same for all; the alternatives take turns. The last line is
one JSON object: for each pair and alternative `bytes`, `kept`, `low`, `high`, `ms`, and the score
of each model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
import yaml
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from retrained_head import merge_with_retrained_head
from rich.console import Console
from samplers import DATA, LITE, ROOT

from search.config.data import TruthConfig
from search.config.loading import load_config
from search.config.run import RunConfig
from search.data.frames import FrameSet, Sampling, Subset
from search.data.ground_truth import ClassTruth, Truth
from search.deploy.export import ONNX, ExportRequest
from search.deploy.int8.graph_answers import GraphAnswers, feed_inputs, prepare_feed
from search.deploy.int8.int8_export import (
    CALIBRATION_FRAMES,
    CalibrationFeeds,
    owners_in_float,
    quantize_bundle,
)
from search.evaluation.bundles import score_by_frame
from search.evaluation.confidence import Resampling
from search.evaluation.evaluate import (
    UNMERGED_PLAN,
    EvaluationSetup,
    quality_kept_by_model,
    score_frames,
)
from search.evaluation.per_frame import FrameScores, main_score, scores_by_model
from search.pipelines.deployment.load import load_deployment
from search.pipelines.export import export
from search.pipelines.open_data import open_frame_set, open_ground_truth
from search.pipelines.prepare import open_truth
from search.pipelines.run import run
from search.study.precision.profiles import weight_owners
from search.utils.console import ConsoleReporter
from search.utils.format import megabytes, percent, percent_interval
from search.utils.progress import silent
from search.utils.reporter import Reporter
from spaces.bundle import BundleContents, load_bundle, write_bundle
from spaces.deployment import Deployment
from spaces.graph_export import BundleGraph, OnnxSession, export_program, write_onnx
from spaces.inputs import Frame
from spaces.merged import MergedModel
from spaces.plan import Precision, Share, SharePlan

QUICKSTART = ROOT / "runs" / "quickstart.yaml"
BATCH = 8
ROUNDS, TIMED = 5, 20
"""How many times the alternatives take turns, and frames per turn."""
CONVOLUTIONS = ["Conv", "Gemm", "MatMul"]
NOTHING, FRAMES, TRAINED = "nothing", "unlabelled frames", "a trained network"
LABELS = "labelled frames"
BUDGETS = ("50%", "35%", "25%", "20.5%", "18%", "15%")
"""Of the searches that store weights in any precision."""
UNMERGED = "unmerged, float32"


@dataclass(frozen=True)
class Alternative:
    """One way to run both models, as a graph."""

    name: str
    needs: str
    graph: Path


@dataclass(frozen=True)
class Merging:
    """A run of merge-search with changes to its config."""

    name: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class RetrainedHead:
    """A share whose recipient's head is trained again, with labels."""

    share: Share
    labels: Mapping[str, Any]
    """The config's `truth` section of the frames that merge-search takes unlabelled."""


@dataclass(frozen=True)
class Pair:
    """Two models, and the alternatives for them."""

    name: str
    config: Path
    merged: Sequence[Merging]
    retrained: RetrainedHead
    smaller: Mapping[str, str] = field(default_factory=dict)
    """By model, the smaller model of the pair that takes its place."""


def identity_at(budget: str) -> Merging:
    name = f"identity sharing, CKA, {budget}"
    return Merging(
        name, {"budget": budget, "search.adapters": ["identity"], "search.metric": "cka"}
    )


def merged_at(budget: str) -> Merging:
    return Merging(f"merge-search, {budget}", {"budget": budget})


def precise_at(budget: str) -> Merging:
    """Return a merging that searches shares and precisions together."""
    return Merging(
        f"merge-search, any precision, {budget}",
        {"budget": budget, "search.precision": ["float32", "float16", "int8"]},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--pair", choices=["lite0+lite1", "quickstart"], action="append")
    names = parser.parse_args().pair
    reporter = ConsoleReporter(Console(width=150, highlight=False))
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        for pair in pairs(Path(folder)):
            if not names or pair.name in names:
                report[pair.name] = compare(pair, Path(folder) / pair.name, reporter)
    print(json.dumps(report))


def pairs(folder: Path) -> Iterator[Pair]:
    photos = folder / "lite.yaml"
    truth = {"csv": str((DATA / "labels.csv").resolve()), "stride": 2, "offset": 1}
    lite = yaml.safe_load(LITE) | {
        "frames": {"folder": str(DATA.resolve()), "stride": 2},
        "truth": {"lite0": truth, "lite1": truth},
    }
    photos.write_text(yaml.safe_dump(lite))
    yield Pair(
        "lite0+lite1",
        photos,
        [identity_at("75%"), merged_at("75%"), *map(precise_at, BUDGETS)],
        RetrainedHead(
            Share.between("lite0:conv_head", "lite1:pool"), {"csv": truth["csv"], "stride": 2}
        ),
        smaller={"lite1": "lite0"},
    )
    scenes = yaml.safe_load(QUICKSTART.read_text())["frames"]
    yield Pair(
        "quickstart",
        QUICKSTART,
        [identity_at("65%"), merged_at("65%"), *map(precise_at, BUDGETS)],
        RetrainedHead(
            Share.between("detector:blocks.6", "classifier:pool"),
            {"scenes": scenes["scenes"], "count": scenes["count"]},
        ),
    )


def compare(pair: Pair, folder: Path, reporter: Reporter) -> dict[str, dict[str, Any]]:
    """Build and measure every alternative of the pair, and print a table."""
    folder.mkdir()
    config = load_pair_config(pair, folder, {})
    deployment = load_deployment(config, reporter)
    frames = open_frame_set(config)
    truth = open_truth(config, deployment, frames, reporter)
    alternatives = [*build_alternatives(pair, folder, config, deployment, frames, reporter)]
    reporter.step(f"{pair.name}: {len(alternatives)} alternatives on labelled frames")
    frame_scores = {a.name: score_graph(a.graph, deployment, truth) for a in alternatives}
    unmerged = frame_scores[UNMERGED]
    reporter.say(f"  {compare_with_torch(unmerged, deployment, truth)}")
    times = measure_latencies(alternatives, deployment, next(iter(truth.values())).frames[0])
    resampling = Resampling(truth)
    rows: dict[str, dict[str, Any]] = {}
    for a in alternatives:
        merged = frame_scores[a.name]
        quality = quality_kept_by_model(scores_by_model(merged), scores_by_model(unmerged), {})
        low, high = resampling.quality_interval(quality, merged, unmerged) or (0.0, 0.0)
        scores = {name: round(main_score(s.scores), 4) for name, s in merged.items()}
        rows[a.name] = {
            "bytes": weight_bytes(a.graph),
            "kept": round(statistics.mean(quality.values()), 4),
            "low": round(low, 4),
            "high": round(high, 4),
            **scores,
            "ms": round(times[a.name], 2),
            "needs": a.needs,
        }
    print_table(pair, rows, reporter)
    return rows


def load_pair_config(pair: Pair, folder: Path, changes: Mapping[str, Any]) -> RunConfig:
    defaults = {
        "cache": str(ROOT / "runs" / "cache"),
        "search.precision": [],
        "out": str(folder / "out"),
        "mlflow.tracking_uri": f"sqlite:///{folder / 'mlflow.db'}",
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in {**defaults, **changes}.items()]
    return load_config(pair.config, overrides)


# The alternatives, as graphs.


def build_alternatives(
    pair: Pair,
    folder: Path,
    config: RunConfig,
    deployment: Deployment,
    frames: FrameSet,
    reporter: Reporter,
) -> Iterator[Alternative]:
    unmerged = export_unmerged(config, deployment, "float32", folder / "unmerged")
    calibration = Subset(frames, tuple(Sampling(CALIBRATION_FRAMES).indices(len(frames))))
    yield Alternative(UNMERGED, NOTHING, unmerged)
    for old, new in pair.smaller.items():
        swapped = replace_model(config, old, new)
        graph = export_unmerged(
            swapped, load_deployment(swapped, reporter), "float32", folder / "smaller"
        )
        yield Alternative(f"{new} in place of {old}", TRAINED, graph)
    half = export_unmerged(config, deployment, "float16", folder / "half")
    yield Alternative("each in half precision", NOTHING, half)
    stored = export_unmerged(config, deployment, "int8", folder / "int8")
    yield Alternative("each with weights in int8", NOTHING, stored)
    yield export_retrained(pair, config, deployment, folder / "retrained")
    yield Alternative("each in int8, dynamic", NOTHING, dynamic_int8(unmerged))
    quantised = static_int8(unmerged, calibration)
    yield Alternative("each in int8, static", FRAMES, quantised)
    for number, merging in enumerate(pair.merged):
        graph = export_merged(pair, folder / f"merged{number}", merging, reporter)
        yield Alternative(merging.name, FRAMES, graph)
        if merging.name.startswith("merge-search"):
            quantised = static_int8(graph, calibration)
            yield Alternative(f"{merging.name}, then int8", FRAMES, quantised)


def replace_model(config: RunConfig, old: str, new: str) -> RunConfig:
    """Return the config with the network of one model in the place of another's."""
    return config.model_copy(update={"models": {**config.models, old: config.models[new]}})


def export_unmerged(
    config: RunConfig, deployment: Deployment, precision: Precision, folder: Path
) -> Path:
    owners = weight_owners(deployment.facts)
    plan = SharePlan(precisions=tuple((owner, precision) for owner in owners))
    merged = MergedModel(deployment.models, deployment.facts, plan, {})
    return write_graph(config, deployment, merged, folder)


def export_retrained(
    pair: Pair, config: RunConfig, deployment: Deployment, folder: Path
) -> Alternative:
    """Share a trunk, and train the recipient's head on as many labelled frames."""
    share = pair.retrained.share
    recipient = share.recipient.model
    section = TruthConfig.model_validate(pair.retrained.labels)
    labelled = open_ground_truth(
        config.model_copy(update={"truth": {recipient: section}}), recipient, "classification"
    )
    assert isinstance(labelled, ClassTruth)
    merged = merge_with_retrained_head(deployment, share, labelled)
    graph = write_graph(config, deployment, merged, folder)
    return Alternative(f"one trunk, head of {recipient} retrained", LABELS, graph)


def write_graph(
    config: RunConfig, deployment: Deployment, merged: MergedModel, folder: Path
) -> Path:
    folder.mkdir()
    contents = BundleContents(
        specs=config.model_specs(),
        inputs={name: model.input for name, model in deployment.models.items()},
        facts=deployment.facts,
        plan=merged.plan,
        dtype="float32",
    )
    write_bundle(folder, contents, merged)
    bundle = load_bundle(folder)
    graph = BundleGraph(bundle)
    blank = {
        name: torch.zeros(2, 3, spec.height, spec.width)
        for name, spec in contents.inputs.items()
        if name in bundle.merged.inputs_read
    }
    program = export_program(graph, list(graph.rename_inputs(blank).values()))
    write_onnx(graph, program, folder / ONNX)
    return folder / ONNX


def export_merged(pair: Pair, folder: Path, merging: Merging, reporter: Reporter) -> Path:
    """Run merge-search without labels, and export its chosen plan."""
    folder.mkdir()
    reporter.step(f"{pair.name}: {merging.name}")
    config = load_pair_config(pair, folder, {**merging.changes, "truth": {}})
    run(config, reporter)
    export(config.out_folder, None, folder / "bundle", ExportRequest(["onnx"]), reporter)
    return folder / "bundle" / ONNX


def dynamic_int8(graph: Path) -> Path:
    quantised = graph.with_name("dynamic.onnx")
    quantization.quantize_dynamic(
        _preprocess(graph), quantised, op_types_to_quantize=CONVOLUTIONS, per_channel=True
    )
    return quantised


def static_int8(graph: Path, frames: Subset) -> Path:
    """Quantise the bundle beside a graph as `merge-search export --int8` does."""
    bundle = load_bundle(graph.parent)
    graphs = quantize_bundle(bundle, CalibrationFeeds(frames, bundle), owners_in_float(bundle))
    quantised = graph.with_name("static.onnx")
    quantised.write_bytes(graphs.int8.SerializeToString())
    return quantised


def _preprocess(graph: Path) -> Path:
    """Infer shapes and fold normalisations, as the quantiser requires."""
    preprocessed = graph.with_name("preprocessed.onnx")
    if not preprocessed.exists():
        quant_pre_process(graph, preprocessed, skip_symbolic_shape=True)
        model = onnx.load(preprocessed)
        # The quantiser transposes weights and infers the shapes again.
        del model.graph.value_info[:]
        onnx.save(model, preprocessed)
    return preprocessed


# Accuracy.


def score_graph(
    graph: Path, deployment: Deployment, truth: Mapping[str, Truth]
) -> dict[str, FrameScores]:
    """Return the scores of each model with ground truth; all have the same labelled frames."""
    inputs = {name: model.input for name, model in deployment.models.items()}
    setup = EvaluationSetup(deployment.models, deployment.facts, {}, BATCH)
    tasks = {name: model.task for name, model in deployment.models.items()}
    return score_by_frame(GraphAnswers(graph, inputs, tasks), setup, truth, silent)


def compare_with_torch(
    scores: Mapping[str, FrameScores], deployment: Deployment, truth: Mapping[str, Truth]
) -> str:
    """Return a sentence: how much the scores of the unmerged graph and of torch differ."""
    setup = EvaluationSetup(deployment.fused_models, deployment.facts, {}, BATCH)
    (expected,) = score_frames(setup, [UNMERGED_PLAN], truth, lambda done: None)
    difference = max(
        abs(main_score(scores[n].scores) - main_score(s.scores)) for n, s in expected.items()
    )
    return (
        "scores of the unmerged graph and of the torch networks differ by at most "
        f"{difference:.2g}"
    )


# Bytes and latency.


def weight_bytes(graph: Path) -> int:
    """Return the bytes of all numbers in the graph."""
    contents = onnx.load(graph).graph
    tensors = [*contents.initializer]
    tensors += [a.t for node in contents.node for a in node.attribute if a.HasField("t")]
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in tensors)


def measure_latencies(
    alternatives: Sequence[Alternative], deployment: Deployment, frame: Frame
) -> dict[str, float]:
    """Return the median milliseconds of each alternative, in rounds that take turns."""
    inputs = {name: model.input for name, model in deployment.models.items()}
    runs: dict[str, Callable[[], object]] = {}
    for a in alternatives:
        session = OnnxSession(a.graph, threads=1)
        feed = prepare_feed([frame], feed_inputs(session.inputs, inputs))
        runs[a.name] = partial(session.run, feed)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, work in runs.items():
            work()
            times[name] += [_milliseconds(work) for _ in range(TIMED)]
    return {name: statistics.median(values) for name, values in times.items()}


def _milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def print_table(pair: Pair, rows: Mapping[str, Mapping[str, Any]], reporter: Reporter) -> None:
    unmerged = rows[UNMERGED]
    models = [n for n in unmerged if n not in ("bytes", "kept", "low", "high", "ms", "needs")]
    header = ["alternative", "MB", "of unmerged", "quality kept", "95%", *models, "ms", "needs"]
    table = [
        [name, megabytes(row["bytes"]).removesuffix(" MB"),
         percent(row["bytes"] / unmerged["bytes"]),
         percent(row["kept"]), percent_interval([row["low"], row["high"]]),
         *(f"{row[model]:.3f}" for model in models), f"{row['ms']:.1f}", row["needs"]]
        for name, row in sorted(rows.items(), key=lambda entry: -entry[1]["bytes"])
    ]  # fmt: skip
    reporter.table(f"{pair.name}: by bytes", header, table)


if __name__ == "__main__":
    main()
