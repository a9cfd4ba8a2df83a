"""OpenVINO answers as onnxruntime does, on the graph of a bundle and on stored weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tiny import CLASSIFIER, Weights, load_tiny

from search.deploy.runtimes.graph_check import check_graph
from search.deploy.runtimes.openvino_session import OpenvinoMissing, OpenvinoSession
from search.deploy.runtimes.registry import IR_VERSION, OPSET, TARGETS
from spaces.bundle import Bundle
from spaces.graph_export import BundleGraph, export_fixed, onnx_model
from spaces.merged import MergedModel
from spaces.model_facts import collect_facts
from spaces.plan import SharePlan
from spaces.portable.graph import EXPORTED_OPSET, make_portable

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Exported:
    """The portable graph of a bundle, and inputs for it."""

    path: Path
    inputs: Arrays


@pytest.fixture(scope="module")
def exported(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    models = load_tiny(weights, {"a": (CLASSIFIER, 1)})
    merged = MergedModel(models, collect_facts(models), SharePlan(), {})
    tasks = {name: model.task for name, model in models.items()}
    graph = BundleGraph(
        Bundle(merged, {name: model.input for name, model in models.items()}, tasks).eval()
    )
    inputs = {"a_input": torch.from_numpy(normal(1, 3, 64, 64))}
    model = onnx_model(graph, export_fixed(graph, list(inputs.values())), EXPORTED_OPSET)
    make_portable(model, OPSET, IR_VERSION)
    path = tmp_path_factory.mktemp("portable") / "model.onnx"
    onnx_ir.save(model, path)
    return Exported(path, {name: value.numpy() for name, value in inputs.items()})


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def reference(path: Path, inputs: Arrays) -> Arrays:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def relative_difference(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> float:
    return float(abs(actual - expected).max() / abs(expected).max())


def test_openvino_answers_a_portable_bundle_as_onnxruntime_does(exported: Exported) -> None:
    expected = reference(exported.path, exported.inputs)
    session = OpenvinoSession(exported.path, threads=1)
    answers = session.run(exported.inputs)
    assert session.inputs == [*exported.inputs] and session.outputs == [*expected] == [*answers]
    assert relative_difference(expected["a_logits"], answers["a_logits"]) < 1e-4


@pytest.mark.parametrize("target", TARGETS)
def test_a_portable_bundle_suits_every_runtime(exported: Exported, target: str) -> None:
    model = onnx.load(exported.path, load_external_data=False)
    assert check_graph(model, TARGETS[target]) == []


def test_the_inputs_of_layers_with_int8_weights_are_not_rounded(tmp_path: Path) -> None:
    """OpenVINO's default rounds them, which changes the answers by a percent."""
    integers = (normal(64, 64, 1, 1) * 40).astype(np.int8)
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["integers", "scales"], ["w"], axis=0),
            helper.make_node("Conv", ["x", "w"], ["y"]),
        ],
        "layer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 64, 1, 1])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 64, 1, 1])],
        [
            numpy_helper.from_array(integers, "integers"),
            numpy_helper.from_array(np.full(64, 0.02, np.float32), "scales"),
        ],
    )
    path = tmp_path / "layer.onnx"
    opset = helper.make_opsetid("", OPSET)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION), path)
    inputs = {"x": normal(1, 64, 1, 1)}
    answers = OpenvinoSession(path, threads=1).run(inputs)
    assert relative_difference(reference(path, inputs)["y"], answers["y"]) < 1e-5


def test_openvino_that_is_not_installed_is_named_with_its_extra(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(OpenvinoMissing, match=r"pip install 'merge-search\[openvino\]'"):
        OpenvinoSession(exported.path)
