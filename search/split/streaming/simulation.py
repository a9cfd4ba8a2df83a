"""Simulate a device that sends its frames to a server over a link whose rate varies."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from search.split.streaming.policies import Policy, Sending
from search.split.streaming.traces import LinkTrace
from search.utils.arrays import FloatVector


@dataclass(frozen=True, eq=False)
class FrameStream:
    """Frames that come at a constant rate.

    Raises:
        ValueError: there is no frame, or a number is not above 0.
    """

    period_ms: float
    """Time from frame to frame."""
    deadline_ms: float
    """The longest time from a frame to its answer."""
    sizes: FloatVector
    """(frames,) size of each frame's messages, relative to the means of their points."""

    def __post_init__(self) -> None:
        if not len(self.sizes) or not (self.sizes > 0).all():
            raise ValueError("a stream has frames, with sizes above 0")
        if not self.period_ms > 0 or not self.deadline_ms > 0:
            raise ValueError("the period and the deadline are above 0")

    @classmethod
    def log_normal(
        cls, period_ms: float, deadline_ms: float, frames: int, seed: int, spread: float = 1.2
    ) -> FrameStream:
        """Return a stream of made-up sizes.

        They are log-normal, their mean is 1, and 95% are below about `spread`.
        """
        sigma = np.log(spread) / 1.645
        draws = np.random.default_rng(seed).standard_normal(frames)
        return cls(period_ms, deadline_ms, np.exp(sigma * draws - sigma**2 / 2))

    @classmethod
    def measured(
        cls,
        period_ms: float,
        deadline_ms: float,
        frames: int,
        seed: int,
        message_bytes: Sequence[int],
    ) -> FrameStream:
        """Return a stream of sizes that are drawn from the bytes of real messages."""
        relative = np.array(message_bytes) / np.mean(message_bytes)
        return cls(period_ms, deadline_ms, np.random.default_rng(seed).choice(relative, frames))


class FrameFate(NamedTuple):
    """What became of one frame; times count from the start of the stream."""

    sent: Sending | None
    """None if the deadline passed before the device or the link was free."""
    start_ms: float
    """When the link was free for its message."""
    end_ms: float
    """When its last byte was through the link, or the message was given up."""
    answered_ms: float
    """When the answer came; infinite without one."""
    in_time: bool

    @property
    def quality(self) -> float:
        """Of an answer in time; 0 for a late frame."""
        return self.sent.point.quality if self.sent and self.in_time else 0.0


NOT_SENT = FrameFate(None, 0.0, 0.0, math.inf, False)


@dataclass(frozen=True, eq=False)
class StreamOutcome:
    """What became of all frames of a stream."""

    fates: tuple[FrameFate, ...]

    @property
    def met(self) -> float:
        """Share of the frames whose answers came before the deadline."""
        return float(np.mean([fate.in_time for fate in self.fates]))

    @property
    def mean_bytes(self) -> float:
        """Mean bytes of the messages that were sent; 0 if there is none."""
        return _mean([fate.sent.bytes for fate in self.fates if fate.sent])

    @property
    def quality_in_time(self) -> float:
        """Mean quality of the frames in time; 0 if there is none."""
        return _mean([fate.quality for fate in self.fates if fate.in_time])

    @property
    def quality(self) -> float:
        """Mean quality of all frames, where a late one counts 0."""
        return _mean([fate.quality for fate in self.fates])

    def to_dict(self) -> dict[str, float]:
        """Return the shares and means as JSON data."""
        return {
            "met": self.met,
            "mean_bytes": self.mean_bytes,
            "quality_in_time": self.quality_in_time,
            "quality": self.quality,
        }


def simulate(trace: LinkTrace, stream: FrameStream, policy: Policy) -> StreamOutcome:
    """Send the frames of a stream over a link as a policy says.

    The device computes one frame after another. The link carries one message after another, and
    the server answers each within the time of its point. A frame that waits for the device or the
    link until its deadline is not sent, and a message that the link still carries at its deadline
    is given up there: no policy suffers from frames that are lost already. The policy sees an
    answer when it comes, and a message that is given up when that happens.
    """
    run = _Run(trace, stream, policy)
    return StreamOutcome(tuple(map(run.send, range(len(stream.sizes)))))


class _News(NamedTuple):
    """What the policy is going to see of a message; ordered by time."""

    ms: float
    number: int
    sent_bytes: int
    transfer_ms: float
    total_ms: float
    """Infinite if the message was given up."""


@dataclass(eq=False)
class _Run:
    """The state of device and link between two frames."""

    trace: LinkTrace
    stream: FrameStream
    policy: Policy
    device_free_ms: float = 0.0
    link_free_ms: float = 0.0
    on_link: list[FrameFate] = field(default_factory=list)
    """Messages that were not through at the last look."""
    news: list[_News] = field(default_factory=list)
    """A heap."""

    def send(self, number: int) -> FrameFate:
        arrived = number * self.stream.period_ms
        deadline = arrived + self.stream.deadline_ms
        start = max(arrived, self.device_free_ms)
        if start >= deadline:
            return NOT_SENT
        self._tell(start)
        chosen = self.policy.choose(start - arrived, self._backlog_bytes(start))
        ready = self.device_free_ms = start + chosen.device_ms
        self._tell(ready)
        size = float(self.stream.sizes[number])
        sent = self.policy.encode(chosen, size, ready - arrived, self._backlog_bytes(ready))
        begin = max(ready, self.link_free_ms)
        if begin >= deadline:
            return NOT_SENT
        fate = self._transfer(sent, begin, deadline)
        total = fate.answered_ms - arrived
        given_up = math.isinf(fate.answered_ms)
        told = deadline if given_up else fate.answered_ms
        transfer = deadline - begin if given_up else told - sent.point.server_ms - begin
        heapq.heappush(self.news, _News(told, number, sent.bytes, transfer, total))
        return fate

    def _transfer(self, sent: Sending, begin: float, deadline: float) -> FrameFate:
        end = self.trace.end_ms(begin, sent.bytes)
        answered = end + self.trace.rtt_ms + sent.point.server_ms
        if end > deadline:
            end, answered = deadline, float("inf")
        self.link_free_ms = end
        fate = FrameFate(sent, begin, end, answered, answered <= deadline)
        self.on_link.append(fate)
        return fate

    def _backlog_bytes(self, now: float) -> int:
        """Return the bytes of earlier messages that are not through the link."""
        self.on_link = [fate for fate in self.on_link if fate.end_ms > now]
        carried, left = self.trace.carried, 0.0
        for fate in self.on_link:
            done = max(0.0, carried(now) - carried(fate.start_ms))
            left += fate.sent.bytes - done if fate.sent else 0.0
        return math.ceil(left)

    def _tell(self, now: float) -> None:
        """Let the policy see what has happened until now."""
        while self.news and self.news[0].ms <= now:
            news = heapq.heappop(self.news)
            if math.isinf(news.total_ms):
                self.policy.observe_timeout(news.sent_bytes, news.transfer_ms)
            else:
                self.policy.observe(news.sent_bytes, news.transfer_ms)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
