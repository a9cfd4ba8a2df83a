"""Networks in ONNX files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import timm
import torch
import torchvision
from onnx import TensorProto, helper
from source_examples import export_onnx, seeded
from torch import nn

from spaces.errors import BadInput, UncuttableModel
from spaces.model_spec import ModelSpec
from spaces.zoo import load_model, weights_licence

NETS: dict[str, Any] = {
    "timm/test_resnet": lambda: timm.create_model("test_resnet", num_classes=5),
    "timm/test_vit": lambda: timm.create_model("test_vit", num_classes=5, img_size=64),
    "timm/mobilenetv3_small_050": lambda: timm.create_model(
        "mobilenetv3_small_050", num_classes=5
    ),
    "torchvision/resnet18": lambda: torchvision.models.resnet18(num_classes=5),
}
WAYS: dict[str, dict[str, Any]] = {
    "new": {},
    "new, opset 18": {"opset_version": 18},
    "TorchScript, opset 17": {
        "dynamo": False, "opset_version": 17, "dynamic_shapes": None,
        "input_names": ["frames"], "dynamic_axes": {"frames": {0: "batch"}},
    },
}  # fmt: skip


def spec_of(path: Path | str, **settings: Any) -> ModelSpec:
    return ModelSpec("mine", f"onnx:{path}", "none", **settings)


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises((BadInput, UncuttableModel)) as caught:
        load_model(spec_of(path, **settings))
    message = str(caught.value)
    assert message.startswith("mine: ") and len(message.splitlines()) == 1
    return message


@torch.no_grad()
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("way", WAYS)
def test_exports_of_torch_are_cut_and_answer_like_torch(
    name: str, way: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = seeded(NETS[name]())
    model = load_model(spec_of(export_onnx(net, 64, tmp_path / "net.onnx", **WAYS[way])))
    inputs = model.example_input(batch=3)
    assert len(model.layout.stages) >= 4
    torch.testing.assert_close(model(inputs), net(inputs), rtol=1e-4, atol=1e-4)


def test_a_network_of_the_new_exporter_can_be_exported_again(tmp_path: Path) -> None:
    """`merge-search export --format program` exports bundles."""
    for name in ("timm/test_resnet", "timm/test_vit"):
        net = seeded(NETS[name]())
        model = load_model(spec_of(export_onnx(net, 64, tmp_path / "net.onnx")))
        batch = ({0: torch.export.Dim("batch")},)
        with torch.no_grad():
            torch.export.export(model, (model.example_input(2),), dynamic_shapes=batch)


def small_net() -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 2)).eval()


def test_a_file_for_one_batch_size_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = export_onnx(small_net(), 32, tmp_path / "net.onnx", dynamic_shapes=None)
    message = refusal(path)
    assert "takes batches of exactly 2" in message and "torch.export.Dim('batch')" in message


def test_files_that_are_no_networks_are_refused(tmp_path: Path) -> None:
    path = export_onnx(small_net(), 32, tmp_path / "net.onnx", external_data=False)
    content = path.read_bytes()
    assert weights_licence(spec_of(path)) == "not known"
    damaged = {"empty": b"", "text": b"a network", "cut off": content[: len(content) // 2]}
    for name, damage in damaged.items():
        (tmp_path / name).write_bytes(damage)
        assert "cannot be read" in refusal(tmp_path / name), name
    assert "there is no such file" in refusal(tmp_path / "nothing.onnx")
    assert "there is no such file" in refusal(tmp_path)


def test_missing_external_weights_are_named(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3), *[nn.Conv2d(64, 64, 3) for _ in range(3)])
    path = export_onnx(net, 32, tmp_path / "net.onnx", external_data=True)
    (tmp_path / "net.onnx.data").unlink()
    assert "net.onnx.data" in refusal(path)


def write_network(path: Path, nodes: list[Any], answer: int = TensorProto.FLOAT) -> Path:
    """Write a network from `x`, (batch, 3, 32, 32), to `y`."""
    frames = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 32, 32])
    logits = helper.make_tensor_value_info("y", answer, ["batch", 3])
    graph = helper.make_graph(nodes, "net", [frames], [logits])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_networks_that_cannot_be_converted_or_cut_are_refused(tmp_path: Path) -> None:
    pool = helper.make_node("GlobalAveragePool", ["x"], ["p"])
    flatten = helper.make_node("Flatten", ["p"], ["y"])
    assert "has no weights" in refusal(write_network(tmp_path / "pool.onnx", [pool, flatten]))
    unknown = helper.make_node("Conv", ["x", "x"], ["y"], domain="com.example")
    assert "cannot be" in refusal(write_network(tmp_path / "unknown.onnx", [unknown]))


def test_a_missing_converter_is_named_with_both_cures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export_onnx(small_net(), 32, tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnx2pytorch", None)
    message = refusal(path)
    assert "pip install 'merge-search[onnx]'" in message and "program:FILE" in message
