"""Links whose rate varies: what they carry, and random traces of them."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search.split.link import BYTES_PER_MBIT
from search.utils.arrays import FloatMatrix, FloatVector

STEP_MS = 100.0
"""For so long, the rate of a trace is constant."""


@dataclass(frozen=True, eq=False)
class LinkTrace:
    """The rate of a link over time; after its end, the trace begins again.

    Raises:
        ValueError: there is no rate, or one is not above 0.
    """

    mbit: FloatVector
    """(steps,) rate in each step of `STEP_MS`, in 10^6 bits a second."""
    rtt_ms: float = 0.0

    def __post_init__(self) -> None:
        if not len(self.mbit) or not (self.mbit > 0).all() or not self.rtt_ms >= 0:
            raise ValueError("a trace has rates, all of them above 0, and a round trip")

    @property
    def period_ms(self) -> float:
        """Time after which the trace begins again."""
        return len(self.mbit) * STEP_MS

    def carried(self, ms: float) -> float:
        """Return the bytes that the link can carry from time 0 to `ms`."""
        rounds, rest = divmod(ms, self.period_ms)
        step = min(int(rest / STEP_MS), len(self.mbit) - 1)
        within = (rest - step * STEP_MS) * self._bytes_per_ms[step]
        return rounds * self._carried[-1] + self._carried[step] + within

    def end_ms(self, start_ms: float, sent_bytes: float) -> float:
        """Return when the last of the bytes that are sent from `start_ms` on has left the link."""
        rounds, rest = divmod(self.carried(start_ms) + sent_bytes, self._carried[-1])
        step = max(bisect_left(self._carried, rest) - 1, 0)
        within = (rest - self._carried[step]) / self._bytes_per_ms[step]
        return max(start_ms, rounds * self.period_ms + step * STEP_MS + within)

    @cached_property
    def _bytes_per_ms(self) -> list[float]:
        return [float(mbit) * BYTES_PER_MBIT / 1000 for mbit in self.mbit]

    @cached_property
    def _carried(self) -> list[float]:
        """(steps + 1,) bytes from the start of the trace to that of each step."""
        return [0.0, *np.cumsum(np.array(self._bytes_per_ms) * STEP_MS).tolist()]


@dataclass(frozen=True)
class LinkState:
    """What a link is like for a while."""

    median: float
    """Of the rate, relative to the other states."""
    sigma: float
    """Standard deviation of the natural logarithm of the rate."""
    seconds: float
    """Mean duration; durations are geometric."""


@dataclass(frozen=True)
class TraceKind:
    """A Markov-modulated log-normal process, in steps of `STEP_MS`.

    In each step, the link stays in its state or goes on to another one, which is drawn with the
    weight that the kind gives it. In a state, the rate is the state's median times
    exp(sigma z), where z is one standard normal, autoregressive process for all states. Quantiles
    of the rate over time therefore have a closed form: those of a mixture of log-normals.

    Raises:
        ValueError: numbers of states and weights differ.
    """

    name: str
    states: tuple[LinkState, ...]
    weights: tuple[float, ...]
    """(states,) how often each one is entered from another."""
    correlation: float
    """Of z from step to step."""
    rtt_ms: float

    def __post_init__(self) -> None:
        if len(self.states) != len(self.weights) or len(self.states) < 2:
            raise ValueError("a kind has two states or more, and a weight for each")

    @cached_property
    def transitions(self) -> FloatMatrix:
        """(states, states) probability of each state one step after each one."""
        leave = np.array([STEP_MS / 1000 / state.seconds for state in self.states])
        entered = np.tile(self.weights, (len(self.states), 1)).astype(np.float64)
        np.fill_diagonal(entered, 0)
        chances = leave[:, None] * entered / entered.sum(1, keepdims=True)
        return np.asarray(chances + np.diag(1 - leave))

    @cached_property
    def time_shares(self) -> FloatVector:
        """(states,) share of the time that the link is in each: the stationary distribution."""
        count = len(self.states)
        equations = np.vstack([self.transitions.T - np.eye(count), np.ones(count)])
        shares, *_ = np.linalg.lstsq(equations, np.append(np.zeros(count), 1.0), rcond=None)
        return np.asarray(shares)

    def share_below(self, rate: float) -> float:
        """Return the share of time in which the rate is lower, in units of the median."""
        log_rate = math.log(rate) + self._log_median
        return self._share_below(log_rate)

    def trace(self, seed: int, seconds: float, mbit: float) -> LinkTrace:
        """Return a trace of a link whose median rate is `mbit`, over a long time."""
        rng = np.random.default_rng(seed)
        steps = max(1, round(seconds * 1000 / STEP_MS))
        states = self._draw_states(rng, steps)
        noise = rng.standard_normal(steps) * math.sqrt(1 - self.correlation**2)
        z = np.empty(steps)
        value = float(rng.standard_normal())
        for step in range(steps):
            value = self.correlation * value + noise[step]
            z[step] = value
        logs = np.log([state.median for state in self.states])[states] - self._log_median
        sigmas = np.array([state.sigma for state in self.states])[states]
        return LinkTrace(mbit * np.exp(logs + sigmas * z), self.rtt_ms)

    def _draw_states(self, rng: np.random.Generator, steps: int) -> NDArray[np.int64]:
        edges = np.cumsum(self.transitions, 1)
        state = int(np.searchsorted(np.cumsum(self.time_shares), rng.random()))
        last, states = len(self.states) - 1, np.empty(steps, np.int64)
        for step, chance in enumerate(rng.random(steps)):
            states[step] = state = min(state, last)
            state = int(np.searchsorted(edges[state], chance))
        return states

    def _share_below(self, log_rate: float) -> float:
        return sum(
            float(share) * _normal((log_rate - math.log(state.median)) / state.sigma)
            for share, state in zip(self.time_shares, self.states, strict=True)
        )

    @cached_property
    def _log_median(self) -> float:
        low, high = -30.0, 30.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if self._share_below(middle) < 0.5 else (low, middle)
        return low


def _normal(deviations: float) -> float:
    """Return the share of a standard normal distribution below some deviations."""
    return (1 + math.erf(deviations / math.sqrt(2))) / 2


MOBILE_4G = TraceKind(
    "4G",
    (
        LinkState(1.0, 0.30, seconds=12),  # near the antenna, in a cell with few others
        LinkState(0.45, 0.35, seconds=6),  # at the edge of the cell, or one with many others
        LinkState(0.12, 0.40, seconds=1.5),  # while cells change, or behind a building
    ),
    weights=(5, 4, 1),
    correlation=0.9,
    rtt_ms=45,
)
MOBILE_5G = TraceKind(
    "5G",
    (
        LinkState(1.0, 0.25, seconds=10),  # in sight of the antenna
        LinkState(0.2, 0.40, seconds=4),  # out of sight: reflections, or the 4G cell instead
        LinkState(0.02, 0.50, seconds=0.6),  # next to nothing, until another antenna takes over
    ),
    weights=(5, 4, 1),
    correlation=0.9,
    rtt_ms=20,
)
WIFI = TraceKind(
    "Wi-Fi",
    (
        LinkState(1.0, 0.20, seconds=8),  # a free channel
        LinkState(0.4, 0.35, seconds=4),  # other stations send
        LinkState(0.1, 0.50, seconds=0.8),  # collisions, or a change of the access point
    ),
    weights=(5, 4, 1),
    correlation=0.8,
    rtt_ms=8,
)
TRACE_KINDS = (MOBILE_4G, MOBILE_5G, WIFI)
"""Made up. Their shape is that of published measurements: for seconds, a 4G link has half of its
rate or less; a 5G link is fast in sight and falls to hundredths out of it; and Wi-Fi, whose round
trip is short, changes fast."""
