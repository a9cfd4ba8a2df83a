"""All metrics by name."""

from __future__ import annotations

from search.metrics.base import Metric
from search.metrics.calibrated import CalibratedExplained, CalibratedProduct
from search.metrics.closed_form import Cosine, ExplainedVariance, ImageCka, PositionCka, Procrustes
from search.metrics.cost_baselines import KeptBytes, KeptMacs, RepresentationSize
from search.metrics.fidelity import PairFidelity
from search.metrics.fisher import WeightedExplained
from search.metrics.screened import ScreenedFidelity

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        PairFidelity(),
        ScreenedFidelity(),
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
