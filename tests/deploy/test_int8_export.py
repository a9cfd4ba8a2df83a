"""`export --int8`: the graph in int8, the quality that it keeps, and what is told about a drop."""

from __future__ import annotations

import html
import sys
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner
from labelled import PICTURES, SEEDS, Labelled
from tiny import (
    CLASSES,
    CLASSIFIER,
    SIZE,
    STREET,
    FinishedRun,
    capture_reporter,
    observe,
    shares_in,
)

from search.cli.main import main
from search.config.search import ExportConfig
from search.data.frames import RenderedScenes
from search.data.ground_truth import ClassTruth, Truth
from search.deploy.int8.graph_answers import GraphAnswers, prepare_feed
from search.deploy.int8.int8_export import (
    CALIBRATION_FRAMES,
    CalibrationFeeds,
    Int8Export,
    NoSuchStage,
    calibration_frames,
    owners_in_float,
    quantize_bundle,
)
from search.deploy.int8.int8_quality import Int8Quality, measure_int8
from search.deploy.int8.int8_report import INT8, describe_drop
from search.evaluation.bundles import BundleAnswers, Difference
from search.evaluation.evaluate import EvaluationSetup
from search.statistics.observed import Observed
from spaces.bundle import Bundle
from spaces.graph_export import ExporterMissing
from spaces.merged import MergedModel
from spaces.model_spec import ModelSpec
from spaces.onnx_grafts import int8_layers
from spaces.plan import HEAD, Ref, SharePlan
from spaces.tasks.detection import DenseHead, suppress_anchors
from spaces.zoo import load_model


@dataclass(frozen=True)
class Exported:
    """A bundle whose graph in int8 is written, and what was told."""

    observed: Observed
    bundle: Bundle
    truth: dict[str, Truth]
    file: Path
    section: str
    output: str


def merge(observed: Observed, plan: SharePlan) -> Bundle:
    deployment = observed.deployment
    merged = MergedModel(deployment.models, deployment.facts, plan, observed.maps_for([plan]))
    inputs = {name: model.input for name, model in deployment.models.items()}
    return Bundle(merged, inputs, {name: fact.task for name, fact in deployment.facts.items()})


