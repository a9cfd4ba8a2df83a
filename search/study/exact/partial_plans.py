"""Partial plans, with only some decisions taken, as columns of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from search.study.exact.plan_table import PlanTable
from search.study.exact.segments import NO_SHARE, Bools, Ints

Kind = Literal["replaced", "retained", "shares"]
"""The number that a decision sets for a segment; `segments` explains the words."""


@dataclass(frozen=True)
class PartialPlans:
    """n partial plans; each array is (segments, n).

    Undecided entries of `replaced` and `retained` hold a code that is larger than any position
    (`SegmentGraph.undecided`). The best share is assumed where `shares` holds NO_SHARE.
    """

    replaced: Ints
    retained: Ints
    shares: Ints

    @classmethod
    def undecided(cls, table: PlanTable, code: int) -> PartialPlans:
        """Return one plan, in which only segments with a single option are decided."""
        segments = range(len(table.segments))
        fixed = [len(table.replaced_options(segment)) == 1 for segment in segments]
        replaced = np.where(fixed, table.replaced_without_share, code)[:, None]
        return cls(replaced, np.full_like(replaced, code), np.full_like(replaced, NO_SHARE))

    def __len__(self) -> int:
        return int(self.replaced.shape[1])

    def take(self, columns: Ints | Bools | slice) -> PartialPlans:
        """Return the plans of these columns."""
        return PartialPlans(
            self.replaced[:, columns], self.retained[:, columns], self.shares[:, columns]
        )

    def join(self, other: PartialPlans) -> PartialPlans:
        """Return these plans, followed by the others."""
        pairs = (
            (self.replaced, other.replaced),
            (self.retained, other.retained),
            (self.shares, other.shares),
        )
        return PartialPlans(*(np.concatenate(pair, axis=1) for pair in pairs))

    def branch(self, kind: Kind, segment: int, options: Ints, counts: Ints) -> PartialPlans:
        """Return each plan once for each option that it has.

        `options`, (replaced, most), lists the options by the segment's `replaced`; `counts`,
        (replaced,), says how many of a row's entries are valid.
        """
        replaced = self.replaced[segment]
        repeats = counts[replaced]
        columns = np.repeat(np.arange(len(self)), repeats)
        option = np.arange(len(columns)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        branched = self.take(columns)
        getattr(branched, kind)[segment] = options[replaced[columns], option]
        return branched
