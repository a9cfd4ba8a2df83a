"""Whether the statistics and the fidelity of a deployment fit into memory, before they start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from search.data.inputs.fitted_frames import MOST_BYTES
from search.metrics.fidelity import FIDELITY_BATCH
from search.statistics.footprint import FLOAT_BYTES, StatisticsFootprint, measure_footprint
from search.statistics.observed import MOST_KEPT_BYTES, MOST_MAP_BYTES
from search.statistics.streaming import PassSettings
from search.utils.format import megabytes
from search.utils.memory import available_memory
from spaces.deployment import Deployment
from spaces.errors import MergeSearchError

COPIES_OF_ROWS = 2
"""Rows are joined from those of blocks, whose memory the process keeps for other uses."""


class TooLittleMemory(MergeSearchError):
    """What a run needs is more than the memory that is left."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a search needs beside the models."""

    fused_models: int
    """Of the copies with fused BatchNorms."""
    frames: int
    """Of the frames that are kept for the next time that they are read, at most."""
    statistics: StatisticsFootprint
    representations: int
    """Of all stages while shares are measured on a batch of frames."""
    maps: int
    """Of the linear maps that are held at a time, and of those that are kept."""

    @property
    def total(self) -> int:
        """The most bytes at any time: the rows stay, the rest comes one after the other."""
        after_the_pass = self.maps + max(self.statistics.solving, self.representations)
        kept = self.fused_models + self.frames + COPIES_OF_ROWS * self.statistics.rows
        return kept + max(self.statistics.batch, after_the_pass)


def memory_need(
    deployment: Deployment, settings: PassSettings, frame_counts: Sequence[int]
) -> MemoryNeed:
    """Return the need for statistics of sets of so many frames each."""
    facts, pairs = deployment.facts, deployment.pairs.legal
    channels = {
        ref: facts[ref.model].stage(ref.stage).channels
        for ref in {ref for pair in pairs for ref in (pair.donor, pair.recipient)}
    }
    maps = sum(FLOAT_BYTES * channels[pair.donor] * channels[pair.recipient] for pair in pairs)
    values = sum(math.prod(stage.shape) for fact in facts.values() for stage in fact.stages)
    return MemoryNeed(
        sum(sum(held.values()) for fact in facts.values() for held in fact.tensors.values()),
        MOST_BYTES,
        measure_footprint(facts, pairs, settings, frame_counts),
        FLOAT_BYTES * FIDELITY_BATCH * values,
        min(maps, MOST_MAP_BYTES + MOST_KEPT_BYTES),
    )


def check_memory(
    deployment: Deployment,
    settings: PassSettings,
    frame_counts: Sequence[int],
    free: int | None = None,
) -> str:
    """Return in words how much memory the search needs, and how much there is.

    `free` is the memory that is left, by default what the machine says.

    Raises:
        TooLittleMemory: there is less; the message names the setting that makes it fit.
    """
    need = memory_need(deployment, settings, frame_counts).total
    free = available_memory() if free is None else free
    words = f"about {megabytes(need)} beside the models, of {megabytes(free)} that are free"
    if need > free:
        raise TooLittleMemory(
            f"the statistics of {len(deployment.pairs.legal)} pairs of stages need {words}: "
            f"{_remedy(deployment, settings, frame_counts, free)}"
        )
    return f"the search needs {words}"


def _remedy(
    deployment: Deployment, settings: PassSettings, frame_counts: Sequence[int], free: int
) -> str:
    """Return the setting that makes a search fit into the free memory."""
    for positions in range(settings.positions - 1, 0, -1):
        fewer = replace(settings, positions=positions)
        if memory_need(deployment, fewer, frame_counts).total <= free:
            return f"set statistics.positions to {positions}"
    smallest = replace(settings, positions=1, batch=4)
    if memory_need(deployment, smallest, frame_counts).total <= free:
        return "set statistics.positions to 1 and statistics.batch to 4"
    return (
        "cut models into stages instead of blocks (models.NAME.cut), give fewer models, or use a "
        "machine with more memory"
    )
