"""The exported graph, in ONNX and as a program, has the outputs of its bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny import STREET, shares_in

from search.data.frames import RenderedScenes
from search.statistics.observed import Observed
from spaces.bundle import Bundle
from spaces.graph_export import (
    INPUTS_KEY,
    BundleGraph,
    export_program,
    max_relative_difference,
    run_onnx,
    write_onnx,
    write_program,
)
from spaces.inputs import InputSpec
from spaces.merged import MergedModel
from spaces.plan import Share, SharePlan
from spaces.stages import DetectionHead, total_bytes, unique_tensors


def build_bundle(observed: Observed, plan: SharePlan) -> Bundle:
    deployment = observed.deployment
    merged = MergedModel(deployment.models, deployment.facts, plan, observed.maps_for([plan]))
    inputs = {name: model.input for name, model in deployment.models.items()}
    return Bundle(merged, inputs, {name: fact.task for name, fact in deployment.facts.items()})


def late_share(observed: Observed) -> Share:
    """Return a plan that takes all of the detector's trunk from the classifier."""
    return [s for s in shares_in(observed) if s.recipient.model == "det"][-1]


def prepare_inputs(bundle: Bundle, count: int) -> list[torch.Tensor]:
    scenes = RenderedScenes(STREET, count)
    inputs = bundle.prepare_frames([scenes[k] for k in range(count)])
    return list(BundleGraph(bundle).rename_inputs(inputs).values())


def test_the_dense_output_contains_every_detection(mixed: Observed) -> None:
    """Each detected box is among the dense boxes, with its score for its class."""
    model = mixed.deployment.models["det"]
    inputs = model.example_input()
    taps = [r for name, r in model.walk(inputs) if name in model.layout.taps]
    assert isinstance(model.head, DetectionHead)
    boxes, scores = model.head.dense(taps)
    assert torch.allclose(scores.flatten(1), model.probabilities(taps))
    for rows, all_boxes, all_scores in zip(model.head(taps), boxes, scores, strict=True):
        assert (rows[:, 4] > 0).all()
        for row in rows:
            near = (all_boxes - row[:4]).abs().max(1).values < 1e-3
            assert (all_scores[near, int(row[5]) - 1] - row[4]).abs().min() < 1e-6


@pytest.fixture(scope="module")
def exported(mixed: Observed, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    folder = tmp_path_factory.mktemp("exported")
    bundle = build_bundle(mixed, SharePlan((late_share(mixed),)))
    graph = BundleGraph(bundle)
    program = export_program(graph, prepare_inputs(bundle, 2))
    write_program(program, folder / "model.pt2")
    write_onnx(graph, program, folder / "model.onnx")
    return bundle, folder


@pytest.mark.parametrize("count", [1, 5])
def test_the_outputs_do_not_depend_on_the_batch_size(
    exported: tuple[Bundle, Path], count: int
) -> None:
    bundle, folder = exported
    graph, inputs = BundleGraph(bundle), prepare_inputs(bundle, count)
    program = torch.export.load(folder / "model.pt2").module()
    with torch.inference_mode():
        expected, again = graph(*inputs), program(*inputs)
    named = dict(zip(graph.inputs, inputs, strict=True))
    assert max_relative_difference(expected, run_onnx(folder / "model.onnx", named)) < 1e-4
    assert max_relative_difference(expected, again) < 1e-5


def test_the_graph_has_the_outputs_of_the_models(mixed: Observed) -> None:
    bundle = build_bundle(mixed, SharePlan())
    inputs = prepare_inputs(bundle, 2)
    graph = BundleGraph(bundle)
    assert graph.inputs == ["cls_input", "det_input"]
    assert graph.outputs == ["cls_logits", "det_boxes", "det_scores"]
    with torch.inference_mode():
        logits, boxes, scores = graph(*inputs)
        assert torch.equal(logits, mixed.deployment.models["cls"](inputs[0]))
    assert boxes.shape == (2, scores.shape[1], 4) and scores.shape[2] == 6


def test_onnx_holds_one_copy_of_shared_tensors(exported: tuple[Bundle, Path]) -> None:
    """It has no more numbers than the bundle: BatchNorms may disappear, nothing is doubled."""
    bundle, folder = exported
    initializers = onnx.load(folder / "model.onnx").graph.initializer
    large = [t for t in initializers if np.prod(t.dims) > 64]
    bundle_bytes = total_bytes(unique_tensors(bundle))
    onnx_bytes = sum(4 * int(np.prod(t.dims)) for t in large)
    assert 0.8 * bundle_bytes < onnx_bytes <= 1.02 * bundle_bytes
    contents = {t.raw_data for t in large}
    assert len(contents) == len(large)


def test_the_metadata_of_onnx_says_how_each_input_is_made(exported: tuple[Bundle, Path]) -> None:
    bundle, folder = exported
    model = onnx.load(folder / "model.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    inputs = json.loads(metadata[INPUTS_KEY])
    assert [*inputs] == [node.name for node in model.graph.input]
    for name, settings in inputs.items():
        per_channel = {key: tuple(settings[key]) for key in ("mean", "std")}
        assert (
            InputSpec(**{**settings, **per_channel}) == bundle.inputs[name.removesuffix("_input")]
        )


def test_a_model_without_live_stages_has_no_input(mixed: Observed) -> None:
    shares = [s for s in shares_in(mixed) if s.recipient.model == "cls"]
    pool_share = next(s for s in reversed(shares) if s.recipient.stage == "pool")
    assert BundleGraph(build_bundle(mixed, SharePlan((pool_share,)))).inputs == ["det_input"]


def test_the_difference_is_relative_to_the_largest_number_of_each_output() -> None:
    expected = [torch.tensor([1.0, -4.0]), torch.tensor([100.0])]
    actual = [np.array([1.0, -3.0], np.float32), np.array([101.0], np.float32)]
    assert max_relative_difference(expected, actual) == pytest.approx(0.25)
