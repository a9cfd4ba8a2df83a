"""The coefficients of one frame, and how finely they are coded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Coefficients = NDArray[np.float32]
"""(coefficients,) of one frame: row after row, see `CoefficientRows`."""
Levels = NDArray[np.int32]
"""(coefficients,) of one frame, quantised: multiples of the step size."""
QUARTER = 0.25
"""Octaves between two steps, and between two scale classes."""


class Coding(NamedTuple):
    """How finely one frame is coded; a run-time argument, of which no tensor depends."""

    step: int
    """The step size is 2^(step / 4), for all coefficients."""
    bands: int
    """Zones of frequencies that are sent, from the lowest on; the others are taken as 0."""

    @property
    def step_size(self) -> float:
        return float(2.0 ** (self.step * QUARTER))


@dataclass(frozen=True, eq=False)
class CoefficientRows:
    """The rows of coefficients of one frame: a component of a zone of frequencies of a tensor.

    Rows are sorted by tensor, by zone, and by component.
    """

    counts: NDArray[np.int32]
    """(rows,) coefficients in each."""
    zones: NDArray[np.int32]
    """(rows,) the zone of each, from 0, the lowest frequencies."""
    classes: NDArray[np.int32]
    """(rows,) round(4 log2 of the mean magnitude): the scale class of each."""

    @property
    def total(self) -> int:
        """Coefficients of one frame."""
        return int(self.counts.sum())
