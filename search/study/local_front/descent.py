"""Coordinate descents on the bytes, many at a time."""

from __future__ import annotations

import numpy as np

from search.study.exact.segments import Ints
from search.study.local_front.valuation import Valuation
from search.study.local_front.valued_plans import column_keys


def descend(valuation: Valuation, columns: Ints, orders: Ints, most: int) -> Ints:
    """Return the columns, (rows, n), at which descents from `columns` end, regardless of limits.

    Each descent takes the rows in its own order, (rows, n), and gives each row the option of the
    fewest bytes, of equal bytes that of the best quality, until no row changes. Descents that meet
    go on as one. They also end when `most` plans have been valued.
    """
    best = columns.copy()
    changed = True
    while changed and valuation.examined < most:
        before = best.copy()
        for rows in orders:
            best = _best_options(valuation, best, rows)
        changed = not np.array_equal(before, best)
        _, first = np.unique(column_keys(np.concatenate([best, orders])), return_index=True)
        best, orders = best[:, first], orders[:, first]
    return best


def _best_options(valuation: Valuation, columns: Ints, rows: Ints) -> Ints:
    """Return the columns, (rows, n), with the best option in one row of each, `rows`, (n,)."""
    counts = np.array([len(options) for options in valuation.choices])[rows]
    owner = np.repeat(np.arange(len(rows)), counts)
    candidates = columns[:, owner]
    candidates[rows[owner], np.arange(len(owner))] = np.concatenate(
        [valuation.choices[row] for row in rows]
    )
    values = valuation.values(candidates)
    order = np.lexsort((-values.quality, values.bytes, ~values.acyclic, owner))
    first = np.append(True, np.diff(owner[order]) > 0)
    return candidates[:, order[first]]
