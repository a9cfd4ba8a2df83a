"""A model of the deployment: a chain of stages, the taps its head reads, and the head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spaces.activations import Footprint, run_with_footprint
from spaces.errors import UncuttableModel
from spaces.inputs import Frame, InputSpec, prepare_batch

Task = Literal["classification", "detection"]
Grid = tuple[int, int] | None
"""Height and width of a representation; None for pooled features, which have no positions."""


@dataclass(frozen=True)
class Layout:
    """What the search needs to know of a model's form: names only, no tensors."""

    model: str
    stages: tuple[str, ...]
    taps: tuple[str, ...]
    """The representations that the head reads, in the order in which it reads them."""

    def index(self, stage: str) -> int:
        return self.stages.index(stage)


@runtime_checkable
class DetectionHead(Protocol):
    """A detector's head: it can also say what it sees at each anchor."""

    def probabilities(self, taps: list[Tensor]) -> Tensor: ...

    def dense(self, taps: list[Tensor]) -> tuple[Tensor, Tensor]: ...


class StagedModel(nn.Module):
    """A network cut into stages: r_0 = stage_0(input), r_j = stage_j(r_{j-1}), head(taps).

    The answer is (batch, classes) logits for a classifier; for a detector (batch, n, 6) rows of
    x1, y1, x2, y2 in input pixels, score, and class (from 1; rows of score 0 are padding).
    """

    def __init__(
        self,
        layout: Layout,
        stages: Sequence[nn.Module],
        head: nn.Module,
        spec: InputSpec,
        task: Task,
        num_classes: int,
    ) -> None:
        super().__init__()
        if len(stages) != len(layout.stages):
            raise UncuttableModel(f"{layout.model}: {len(stages)} modules for {layout.stages}")
        missing = set(layout.taps) - set(layout.stages)
        if missing:
            raise UncuttableModel(f"{layout.model}: the head reads {missing}, not a stage")
        self.layout = layout
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.input = spec
        self.task = task
        self.num_classes = num_classes
        self.chunk_size: int | None = None
        """Frames that a CPU takes through a stage at a time; None for the whole batch."""

    @property
    def name(self) -> str:
        return self.layout.model

    @property
    def device(self) -> torch.device:
        """Where the model lives; its inputs must be there too."""
        return next(self.parameters()).device

    def prepare_frames(self, frames: list[Frame]) -> Tensor:
        """Camera frames as the model's (batch, 3, height, width) input, on its device."""
        return prepare_batch(frames, self.input).to(self.device)

    def walk(self, inputs: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each stage's name and representation, in order, one at a time."""
        representation = inputs
        for name in self.layout.stages:
            representation = self.run_stage(name, representation)
            yield name, representation

    def run_stage(self, stage: str, values: Tensor) -> Tensor:
        """What one stage makes of the representation before it, or of the input."""
        module = self.stages[self.layout.index(stage)]
        if self.chunk_size is None or values.is_cuda:
            whole: Tensor = module(values)
            return whole
        return torch.cat([module(part) for part in torch.split(values, self.chunk_size)])

    def forward(self, inputs: Tensor) -> Tensor:
        taps = {
            name: representation
            for name, representation in self.walk(inputs)
            if name in self.layout.taps
        }
        answer: Tensor = self.head([taps[name] for name in self.layout.taps])
        return answer

    def probabilities(self, taps: list[Tensor]) -> Tensor:
        """(batch, n) of each class; for a detector, of each anchor and class."""
        if self.task == "classification":
            logits: Tensor = self.head(taps)
            return logits.softmax(1)
        assert isinstance(self.head, DetectionHead)
        return self.head.probabilities(taps)

    def agreement(self, merged: Tensor, original: Tensor) -> Tensor:
        """How far two answers' probabilities agree, per frame: 1 if equal, 0 if in nothing.

        For a classifier whether the most probable class is the same. For a detector the overlap
        of the squares, sum of minima over sum of maxima: squares, so that a thousand anchors that
        are sure of nothing weigh little beside one that is.
        """
        if self.task == "classification":
            return (merged.argmax(1) == original.argmax(1)).float()
        low, high = torch.minimum(merged, original), torch.maximum(merged, original)
        return low.square().sum(1) / high.square().sum(1)

    def example_input(self, batch: int = 2) -> Tensor:
        """A seeded random input of the right shape."""
        generator = torch.Generator().manual_seed(0)
        shape = (batch, 3, self.input.height, self.input.width)
        random = torch.randn(shape, generator=generator)
        return random.contiguous(memory_format=torch.channels_last).to(self.device)


@dataclass(frozen=True)
class StageFacts:
    """One row of the stage table, read off real tensors."""

    name: str
    shape: tuple[int, ...]
    """(channels, height, width) of a frame's representation; (channels,) once it is pooled."""
    bytes: int
    macs: int
    tap: bool
    footprint: Footprint
    """Bytes of float32 activations that a frame adds inside the stage, as the network is built; a
    fused twin, which has no BatchNorms, may need less."""

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def grid(self) -> Grid:
        return (self.shape[1], self.shape[2]) if len(self.shape) == 3 else None


def unique_tensors(module: nn.Module) -> list[Tensor]:
    """The unique parameters and buffers of a module, each once."""
    unique: dict[int, Tensor] = {id(tensor): tensor for tensor in module.parameters()}
    unique |= {id(tensor): tensor for tensor in module.buffers()}
    return list(unique.values())


def total_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@torch.no_grad()
def measure_stages(model: StagedModel) -> tuple[StageFacts, ...]:
    """The stage table: shape, bytes, and what a frame costs in every stage."""
    facts = []
    representation = model.example_input(batch=1)
    for name, stage in zip(model.layout.stages, model.stages, strict=True):
        with FlopCounterMode(display=False) as counter:
            stage(representation)
        representation, footprint = run_with_footprint(stage, representation)
        facts.append(
            StageFacts(
                name=name,
                shape=tuple(representation.shape[1:]),
                bytes=total_bytes(unique_tensors(stage)),
                macs=counter.get_total_flops() // 2,
                tap=name in model.layout.taps,
                footprint=footprint,
            )
        )
    return tuple(facts)


@torch.no_grad()
def measure_head(model: StagedModel) -> tuple[int, Footprint]:
    """Multiply-accumulates and activations per frame of the head."""
    representations = dict(model.walk(model.example_input(batch=1)))
    taps = [representations[name] for name in model.layout.taps]
    with FlopCounterMode(display=False) as counter:
        model.head(taps)
    _, footprint = run_with_footprint(model.head, taps)
    return int(counter.get_total_flops() // 2), footprint