@pytest.fixture(scope="module")
def exported(labelled: Labelled, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Classifiers that are right on all labels, exported with no drop accepted."""
    folder, size = tmp_path_factory.mktemp("int8"), (SIZE[CLASSIFIER], SIZE[CLASSIFIER])
    models = {
        name: load_model(
            ModelSpec(name, CLASSIFIER, str(labelled.folder / f"{name}.safetensors"),
                      CLASSES[CLASSIFIER], size, "squash")
        )
        for name in SEEDS
    }  # fmt: skip
    observed, captured = observe(models), capture_reporter()
    frames = RenderedScenes(STREET, PICTURES)
    truth: dict[str, Truth] = {
        name: ClassTruth.single(frames, labels) for name, labels in labelled.labels.items()
    }
    bundle = merge(observed, SharePlan((shares_in(observed)[0],)))
    write = Int8Export(observed, truth, ExportConfig(max_drop=0.0), 8, captured.reporter)
    section = write(bundle, folder)
    return Exported(observed, bundle, truth, folder / INT8, section, captured.text)


def test_the_layers_of_the_file_compute_in_int8(exported: Exported) -> None:
    model = onnx.load(exported.file)
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == len(int8_layers(model)) > 20
    activations = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert "b_input" in activations and not any("logits" in name for name in activations)


def test_its_answers_are_near_those_of_the_bundle(exported: Exported) -> None:
    pictures = [exported.observed.frames[k] for k in range(8)]
    int8 = GraphAnswers(exported.file, exported.bundle.inputs, exported.bundle.tasks)
    merged = BundleAnswers(exported.bundle)
    with torch.inference_mode():
        for (output, actual), (_, expected) in zip(
            int8(prepare_feed(pictures, int8.inputs)),
            merged(prepare_feed(pictures, merged.inputs)),
            strict=True,
        ):
            error = ((actual - expected).square().mean() / expected.square().mean()).sqrt()
            assert 0 < error < 0.3, output


def test_the_card_has_the_quality_of_each_model(exported: Exported) -> None:
    rows = {
        cells[1].strip(): cells[3:6]
        for line in exported.section.splitlines()
        if len(cells := line.split("|")) > 3
    }
    assert exported.section.startswith("## In int8\n") and {"a", "b"} < rows.keys()
    measured = measure(exported, exported.truth)
    for model in measured.models:
        assert model.unmerged and model.merged and model.int8 and model.interval
        texts = [f"{scores['top1']:.1%}" for scores in (model.unmerged, model.merged, model.int8)]
        assert [cell.strip() for cell in rows[model.model]] == texts and texts[0] == "100.0%"
        assert model.kept is not None and model.kept == pytest.approx(model.int8["top1"])
        assert model.interval[0] <= model.kept <= model.interval[1]
    assert f"{exported.file.stat().st_size / 1e6:.2f} MB" in exported.section
    assert "24 of the unlabelled frames" in exported.section


def measure(exported: Exported, truth: dict[str, Truth]) -> Int8Quality:
    deployment = exported.observed.deployment
    setup = EvaluationSetup(deployment.deployed_models, deployment.facts, {}, 8)
    int8 = GraphAnswers(exported.file, exported.bundle.inputs, exported.bundle.tasks)
    return measure_int8(exported.observed, setup, truth, BundleAnswers(exported.bundle), int8)


def test_a_drop_beyond_the_accepted_one_names_stages_and_the_way_out(exported: Exported) -> None:
    (warning,) = (line for line in exported.output.splitlines() if "export.max_drop" in line)
    assert "below the merged models in float, more than export.max_drop (0.0%)" in warning
    blamed = warning.partition("changed most by ")[2].partition(" of the change")[0]
    names = [part.split()[0] for part in blamed.replace(" and", ",").split(", ")]
    owners = {str(owner) for _, owner, _ in exported.bundle.merged.parts()}
    assert len(names) == 5 and set(names) <= owners
    assert warning.endswith(f"--keep-float {names[0]} --keep-float {names[1]}")
    assert f"--keep-float {names[0]} " in html.unescape(exported.section)


def test_without_labels_only_fidelity_is_measured(exported: Exported) -> None:
    quality = measure(exported, {})
    assert quality.by == "fidelity" and quality.drop is not None
    for model in quality.models:
        assert model.kept is None and model.int8 is None
        assert model.fidelity is not None and 0 <= model.fidelity <= 1


def test_a_warning_without_any_loss_names_no_stage() -> None:
    text = describe_drop(Difference(0.05, 0.01, 0.1), 0.02, {Ref("a", "s"): 0.0})
    assert text.endswith("5.0% below the merged models in float, more than export.max_drop (2.0%)")


def test_ranges_are_measured_on_frames_of_the_statistics(pair: Observed) -> None:
    used = set(calibration_frames(pair).indices)
    assert used.isdisjoint(pair.held_out.indices) and len(used) == 24 <= CALIBRATION_FRAMES


def test_heads_of_detectors_and_named_stages_stay_in_float(mixed: Observed) -> None:
    bundle = merge(mixed, SharePlan())
    detector, stage = Ref("det", HEAD), Ref("cls", "blocks.0")
    assert owners_in_float(bundle) == {detector}
    assert owners_in_float(bundle, ["cls:blocks.0"]) == {detector, stage}
    with pytest.raises(NoSuchStage, match=r"--keep-float cls:none: not in .* cls:blocks\.0, "):
        owners_in_float(bundle, ["cls:none"])


def test_detections_of_a_graph_are_those_of_the_head(mixed: Observed) -> None:
    model = mixed.deployment.models["det"]
    taps = [r for name, r in model.walk(model.example_input()) if name in model.layout.taps]
    assert isinstance(model.head, DenseHead)
    boxes, scores = model.head.dense(taps)
    for all_boxes, all_scores, expected in zip(boxes, scores, model.head(taps), strict=True):
        rows = suppress_anchors(all_boxes, all_scores)
        assert torch.allclose(rows[:, 4].sort().values, expected[:, 4].sort().values, atol=1e-4)


def test_a_missing_package_is_named_with_the_extra(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "spaces.onnx_int8")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    feeds = CalibrationFeeds(calibration_frames(exported.observed), exported.bundle)
    with pytest.raises(ExporterMissing, match=r"pip install 'merge-search\[onnx\]'"):
        quantize_bundle(exported.bundle, feeds, frozenset())


def test_the_command_writes_the_file_beside_the_bundle(
    tiny_run: FinishedRun, tmp_path: Path
) -> None:
    arguments = ["export", str(tiny_run.out), "--to", str(tmp_path / "b"), "--int8"]
    result = CliRunner().invoke(main, [*arguments, "--keep-float", "a:(head)"])
    assert result.exit_code == 0, result.output
    assert "In int8: model_int8.onnx, " in result.output
    assert "no better than chance" in result.output  # the networks of this run are untrained
    card = (tmp_path / "b" / "CARD.md").read_text()
    assert "## In int8" in card and "In float stay a:(head)." in card
    assert len(int8_layers(onnx.load(tmp_path / "b" / INT8))) > 10


def test_a_stage_to_keep_needs_a_graph_in_int8(tmp_path: Path) -> None:
    arguments = ["export", str(tmp_path), "--to", str(tmp_path / "b"), "--keep-float", "a:stem"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and "--keep-float needs --int8" in result.stderr
