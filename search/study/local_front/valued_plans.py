"""Many plans as columns of share numbers and a profile, with their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.study.exact.segments import Bools, Floats, Ints

Keys = NDArray[np.uint64]
MULTIPLIER = 0x9E3779B97F4A7C15
"""An odd number whose powers, modulo 2^64, spread the keys of columns (Knuth's golden ratio)."""


@dataclass(frozen=True)
class ValuedPlans:
    """n complete plans without cycles and within the limits of a problem."""

    columns: Ints
    """(segments + 1, n): share numbers as a plan table takes them; the last row is the number of
    the profile."""
    objectives: Floats
    """(costs + 1, n): the costs, and the negative quality; all are minimised."""

    def __len__(self) -> int:
        return int(self.columns.shape[1])

    def take(self, which: Ints | Bools | slice) -> ValuedPlans:
        """Return the plans of these indices."""
        return ValuedPlans(self.columns[:, which], self.objectives[:, which])

    def keys(self) -> Keys:
        """Return a number of each plan, (n,).

        Of two different plans the numbers are as good as never equal.
        """
        return column_keys(self.columns)

    def distinct(self) -> ValuedPlans:
        """Return each plan once, the first of equal ones, in their order."""
        _, first = np.unique(self.keys(), return_index=True)
        return self.take(np.sort(first))


def column_keys(columns: Ints) -> Keys:
    """Return a number of each column, (n,), from columns (rows, n)."""
    keys = np.zeros(columns.shape[1], np.uint64)
    for row in columns:
        keys = keys * np.uint64(MULTIPLIER) + row.astype(np.uint64)  # modulo 2^64
    return keys ^ (keys >> np.uint64(29))


def join_plans(parts: Sequence[ValuedPlans]) -> ValuedPlans:
    """Return the plans of all parts, one after the other."""
    return ValuedPlans(
        np.concatenate([part.columns for part in parts], axis=1),
        np.concatenate([part.objectives for part in parts], axis=1),
    )
