"""Networks in files of torch.export."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from source_examples import export_program, seeded
from torch import Tensor, nn

from spaces.errors import BadInput
from spaces.model_spec import InputSettings, ModelSpec
from spaces.quiet import quiet
from spaces.zoo import load_model, weights_licence


def spec_of(path: Path | str, **settings: Any) -> ModelSpec:
    return ModelSpec("mine", f"program:{path}", "none", **settings)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = seeded(timm.create_model("test_efficientnet", num_classes=7))
    return export_program(net, 64, tmp_path_factory.mktemp("programs") / "net.pt2")


def test_the_input_and_the_classes_are_those_of_the_file(program: Path) -> None:
    model = load_model(spec_of(program, fit="squash", input=InputSettings(std=(1, 1, 1))))
    assert (model.input.height, model.input.width, model.num_classes) == (64, 64, 7)
    assert (model.input.fit, model.input.std) == ("squash", (1, 1, 1))
    assert load_model(spec_of(program)).input.fit == "crop"
    assert weights_licence(spec_of(program)) == "not known"


def test_stages_and_layers_are_those_of_the_network(program: Path) -> None:
    """Convolutions and BatchNorms are modules again, so they are fused, folded and stored."""
    own = timm.create_model("test_efficientnet", num_classes=7)
    model = load_model(spec_of(program))
    known = load_model(ModelSpec("own", "timm/test_efficientnet", "none", num_classes=7))
    assert model.layout.stages == known.layout.stages
    for kind in (nn.Conv2d, nn.Linear, nn.BatchNorm2d):
        counts = [sum(isinstance(m, kind) for m in net.modules()) for net in (own, model)]
        assert counts[0] == counts[1] > 0


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_transformers_and_other_networks_are_cut(name: str, tmp_path: Path) -> None:
    net = seeded(timm.create_model(name, num_classes=5))
    model = load_model(spec_of(export_program(net, 160, tmp_path / "net.pt2")))
    inputs = model.example_input(batch=3)
    assert len(model.layout.stages) >= 4
    torch.testing.assert_close(model(inputs), net(inputs), rtol=1e-4, atol=1e-4)


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(BadInput) as caught:
        load_model(spec_of(path, **settings))
    message = str(caught.value)
    assert message.startswith("mine: ") and len(message.splitlines()) == 1
    return message


def saved(net: nn.Module, path: Path, *inputs: Tensor, **options: Any) -> Path:
    with quiet():
        torch.export.save(torch.export.export(net, inputs, **options), path)
    return path


def small_net() -> nn.Sequential:
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 2)).eval()


def test_a_program_for_one_batch_size_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = saved(small_net(), tmp_path / "one.pt2", torch.zeros(1, 3, 32, 32))
    message = refusal(path)
    assert "takes batches of exactly 1" in message
    assert "dynamic_shapes=({0: torch.export.Dim('batch')},)" in message


def test_a_network_in_training_is_refused_with_the_cure(tmp_path: Path) -> None:
    batch = ({0: torch.export.Dim("batch")},)
    for layer in (nn.BatchNorm2d(3), nn.Dropout(0.5)):
        net = nn.Sequential(layer, *small_net()).train()
        path = saved(net, tmp_path / "net.pt2", torch.zeros(2, 3, 32, 32), dynamic_shapes=batch)
        assert "call net.eval() before torch.export.export" in refusal(path)


def test_inputs_that_are_no_frames_are_refused(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    path = saved(Two(), tmp_path / "two.pt2", torch.zeros(2, 3), torch.zeros(2, 3))
    assert "takes 2 inputs; a network of frames takes one" in refusal(path)
    batch = ({0: torch.export.Dim("batch")},)
    path = saved(nn.Linear(3, 2), tmp_path / "flat.pt2", torch.zeros(2, 3), dynamic_shapes=batch)
    assert "a tensor of 2 dimensions; frames come as" in refusal(path)
    net = small_net().half()
    half = torch.zeros(2, 3, 32, 32).half()
    path = saved(net, tmp_path / "half.pt2", half, dynamic_shapes=batch)
    assert "takes torch.float16: export the network in float32" in refusal(path)


def open_side(name: str) -> Any:
    return torch.export.Dim(name, min=16, max=512)


def test_an_open_size_is_set_by_the_spec(tmp_path: Path) -> None:
    open_sizes = ({0: torch.export.Dim("batch"), 2: open_side("height"), 3: open_side("width")},)
    net = nn.Sequential(*[nn.Conv2d(3, 3, 3), nn.ReLU()] * 4, *small_net()).eval()
    path = saved(net, tmp_path / "net.pt2", torch.zeros(2, 3, 40, 48), dynamic_shapes=open_sizes)
    assert "takes inputs of any size: set `size:`" in refusal(path)
    model = load_model(spec_of(path, size=(64, 96)))
    inputs = model.example_input(batch=5)
    torch.testing.assert_close(model(inputs), net(inputs))


def test_files_that_are_no_programs_are_refused(program: Path, tmp_path: Path) -> None:
    content = program.read_bytes()
    damaged: dict[str, bytes] = {
        "empty": b"",
        "text": b"a program",
        "cut off": content[: len(content) // 2],
        "cut off at the end": content[:-30],
        "state dict": _bytes_of(lambda buffer: torch.save(small_net().state_dict(), buffer)),
        "zip": _bytes_of(lambda buffer: zipfile.ZipFile(buffer, "w").writestr("a/b", "c")),
    }
    with quiet():
        scripted: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
            small_net(), torch.zeros(1, 3, 32, 32)
        )
        damaged["TorchScript"] = _bytes_of(lambda buffer: torch.jit.save(scripted, buffer))
    for name, damage in damaged.items():
        path = tmp_path / f"{name}.pt2"
        path.write_bytes(damage)
        assert "torch.export" in refusal(path), name
    assert "No such file" in refusal(tmp_path / "nothing.pt2")
    assert "Is a directory" in refusal(tmp_path)


def test_a_program_with_flipped_bytes_is_refused_or_loads(tmp_path: Path) -> None:
    content = export_program(small_net(), 32, tmp_path / "net.pt2").read_bytes()
    for place in range(50, len(content), len(content) // 20):
        path = tmp_path / f"{place}.pt2"
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            load_model(spec_of(path))
        except BadInput as error:
            assert str(error).startswith("mine: ")


def _bytes_of(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


class Harmful:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("code of the file has run",))


def changed(program: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Write a program whose files are changed by a function of name and content."""
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            copy.writestr(name, change(name.partition("/")[2], source.read(name)))
    return target


