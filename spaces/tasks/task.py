"""What every task says of the answers of its networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from spaces.inputs import InputSpec

TaskName = Literal["classification", "detection", "embedding", "segmentation", "dense"]
FrameSize = tuple[int, int]
"""Height and width of a frame, in pixels."""
ClassNames = Sequence[str]
"""The name of each class by the number that answers give it; empty where it is not known."""


def name_class(number: int, names: ClassNames) -> str:
    """Return the name of a class, or its number in words."""
    name = names[number] if 0 <= number < len(names) else ""
    return name or f"class {number}"


class Task(Protocol):
    """The answers of the networks that do one task.

    The *answer* is the tensor that a head returns for a batch. The *comparable* form of an answer
    is a tensor (batch, ...) in which a change counts as much everywhere: probabilities, where the
    task has classes.
    """

    name: ClassVar[TaskName]
    graph_outputs: ClassVar[tuple[str, ...]]
    """What an exported graph calls the outputs of a head, after `MODEL_`."""
    is_matrix: ClassVar[bool]
    """Whether a bundle answers several frames with one matrix, (frames, n)."""

    def comparable(self, head: nn.Module, taps: list[Tensor]) -> Tensor:
        """Return the comparable form of a head's answer."""
        ...

    def amplitudes(self, comparable: Tensor) -> Tensor:
        """Return numbers (batch, n) whose squared change is the change of the answer.

        Of probabilities, these are twice their square roots: the product of their Jacobian with
        itself is the Fisher information.
        """
        ...

    def agreement(self, merged: Tensor, original: Tensor) -> Tensor:
        """Return the fidelity per frame, (batch,), between two comparable answers.

        1 is full agreement, 0 none.
        """
        ...

    def closeness(self, rounded: Tensor, original: Tensor) -> Tensor:
        """Return per frame, (batch,), how close two comparable answers are; 1 is equal.

        Unlike `agreement`, it also tells changes that are too small to change a decision.
        """
        ...

    def graph_answers(self, head: nn.Module, taps: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the tensors of `graph_outputs`: their shapes are fixed but for the batch."""
        ...

    def graph_refusal(self, head: nn.Module) -> str:
        """Return why no graph can hold the head; empty if one can."""
        ...

    def from_graph(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the answer from the tensors of `graph_outputs`."""
        ...

    def comparable_from_graph(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the comparable form of the answer from the tensors of `graph_outputs`."""
        ...

    def finish(self, answer: Tensor, sizes: Sequence[FrameSize], spec: InputSpec) -> Any:
        """Return what a bundle answers to frames of these sizes; `spec` is the network's input."""
        ...

    def describe(self, finished: Any, frame: int, names: ClassNames = ()) -> list[str]:
        """Return what a bundle answers to one frame in words, line by line.

        `names` are those of the classes; a class without a name is called by its number.
        """
        ...


class OneTensor(ABC):
    """What tasks have in common whose answer is one tensor, of a shape that a graph can hold."""

    @abstractmethod
    def comparable_form(self, answer: Tensor) -> Tensor:
        """Return the comparable form of an answer."""

    def comparable(self, head: nn.Module, taps: list[Tensor]) -> Tensor:
        return self.comparable_form(head(taps))

    def graph_answers(self, head: nn.Module, taps: list[Tensor]) -> tuple[Tensor, ...]:
        return (head(taps),)

    def graph_refusal(self, head: nn.Module) -> str:
        return ""

    def from_graph(self, outputs: Sequence[Tensor]) -> Tensor:
        (answer,) = outputs
        return answer

    def comparable_from_graph(self, outputs: Sequence[Tensor]) -> Tensor:
        return self.comparable_form(self.from_graph(outputs))
