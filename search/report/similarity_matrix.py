"""Similarities of shares as matrices of stages, for tables and heat maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from spaces.plan import Share

Stages = Mapping[str, Sequence[str]]
"""Stage names by model."""


def model_pairs(stages: Stages) -> Iterator[tuple[str, str]]:
    """Yield every ordered pair of models as (donor, recipient)."""
    return ((donor, recipient) for recipient in stages for donor in stages if donor != recipient)


def similarity_matrix(
    similarity: Mapping[Share, float], stages: Stages, donor: str, recipient: str
) -> NDArray[np.float64]:
    """Return (donor stages, recipient stages), with NaN where no share is legal.

    If a pair of stages has several adapters, the best value counts.
    """
    best: dict[tuple[str, str], float] = {}
    for share, value in similarity.items():
        pair = (str(share.donor), str(share.recipient))
        best[pair] = max(value, best.get(pair, value))
    return np.array(
        [
            [best.get((f"{donor}:{i}", f"{recipient}:{j}"), np.nan) for j in stages[recipient]]
            for i in stages[donor]
        ],
        dtype=np.float64,
    )
