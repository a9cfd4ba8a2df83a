"""A made-up camera: descriptions of frames without any frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from tiny import Matrix

from search.drift.frame_features import VIEWS, Description


class Camera:
    """A made-up one: Gaussian features that hang together; `shift` moves all of a view."""

    def __init__(self, features: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._mix = {view: self._rng.normal(size=(features, features)) for view in VIEWS}

    def frames(self, count: int, shift: Mapping[str, float] | None = None) -> Description:
        return self._seen(
            {view: self._noise(count, mix) for view, mix in self._mix.items()}, shift
        )

    def film(self, count: int, memory: float) -> Description:
        """Each frame is like the one before: autoregressive, of the same distribution."""
        rows = {}
        for view, mix in self._mix.items():
            noise = self._noise(count, mix)
            for k in range(1, count):
                noise[k] = memory * noise[k - 1] + (1 - memory**2) ** 0.5 * noise[k]
            rows[view] = noise
        return self._seen(rows, None)

    def _noise(self, count: int, mix: Matrix) -> Matrix:
        noise: Matrix = self._rng.normal(size=(count, len(mix))) @ mix
        return noise

    def _seen(self, rows: dict[str, Matrix], shift: Mapping[str, float] | None) -> Description:
        for view, far in (shift or {}).items():
            rows[view] += far
        return Description("models", rows)


def changed(known: Description, change: Callable[[Matrix], Matrix]) -> Description:
    return replace(known, rows={view: change(rows) for view, rows in known.rows.items()})
