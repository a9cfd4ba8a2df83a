"""What a run found, as plain data: the schema of result.json (docs/reference/result.md)."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

from search.evaluation.confidence import Intervals
from search.evaluation.per_frame import Scores, main_name, mean_known
from search.study.pareto import front_indices
from search.utils.records import IsoTime

SCHEMA_VERSION = 4
UNMERGED = "unmerged"
BUNDLE_FOLDER = "bundle"
"""Below OUT: the chosen plan as a bundle."""
Significance = Literal["better", "worse", "no difference"]
Rungs = dict[str, float | None]
"""Rank correlations between the rungs of the ladder; None where they are not defined."""
_PACKAGES = ("merge-search", "torch", "torchvision", "timm", "effdet", "optuna", "mlflow", "numpy")


@dataclass(frozen=True)
class PlanRecord:
    """One plan of the front."""

    hash: str
    plan: dict[str, Any]
    bytes: int
    macs: int
    saved_pct: float
    proxy: float
    costs: dict[str, float]
    """What the search made small, by name, in `search.valuation.UNITS`."""


@dataclass(frozen=True)
class CandidateRecord(PlanRecord):
    """A plan that was verified. What was not measured is None or missing."""

    fidelity: dict[str, float | None]
    """Per model; None where the original is confident of nothing."""
    accuracy: dict[str, Scores]
    kept: dict[str, float]
    """Per model merged / unmerged accuracy, or its fidelity."""
    quality_kept: float | None
    """The mean of `kept`, if any accuracy was measured."""
    intervals: Intervals
    """[low, high] of each number in `accuracy`, over the frames."""
    differences: Intervals
    """[merged - unmerged, low, high] of each, on the same frames."""
    quality_interval: list[float] | None
    """[low, high] of `quality_kept`."""

    @property
    def mean_fidelity(self) -> float | None:
        return mean_known(self.fidelity)

    @property
    def verdicts(self) -> dict[str, Significance]:
        """Per model with ground truth, whether its main score differs from the unmerged one's."""
        return {name: verdict(d[main_name(d)]) for name, d in self.differences.items()}


@dataclass(frozen=True)
class ModelRecord:
    """One model of the deployment."""

    arch: str
    task: str
    stages: list[dict[str, Any]]
    head_bytes: int
    head_macs: int


@dataclass(frozen=True)
class Result:
    """The result of a run: the content of OUT/result.json.

    Examples:
        >>> from search import run
        >>> result = run(load_config("config.yaml", ["budget=80%", "search.trials=20"]))
        >>> [c.hash for c in result.candidates if c.hash == result.chosen] == [result.chosen]
        True
    """

    name: str
    seed: int
    metric: str
    budget_bytes: int | None
    quality_floor: float | None
    unmerged_bytes: int
    unmerged_macs: int
    smallest_bytes: int
    frames: dict[str, Any]
    models: dict[str, ModelRecord]
    study: dict[str, Any]
    baseline: dict[str, Scores]
    baseline_intervals: Intervals
    """[low, high] of each number in `baseline`, over the frames."""
    front: list[PlanRecord]
    candidates: list[CandidateRecord]
    verified_front: list[str]
    """Hashes of the candidates that no other beats in both bytes and quality kept."""
    chosen: str | None
    rungs: Rungs
    config: dict[str, Any]
    base: str
    """The folder of the config, from which its paths start, relative to OUT."""
    seconds: dict[str, float]
    created: IsoTime
    truth: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Per model with ground truth, `hash` and `count` of its labelled frames."""
    latency_ms: dict[str, float] = field(default_factory=dict)
    """Per frame on the machine that searched: by hash of each candidate, and `unmerged`."""
    bundle: str | None = None
    """What `spaces.bundle.bundle_id` says of OUT/bundle, the chosen plan's; None if there is
    none."""
    versions: dict[str, str] = field(default_factory=lambda: versions())
    schema: int = SCHEMA_VERSION

    @property
    def chosen_candidate(self) -> CandidateRecord | None:
        return next((c for c in self.candidates if c.hash == self.chosen), None)

    @property
    def nearest_worst(self) -> float | None:
        """What the candidate that comes nearest to a floor keeps on its worst model."""
        return max((min(c.kept.values()) for c in self.candidates if c.kept), default=None)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def verdict(difference: Sequence[float]) -> Significance:
    """Of [difference, low, high]: only an interval without 0 in it says that there is one."""
    _, low, high = difference
    return "better" if low > 0 else "worse" if high < 0 else "no difference"


def verified_front(candidates: list[CandidateRecord]) -> list[str]:
    """The non-dominated plans on measured numbers, by rising bytes; none if none was measured."""
    measured = [(c, c.quality_kept) for c in candidates if c.quality_kept is not None]
    return [measured[i][0].hash for i in front_indices([(c.bytes, kept) for c, kept in measured])]


def choose(candidates: list[CandidateRecord], floor: float | None) -> CandidateRecord | None:
    """The candidate that keeps most quality (fidelity without labels), of equals the smallest;
    or, with a floor, the smallest of which every model keeps it. None if there is none."""
    if floor is not None:
        candidates = [c for c in candidates if c.kept and min(c.kept.values()) >= floor]
        return max(candidates, key=lambda c: (-c.bytes, _quality(c)), default=None)
    return max(candidates, key=lambda c: (_quality(c), -c.bytes), default=None)


def _quality(candidate: CandidateRecord) -> tuple[float, float]:
    """Measured quality, then fidelity; what is not known counts as below all."""
    quality, fidelity = candidate.quality_kept, candidate.mean_fidelity
    return (-1.0 if quality is None else quality, -1.0 if fidelity is None else fidelity)


@dataclass(frozen=True)
class Verified:
    """What ground truth says of the unmerged models and of the candidates."""

    baseline: dict[str, Scores]
    """Per model with ground truth, the unmerged scores."""
    intervals: Intervals
    """[low, high] of each."""
    candidates: list[CandidateRecord]
