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
from own_bundles import SHARE, own_bundle
from tiny import STREET

from search.data.frames import RenderedScenes
from search.deploy.runtimes.graph_sets import (
    ANY_BATCH,
    GraphForm,
    form_for,
    largest_difference,
    prepared_frames,
    write_graph_set,
)
from search.deploy.runtimes.registry import TARGETS
from spaces.bundle import Bundle
from spaces.entry_graphs import CannotSplit, entry_graphs
from spaces.errors import BadInput
from spaces.graph_export import OnnxSession
from spaces.onnx_files import SHARED_WEIGHTS
from spaces.tasks.detection import Detections

FRAMES = RenderedScenes(STREET, 3)
FRAME_LIST = [FRAMES[k] for k in range(3)]
TARGET = TARGETS["onnxruntime"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return own_bundle(tmp_path_factory.mktemp("entries") / "bundle", SHARE)


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


def test_an_unknown_model_and_a_foreign_trunk_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    trunk = bundle.trunk(FRAMES[0])
    with pytest.raises(BadInput, match="no model 'x'; the bundle has cls, det"):
        bundle.model("x", trunk)
    foreign = own_bundle(tmp_path / "alone").trunk(FRAMES[0])
    assert not foreign.representations and foreign.plan != trunk.plan
    with pytest.raises(BadInput, match="compute it again"):
        bundle.model("det", foreign)


def write_entries(bundle: Bundle, form: GraphForm, folder: Path) -> Path:
    write_graph_set(entry_graphs(bundle), prepared_frames(bundle, FRAME_LIST), form, folder)
    return folder


@pytest.fixture(scope="module")
def any_batches(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs for batches of any size."""
    return write_entries(bundle, ANY_BATCH, tmp_path_factory.mktemp("any"))


@pytest.fixture(scope="module")
def portable(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs for a runtime."""
    return write_entries(bundle, form_for(TARGET), tmp_path_factory.mktemp("portable"))


@pytest.fixture(params=["any_batches", "portable"])
def written(request: pytest.FixtureRequest) -> Path:
    folder = request.getfixturevalue(request.param)
    assert isinstance(folder, Path)
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
    shared = sum(length for _, length in trunk & det)
    assert trunk and det and shared < 0.02 * sum(length for _, length in trunk)
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


def test_the_graphs_for_a_runtime_are_portable(portable: Path) -> None:
    for file in portable.glob("*.onnx"):
        onnx.checker.check_model(str(file), full_check=True)
        model = onnx.shape_inference.infer_shapes(onnx.load(file), strict_mode=True)
        assert [(e.domain, e.version) for e in model.opset_import] == [("", TARGET.opset)]
        assert model.ir_version == TARGET.ir_version
        graph = model.graph
        for value in [*graph.input, *graph.output, *graph.value_info]:
            sides = value.type.tensor_type.shape.dim
            assert len(sides) <= 4 and all(side.HasField("dim_value") for side in sides)
        assert all(value.type.tensor_type.shape.dim[0].dim_value == 1 for value in graph.input)


STAGES = {"Add", "AveragePool", "Cast", "Conv", "Mul", "Relu"}
CLASSIFIER = STAGES | {"GlobalAveragePool", "Reshape"}
DETECTOR = STAGES | {
    "Concat", "Reshape", "Sigmoid", "Slice", "Sub", "Transpose", "Unsqueeze"
}  # fmt: skip


def test_the_operators_of_each_graph_are_known(portable: Path) -> None:
    """A change of the exporter shows here before a compiler refuses a graph."""
    expected = {
        "trunk": STAGES, "cls": CLASSIFIER, "det": DETECTOR, "cls_alone": CLASSIFIER,
        "det_alone": DETECTOR,
    }  # fmt: skip
    for name, operators in expected.items():
        graph = onnx.load(portable / f"{name}.onnx", load_external_data=False).graph
        assert {node.op_type for node in graph.node} == operators


def test_the_raw_outputs_of_a_detector_are_what_its_scores_are_made_of(
    bundle: Bundle, portable: Path
) -> None:
    frames = prepared_frames(bundle, FRAME_LIST)
    session = OnnxSession(portable / "det_alone.onnx")
    outputs = session.run({name: frames[name][0] for name in session.inputs})
    scores = outputs["det_scores"]
    # Its last convolution makes boxes and scores: four numbers of each position are the box.
    assert [name for name in outputs if "raw" in name] == ["det_boxes_raw_0"]
    rows = outputs["det_boxes_raw_0"].reshape(4 + scores.shape[2], -1).T
    assert np.allclose(1 / (1 + np.exp(-2 * rows[None, :, 4:])), scores, atol=1e-6)
