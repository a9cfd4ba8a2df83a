"""The config sections `statistics`, `search`, `verify`, `export`, `mlflow` and `promotion`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from search.config.base import Positive, Section, Share01
from search.metrics.registry import METRICS
from search.statistics.streaming import SMALLEST_BATCH
from search.study.problem import Cost, SamplerName
from spaces.errors import BadPlan
from spaces.plan import PRECISIONS, AdapterSpec, Precision


class StatisticsConfig(Section):
    """The pass over the unlabelled frames that measures similarity."""

    batch: Annotated[int, Field(ge=SMALLEST_BATCH)] = 32
    """Frames per batch; at least two batches are needed."""
    positions: Positive = 16
    """Positions sampled per frame and grid."""


class SearchConfig(Section):
    """The study of the plans."""

    trials: Positive = 1000
    """Number of plans to evaluate, each once. A space with fewer plans ends the search early."""
    sampler: SamplerName = "local"
    """How the next plan is proposed."""
    objectives: list[Cost] = Field(default=["bytes"], min_length=1)
    """Costs to minimise while predicted quality is maximised: bytes held, multiply-accumulates per
    frame, peak bytes of live activations per frame, or milliseconds per frame. If the models have
    a `rate`, MACs and milliseconds are those of a second of camera time."""
    metric: str = "fidelity"
    """Metric of similarity: `fidelity`, `screened`, `r2`, `position_cka`, `cka` or another
    registered one."""
    adapters: list[str] = Field(default=["linear"], min_length=1)
    """Adapters to explore: `identity`, `linear` or `linear@RANK`. Stages whose weights and inputs
    are equal in two networks are always shared by `identity`."""
    precision: list[Precision] = Field(
        default=["float32", "float16", "int8"], max_length=len(PRECISIONS)
    )
    """Precisions in which a plan may store the weights of a stage or head: `float32`, `float16`,
    `bfloat16`, `int8` (one scale per output channel). If `dtype` is not float32, the default is
    that and int8. With `[]`, all are stored in `dtype`."""
    floor: Annotated[float, Field(allow_inf_nan=False)] = 0.05
    """Shares whose similarity is at most this are not explored."""

    @field_validator("objectives")
    @classmethod
    def _check_objectives(cls, values: list[Cost]) -> list[Cost]:
        if len(set(values)) < len(values):
            raise ValueError("name each objective once")
        return values

    @field_validator("precision")
    @classmethod
    def _check_precision(cls, values: list[Precision]) -> list[Precision]:
        if len(set(values)) < len(values):
            raise ValueError("name each precision once")
        return values

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, value: str) -> str:
        if value not in METRICS:
            raise ValueError(f"must be one of {', '.join(METRICS)}")
        return value

    @field_validator("adapters")
    @classmethod
    def _check_adapters(cls, values: list[str]) -> list[str]:
        for value in values:
            try:
                AdapterSpec.parse(value)
            except BadPlan as error:
                raise ValueError(str(error)) from None
        return values

    @property
    def adapter_specs(self) -> tuple[AdapterSpec, ...]:
        return tuple(AdapterSpec.parse(value) for value in self.adapters)


class VerifyConfig(Section):
    """The verification stages: fidelity of a shortlist, ground truth of its best plans."""

    shortlist: Positive = 20
    """Number of plans whose fidelity is measured."""
    candidates: Positive = 5
    """Number of these that are measured on ground truth."""
    fidelity_frames: Positive = 64
    """Number of unlabelled frames that are held out from the statistics to measure fidelity."""
    batch: Positive = 16
    """Frames per batch."""
    refine: bool = False
    """Whether the linear maps of each candidate are refined on the unlabelled frames. A refined
    plan is a candidate of its own, if its answers are closer to the unmerged ones on frames that
    were held out."""


class ExportConfig(Section):
    """What `merge-search export` warns of."""

    max_drop: Share01 = 0.02
    """Share of its quality, as the mean over models, by which a graph in int8 may fall below the
    merged models in float."""


class MlflowConfig(Section):
    """Where runs are logged."""

    experiment: Annotated[str, Field(min_length=1, max_length=500)] = "merge-search"
    """Name of the experiment."""
    tracking_uri: str | None = None
    """Address of the tracking server; by default an SQLite file under out/. The environment
    variable MLFLOW_TRACKING_URI overrides it."""

    @field_validator("experiment")
    @classmethod
    def _check_experiment(cls, value: str) -> str:
        if not value.strip() or not value.isprintable():
            raise ValueError("must have visible characters only, and spaces between them")
        return value


class PromotionConfig(Section):
    """When a challenger may replace the champion."""

    by: Literal["truth", "fidelity", "either"] = "truth"
    """Quality to compare: on ground truth, fidelity, or `either`: ground truth if both plans were
    measured on it, else fidelity."""
    measured_on: Literal["same", "any"] = "same"
    """Whether both plans must have been measured on the same labels (frames, for fidelity)."""
    slack: Share01 = 0.0
    """Quality that the challenger may lose beyond its own 95% interval."""
