"""Load a checkpoint into a network, whatever way it was saved."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from spaces.checkpoint import Checkpoint, check_finite, read_checkpoint
from spaces.errors import BadWeights
from spaces.weight_names import match_names
from spaces.weights import load_exactly, load_in_order, package_weights_file

NameFilter = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


class OtherSize(BadWeights):
    """The checkpoint is of the same network with another number of classes or channels."""


def load_file_into(net: nn.Module, path: Path, model: str) -> str:
    """Load the weights in a file; return what was taken and what was stripped, in words.

    Names are tried as they are, then as the network's library converts those of other libraries,
    then in the order of the tensors.

    Raises:
        BadWeights: the file holds no weights, or those of another network.
    """
    source = f"{model}: {path}"
    checkpoint = read_checkpoint(path)
    matched = match_names(checkpoint.state, net, source)
    check_finite(matched.state, f"weights file {path}")
    how = _load(net, matched.state, source)
    return ", ".join(filter(None, [_section_note(checkpoint), matched.note, how]))


def load_package_into(net: nn.Module, package: str, model: str) -> None:
    """Load the weights in an installed weights package, in the order of the tensors.

    Raises:
        BadWeights: the package is not installed, or holds weights of another network.
    """
    state = read_checkpoint(package_weights_file(package)).state
    check_finite(state, f"weights package {package}")
    load_in_order(net, state, f"{model}: {package}")


def _section_note(checkpoint: Checkpoint) -> str:
    if not checkpoint.section:
        return ""
    return f"{checkpoint.section} taken{' (averaged weights)' if checkpoint.averaged else ''}"


def _load(net: nn.Module, state: Mapping[str, Tensor], source: str) -> str:
    """Load a state dict in the first way that fits; return the way in words, empty for the plain.

    Raises:
        BadWeights: no way fits; the message is that of the plain way, or says what the sizes are.
    """
    _check_sizes(net, state, source)
    try:
        load_exactly(net, state, source)
        return ""
    except BadWeights as error:
        misfit = error
    for name_filter in _library_filters(net):
        converted = _converted(name_filter, state)
        if converted is not None:
            _check_sizes(net, converted, source)
            try:
                load_exactly(net, converted, source)
                return "names converted by timm"
            except BadWeights:
                continue
    try:
        load_in_order(net, state, source)
        return "other names, matched by order and shape"
    except BadWeights:
        raise misfit from None


def _library_filters(net: nn.Module) -> Iterator[NameFilter]:
    """Yield the functions of timm's module that convert other libraries' checkpoints."""
    if not type(net).__module__.startswith("timm."):
        return
    module = sys.modules[type(net).__module__]
    for name, function in vars(module).items():
        if "filter" in name and inspect.isfunction(function):
            parameters = len(inspect.signature(function).parameters)
            yield lambda state, f=function, n=parameters: f(*[state, net][:n])  # type: ignore[misc]


def _converted(name_filter: NameFilter, state: Mapping[str, Tensor]) -> Mapping[str, Any] | None:
    try:
        return name_filter(dict(state))
    except Exception:
        # A filter expects certain names and may fail in any way on others.
        return None


def _check_sizes(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Check the numbers of classes and input channels, where the names are the network's own.

    Raises:
        OtherSize: one differs; the message names the number that the checkpoint has.
    """
    own = net.state_dict()
    stem = _first_convolution(own)
    if _are_comparable(own, state, stem) and own[stem].shape[1] != state[stem].shape[1]:
        channels = state[stem].shape[1]
        raise OtherSize(
            f"{source} takes {channels} input channels, the network {own[stem].shape[1]}"
            + (f": set input: {{in_chans: {channels}}}" if channels in (1, 3) else "")
        )
    layers = _class_layers(net)
    for name in layers.names:
        if _are_comparable(own, state, name) and own[name].shape[0] != state[name].shape[0]:
            own_classes, classes = (layers.classes(s[name], own[name]) for s in (own, state))
            raise OtherSize(
                f"{source} has {classes} classes, the network {own_classes}: set "
                f"num_classes: {classes}"
            )


def _are_comparable(own: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str) -> bool:
    """Return whether both have a tensor of that name with the same number of dimensions."""
    return name in own and name in state and own[name].ndim == state[name].ndim


def _first_convolution(own: Mapping[str, Tensor]) -> str:
    return next((name for name, tensor in own.items() if tensor.ndim == 4), "")


@dataclass(frozen=True)
class _ClassLayers:
    """The weights with rows per class."""

    names: Sequence[str]
    outputs: int = 0
    """Outputs per anchor; 0 of a classifier, whose rows are the classes."""
    unused: int = 0
    """How many of these outputs are no class: the background."""

    def classes(self, weight: Tensor, own: Tensor) -> int:
        """Return the number of classes of a weight; `own` is that of the network."""
        per_output = own.shape[0] // self.outputs if self.outputs else 1
        return int(weight.shape[0] // per_output) - self.unused


def _class_layers(net: Any) -> _ClassLayers:
    if hasattr(net, "class_net"):
        names = ["class_net.predict.conv_pw.weight", "class_net.predict.conv.weight"]
        return _ClassLayers(names, net.config.num_classes)
    if hasattr(net, "roi_heads"):
        predictor = net.roi_heads.box_predictor.cls_score
        return _ClassLayers(
            ["roi_heads.box_predictor.cls_score.weight"], predictor.out_features, unused=1
        )
    if hasattr(net, "anchor_generator"):
        return _one_stage_layers(net.head.classification_head)
    layers = {name: m for name, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    if not hasattr(net, "get_classifier"):
        return _ClassLayers([f"{name}.weight" for name in [*layers][-1:]])
    classifier = net.get_classifier()
    return _ClassLayers([f"{n}.weight" for n, layer in layers.items() if layer is classifier])


def _one_stage_layers(head: Any) -> _ClassLayers:
    """Return the class layers of torchvision's SSD, RetinaNet and FCOS."""
    outputs = head.num_columns if hasattr(head, "num_columns") else head.num_classes
    last = [name for name, part in head.named_modules() if isinstance(part, nn.Conv2d)][-1]
    return _ClassLayers([f"head.classification_head.{last}.weight"], outputs, unused=1)
