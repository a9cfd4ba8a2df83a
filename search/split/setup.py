"""The networks whose merged models are split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from search.data.frames import FrameSet, batch_ranges
from search.data.inputs.input_batches import InputBatch, model_batches
from search.utils.progress import Progress
from spaces.execution import EntryPoint
from spaces.inputs import Frame
from spaces.merged import LinearMaps, MergedModel, ModelsByName, prepare_inputs
from spaces.model_facts import ModelFacts
from spaces.node import Node
from spaces.plan import SharePlan
from spaces.precision import Dtype
from spaces.stored_modules import rounded_copy

_KEPT_PLANS = 4


@dataclass(frozen=True, eq=False)
class SplitSetup:
    """Models, and the fitted maps of all plans that are split."""

    models: ModelsByName
    facts: Mapping[str, ModelFacts]
    maps: LinearMaps
    dtype: Dtype
    """The precision in which bundles store the weights that a plan gives no other."""
    _kept: dict[SharePlan, MergedModel] = field(default_factory=dict, init=False, repr=False)

    def merged(self, plan: SharePlan) -> MergedModel:
        """Return the merged model of a plan with weights rounded as its bundle stores them.

        The models of the last few plans are kept.
        """
        model = self._kept.pop(plan, None)
        if model is None:
            with torch.inference_mode(False), torch.no_grad():
                exact = MergedModel(self.models, self.facts, plan, self.maps)
                model = rounded_copy(exact, self.dtype)
            while len(self._kept) >= _KEPT_PLANS:
                del self._kept[next(iter(self._kept))]
        self._kept[plan] = model
        return model

    def inputs(self, merged: MergedModel, frames: list[Frame]) -> dict[str, Tensor]:
        """Return the prepared (batch, c, height, width) inputs that a merged model reads."""
        read = {name: self.models[name] for name in self.models if name in merged.inputs_read}
        return prepare_inputs(read, frames)

    def batches(self, merged: MergedModel, frames: FrameSet, size: int) -> Iterator[InputBatch]:
        """Yield batches of the inputs that a merged model reads."""
        ranges = batch_ranges(len(frames), size)
        return model_batches(frames, ranges, self.models, merged.inputs_read)


def representations(
    setup: SplitSetup,
    merged: MergedModel,
    part: EntryPoint,
    frames: FrameSet,
    batch: int,
    progress: Progress,
) -> Iterator[dict[Node, Tensor]]:
    """Yield the (batch, ...) representations that a part gives, batch by batch of frames."""
    for read in setup.batches(merged, frames, batch):
        with torch.inference_mode():
            yield merged.run(part, read.inputs, {}, lambda head, taps: None).representations
        progress(len(read))
