"""The entry points of a bundle, as modules and as graphs, give the answers of the whole."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from bundles import model_specs, write_plan_bundle
from search.deploy.runtimes.registry import TARGETS
from tiny import STREET, Weights, shares_in

from search.data.frames import RenderedScenes
from search.deploy.graph_sets import (
    any_batch,
    for_target,
    largest_difference,
    prepared_frames,
    write_graph_set,
)
from search.statistics.observed import Observed
from spaces.bundle import Bundle, load_bundle
from spaces.entry_graphs import CannotSplit, entry_graphs
from spaces.errors import BadInput
from spaces.graph_export import OnnxSession
from spaces.onnx_files import SHARED_WEIGHTS
from spaces.plan import HEAD, Precision, Ref, SharePlan
from spaces.tasks.detection import Detections

FRAMES = RenderedScenes(STREET, 3)
FRAME_LIST = [FRAMES[k] for k in range(3)]


def write_bundle_in(
    folder: Path, observed: Observed, weights: Weights, precision: Precision
) -> Bundle:
    """Write and load a bundle whose detector takes its trunk from the classifier."""
    share = [s for s in shares_in(observed) if s.recipient.model == "det"][-1]
    owners = [
        Ref(name, stage)
        for name, facts in observed.deployment.facts.items()
        for stage in (*facts.layout.stages, HEAD)
    ]
    plan = SharePlan((share,)).with_precisions(dict.fromkeys(owners, precision))
    write_plan_bundle(observed, plan, model_specs(weights), folder)
    return load_bundle(folder)


@pytest.fixture(scope="module", params=["float32", "float16", "int8"])
def bundle(
    request: pytest.FixtureRequest,
    mixed: Observed,
    weights: Weights,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    folder = tmp_path_factory.mktemp("entries") / "bundle"
    return write_bundle_in(folder, mixed, weights, request.param)


def equal_answers(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    assert isinstance(first, list) and isinstance(second, list)
    assert all(isinstance(entry, Detections) for entry in first)
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def test_a_bundle_runs_its_trunk_once_and_each_model_by_itself(bundle: Bundle) -> None:
    expected = bundle(FRAME_LIST)
    trunk = bundle.trunk(FRAME_LIST)
    for name, answer in expected.items():
        assert equal_answers(bundle.model(name, trunk), answer)
        assert equal_answers(bundle.alone(name, FRAME_LIST), answer)


def test_an_unknown_model_and_a_foreign_trunk_are_refused(
    bundle: Bundle, mixed: Observed, weights: Weights, tmp_path: Path
) -> None:
    trunk = bundle.trunk(FRAMES[0])
    with pytest.raises(BadInput, match="no model 'x'; the bundle has cls, det"):
        bundle.model("x", trunk)
    write_plan_bundle(mixed, SharePlan(), model_specs(weights), tmp_path / "alone")
    foreign = load_bundle(tmp_path / "alone").trunk(FRAMES[0])
    assert not foreign.representations
    with pytest.raises(BadInput, match="computed with another plan"):
        bundle.model("det", foreign)


@pytest.fixture(scope="module", params=["any batch", "onnxruntime"])
def written(
    request: pytest.FixtureRequest, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    build = any_batch if request.param == "any batch" else for_target(TARGETS["onnxruntime"])
    frames = prepared_frames(bundle, FRAME_LIST)
    write_graph_set(entry_graphs(bundle), frames, build, folder)
    return folder


def test_the_graphs_chained_give_the_answers_of_the_bundle(bundle: Bundle, written: Path) -> None:
    graphs, frames = entry_graphs(bundle), prepared_frames(bundle, FRAME_LIST)
    assert [*graphs] == ["trunk", "cls", "det", "cls_alone", "det_alone"]
    difference = largest_difference(graphs, frames, lambda file: OnnxSession(written / file))
    assert difference < 1e-4


def test_the_weights_are_in_one_file_and_each_is_there_once(bundle: Bundle, written: Path) -> None:
    places: dict[str, set[tuple[int, int]]] = {}
    for file in written.glob("*.onnx"):
        for tensor in onnx.load(file, load_external_data=False).graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                entry = {item.key: item.value for item in tensor.external_data}
                assert entry["location"] == SHARED_WEIGHTS
                place = (int(entry["offset"]), int(entry["length"]))
                places.setdefault(file.stem, set()).add(place)
    assert len(places) == 5
    trunk, cls, det = places["trunk"], places["cls"], places["det"]
    assert trunk and det and not trunk & det
    # Alone, a model reads what the trunk and its tail read, and nothing else.
    assert places["cls_alone"] <= trunk | cls and places["det_alone"] <= trunk | det
    every = sorted(set.union(*places.values()))
    content = (written / SHARED_WEIGHTS).read_bytes()
    chunks = Counter(content[offset : offset + length] for offset, length in every)
    assert max(chunks.values()) == 1
    assert all(start + length <= end for (start, length), (end, _) in pairwise(every))


def test_a_graph_says_how_its_frames_are_made(bundle: Bundle, written: Path) -> None:
    for name, graph in entry_graphs(bundle).items():
        model = onnx.load(written / f"{name}.onnx", load_external_data=False)
        (entry,) = [item for item in model.metadata_props if item.key == "merge_search.inputs"]
        frames = {value.name for value in model.graph.input if value.name.endswith("_input")}
        assert json.loads(entry.value).keys() == frames == graph.input_specs.keys()


def test_models_with_the_names_of_other_graphs_are_refused(bundle: Bundle) -> None:
    for name in ("trunk", "model"):
        renamed = Bundle(bundle.merged, bundle.inputs, {name: "classification"})
        with pytest.raises(CannotSplit, match=f"{name}.onnx is another graph; rename"):
            entry_graphs(renamed)


ALLOWED = {
    "Add", "Cast", "Clip", "Concat", "Conv", "DequantizeLinear", "Exp", "Flatten", "Gemm",
    "GlobalAveragePool", "Div", "MatMul", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Resize",
    "Sigmoid", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}  # fmt: skip


def test_the_graphs_for_a_runtime_are_portable(bundle: Bundle, tmp_path: Path) -> None:
    target = TARGETS["onnxruntime"]
    frames = prepared_frames(bundle, FRAME_LIST)
    write_graph_set(entry_graphs(bundle), frames, for_target(target), tmp_path)
    for file in tmp_path.glob("*.onnx"):
        onnx.checker.check_model(str(file), full_check=True)
        model = onnx.shape_inference.infer_shapes(onnx.load(file), strict_mode=True)
        assert {node.op_type for node in model.graph.node} <= ALLOWED
        assert [(e.domain, e.version) for e in model.opset_import] == [("", target.opset)]
        assert model.ir_version == target.ir_version
        graph = model.graph
        for value in [*graph.input, *graph.output, *graph.value_info]:
            sides = value.type.tensor_type.shape.dim
            assert len(sides) <= 4 and all(side.HasField("dim_value") for side in sides)
        assert all(value.type.tensor_type.shape.dim[0].dim_value == 1 for value in graph.input)


def test_the_raw_outputs_of_a_detector_are_what_its_scores_are_made_of(
    bundle: Bundle, tmp_path: Path
) -> None:
    graphs = {"det_alone": entry_graphs(bundle)["det_alone"]}
    frames = prepared_frames(bundle, FRAME_LIST)
    write_graph_set(graphs, frames, for_target(TARGETS["onnxruntime"]), tmp_path)
    inputs = {name: frames[name][0] for name in graphs["det_alone"].inputs}
    outputs = OnnxSession(tmp_path / "det_alone.onnx").run(inputs)
    scores = outputs["det_scores"]
    levels = [outputs[f"det_scores_raw_{k}"] for k in range(5)]
    assert "det_scores_raw_5" not in outputs and "det_boxes_raw_4" in outputs
    rows = [level.transpose(0, 2, 3, 1).reshape(1, -1, scores.shape[2]) for level in levels]
    assert np.allclose(1 / (1 + np.exp(-np.concatenate(rows, 1))), scores, atol=1e-6)
