"""Types of arrays of numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatVector = NDArray[np.float64]
"""(n,) of any meaning; each use documents its own."""
FloatMatrix = NDArray[np.float64]
"""(n, m) of any meaning; each use documents its own."""
