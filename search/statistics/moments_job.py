"""The streaming pass as a job, which the workers of a cluster do shard by shard."""

from __future__ import annotations

from dataclasses import dataclass

from search.data.frames import batch_ranges
from search.data.inputs.input_batches import model_batches
from search.execution.jobs import FrameShard
from search.statistics.streaming import Moments, PassSettings, StreamingPass
from search.utils.progress import Progress
from spaces.deployment import Deployment
from spaces.shares import Pair

FRAMES_PER_TASK = 128
"""About how many frames a worker runs in one task."""


@dataclass(frozen=True)
class MomentsJob:
    """The moments of all pairs. They are additive over frames."""

    pairs: tuple[Pair, ...]
    settings: PassSettings
    frames: int
    """Number of frames of the whole set."""

    @property
    def shard_size(self) -> int:
        """Whole blocks, since the rows of a block are coded together."""
        block = self.settings.block_frames(self.frames)
        return block * max(1, FRAMES_PER_TASK // block)

    def pieces(self) -> list[MomentsJob]:
        return [self]

    def run(self, deployment: Deployment, shard: FrameShard, progress: Progress) -> Moments:
        models = deployment.fused_models
        streaming = StreamingPass(models, deployment.facts, self.pairs, self.settings, self.frames)
        ranges = batch_ranges(len(shard.frames), self.settings.batch)
        for batch in model_batches(shard.frames, ranges, models):
            in_whole_set = shard.indices[batch.indices.start : batch.indices.stop]
            streaming.add(in_whole_set, batch.inputs)
            progress(len(batch))
        return streaming.finish()
