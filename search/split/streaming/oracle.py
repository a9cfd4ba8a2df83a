"""The best that any policy can do on a link: what a device would send that knew the future."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from search.split.streaming.policies import Sending
from search.split.streaming.simulation import NOT_SENT, FrameFate, FrameStream, StreamOutcome
from search.split.streaming.traces import LinkTrace
from spaces.split.operating_point import OperatingPoint


def best_outcome(
    trace: LinkTrace, stream: FrameStream, points: Sequence[OperatingPoint]
) -> StreamOutcome:
    """Return an outcome with the most frames in time, and of these with the best quality.

    Frames are sent one after another, or left out. No policy that sends these points has more
    frames in time: the oracle knows the rates and the sizes to come, never has to wait for the
    device, and sends nothing in vain. By dynamic programming over the time at which the link is
    free again.
    """
    front = [_Schedule(0.0, 0, 0.0, NOT_SENT, None)]
    for number in range(len(stream.sizes)):
        arrived = number * stream.period_ms
        begun = arrived + min(point.device_ms for point in points)
        ways = [
            way
            for before in front
            for way in (
                before.then(NOT_SENT, before.free_ms),
                *_in_time(before, trace, stream, points, number),
            )
        ]
        front = _undominated(ways, begun + stream.period_ms)
    best = max(front, key=lambda schedule: schedule.value)
    return StreamOutcome(tuple(reversed(list(best.fates()))))


class _Schedule(NamedTuple):
    """What is sent of the frames so far; it goes back to that of all but the last frame."""

    free_ms: float
    """When the link is free again."""
    met: int
    quality: float
    """Sum over the frames in time."""
    fate: FrameFate
    before: _Schedule | None

    @property
    def value(self) -> tuple[int, float]:
        return self.met, self.quality

    def then(self, fate: FrameFate, free_ms: float) -> _Schedule:
        met, quality = self.met + fate.in_time, self.quality + fate.quality
        return _Schedule(free_ms, met, quality, fate, self)

    def fates(self) -> Iterator[FrameFate]:
        """Yield the fates of the frames, the last one first."""
        schedule = self
        while schedule.before is not None:
            yield schedule.fate
            schedule = schedule.before


def _in_time(
    before: _Schedule,
    trace: LinkTrace,
    stream: FrameStream,
    points: Sequence[OperatingPoint],
    number: int,
) -> Iterator[_Schedule]:
    """Yield the schedules in which the next frame is in time, one for each point that is."""
    arrived = number * stream.period_ms
    for point in points:
        sent = Sending.of(point, float(stream.sizes[number]))
        begin = max(arrived + point.device_ms, before.free_ms)
        end = trace.end_ms(begin, sent.bytes)
        answered = end + trace.rtt_ms + point.server_ms
        if answered <= arrived + stream.deadline_ms:
            yield before.then(FrameFate(sent, begin, end, answered, in_time=True), end)


def _undominated(ways: Sequence[_Schedule], begun_ms: float) -> list[_Schedule]:
    """Keep the schedules than which none is both free earlier and better.

    A link that is free before the next message can be ready, at `begun_ms`, is as good as one that
    is free then.
    """
    front: list[_Schedule] = []
    best = (-1, -math.inf)
    ready = [way._replace(free_ms=max(way.free_ms, begun_ms)) for way in ways]
    for way in sorted(ready, key=lambda way: (way.free_ms, -way.met, -way.quality)):
        if way.value > best:
            front.append(way)
            best = way.value
    return front
