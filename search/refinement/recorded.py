"""Representations of the unmerged models, recorded once for all epochs of a refinement."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from math import prod

import torch
from torch import Tensor

from search.data.frames import FrameSet, batch_ranges
from search.refinement.views import FRAME_VIEWS, views_of
from search.utils.progress import Progress
from spaces.inputs import Frame
from spaces.merged import ModelsByName
from spaces.model_facts import ModelFacts
from spaces.plan import Ref

FRAMES_PER_PASS = 4
"""Frames whose views run through the models together."""


@torch.no_grad()
def record_representations(
    models: ModelsByName, counts: Mapping[Ref, int], frames: FrameSet, progress: Progress
) -> Mapping[Ref, Tensor]:
    """Return representations of all views of the first `counts` frames, in half precision.

    Each is (frames x `FRAME_VIEWS`, channels, h, w), or without positions if it is pooled; the
    views of a frame follow each other. `progress` counts views.
    """
    recorded: defaultdict[Ref, list[Tensor]] = defaultdict(list)
    for indices in batch_ranges(max(counts.values()), FRAMES_PER_PASS):
        views = [view for k in indices for view in views_of(frames[k], seed=k)]
        refs = {ref for ref, count in counts.items() if count > indices.start}
        for ref, values in _run(models, refs, views):
            recorded[ref].append(values.half())
        progress(len(views))
    return {ref: torch.cat(parts)[: counts[ref] * FRAME_VIEWS] for ref, parts in recorded.items()}


def _run(
    models: ModelsByName, refs: Collection[Ref], frames: list[Frame]
) -> Iterator[tuple[Ref, Tensor]]:
    """Yield the representations of frames; each model runs as far as the last of its own."""
    for name in sorted({ref.model for ref in refs}):
        wanted = {ref.stage for ref in refs if ref.model == name}
        for stage, values in models[name].walk(models[name].prepare_frames(frames)):
            if stage in wanted:
                yield Ref(name, stage), values
                wanted.remove(stage)
            if not wanted:
                break


def bytes_per_frame(facts: Mapping[str, ModelFacts], refs: Collection[Ref]) -> int:
    """Return the bytes that the views of a frame take among recorded representations."""
    values = sum(prod(facts[ref.model].stage(ref.stage).shape) for ref in refs)
    return values * FRAME_VIEWS * torch.finfo(torch.half).bits // 8