def with_text(old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith(".json"):
            return content
        text = json.dumps(json.loads(content))
        return text.replace(old, new).encode()

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda name, content: pickle.dumps(Harmful()) if name.endswith("model.pt") else content,
         "its example inputs are not just tensors"),
        (with_text('"use_pickle": false', '"use_pickle": true'), "pickled or no tensor"),
        (with_text('"path_name": "weight_0"', '"path_name": "opaque_obj_0"'), "no tensor"),
        (with_text("torch.ops.aten.conv2d.default", "torch.hub.load"), "the operation torch.hub"),
        (with_text("torch.ops.aten.conv2d.default", "_operator.call"), "the operation _operator"),
        (with_text("Symbol('s", "exec('s"), "is no expression of numbers"),
    ],
    ids=["examples", "pickled weight", "object", "function", "operator", "expression"],
)  # fmt: skip
def test_a_program_with_code_is_refused_before_it_is_loaded(
    program: Path, tmp_path: Path, change: Callable[[str, bytes], bytes], reason: str
) -> None:
    assert reason in refusal(changed(program, tmp_path / "changed.pt2", change))


def test_a_program_that_is_written_again_loads(program: Path, tmp_path: Path) -> None:
    path = changed(program, tmp_path / "same.pt2", lambda _, content: content)
    assert load_model(spec_of(path)).num_classes == 7
