"""Checkpoints load however trainers save them, and what is stripped or left out is said."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import effdet
import pytest
import timm
import torch
import torchvision
from networks import Zoo
from safetensors.torch import save_file
from torch import Tensor, nn

from spaces.checkpoint import read_checkpoint
from spaces.errors import BadWeights
from spaces.model_spec import InputSettings, ModelSpec
from spaces.stages import StagedModel
from spaces.weight_loading import load_file_into
from spaces.zoo import load_model

ARCH = "timm/test_efficientnet"
DETECTOR = "effdet/tf_efficientdet_lite0"
State = Mapping[str, Tensor]


def prefixed(state: State, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def averaged_beside(state: State, key: str) -> dict[str, Any]:
    return {"state_dict": {name: t * 0 for name, t in state.items()}, key: state, "epoch": 3}


def training_checkpoint(state: State) -> dict[str, Any]:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    return {
        "epoch": 7,
        "arch": "efficientnet",
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, data=Path("/data")),
        "metric": 0.7,
    }


WAYS_OF_CLASSIFIERS: dict[str, tuple[str, Callable[[State], Any], str]] = {
    "plain": ("net.pth", dict, ""),
    "DataParallel": ("net.pth", lambda s: prefixed(s, "module."), "prefix 'module.' stripped"),
    "compiled": ("net.pt", lambda s: prefixed(s, "_orig_mod."), "prefix '_orig_mod.' stripped"),
    "wrapper around the network": (
        "net.bin", lambda s: prefixed(s, "net."), "prefix 'net.' stripped",
    ),
    "Lightning": (
        "epoch=3.ckpt",
        lambda s: {
            "state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(5)},
            "hyper_parameters": {"lr": 0.1},
            "callbacks": {"ModelCheckpoint": {"best": torch.tensor(1.0)}},
        },
        r"state_dict taken, prefix 'model.' stripped, 1 tensors left out (criterion.weight)",
    ),
    "two wrappers": (
        "net.pth", lambda s: prefixed(s, "model.model."), "prefix 'model.model.' stripped",
    ),
    "backbone of a whole": (
        "net.pth", lambda s: prefixed(s, "backbone."), "prefix 'backbone.' stripped",
    ),
    "training": ("model_best.pth.tar", training_checkpoint, "state_dict taken"),
    "averaged by timm": (
        "last.pth.tar",
        lambda s: averaged_beside(s, "state_dict_ema"),
        "state_dict_ema taken (averaged weights)",
    ),
    "averaged by others": (
        "best.pth",
        lambda s: averaged_beside(prefixed(s, "module."), "model_ema"),
        "model_ema taken (averaged weights), prefix 'module.' stripped",
    ),
    "averaged in a section": (
        "best.pth",
        lambda s: averaged_beside(s, "params") | {"ema": {"module": s, "updates": 9}},
        "ema.module taken (averaged weights)",
    ),
    "average of torch": (
        "swa.pt",
        lambda s: {"n_averaged": torch.tensor(4), **prefixed(s, "module.")},
        "prefix 'module.' stripped, 1 tensors left out (n_averaged)",
    ),
    "model key": ("net.pth", lambda s: {"model": s, "epoch": 1}, "model taken"),
    "other key": ("net.pth", lambda s: {"student": s, "epoch": 1}, "student taken"),
    "profiled": (
        "net.pth",
        lambda s: {**s, "total_ops": torch.zeros(1), "conv_stem.total_params": torch.zeros(1)},
        "2 tensors left out (total_ops, conv_stem.total_params)",
    ),
    "without counters": (
        "net.pth",
        lambda s: {name: t for name, t in s.items() if "num_batches" not in name},
        "",
    ),
    "half precision": ("net.pth", lambda s: {name: _halved(t) for name, t in s.items()}, ""),
    "without an ending": ("checkpoint", dict, ""),
    "numpy scalars": ("net.pth", lambda s: {"model": s, "acc": _numpy_scalar()}, "model taken"),
    "named tuple of a trainer": (
        "net.pth", lambda s: {"model": s, "log": collections.Counter(a=1)}, "model taken",
    ),
}  # fmt: skip


def _halved(tensor: Tensor) -> Tensor:
    return tensor.half().float() if tensor.is_floating_point() else tensor


def _numpy_scalar() -> Any:
    import numpy as np

    return np.float64(0.5)


@pytest.fixture(scope="module")
def classifier(zoo: Zoo) -> nn.Module:
    torch.manual_seed(4)
    return _random(timm.create_model("test_efficientnet", num_classes=7))


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    net = effdet.create_model(
        "tf_efficientdet_lite0", bench_task="", num_classes=4, pretrained=False,
        pretrained_backbone=False, image_size=(128, 128),
    )  # fmt: skip
    return _random(net)


def _random(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0, 0.05)
    return net.eval()


def load(path: Path, arch: str = ARCH, num_classes: int = 7) -> StagedModel:
    size = (128, 128) if arch == DETECTOR else None
    return load_model(ModelSpec("mine", arch, str(path), num_classes=num_classes, size=size))


def sum_of(state: State) -> float:
    return sum(t.double().abs().sum().item() for n, t in state.items() if "num_batches" not in n)


@pytest.mark.parametrize("way", WAYS_OF_CLASSIFIERS)
def test_a_classifier_loads_from_a_checkpoint_saved_in_this_way(
    tmp_path: Path, classifier: nn.Module, way: str
) -> None:
    name, save, note = WAYS_OF_CLASSIFIERS[way]
    torch.save(save(classifier.state_dict()), tmp_path / name)
    model = load(tmp_path / name)
    half = 1e-3 if way == "half precision" else 1e-9
    assert sum_of(model.state_dict()) == pytest.approx(sum_of(classifier.state_dict()), rel=half)
    assert model.source is not None and model.source.note == note


WAYS_OF_DETECTORS: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (dict, ""),
    "effdet's bench": (
        lambda s: {**prefixed(s, "model."), "anchors.boxes": torch.ones(3, 4)},
        "prefix 'model.' stripped, 1 tensors left out (anchors.boxes)",
    ),
    "effdet's training": (
        lambda s: {
            "state_dict": prefixed(s, "model."),
            "state_dict_ema": {**prefixed(s, "model."), "anchors.boxes": torch.ones(3, 4)},
            "args": argparse.Namespace(lr=0.1),
        },
        "state_dict_ema taken (averaged weights), prefix 'model.' stripped, 1 tensors left out "
        "(anchors.boxes)",
    ),
    "Lightning": (
        lambda s: {
            "state_dict": {
                **prefixed(s, "model.model."), "model.anchors.boxes": torch.ones(3, 4),
            }
        },
        "state_dict taken, prefix 'model.model.' stripped, 1 tensors left out "
        "(model.anchors.boxes)",
    ),
    "anchors beside the weights": (
        lambda s: {**s, "anchors.boxes": torch.ones(3, 4)},
        "1 tensors left out (anchors.boxes)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS_OF_DETECTORS)
def test_a_detector_loads_from_a_checkpoint_saved_in_this_way(
    tmp_path: Path, detector: nn.Module, way: str
) -> None:
    save, note = WAYS_OF_DETECTORS[way]
    torch.save(save(detector.state_dict()), tmp_path / "net.pth")
    model = load(tmp_path / "net.pth", DETECTOR, num_classes=4)
    assert model.source is not None and model.source.note == note


@pytest.mark.parametrize(
    ("theirs", "ours", "note"),
    [
        ("efficientnet_b0", "efficientnet_b0", "other names, matched by order and shape"),
        ("mobilenet_v2", "mobilenetv2_100", "other names, matched by order and shape"),
        ("regnet_y_400mf", "regnety_004", "names converted by timm"),
        ("resnet18", "resnet18", ""),
    ],
)
def test_a_checkpoint_of_torchvision_gives_the_same_logits_in_timm(
    tmp_path: Path, theirs: str, ours: str, note: str
) -> None:
    torch.manual_seed(2)
    published = _random(torchvision.models.get_model(theirs, weights=None))
    torch.save(prefixed(published.state_dict(), "module."), tmp_path / "net.pth")
    net = timm.create_model(ours).eval()
    stripped = "prefix 'module.' stripped"
    assert load_file_into(net, tmp_path / "net.pth", "mine") == ", ".join(
        filter(None, [stripped, note])
    )
    inputs = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(inputs), published(inputs))


def test_a_file_is_judged_by_its_content_and_not_by_its_name(
    tmp_path: Path, classifier: nn.Module
) -> None:
    save_file(dict(classifier.state_dict()), tmp_path / "net.pth")
    torch.save(classifier.state_dict(), tmp_path / "net.safetensors")
    for name in ("net.pth", "net.safetensors"):
        state = read_checkpoint(tmp_path / name).state
        assert sum_of(state) == pytest.approx(sum_of(classifier.state_dict()))


def test_of_two_copies_in_one_module_the_averaged_one_is_taken(
    tmp_path: Path, classifier: nn.Module
) -> None:
    state = classifier.state_dict()
    zeros = {name: t * 0 for name, t in state.items()}
    torch.save({**prefixed(zeros, "model."), **prefixed(state, "ema_model.")}, tmp_path / "a.pth")
    model = load(tmp_path / "a.pth")
    assert sum_of(model.state_dict()) == pytest.approx(sum_of(state))
    torch.save({**prefixed(zeros, "student."), **prefixed(state, "teacher.")}, tmp_path / "b.pth")
    with pytest.raises(BadWeights, match=r"holds the network 2 times, .* student\., teacher\."):
        load(tmp_path / "b.pth")


def test_one_name_of_a_tied_tensor_is_enough(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 1)
            self.second = nn.Conv2d(3, 4, 1)
            self.second.weight = self.first.weight

        def get_classifier(self) -> nn.Module:
            return self.second

        num_classes = 4

    source = _random(Tied())
    state = {name: t for name, t in source.state_dict().items() if name != "second.weight"}
    torch.save(state, tmp_path / "net.pth")
    net = Tied()
    load_file_into(net, tmp_path / "net.pth", "mine")
    assert torch.equal(net.second.weight, source.state_dict()["first.weight"])
    assert net.second.weight is net.first.weight


def test_the_error_names_the_number_of_classes_of_the_checkpoint(
    tmp_path: Path, classifier: nn.Module, detector: nn.Module
) -> None:
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    with pytest.raises(BadWeights, match="has 7 classes, the network 5: set num_classes: 7"):
        load(tmp_path / "classifier.pth", num_classes=5)
    torch.save(detector.state_dict(), tmp_path / "detector.pth")
    with pytest.raises(BadWeights, match="has 4 classes, the network 90: set num_classes: 4"):
        load(tmp_path / "detector.pth", DETECTOR, num_classes=90)


def test_a_network_of_grey_frames_loads_with_in_chans_and_the_error_names_it(
    tmp_path: Path,
) -> None:
    torch.save(timm.create_model("test_efficientnet", in_chans=1).state_dict(), tmp_path / "g.pth")
    with pytest.raises(BadWeights, match=r"takes 1 input channels.*set input: \{in_chans: 1\}"):
        load_model(ModelSpec("mine", ARCH, str(tmp_path / "g.pth")))
    grey = InputSettings(in_chans=1)
    model = load_model(ModelSpec("mine", ARCH, str(tmp_path / "g.pth"), input=grey))
    assert model.input.channel_count == 1 and model.example_input().shape[1] == 1
    torch.save(timm.create_model("test_efficientnet", in_chans=4).state_dict(), tmp_path / "d.pth")
    with pytest.raises(BadWeights, match=r"takes 4 input channels, the network 3$"):
        load_model(ModelSpec("mine", ARCH, str(tmp_path / "d.pth")))


def script(net: nn.Module, path: Path) -> None:
    torch.jit.save(torch.jit.trace(net, torch.ones(1, 3, 64, 64)), path)  # type: ignore[no-untyped-call]


def point(_net: nn.Module, path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n")


def page(_net: nn.Module, path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>Not Found</html>")


SAVED_OTHERWISE: dict[str, tuple[Callable[[nn.Module, Path], None], str]] = {
    "TorchScript": (script, r"is a TorchScript archive; .*torch\.jit\.load\(FILE\)\.state_dict"),
    "pickled module": (
        lambda net, path: torch.save(net, path),
        r"a pickled object of the class timm\.models\.efficientnet\.EfficientNet, not its "
        r"tensors; save the tensors alone: torch\.save\(model\.state_dict",
    ),
    "pickled module in a section": (
        lambda net, path: torch.save({"epoch": 1, "model": net}, path),
        r"under the key 'model', holds a pickled object of the class timm",
    ),
    "pointer": (point, "is a pointer to a store of large files.*git lfs pull"),
    "web page": (page, "neither those of a safetensors nor of a PyTorch"),
    "optimiser only": (
        lambda net, path: torch.save({"state": {0: {"exp_avg": torch.ones(1)}}}, path),
        "holds no state dict of tensors",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", SAVED_OTHERWISE)
def test_a_file_without_weights_is_refused_in_one_sentence_without_terminal_codes(
    tmp_path: Path, classifier: nn.Module, kind: str
) -> None:
    save, message = SAVED_OTHERWISE[kind]
    path = tmp_path / "net.pth"
    save(classifier, path)
    with pytest.raises(BadWeights, match=message) as refusal:
        load(path)
    assert "\x1b" not in str(refusal.value) and "\n" not in str(refusal.value)


class Trap:
    """An object that makes a folder when it is unpickled: proof that foreign code has run."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.mark.parametrize("old_format", [True, False])
