"""The config sections `statistics`, `search`, `verify`, `mlflow` and `promotion`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    field_validator,
)

from search.config.base import Positive, Section, Share01
from search.metrics.registry import METRICS
from search.statistics.streaming import SMALLEST_BATCH
from search.study.problem import Cost, SamplerName
from spaces.errors import BadPlan
from spaces.plan import AdapterSpec


class StatisticsConfig(Section):
    """The streaming pass: frames per batch, positions sampled per frame and grid."""

    batch: Annotated[int, Field(ge=SMALLEST_BATCH)] = 32
    positions: Positive = 16


class SearchConfig(Section):
    """The study: how many trials, which sampler, what it makes small, which metric guides, which
    adapters."""

    trials: Positive = 1000
    sampler: SamplerName = "local"
    objectives: list[Cost] = Field(default=["bytes"], min_length=1)
    """What is made small, while quality is made great."""
    metric: str = "fidelity"
    adapters: list[str] = Field(default=["linear"], min_length=1)
    floor: Annotated[float, Field(allow_inf_nan=False)] = 0.05
    """Shares worth no more than this are not explored."""

    @field_validator("objectives")
    @classmethod
    def _each_once(cls, values: list[Cost]) -> list[Cost]:
        if len(set(values)) < len(values):
            raise ValueError("name each objective once")
        return values

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        if value not in METRICS:
            raise ValueError(f"must be one of {', '.join(METRICS)}")
        return value

    @field_validator("adapters")
    @classmethod
    def _known_adapters(cls, values: list[str]) -> list[str]:
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
    """The ladder: how many plans climb to fidelity, and how many of those to ground truth."""

    shortlist: Positive = 20
    candidates: Positive = 5
    fidelity_frames: Positive = 64
    batch: Positive = 16


class MlflowConfig(Section):
    """Where runs are logged; MLFLOW_TRACKING_URI goes before `tracking_uri`."""

    experiment: Annotated[str, Field(min_length=1)] = "merge-search"
    tracking_uri: str | None = None


class PromotionConfig(Section):
    """When a challenger may take the champion's place; see `search.promotion`."""

    by: Literal["truth", "fidelity", "either"] = "truth"
    """What it is measured by; `either`: by truth where both were, else by fidelity."""
    measured_on: Literal["same", "any"] = "same"
    """Whether both must have been measured on the same labels, or frames."""
    slack: Share01 = 0.0
    """Quality that it may lose beyond its own interval."""
