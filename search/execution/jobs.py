"""Work on frames as data, so that it can be done here or by a worker elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from search.data.frames import FrameSet, batch_ranges, frames_at
from search.utils.progress import Progress
from spaces.deployment import Deployment

ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)


@dataclass(frozen=True)
class FrameShard:
    """Consecutive frames of a set. It holds only these, so that it is small when it is sent."""

    start: int
    """Index in the whole set of the first frame."""
    frames: FrameSet

    @property
    def indices(self) -> range:
        """The frames' indices in the whole set."""
        return range(self.start, self.start + len(self.frames))


class FrameJob(Protocol[ResultT_co]):
    """What to compute on frames. The results of consecutive shards add up to that of all frames.

    A job is plain data. It is the deployment that holds the models, and each worker has its own.
    """

    @property
    def shard_size(self) -> int:
        """The frames of one task. It does not depend on the workers, so neither do results."""
        ...

    def pieces(self) -> Sequence[FrameJob[ResultT_co]]:
        """Return jobs whose results, in this order, add up to that of this job."""
        ...

    def run(self, deployment: Deployment, shard: FrameShard, progress: Progress) -> ResultT_co:
        """Compute the result on the frames of a shard; `progress` counts frames."""
        ...


class Engine(Protocol):
    """Does jobs."""

    def run(
        self, job: FrameJob[ResultT], frames: FrameSet, progress: Progress
    ) -> Iterator[ResultT]:
        """Yield results that add up to the job's result on all frames, in the frames' order.

        `progress` counts frames.
        """
        ...


@dataclass(frozen=True)
class LocalEngine:
    """Does each job in this process, as a whole."""

    deployment: Deployment

    def run(
        self, job: FrameJob[ResultT], frames: FrameSet, progress: Progress
    ) -> Iterator[ResultT]:
        yield job.run(self.deployment, FrameShard(0, frames), progress)


def shards_of(frames: FrameSet, size: int) -> list[FrameShard]:
    """Cut frames into shards of `size`; the last may be smaller."""
    return [
        FrameShard(indices.start, frames_at(frames, indices))
        for indices in batch_ranges(len(frames), size)
    ]
