"""Fidelity on all frames for the shares that a front may use, on fewer frames for the others.

The fidelity of every share grows with the square of the number of models. But a recipient takes
from one donor only, and most donors are on no front. So of each recipient the donors that explain
most of it are measured on a few frames, and the best of them on all. Then the shares that the
front uses if each estimate is a little better than it was measured are measured on more frames,
and so on, until the front uses none but those that were measured on all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.data.frames import Sampling
from search.metrics.base import Metric
from search.metrics.fidelity import HOPELESS, MAX_FRAMES, agreement_sums
from search.statistics.observed import Observed
from search.study.local_front.pareto_search import front_by
from search.study.local_front.valuation import Valuation
from search.study.problem import Problem
from search.utils.files import short_hash
from search.utils.progress import Progress, silent
from search.utils.records import BadRecord, read_record, write_record
from spaces.plan import Ref, Share

DONORS_TRIED = 12
"""Donors of each recipient, those that explain most of it, that are measured at first."""
OPTIMISM = {8: 0.05, 24: 0.01}
"""How much better a share is assumed to be than on the first so many frames, until it is measured
on more: the next number, in the end all of MAX_FRAMES."""
LEAST_AT_A_TIME = 48
"""Shares that are measured together, at least, while the front may use others: the unmerged models
run each time."""
PLANS_EXAMINED = 30_000
"""Plans that are valued to find a front: fewer than before a study, as a screening needs many."""
DISCOUNT = 1 - 1e-6
"""Factor of every estimate: of equal shares, the front uses one that was measured."""
SCREENED_VERSION = 4
"""Part of the names of cached values: increase it when the measurement changes."""


class ScreenedFidelity(Metric):
    """The fidelity of the shares that the front of bytes and quality may use.

    The value of another share is its agreement on fewer frames, or, without any, the least of its
    recipient's, as it explains less. So a value may depend on the other shares. The values are
    cached.
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
        self.observed = observed.keeping_maps()
        sampled = Sampling(MAX_FRAMES).indices(len(observed.held_out))
        self.counts = sorted({min(count, len(sampled)) for count in (*OPTIMISM, MAX_FRAMES)})
        """How many frames a share may be measured on; the last is all of them."""
        self.frames = _each_beginning_spread(sampled, self.counts)
        self.explained = {share: observed.statistics.explained(share) for share in shares}
        deployment = observed.deployment
        self.equal = dict.fromkeys(deployment.shares(()), 1.0)
        """The shares between equal representations, which the front may use, too."""
        self.valuation = Valuation(Problem(deployment.facts, {**self.equal, **self.explained}))
        self.sums: dict[Share, float] = {}
        """Agreement summed over the frames that a share is measured on."""
        self.measured_on: dict[Share, int] = {}
        """The number of these frames."""

    def run(self) -> dict[Share, float]:
        """Return the value of each share."""
        hopeful = [share for share, value in self.explained.items() if value > HOPELESS]
        first = _best_of_each_recipient(hopeful, self.explained, DONORS_TRIED)
        self._measure(first, self.counts[0])
        self._measure(_best_of_each_recipient(first, self.sums, 1), self.counts[-1])
        while contenders := self._contenders(hopeful):
            next_counts = {share: self._next_count(share) for share in contenders}
            for count in self.counts:
                self._measure([s for s in contenders if next_counts[s] == count], count)
        values = self._means(hopeful)
        return {
            share: self._at_best(share, values[share]) if share in values else 0.0
            for share in self.explained
        }

    def _measure(self, shares: Sequence[Share], count: int) -> None:
        """Measure shares on those of the first `count` frames that they were not measured on."""
        for done in sorted({self.measured_on.get(share, 0) for share in shares}):
            some = [share for share in shares if self.measured_on.get(share, 0) == done]
            sums = agreement_sums(self.observed, some, self.frames[done:count], silent)
            for share, added in sums.items():
                self.sums[share] = self.sums.get(share, 0.0) + added
                self.measured_on[share] = count

    def _next_count(self, share: Share) -> int:
        """Return how many frames a share is to be measured on next.

        A share without any skips the smallest number, which is for finding donors: a front uses
        it already.
        """
        done = self.measured_on.get(share, self.counts[0])
        return next((count for count in self.counts if count > done), self.counts[-1])

    def _contenders(self, hopeful: Sequence[Share]) -> list[Share]:
        """Return the shares of the optimistic front that are not measured on all frames.

        If they are few, those of the front without them are added, and so on: if the first are
        worse than estimated, these take their place.
        """
        values = {
            share: self._at_best(share, value, self._optimism(share))
            for share, value in self._means(hopeful).items()
            if value > HOPELESS
        }
        contenders: list[Share] = []
        while found := self._estimated_on_front(values):
            contenders += found
            if len(contenders) >= LEAST_AT_A_TIME:
                break
            values = {share: value for share, value in values.items() if share not in found}
        return contenders

    def _estimated_on_front(self, values: Mapping[Share, float]) -> list[Share]:
        valuation = self.valuation.with_quality({**self.equal, **values})
        front = front_by(valuation, (), PLANS_EXAMINED)
        used = {share for plan in front for share in plan.shares}
        return [share for share in values if share in used and self._is_estimated(share)]

    def _means(self, hopeful: Sequence[Share]) -> dict[Share, float]:
        """Return the mean agreement of each share, on the frames that it was measured on.

        Without any, it is the least of its recipient's.
        """
        means = {share: total / self.measured_on[share] for share, total in self.sums.items()}
        least: dict[Ref, float] = {}
        for share, mean in means.items():
            least[share.recipient] = min(mean, least.get(share.recipient, 1.0))
        return {share: means.get(share, least[share.recipient]) for share in hopeful}

    def _is_estimated(self, share: Share) -> bool:
        return self.measured_on.get(share, 0) < self.counts[-1]

    def _optimism(self, share: Share) -> float:
        return OPTIMISM.get(self.measured_on.get(share, 0), max(OPTIMISM.values()))

    def _at_best(self, share: Share, mean: float, optimism: float = 0.0) -> float:
        """Return the value of a share that may be better by `optimism` than measured so far."""
        return min(1.0, mean + optimism) * DISCOUNT if self._is_estimated(share) else mean


