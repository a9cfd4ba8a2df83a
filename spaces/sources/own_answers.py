"""The form in which a network of the user's own gives the answer of its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spaces.errors import BadInput
from spaces.inputs import InputSpec
from spaces.model_spec import ModelSpec
from spaces.sources.source import Role, check_whole_frame
from spaces.tasks.task import TaskName

Shape = tuple[int, ...]
Sizes = tuple[int | None, ...] | None
"""None in a place stands for any size, None alone for any number of sizes."""


@dataclass(frozen=True)
class AnswerForm:
    """The tensors of an answer."""

    words: str
    sizes: tuple[Sizes, ...]
    """The sizes of each tensor after the frames."""
    class_axis: int | None
    """The dimension of the last tensor that counts the classes; None without classes."""

    def fits(self, shapes: Sequence[Shape]) -> bool:
        """Whether tensors of these shapes are an answer to two frames."""
        return len(shapes) == len(self.sizes) and all(
            _fits(shape, sizes) for shape, sizes in zip(shapes, self.sizes, strict=True)
        )


def _fits(shape: Shape, sizes: Sizes) -> bool:
    if shape[:1] != (2,) or len(shape) < 2:
        return False
    return sizes is None or (
        len(shape) == len(sizes) + 1
        and all(size in (None, own) for size, own in zip(sizes, shape[1:], strict=True))
    )


ANSWER_FORMS: Mapping[TaskName, AnswerForm] = {
    "classification": AnswerForm("a classifier returns logits, (frames, classes)", ((None,),), 1),
    "detection": AnswerForm(
        "a detector returns the boxes of all anchors, (frames, anchors, 4) as x1, y1, x2, y2 in "
        "pixels of the input, and their scores from 0 to 1, (frames, anchors, classes)",
        ((None, 4), (None, None)),
        2,
    ),
    "embedding": AnswerForm("an embedding is (frames, dimensions)", ((None,),), None),
    "segmentation": AnswerForm(
        "a segmentation returns logits, (frames, classes, height, width)", ((None,) * 3,), 1
    ),
    "dense": AnswerForm("a dense network returns one tensor, (frames, ...)", (None,), None),
}


def role_of_own(net: nn.Module, spec: ModelSpec, input_spec: InputSpec, task: TaskName) -> Role:
    """Return the role of a network that takes this input and does the task.

    Raises:
        BadInput: the network fails, or gives no answer of the task.
    """
    check_whole_frame(input_spec.fit, spec, task)
    return Role(input_spec, task, count_classes(net, spec, input_spec, task))


@torch.no_grad()
def count_classes(net: nn.Module, spec: ModelSpec, input_spec: InputSpec, task: TaskName) -> int:
    """Run the network on two frames and return its number of classes; 0 if the task has none.

    Raises:
        BadInput: the network fails, or gives no answer of the task.
    """
    if task not in ANSWER_FORMS:
        raise BadInput(f"{spec.name}: task {task!r} must be one of {', '.join(ANSWER_FORMS)}")
    if next(net.parameters(), None) is None:
        raise BadInput(f"{spec.name}: {spec.arch} has no weights")
    form, answer = ANSWER_FORMS[task], _answer(net, spec, input_spec)
    shapes = [tuple(part.shape) for part in _parts(answer)]
    if not form.fits(shapes):
        said = " and ".join(map(str, shapes)) or type(answer).__name__
        raise BadInput(f"{spec.name}: {spec.arch} answers two frames with {said}; {form.words}")
    return 0 if form.class_axis is None else shapes[-1][form.class_axis]


def _answer(net: nn.Module, spec: ModelSpec, input_spec: InputSpec) -> Any:
    shape = (2, input_spec.channel_count, input_spec.height, input_spec.width)
    try:
        return net(torch.zeros(shape, device=next(net.parameters()).device))
    except Exception as error:
        # the user's own code may raise anything
        raise BadInput(
            f"{spec.name}: {spec.arch} fails on an input of {' x '.join(map(str, shape))}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _parts(answer: Any) -> list[Tensor]:
    """Return the tensors of an answer; none if it holds anything else."""
    parts = [*answer] if isinstance(answer, (tuple, list)) else [answer]
    return parts if all(isinstance(part, Tensor) for part in parts) else []
