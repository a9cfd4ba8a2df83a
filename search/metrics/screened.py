"""Fidelity on all frames for the shares that a front may use, on a few frames for the others.

The fidelity of every share grows with the square of the number of models. Most shares are on no
front, and a few frames show that. So every share is measured on a few frames first. Then the front
is computed as if each of these values were a little better, the shares that its plans use are
measured on the remaining frames, and so on until the front uses none but measured ones.

An estimate is never more than OPTIMISM below the fidelity of a share that is left out by mistake,
unless its few frames were worse than the others by more than that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.data.frames import Sampling
from search.metrics.base import Metric
from search.metrics.fidelity import HOPELESS, MAX_FRAMES, agreement_sums
from search.statistics.observed import Observed
from search.study.local_front.pareto_search import local_front
from search.study.problem import Problem
from search.utils.progress import Progress, silent
from search.utils.records import BadRecord, read_record, write_record
from spaces.plan import Share

FEW_FRAMES = 8
"""Frames, among MAX_FRAMES, that every share is measured on."""
OPTIMISM = 0.1
"""How much better than on the few frames a share is assumed to be, until it is measured."""
LEAST_PART = 1 / 8
"""Part of the hopeful shares that are measured at a time, at least, while any may be needed."""
DISCOUNT = 1 - 1e-6
"""Factor of every estimate: of equal shares, the front uses one that was measured."""
SCREENED_VERSION = 1
"""Part of the names of cached values: increase it when the measurement changes."""


class ScreenedFidelity(Metric):
    """The fidelity of the shares that the front of bytes and quality may use.

    The value of every other share is its agreement on a few frames. So a value may depend on the
    other shares. The values are cached.
    """

    name = "screened"
    label = "fidelity of the shares that a front may use"
    stands_alone = False

    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        path = _cached_values(observed, shares)
        values = _read(path, shares) if path else None
        if values is None:
            values = _Screening(observed, shares).run()
            if path:
                write_record(path, ScreenedRecord({str(s): v for s, v in values.items()}))
        progress(len(shares))
        return values


@dataclass(frozen=True)
class ScreenedRecord:
    """The JSON file that holds the values of several shares."""

    similarity: dict[str, float]
    """By the text of the share."""


class _Screening:
    """What is measured so far of some shares on the same frames."""

    def __init__(self, observed: Observed, shares: Sequence[Share]) -> None:
        self.observed = observed
        sampled = Sampling(MAX_FRAMES).indices(len(observed.held_out))
        self.few = sampled[:: len(sampled) // FEW_FRAMES or 1][:FEW_FRAMES]
        self.others = [index for index in sampled if index not in self.few]
        self.sums = dict.fromkeys(shares, 0.0)
        self.frames = dict.fromkeys(shares, len(sampled))

    def run(self) -> dict[Share, float]:
        """Return the value of each share."""
        explained = self.observed.statistics.explained
        hopeful = [share for share in self.sums if explained(share) > HOPELESS]
        self._measure(hopeful, self.few)
        for share in hopeful:
            self.frames[share] = len(self.few)
        while contenders := self._contenders(len(hopeful)):
            self._measure(contenders, self.others)
            for share in contenders:
                self.frames[share] += len(self.others)
        return {
            share: self._mean(share) * (DISCOUNT if self._is_estimate(share) else 1.0)
            for share in self.sums
        }

    def _measure(self, shares: Sequence[Share], held_out: Sequence[int]) -> None:
        for share, total in agreement_sums(self.observed, shares, held_out, silent).items():
            self.sums[share] += total

    def _contenders(self, hopeful: int) -> list[Share]:
        """Return shares that the optimistic front uses and that were measured on few frames.

        If they are few, those of the front without them are added, and so on: they are likely to
        be next, and each round runs the unmerged models again.
        """
        values, contenders = self._optimistic_values(), list[Share]()
        while found := self._estimates_on_front(values):
            contenders += found
            if len(contenders) >= LEAST_PART * hopeful:
                break
            values = {share: value for share, value in values.items() if share not in found}
        return contenders

    def _estimates_on_front(self, values: Mapping[Share, float]) -> list[Share]:
        deployment = self.observed.deployment
        equal = dict.fromkeys(deployment.shares(()), 1.0)
        problem = Problem(deployment.facts, {**equal, **values})
        used = {share for plan in local_front(problem, ()) for share in plan.shares}
        return [share for share in values if share in used and self._is_estimate(share)]

    def _optimistic_values(self) -> dict[Share, float]:
        """Return the value of each share that is not hopeless, at its best."""
        return {
            share: min(1.0, self._mean(share) + OPTIMISM) * DISCOUNT
            if self._is_estimate(share)
            else self._mean(share)
            for share in self.sums
            if self._mean(share) > HOPELESS
        }

    def _mean(self, share: Share) -> float:
        return self.sums[share] / self.frames[share]

    def _is_estimate(self, share: Share) -> bool:
        return bool(self.others) and self.frames[share] == len(self.few)


def _cached_values(observed: Observed, shares: Sequence[Share]) -> Path | None:
    """Return the file for the values of exactly these shares on all frames; None: no cache."""
    if not observed.parts:
        return None
    measured_on = [part.cache_folder.name for part in observed.parts]
    text = " ".join([str(SCREENED_VERSION), *measured_on, *map(str, shares)])
    name = f"screened-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    return observed.parts[-1].cache_folder / name


def _read(path: Path, shares: Sequence[Share]) -> dict[Share, float] | None:
    """Return the cached values; None if there are none, or the file is damaged."""
    try:
        values = read_record(ScreenedRecord, path).similarity
        return {share: values[str(share)] for share in shares}
    except (BadRecord, KeyError):
        return None
