"""All metrics by name: the numbers that can guide a search."""

from __future__ import annotations

from search.calibrated import CalibratedExplained, CalibratedProduct
from search.comparison import KeptBytes, KeptMacs, RepresentationSize
from search.lookups import Cosine, ExplainedVariance, ImageCka, PositionCka, Procrustes
from search.metric import Metric
from search.pair_fidelity import PairFidelity
from search.sensitivity import WeightedExplained

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        PairFidelity(),
        ExplainedVariance(),
        CalibratedProduct(),
        CalibratedExplained(),
        WeightedExplained(),
        PositionCka(),
        ImageCka(),
        Procrustes(),
        Cosine(),
        KeptBytes(),
        KeptMacs(),
        RepresentationSize(),
    )
}
