"""Build the classifiers and embeddings of timm.

This is the only module that imports timm.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from spaces.cutting import Hints
from spaces.errors import BadInput, BadWeights
from spaces.inputs import InputSpec
from spaces.model_spec import ModelSpec
from spaces.sources.hub import hub_errors
from spaces.sources.source import (
    BuiltNetwork,
    Role,
    as_trained,
    build_traced,
    input_errors,
    load_for_inference,
    no_hub_weights,
    task_of,
)
from spaces.tasks.task import ClassNames

with warnings.catch_warnings():
    # torch warns that scripting at import is deprecated.
    warnings.simplefilter("ignore")
    import timm
    from timm.data.imagenet_info import ImageNetInfo

IMAGENET_CLASSES = 1000
"""The classes of ImageNet-1k, on which timm's networks with that many classes are trained."""


class TimmSource:
    """Networks by their names in timm."""

    def build(self, spec: ModelSpec, name: str) -> BuiltNetwork:
        if not _exists(name):
            raise BadInput(
                f"{spec.name}: timm has no network {name!r}; timm.list_models() lists its networks"
            )
        if spec.weights == "hub" and not _has_hub_weights(name):
            raise no_hub_weights(spec)
        task = task_of(spec, ("classification", "embedding"))
        net, note = _load_embedding(spec, name) if task == "embedding" else _load(spec, name)
        role = Role(_input(net, spec), task, int(net.num_classes), hints_of(net))
        return build_traced(net, spec, role, note)

    def weights_licence(self, spec: ModelSpec, name: str) -> str:
        config = timm.get_pretrained_cfg(name) if spec.weights == "hub" else None
        return str(config.license) if config and config.license else ""

    def class_names(self, spec: ModelSpec, name: str) -> ClassNames:
        """Return the first lemma of each class of ImageNet, if the weights were trained on it."""
        is_published = spec.weights == "hub" or spec.weights.startswith("pypi:")
        config = timm.get_pretrained_cfg(name) if is_published and _exists(name) else None
        if (
            config is None
            or spec.task == "embedding"
            or {config.num_classes, spec.num_classes or IMAGENET_CLASSES} != {IMAGENET_CLASSES}
        ):
            return ()
        names = ImageNetInfo("imagenet-1k")
        return tuple(
            names.index_to_description(index).partition(",")[0]
            for index in range(IMAGENET_CLASSES)
        )


def _exists(name: str) -> bool:
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:  # the network exists, but not the tag after the dot
        return False
    return bool(timm.is_model(name))


def _has_hub_weights(name: str) -> bool:
    config = timm.get_pretrained_cfg(name)
    return config is not None and bool(config.has_weights)


def _create(spec: ModelSpec, name: str) -> Any:
    options: dict[str, Any] = {} if spec.num_classes is None else {"num_classes": spec.num_classes}
    if spec.input.in_chans is not None:
        options["in_chans"] = spec.input.in_chans
    with hub_errors(spec):
        net: Any = timm.create_model(name, pretrained=spec.weights == "hub", **options)
    if spec.size is not None and hasattr(net, "set_input_size"):
        net.set_input_size(img_size=spec.size)  # a transformer has a table of positions
    return net


def _load(spec: ModelSpec, name: str) -> tuple[Any, str]:
    """Return a network with its weights, and how they were found in a file."""
    net = _create(spec, name)
    return net, load_for_inference(net, spec)


def _load_embedding(spec: ModelSpec, name: str) -> tuple[Any, str]:
    """Return a network without its classifier; the file of its weights may hold one."""
    try:
        net, note = _load(spec, name)
    except BadWeights as error:
        net = _create(spec, name)
        net.reset_classifier(0)
        try:
            return net, load_for_inference(net, spec)
        except BadWeights:
            raise error from None
    net.reset_classifier(0)
    net.eval()
    return net, note


def _input(net: Any, spec: ModelSpec) -> InputSpec:
    config = net.pretrained_cfg
    height, width = spec.size or tuple(config["input_size"][1:])
    with input_errors(spec):
        own = InputSpec(
            height,
            width,
            tuple(config["mean"]),
            tuple(config["std"]),
            spec.fit or "crop",
            float(config.get("crop_pct") or 0.875),
        )
    return as_trained(own, spec)


def hints_of(net: Any) -> Hints:
    """Return what a network of timm says of its stages, classifier and tokens."""
    classifier = net.get_classifier() if hasattr(net, "get_classifier") else None
    layers = classifier if isinstance(classifier, (tuple, list, nn.ModuleList)) else [classifier]
    return Hints(
        containers_of(net),
        tuple(layer for layer in layers if isinstance(layer, nn.Module)),
        getattr(net, "num_prefix_tokens", None),
    )


def containers_of(net: Any) -> frozenset[str]:
    """Return the children that contain stages, e.g. `blocks` if `feature_info` has `blocks.2`."""
    info = getattr(net, "feature_info", None) or []
    entries = info.get_dicts() if hasattr(info, "get_dicts") else info
    return frozenset(e["module"].split(".")[0] for e in entries if "." in e["module"])
