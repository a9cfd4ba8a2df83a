"""Networks that functions of the user's own build."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spaces.errors import BadInput, BadWeights
from spaces.model_spec import InputSettings, ModelSpec
from spaces.zoo import build_skeleton, load_model, weights_licence

CODE = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())

    def forward(self, x):
        return x + self.conv(x)


class Net(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.body = nn.ModuleList(Block(8) for _ in range(5))
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.first(x)
        for block in self.body:
            x = block(x)
        return self.classifier(x.mean((2, 3)))


def build(num_classes=4):
    return Net(num_classes)


def sized():
    net = Net()
    net.input_size = (48, 64)
    return net


def fails(): raise KeyError("colour")
def no_module(): return 5
def no_logits(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
class Boxes(Net):
    def forward(self, x):
        y = super().forward(x)[:, None].expand(-1, 9, -1)
        return torch.cat((y, y[:, :, :1]), 2), y


class Named(Net):
    def forward(self, x):
        return {"out": super().forward(x)}


def no_boxes(): return Boxes()
def no_tensor(): return Named()
def two_frames_only(): return nn.Sequential(nn.Flatten(), nn.Linear(5, 2))
NET = 7
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModelSpec]]:
    """Return a maker of specs for the functions of a module on the path."""
    (tmp_path / "street_nets.py").write_text(CODE)
    (tmp_path / "broken_nets.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()

    def make(function: str, **settings: object) -> ModelSpec:
        options = {"weights": "none", "size": (32, 32), **settings}
        return ModelSpec("mine", f"python:{function}", **options)  # type: ignore[arg-type]

    yield make
    for module in ("street_nets", "broken_nets"):
        sys.modules.pop(module, None)


def test_a_function_builds_a_model_with_stages(spec: Callable[..., ModelSpec]) -> None:
    model = load_model(spec("street_nets:build", num_classes=6))
    assert model.layout.stages == ("stem", *(f"body.{k}" for k in range(5)), "pool")
    assert model.num_classes == 6
    assert model(model.example_input(batch=3)).shape == (3, 6)
    assert build_skeleton(spec("street_nets:build", num_classes=6)).layout == model.layout


def test_weights_come_from_a_file(spec: Callable[..., ModelSpec], tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    net = importlib.import_module("street_nets").build()
    save_file(net.state_dict(), file)
    model = load_model(spec("street_nets:build", weights=str(file)))
    assert torch.equal(model.stages[0].weight, net.first.weight)  # type: ignore[arg-type]
    assert weights_licence(spec("street_nets:build", weights=str(file))) == "not known"


def test_the_input_is_that_of_the_module_or_the_spec(spec: Callable[..., ModelSpec]) -> None:
    own = load_model(spec("street_nets:sized", size=None)).input
    assert (own.height, own.width, own.fit) == (48, 64, "crop")
    given = load_model(
        spec(
            "street_nets:sized", size=(32, 40), fit="squash",
            input=InputSettings(mean=(0.5, 0.5, 0.5), channels="bgr"),
        )
    ).input  # fmt: skip
    assert (given.height, given.width, given.fit) == (32, 40, "squash")
    assert (given.mean, given.channels) == ((0.5, 0.5, 0.5), "bgr")


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        ("no_such_nets:build", {}, "no module 'no_such_nets'; install .* or name .*PYTHONPATH"),
        ("street_nets:nothing", {}, "no attribute 'nothing'"),
        ("broken_nets:build", {}, "cannot be imported: RuntimeError: no licence"),
        ("street_nets:NET", {}, "is no function"),
        ("street_nets:fails", {}, "fails when called with no argument: KeyError: 'colour'"),
        ("street_nets:sized", {"num_classes": 3}, "fails when called with .*'num_classes': 3"),
        ("street_nets:no_module", {}, "returns a int, not a torch.nn.Module"),
        ("street_nets:build", {"size": None}, "does not say its input size: set `size:`"),
        ("street_nets:no_logits", {}, r"answers two frames with \(2, 4, 30, 30\)"),
        (
            "street_nets:build",
            {"task": "segmentation"},
            r"answers .* with \(2, 4\); a segmentation",
        ),
        (
            "street_nets:no_logits",
            {"task": "embedding"},
            r"with \(2, 4, 30, 30\); an embedding is",
        ),
        (
            "street_nets:no_boxes",
            {"task": "detection"},
            r"with \(2, 9, 5\) and \(2, 9, 4\); a dete",
        ),
        ("street_nets:no_tensor", {"task": "dense"}, "answers two frames with dict; a dense"),
        ("street_nets:two_frames_only", {}, "fails on an input of 2 x 3 x 32 x 32: RuntimeError"),
    ],
)
def test_a_function_that_does_not_fit_is_refused_with_the_reason(
    spec: Callable[..., ModelSpec], function: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(BadInput, match=rf"mine: python:{function}.* ?{message}"):
        load_model(spec(function, **settings))


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_answers_with_positions_need_the_whole_frame(
    spec: Callable[..., ModelSpec], task: str
) -> None:
    with pytest.raises(BadInput, match=f"mine: fit crop: a {task} needs squash or letterbox"):
        load_model(spec("street_nets:build", task=task, fit="crop"))


def test_there_are_no_weights_in_a_hub(spec: Callable[..., ModelSpec]) -> None:
    with pytest.raises(BadWeights, match=r"mine: .*no weights in a hub; set `weights:`"):
        load_model(spec("street_nets:build", weights="hub"))


def test_another_number_of_classes_in_a_file_is_named(
    spec: Callable[..., ModelSpec], tmp_path: Path
) -> None:
    file = tmp_path / "weights.safetensors"
    net = importlib.import_module("street_nets").build(9)
    save_file(net.state_dict(), file)
    with pytest.raises(BadWeights, match="has 9 classes, the network 4: set num_classes: 9"):
        load_model(spec("street_nets:build", weights=str(file)))


def test_nothing_is_imported_before_a_model_is_built(spec: Callable[..., ModelSpec]) -> None:
    named = spec("street_nets:build")
    assert "street_nets" not in sys.modules
    load_model(named)
    assert "street_nets" in sys.modules
