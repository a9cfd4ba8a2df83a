"""The graphs that an export adds to a bundle: entry points, and a folder for each runtime."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from own_bundles import SHARE, own_bundle
from tiny import STREET

from search.cli.bundles import RUNTIMES
from search.data.frames import RenderedScenes
from search.deploy.runtimes.graph_request import request_graphs
from search.deploy.runtimes.registry import TARGETS
from spaces.bundle import load_bundle
from spaces.errors import BadInput

FRAMES = [RenderedScenes(STREET, 2)[k] for k in range(2)]
PARTS = ["cls.onnx", "cls_alone.onnx", "det.onnx", "det_alone.onnx", "trunk.onnx"]


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("request") / "bundle"
    own_bundle(folder, SHARE)
    return folder


def write_graphs(bundle_folder: Path, folder: Path, split: bool, *targets: str) -> list[str]:
    shutil.copytree(bundle_folder, folder)
    return request_graphs(split, targets).write(load_bundle(folder), FRAMES, folder)


def test_without_a_runtime_the_entry_points_lie_in_the_bundle(
    bundle_folder: Path, tmp_path: Path
) -> None:
    checks = write_graphs(bundle_folder, tmp_path / "b", True)
    files = {path.name for path in (tmp_path / "b").iterdir()}
    assert files >= {*PARTS, "weights.data"} and "model.onnx" not in files
    (check,) = checks
    assert check.startswith("trunk.onnx, cls.onnx, det.onnx, cls_alone.onnx, det_alone.onnx: run")


def test_the_command_line_knows_every_runtime() -> None:
    assert RUNTIMES == tuple(TARGETS)


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(BadInput, match="no runtime 'tensorflow'; there are onnxruntime, openvino"):
        request_graphs(False, ["openvino", "tensorflow"])


def test_each_runtime_gets_a_folder_in_the_form_that_it_takes(
    bundle_folder: Path, tmp_path: Path
) -> None:
    checks = write_graphs(bundle_folder, tmp_path / "b", False, *TARGETS)
    for name, target in TARGETS.items():
        folder = tmp_path / "b" / name
        beside = {"weights.data"} if target.weights_beside else set()
        assert {path.name for path in folder.iterdir()} == {"model.onnx", *beside}
        graph = onnx.load(folder / "model.onnx").graph
        stored = {tensor.data_type for tensor in graph.initializer}
        assert (onnx.TensorProto.INT8 in stored) == target.compressed_weights
        operators = {node.op_type for node in graph.node}
        assert ("DequantizeLinear" in operators) == target.keeps_integers
        assert [check for check in checks if check.startswith(f"{name}: model.onnx: run with ")]
    assert any(check.startswith("openvino: model.onnx: run with openvino") for check in checks)
    listed = [check for check in checks if "list of operators" in check or "not an" in check]
    assert {check.partition(":")[0] for check in listed} == {"tensorrt", "litert", "hailo", "rknn"}
