"""Fidelity on all frames for the shares that a front may use, on a few frames for the others.

The fidelity of every share grows with the square of the number of models. But a recipient takes
from one donor only, and most donors are on no front. So of each recipient the donors that explain
most of it are measured on a few frames. Then the best of them is measured on the remaining frames,
and so are the shares that the front uses if each estimate is a little better than it was measured,
until the front uses none but measured ones.
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
FEW_FRAMES = 8
"""Frames, among MAX_FRAMES, that these are measured on."""
OPTIMISM = 0.05
"""How much better than on the few frames a share is assumed to be, until it is measured."""
LEAST_AT_A_TIME = 24
"""Shares that are measured together, at least, while the front may use others: the unmerged models
run each time."""
PLANS_EXAMINED = 100_000
"""Plans that are valued to find a front: fewer than before a study, as a screening needs many."""
DISCOUNT = 1 - 1e-6
"""Factor of every estimate: of equal shares, the front uses one that was measured."""
SCREENED_VERSION = 3
"""Part of the names of cached values: increase it when the measurement changes."""


class ScreenedFidelity(Metric):
    """The fidelity of the shares that the front of bytes and quality may use.

    The value of another share is its agreement on a few frames, or, without any, the least of its
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
        self.observed = observed
        sampled = Sampling(MAX_FRAMES).indices(len(observed.held_out))
        self.few = sampled[:: len(sampled) // FEW_FRAMES or 1][:FEW_FRAMES]
        self.others = [index for index in sampled if index not in self.few]
        self.explained = {share: observed.statistics.explained(share) for share in shares}
        deployment = observed.deployment
        self.equal = dict.fromkeys(deployment.shares(()), 1.0)
        """The shares between equal representations, which the front may use, too."""
        self.valuation = Valuation(Problem(deployment.facts, {**self.equal, **self.explained}))
        self.estimates: dict[Share, float] = {}
        """Agreement summed over the few frames."""
        self.measured: dict[Share, float] = {}
        """Mean agreement over all frames."""

    def run(self) -> dict[Share, float]:
        """Return the value of each share."""
        hopeful = [share for share, value in self.explained.items() if value > HOPELESS]
        self._estimate(_best_of_each_recipient(hopeful, self.explained, DONORS_TRIED))
        self._complete(_best_of_each_recipient([*self.estimates], self.estimates, 1))
        while contenders := self._contenders(hopeful):
            self._complete(contenders)
        values = self._means(hopeful)
        return {
            share: self._at_best(share, values[share]) if share in values else 0.0
            for share in self.explained
        }

    def _estimate(self, shares: Sequence[Share]) -> None:
        self.estimates |= agreement_sums(self.observed, shares, self.few, silent)

    def _complete(self, shares: Sequence[Share]) -> None:
        """Measure shares on the frames that they were not measured on."""
        self._estimate([share for share in shares if share not in self.estimates])
        rest = agreement_sums(self.observed, shares, self.others, silent)
        count = len(self.few) + len(self.others)
        self.measured |= {share: (self.estimates[share] + rest[share]) / count for share in shares}

    def _contenders(self, hopeful: Sequence[Share]) -> list[Share]:
        """Return the shares that the optimistic front uses and that are not measured.

        If they are few, those of the front without them are added, and so on: if the first are
        worse than estimated, these take their place.
        """
        values = {
            share: self._at_best(share, value, OPTIMISM)
            for share, value in self._means(hopeful).items()
            if value > HOPELESS
        }
        contenders: list[Share] = []
        while found := self._unmeasured_on_front(values):
            contenders += found
            if len(contenders) >= LEAST_AT_A_TIME:
                break
            values = {share: value for share, value in values.items() if share not in found}
        return contenders

    def _unmeasured_on_front(self, values: Mapping[Share, float]) -> list[Share]:
        valuation = self.valuation.with_quality({**self.equal, **values})
        front = front_by(valuation, (), PLANS_EXAMINED)
        used = {share for plan in front for share in plan.shares}
        return [share for share in values if share in used and share not in self.measured]

    def _means(self, hopeful: Sequence[Share]) -> dict[Share, float]:
        """Return the mean agreement of each share, on the frames that it was measured on.

        Without any, it is the least of its recipient's.
        """
        means = {share: total / len(self.few) for share, total in self.estimates.items()}
        means |= self.measured
        least: dict[Ref, float] = {}
        for share, mean in means.items():
            least[share.recipient] = min(mean, least.get(share.recipient, 1.0))
        return {share: means.get(share, least[share.recipient]) for share in hopeful}

    def _at_best(self, share: Share, mean: float, optimism: float = 0.0) -> float:
        """Return the value of a share that may be better by `optimism` than measured so far."""
        return mean if share in self.measured else min(1.0, mean + optimism) * DISCOUNT


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
