"""A made-up camera: descriptions of frames without any frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from tiny import Matrix

from search.drift.frame_features import VIEWS, Description


class MadeUpCamera:
    """Draws correlated Gaussian features; `shift` is added to all features of a view."""

    def __init__(self, features: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._mix = {view: self._rng.normal(size=(features, features)) for view in VIEWS}

    def frames(self, count: int, shift: Mapping[str, float] | None = None) -> Description:
        """Return the description of independent frames."""
        rows_by_view = {view: self._noise(count, mix) for view, mix in self._mix.items()}
        for view, offset in (shift or {}).items():
            rows_by_view[view] += offset
        return Description("models", rows_by_view)

    def correlated_frames(self, count: int, correlation: float) -> Description:
        """Return frames of the same distribution, each correlated with the frame before it.

        `correlation` is the coefficient of the first-order autoregression.
        """
        rows_by_view = {}
        for view, mix in self._mix.items():
            rows = self._noise(count, mix)
            for k in range(1, count):
                rows[k] = correlation * rows[k - 1] + (1 - correlation**2) ** 0.5 * rows[k]
            rows_by_view[view] = rows
        return Description("models", rows_by_view)

    def _noise(self, count: int, mix: Matrix) -> Matrix:
        noise: Matrix = self._rng.normal(size=(count, len(mix))) @ mix
        return noise


def map_rows(description: Description, function: Callable[[Matrix], Matrix]) -> Description:
    """Return the description with `function` applied to the rows of every view."""
    return replace(
        description, rows={view: function(rows) for view, rows in description.rows.items()}
    )