def _each_beginning_spread(sampled: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Return the sampled frames in an order whose first so many, by each count, are spread."""
    order: list[int] = []
    for count in counts:
        rest = [index for index in sampled if index not in order]
        added = count - len(order)
        order += rest[:: len(rest) // added or 1][:added]
    return order


def _best_of_each_recipient(
    shares: Iterable[Share], values: Mapping[Share, float], count: int
) -> list[Share]:
    """Return the `count` best shares of each recipient by their values."""
    of_recipient: dict[Ref, list[Share]] = {}
    for share in sorted(shares, key=lambda s: (-values[s], s)):
        of_recipient.setdefault(share.recipient, []).append(share)
    return [share for ranked in of_recipient.values() for share in ranked[:count]]


def _cached_values(observed: Observed, shares: Sequence[Share]) -> Path | None:
    """Return the file for the values of exactly these shares on all frames; None: no cache."""
    if not observed.parts:
        return None
    measured_on = [part.cache_folder.name for part in observed.parts]
    text = " ".join([str(SCREENED_VERSION), *measured_on, *map(str, shares)])
    name = f"screened-{short_hash(text)}.json"
    return observed.parts[-1].cache_folder / name


def _read(path: Path, shares: Sequence[Share]) -> dict[Share, float] | None:
    """Return the cached values; None if there are none, or the file is damaged."""
    try:
        values = read_record(ScreenedRecord, path).similarity
        return {share: values[str(share)] for share in shares}
    except (BadRecord, KeyError):
        return None
