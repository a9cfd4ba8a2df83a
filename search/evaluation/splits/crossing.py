"""Run a merged model once for many splits: its answers, and all that crosses in any of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from search.data.frames import FrameSet, batch_ranges
from search.data.inputs.input_batches import model_batches
from search.evaluation.splits.link_scores import LinkSetup
from spaces.execution import EntryPoint, keeping
from spaces.inputs import Frame
from spaces.merged import MergedModel, PartialRun
from spaces.node import Node
from spaces.split.recalibrated import BatchNormStatistics, with_statistics
from spaces.split.split import Split, SplitParts
from spaces.tasks.task import FrameSize


@dataclass(frozen=True, eq=False)
class SplitModel:
    """The merged model of a plan, with the parts of several splits of it."""

    merged: MergedModel
    parts: Mapping[Split, SplitParts]
    whole: EntryPoint
    """The whole merged model; it also gives what crosses in any of the splits."""

    @classmethod
    def of(cls, merged: MergedModel, splits: Iterable[Split]) -> SplitModel:
        """Return the parts of the splits.

        Raises:
            BadSplit: a split does not fit the merged model.
        """
        parts = {split: SplitParts.of(merged, split) for split in splits}
        crossing = dict.fromkeys(node for part in parts.values() for node in part.crossing)
        return cls(merged, parts, keeping(merged.whole, tuple(crossing)))

    def run(self, inputs: Mapping[str, Tensor]) -> PartialRun[Tensor]:
        """Return all crossing representations of a batch, and the unsplit answers."""
        return run_part(self.merged, self.whole, inputs, {})

    def crossing(self, split: Split, representations: Mapping[Node, Tensor]) -> list[Tensor]:
        """Return the representations that cross in one split, in order."""
        return [representations[node] for node in self.parts[split].crossing]

    def recalibrated(self, statistics: BatchNormStatistics | None) -> SplitModel:
        """Return the same model with other statistics of its BatchNorms, if any are given."""
        if statistics is None:
            return self
        return replace(self, merged=with_statistics(self.merged, statistics))

    def answer(self, split: Split, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
        """Return the server's answers to crossing representations, by model."""
        parts = self.parts[split]
        taken = dict(zip(parts.crossing, map(as_read, tensors), strict=True))
        return run_part(self.merged, parts.server, {}, taken).answers


def crossing_batches(
    setup: LinkSetup, splits: Sequence[Split], frames: FrameSet
) -> Iterator[dict[Split, list[Tensor]]]:
    """Yield what crosses in each split, batch by batch; each plan runs once per batch.

    Raises:
        BadSplit: a split does not fit the merged model of its plan.
    """
    by_plan = {
        plan: SplitModel.of(setup.networks.merged(plan), [s for s in splits if s.plan == plan])
        for plan in dict.fromkeys(split.plan for split in splits)
    }
    models = setup.networks.models
    read = {name for model in by_plan.values() for name in model.merged.inputs_read}
    for batch in model_batches(frames, batch_ranges(len(frames), setup.batch), models, read):
        values = {plan: model.run(batch.inputs).representations
                  for plan, model in by_plan.items()}  # fmt: skip
        yield {s: by_plan[s.plan].crossing(s, values[s.plan]) for s in splits}


@torch.inference_mode()
def run_part(
    merged: MergedModel,
    entry: EntryPoint,
    inputs: Mapping[str, Tensor],
    taken: Mapping[Node, Tensor],
) -> PartialRun[Tensor]:
    """Run a part of a merged model with its own heads."""
    return merged.run(entry, inputs, taken, lambda head, taps: head(taps))


def frame_sizes(frames: Iterable[Frame]) -> list[FrameSize]:
    """Return the (height, width) of each frame."""
    return [(frame.shape[0], frame.shape[1]) for frame in frames]


def as_read(tensor: Tensor) -> Tensor:
    """Return a decoded tensor as stages give it to each other: channels last in memory."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
