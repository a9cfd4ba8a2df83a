"""A model of the deployment: a chain of stages, and a head that reads some of them (the taps)."""

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
from spaces.model_spec import ModelSource

Task = Literal["classification", "detection"]
Grid = tuple[int, int] | None
"""Height and width of a representation; None for pooled features, which have no positions."""


@dataclass(frozen=True)
class Layout:
    """The structure of a model: names only, no tensors."""

    model: str
    stages: tuple[str, ...]
    taps: tuple[str, ...]
    """The stages whose representations the head reads, in the order that it expects."""

    def index(self, stage: str) -> int:
        """Return the position of a stage; raise ValueError if there is none of that name."""
        return self.stages.index(stage)


@runtime_checkable
class DetectionHead(Protocol):
    """The head of a detector, which can also output probabilities that are comparable."""

    def probabilities(self, taps: list[Tensor]) -> Tensor:
        """Return (batch, n) probabilities; those of one-stage detectors: anchors x classes."""
        ...


@runtime_checkable
class DenseHead(DetectionHead, Protocol):
    """The head of a one-stage detector, which can also output its results for every anchor."""

    def dense(self, taps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return (batch, anchors, 4) boxes and (batch, anchors, classes) scores."""
        ...


class StagedModel(nn.Module):
    """A network cut into stages: r_0 = stage_0(input), r_j = stage_j(r_{j-1}), head(taps).

    The output of a classifier is (batch, classes) logits. The output of a detector is
    (batch, n, 6): rows of x1, y1, x2, y2 in input pixels, score, and class counted from 1; rows
    with score 0 are padding.

    Raises:
        UncuttableModel: the modules do not match the stages of the layout, or a tap is no stage.
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
            raise UncuttableModel(
                f"{layout.model}: {len(stages)} modules for the {len(layout.stages)} stages "
                f"{layout.stages}"
            )
        missing = set(layout.taps) - set(layout.stages)
        if missing:
            raise UncuttableModel(f"{layout.model}: the taps {sorted(missing)} are not stages")
        self.layout = layout
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.input = spec
        self.task = task
        self.num_classes = num_classes
        self.chunk_size: int | None = None
        """Frames that run through a stage at a time on a CPU; None runs the whole batch."""
        self.source: ModelSource | None = None
        """The spec that `load_model` loaded the model from; None if it was built otherwise."""

    @property
    def unfused(self) -> StagedModel:
        """The model that this one was fused from; the model itself if it was not fused."""
        fused_from = self.__dict__.get("_fused_from")
        return fused_from if isinstance(fused_from, StagedModel) else self

    def remember_unfused(self, model: StagedModel) -> None:
        """Set `unfused` to a model, whose modules do not become modules of this one."""
        self.__dict__["_fused_from"] = model

    @property
    def name(self) -> str:
        """The name of the model in the deployment."""
        return self.layout.model

    @property
    def device(self) -> torch.device:
        """The device of the model; its inputs must be on it too."""
        return next(self.parameters()).device

    def prepare_frames(self, frames: list[Frame]) -> Tensor:
        """Return uint8 (H, W, 3) frames as a (batch, c, height, width) input on the device."""
        return prepare_batch(frames, self.input).to(self.device)

    def walk(self, inputs: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the representation of each stage, in order."""
        representation = inputs
        for name in self.layout.stages:
            representation = self.run_stage(name, representation)
            yield name, representation

    def run_stage(self, stage: str, values: Tensor) -> Tensor:
        """Apply one stage to the representation before it, or to the input."""
        return self.run_module(self.stages[self.layout.index(stage)], values)

    def run_module(self, module: nn.Module, values: Tensor) -> Tensor:
        """Apply a module that takes the place of a stage, in chunks as the stages are."""
        if self.chunk_size is None or values.is_cuda:
            output: Tensor = module(values)
            return output
        return torch.cat([module(chunk) for chunk in torch.split(values, self.chunk_size)])

    def forward(self, inputs: Tensor) -> Tensor:
        taps = {
            name: representation
            for name, representation in self.walk(inputs)
            if name in self.layout.taps
        }
        output: Tensor = self.head([taps[name] for name in self.layout.taps])
        return output

    def probabilities(self, taps: list[Tensor], head: nn.Module | None = None) -> Tensor:
        """Return (batch, n) probabilities: one per class; of a detector, per anchor and class.

        `head` takes the place of the model's own head.
        """
        head = head or self.head
        if self.task == "classification":
            logits: Tensor = head(taps)
            return logits.softmax(1)
        assert isinstance(head, DetectionHead)
        return head.probabilities(taps)

    def agreement(self, merged: Tensor, original: Tensor) -> Tensor:
        """Return the fidelity per frame, (batch,), between two sets of (batch, n) probabilities.

        1 is full agreement, 0 none. For a classifier, it is 1 where the most probable class is the
        same. For a detector, it is the sum of the minima of the squared probabilities over the sum
        of their maxima; squared, so that a thousand uncertain anchors weigh little beside a
        certain one.
        """
        if self.task == "classification":
            return (merged.argmax(1) == original.argmax(1)).float()
        low, high = torch.minimum(merged, original), torch.maximum(merged, original)
        return low.square().sum(1) / high.square().sum(1)

    def closeness(self, rounded: Tensor, original: Tensor) -> Tensor:
        """Return per frame, (batch,), how close two sets of (batch, n) probabilities are.

        1 is equal. Unlike `agreement`, it also tells changes that are too small to change the
        class of a frame. It is 1 minus the probability that moves: for a classifier, from class to
        class; for a detector, the mean change over anchors and classes, weighted by their original
        probabilities.
        """
        moved = (rounded - original).abs()
        if self.task == "classification":
            return 1 - moved.sum(1) / 2
        return 1 - (original * moved).sum(1) / original.sum(1)

    def example_input(self, batch: int = 2) -> Tensor:
        """Return a seeded random input of the right shape."""
        generator = torch.Generator().manual_seed(0)
        shape = (batch, self.input.channel_count, self.input.height, self.input.width)
        random = torch.randn(shape, generator=generator)
        return random.contiguous(memory_format=torch.channels_last).to(self.device)


@dataclass(frozen=True)
class StageFacts:
    """One row of the stage table, measured on real tensors."""

    name: str
    shape: tuple[int, ...]
    """(channels, height, width) of the representation of a frame; (channels,) if it is pooled."""
    bytes: int
    """Bytes of the parameters and buffers."""
    macs: int
    """Multiply-accumulates per frame."""
    tap: bool
    """Whether the head reads the representation."""
    footprint: Footprint
    """Bytes of float32 activations that a frame adds inside the stage.

    A copy with fused BatchNorms may need less.
    """

    @property
    def channels(self) -> int:
        """Number of channels of the representation."""
        return self.shape[0]

    @property
    def grid(self) -> Grid:
        """Height and width of the representation; None if it is pooled."""
        return (self.shape[1], self.shape[2]) if len(self.shape) == 3 else None


def unique_tensors(module: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a module, each once."""
    unique: dict[int, Tensor] = {id(tensor): tensor for tensor in module.parameters()}
    unique |= {id(tensor): tensor for tensor in module.buffers()}
    return list(unique.values())


def total_bytes(tensors: Sequence[Tensor]) -> int:
    """Return the bytes of all elements of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@torch.no_grad()
def measure_stages(model: StagedModel) -> tuple[StageFacts, ...]:
    """Return the stage table: shape, bytes, MACs and activations of every stage for one frame."""
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
    """Return the MACs and the activation footprint of the head for one frame."""
    representations = dict(model.walk(model.example_input(batch=1)))
    taps = [representations[name] for name in model.layout.taps]
    with FlopCounterMode(display=False) as counter:
        model.head(taps)
    _, footprint = run_with_footprint(model.head, taps)
    return int(counter.get_total_flops() // 2), footprint