def test_an_object_beside_the_weights_never_runs(
    tmp_path: Path, classifier: nn.Module, old_format: bool
) -> None:
    mark = tmp_path / "foreign code has run"
    content = {
        "state_dict": classifier.state_dict(),
        "more": Trap(shutil.copyfile, __file__, str(mark)),
    }
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not old_format)
    load(tmp_path / "a.pth")
    content["more"] = Trap(os.mkdir, str(mark))
    torch.save(content, tmp_path / "b.pth", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(BadWeights, match=r"posix.*save the tensors alone"):
        load(tmp_path / "b.pth")
    assert not mark.exists()


def test_a_damaged_pickle_gives_one_short_sentence(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(pickle.dumps({"a": 1})[:-3])
    with pytest.raises(BadWeights) as refusal:
        load(tmp_path / "net.pth")
    assert re.fullmatch(r"weights file .*net\.pth: cannot be read \(.{1,200}", str(refusal.value))


def test_safetensors_whose_first_byte_is_that_of_a_pickle_are_read(tmp_path: Path) -> None:
    """The first byte is the last of the header's length: a multiple of 8, so 1 file in 32."""
    path, state = tmp_path / "net.safetensors", {"weight": torch.arange(6.0)}
    for more in range(0, 300, 4):
        save_file(state, path, {"note": "x" * more})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[:1] == b"\x80"
    assert torch.equal(read_checkpoint(path).state["weight"], state["weight"])
