"""The exported graph, in ONNX and as a program, has the outputs of its bundle."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from bundles import model_specs, write_plan_bundle
from tiny import STREET, Weights, shares_in

from search.data.frames import RenderedScenes
from search.statistics.observed import Observed
from spaces.bundle import Bundle, load_bundle
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
from spaces.liveness import canonical, liveness
from spaces.map_folding import find_fold_targets
from spaces.merged import MergedModel
from spaces.model_facts import layouts_by_model
from spaces.plan import HEAD, LINEAR, AdapterSpec, Ref, Share, SharePlan
from spaces.stages import total_bytes, unique_tensors
from spaces.tasks.detection import DenseHead


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
    assert isinstance(model.head, DenseHead)
    boxes, scores = model.head.dense(taps)
    assert torch.allclose(scores.flatten(1), model.comparable(taps))
    for rows, all_boxes, all_scores in zip(model.head(taps), boxes, scores, strict=True):
        assert (rows[:, 4] > 0).all()
        for row in rows:
            near = (all_boxes - row[:4]).abs().max(1).values < 1e-3
            assert (all_scores[near, int(row[5]) - 1] - row[4]).abs().min() < 1e-6


@pytest.fixture(scope="module")
def exported(mixed: Observed, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    folder = tmp_path_factory.mktemp("exported")
    bundle = build_bundle(mixed, SharePlan((late_share(mixed),)))
    write_both_formats(bundle, folder)
    return bundle, folder


def write_both_formats(bundle: Bundle, folder: Path) -> None:
    graph = BundleGraph(bundle)
    program = export_program(graph, prepare_inputs(bundle, 2))
    write_program(program, folder / "model.pt2")
    write_onnx(graph, program, folder / "model.onnx")


def check_answers(bundle: Bundle, folder: Path, count: int) -> None:
    """Check that both formats answer a batch of `count` frames as the bundle does."""
    graph, inputs = BundleGraph(bundle), prepare_inputs(bundle, count)
    program = torch.export.load(folder / "model.pt2").module()
    with torch.inference_mode():
        expected, again = graph(*inputs), program(*inputs)
    named = dict(zip(graph.inputs, inputs, strict=True))
    assert max_relative_difference(expected, run_onnx(folder / "model.onnx", named)) < 1e-4
    assert max_relative_difference(expected, again) < 1e-5


@pytest.mark.parametrize("count", [1, 5])
def test_the_outputs_do_not_depend_on_the_batch_size(
    exported: tuple[Bundle, Path], count: int
) -> None:
    bundle, folder = exported
    check_answers(bundle, folder, count)


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


# Weights in fewer bytes.


def share_whose_map_is(kind: str, observed: Observed) -> Share:
    """Return a share whose map is folded, unfolded or of low rank."""
    facts = observed.deployment.facts
    adapter = AdapterSpec("linear", 3) if kind == "low rank" else LINEAR
    for share in reversed(shares_in(observed, adapter)):
        live = liveness(SharePlan((share,)), layouts_by_model(facts))
        folds = not find_fold_targets(share, live, facts).refusal
        if share.recipient.model == "b" and folds == (kind == "folded"):
            return share
    raise AssertionError(f"no share with a map that is {kind}")


@pytest.fixture(scope="module", params=["folded", "unfolded", "low rank"])
def stored(
    request: pytest.FixtureRequest,
    pair: Observed,
    weights: Weights,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Bundle, Path]:
    """A bundle of two classifiers, one in int8 and one in float16, with a map in int8."""
    folder = tmp_path_factory.mktemp("stored")
    layouts = layouts_by_model(pair.deployment.facts)
    share = share_whose_map_is(request.param, pair)
    owners = {name: [Ref(name, s) for s in (*layouts[name].stages, HEAD)] for name in layouts}
    plan = SharePlan((share,)).with_precisions(
        {
            **dict.fromkeys(owners["a"], "int8"),
            **dict.fromkeys(owners["b"], "float16"),
            share.recipient: "int8",
        }
    )
    write_plan_bundle(pair, canonical(plan, layouts), model_specs(weights), folder / "bundle")
    bundle = load_bundle(folder / "bundle")
    write_both_formats(bundle, folder)
    return bundle, folder


def tensors_of(bundle: Bundle, dtype: torch.dtype) -> list[torch.Tensor]:
    return [tensor for tensor in unique_tensors(bundle) if tensor.dtype == dtype]


def test_onnx_reads_each_integer_weight_with_its_scales_per_output_channel(
    stored: tuple[Bundle, Path],
) -> None:
    bundle, folder = stored
    graph = onnx.load(folder / "model.onnx").graph
    tensors = {t.name: t for t in graph.initializer}
    reads = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    integers = tensors_of(bundle, torch.int8)
    assert len(reads) == len({node.input[0] for node in reads}) == len(integers) > 0
    for node in reads:
        values, scales = (tensors[name] for name in node.input)
        assert values.data_type == onnx.TensorProto.INT8
        assert scales.data_type == onnx.TensorProto.FLOAT and [*scales.dims] == [values.dims[0]]
        assert {a.name: a.i for a in node.attribute} == {"axis": 0}
    shapes = Counter(tuple(tensors[node.input[0]].dims) for node in reads)
    assert shapes == Counter(tuple(tensor.shape) for tensor in integers)


def test_onnx_casts_each_weight_in_half_precision(stored: tuple[Bundle, Path]) -> None:
    bundle, folder = stored
    graph = onnx.load(folder / "model.onnx").graph
    halves = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    casts = [n.input[0] for n in graph.node if n.op_type == "Cast" and n.input[0] in halves]
    assert sorted(casts) == sorted(halves)
    assert len(halves) == len(tensors_of(bundle, torch.float16)) > 0


def test_the_tensors_of_onnx_are_as_small_as_those_of_the_bundle(
    stored: tuple[Bundle, Path],
) -> None:
    bundle, folder = stored
    arrays = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(folder / "model.onnx").graph.initializer
    ]
    for dtype, name in ((torch.int8, "int8"), (torch.float16, "float16")):
        in_onnx = sum(array.nbytes for array in arrays if array.dtype == name)
        assert in_onnx == total_bytes(tensors_of(bundle, dtype)) > 0
    # Equal vectors of normalisation layers are stored once, so it may hold less.
    bundle_bytes = total_bytes(unique_tensors(bundle))
    assert 0.95 * bundle_bytes < sum(array.nbytes for array in arrays) < 1.02 * bundle_bytes


def test_the_tensors_of_a_program_are_those_of_the_bundle(stored: tuple[Bundle, Path]) -> None:
    bundle, folder = stored
    program = torch.export.load(folder / "model.pt2")
    tensors = [*program.state_dict.values(), *program.constants.values()]
    program_bytes = total_bytes([t for t in tensors if isinstance(t, torch.Tensor)])
    assert program_bytes == pytest.approx(total_bytes(unique_tensors(bundle)), rel=0.02)


@pytest.mark.parametrize("count", [1, 3])
def test_the_answers_are_those_of_a_bundle_in_any_precision(
    stored: tuple[Bundle, Path], count: int
) -> None:
    bundle, folder = stored
    check_answers(bundle, folder, count)


def test_the_files_hold_neither_frames_nor_paths_of_the_machine(
    exported: tuple[Bundle, Path],
) -> None:
    _, folder = exported
    source = str(Path(torch.__file__).parent).encode()
    assert source not in (folder / "model.onnx").read_bytes()
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    assert not any(source in content or b"/spaces/" in content for content in contents)
    assert torch.export.load(folder / "model.pt2").example_inputs is None
