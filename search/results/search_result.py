"""The outcome of a run: the schema of result.json (docs/reference/result.md)."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

from search.evaluation.confidence import ScoreIntervals
from search.evaluation.per_frame import Scores, main_score_name, mean_of_available
from search.results.alternative import AlternativeRecord
from search.results.measured import DeviceMeasurement
from search.results.precisions import StoredBytes, describe_stored
from search.results.refinement import RefinementRecord
from search.study.objectives import MEGA, cost_units
from search.study.pareto import front_indices
from search.study.problem import Cost
from search.utils.records import IsoTime
from spaces.plan import Precision, SharePlan
from spaces.tasks.task import TaskName

RESULT_SCHEMA = 4
UNMERGED = "unmerged"
MAPS_REFINED = "linear maps refined on unlabelled frames"
BUNDLE_FOLDER = "bundle"
"""Below OUT: the bundle of the chosen plan."""
Significance = Literal["better", "worse", "no difference"]
"""Of merged against unmerged."""
RankAgreement = dict[str, float | None]
"""Rank correlations between verification stages; None where they are undefined."""
_PACKAGES = ("merge-search", "torch", "torchvision", "timm", "effdet", "optuna", "mlflow", "numpy")


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the numbers depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


@dataclass(frozen=True)
class PlanRecord:
    """A plan of the front."""

    hash: str
    plan: dict[str, Any]
    bytes: int
    macs: int
    """Multiply-accumulates per frame."""
    saved_pct: float
    """Per cent of the unmerged bytes."""
    proxy: float
    """Quality that the proxy predicts."""
    costs: dict[str, float]
    """The minimised objectives by name, in the units of `cost_units`."""
    stored: StoredBytes = field(default_factory=dict, kw_only=True)
    """How `bytes` are stored; empty for a plan without precisions."""
    macs_per_second: float | None = field(default=None, kw_only=True)
    """MACs per second of camera time; None if the models have no rates."""

    @property
    def cost_units(self) -> Mapping[Cost, str]:
        """The unit of each cost."""
        return cost_units(has_rates=self.macs_per_second is not None)

    @property
    def costs_besides_bytes(self) -> dict[Cost, float]:
        """The other costs that the search minimised; with rates, the MACs in any case."""
        rated = {} if self.macs_per_second is None else {"macs": self.macs_per_second / MEGA}
        costs = self.costs | rated
        return {name: costs[name] for name in self.cost_units if name in costs and name != "bytes"}

    @property
    def refinement_text(self) -> str:
        """That the maps are refined, in words; empty if they are not."""
        return MAPS_REFINED if self.plan.get("refined") else ""

    @property
    def precision_text(self) -> str:
        """The precisions of the weights in words; empty for a plan without precisions."""
        return describe_stored(SharePlan.from_dict(self.plan), self.stored)


@dataclass(frozen=True)
class CandidateRecord(PlanRecord):
    """A verified plan. Numbers that were not measured are None or missing."""

    fidelity: dict[str, float | None]
    """By model; None if the unmerged model is confident of no answer."""
    accuracy: dict[str, Scores]
    """By model with ground truth."""
    kept: dict[str, float]
    """Quality kept by model: merged / unmerged accuracy, or fidelity."""
    quality_kept: float | None
    """Mean of `kept`, if any accuracy was measured."""
    intervals: ScoreIntervals
    """[low, high] of each number in `accuracy`, over the frames."""
    differences: ScoreIntervals
    """[merged - unmerged, low, high] of each number in `accuracy`, on the same frames."""
    quality_interval: list[float] | None
    """[low, high] of `quality_kept`."""

    @property
    def mean_fidelity(self) -> float | None:
        return mean_of_available(self.fidelity)

    @property
    def significance_by_model(self) -> dict[str, Significance]:
        """Whether the main score differs from the unmerged one, by model with ground truth."""
        return {name: significance(d[main_score_name(d)]) for name, d in self.differences.items()}


@dataclass(frozen=True)
class ModelRecord:
    """A model of the deployment."""

    arch: str
    task: TaskName
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
    """Bytes of the smallest plan that the search knows."""
    frames: dict[str, Any]
    """`hash` and `count` of the unlabelled frames."""
    models: dict[str, ModelRecord]
    study: dict[str, Any]
    baseline: dict[str, Scores]
    """Scores of the unmerged models."""
    baseline_intervals: ScoreIntervals
    """[low, high] of each number in `baseline`, over the frames."""
    front: list[PlanRecord]
    candidates: list[CandidateRecord]
    verified_front: list[str]
    """Hashes of the candidates that no other candidate dominates in bytes and quality kept."""
    chosen: str | None
    """Hash of the chosen plan."""
    rank_agreement: RankAgreement
    config: dict[str, Any]
    base: str
    """The folder of the config, to which its paths are relative; relative to OUT."""
    seconds: dict[str, float]
    """By step of the run."""
    created: IsoTime
    truth: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By model with ground truth, `hash` and `count` of its labelled frames; `at_chance` is a
    warning if its unmerged score is no better than chance."""
    latency_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds per frame on the machine of the search, by candidate hash and `unmerged`."""
    refinements: list[RefinementRecord] = field(default_factory=list)
    """What refining the maps of each candidate gained; empty if none were refined."""
    alternatives: list[AlternativeRecord] = field(default_factory=list)
    """What the unmerged models keep with all weights in a lower precision."""
    rates: dict[str, float] = field(default_factory=dict)
    """Frames a second that each model answers for; empty if the config gives none."""
    unmerged_macs_per_second: float | None = None
    """MACs per second of camera time of the unmerged models; None without rates."""
    measured: list[DeviceMeasurement] = field(default_factory=list)
    """Plans on devices, added by `merge-search verify --measured`."""
    bundle: str | None = None
    """`spaces.bundle_files.bundle_id` of OUT/bundle; None if no bundle was written."""
    versions: dict[str, str] = field(default_factory=package_versions)
    schema: int = RESULT_SCHEMA

    @property
    def chosen_candidate(self) -> CandidateRecord | None:
        return next((c for c in self.candidates if c.hash == self.chosen), None)

    @property
    def dtype(self) -> Precision:
        """The precision of all weights that a plan does not store otherwise."""
        dtype: Precision = self.config["dtype"]
        return dtype

    @property
    def rates_text(self) -> str:
        """The rates of the models in words; empty if the config gives none."""
        return ", ".join(f"{name} {rate:g}" for name, rate in self.rates.items())

    @property
    def has_precisions(self) -> bool:
        """Whether a plan stores weights in another precision than `dtype`."""
        return any(record.stored for record in (*self.candidates, *self.front))

    @property
    def at_chance(self) -> dict[str, str]:
        """A warning for each model whose unmerged score is no better than chance."""
        return {
            name: record["at_chance"]
            for name, record in self.truth.items()
            if "at_chance" in record
        }

    @property
    def has_baseline(self) -> bool:
        """Whether the quality kept means something: there are labels, and no unmerged score is at
        chance."""
        return bool(self.baseline) and not self.at_chance

    @property
    def highest_worst_quality(self) -> float | None:
        """The quality kept of the worst model, in the candidate where it is highest."""
        return max((min(c.kept.values()) for c in self.candidates if c.kept), default=None)


@dataclass(frozen=True)
class VerifiedCandidates:
    """Ground-truth scores of the unmerged models, and the candidates with theirs."""

    baseline: dict[str, Scores]
    """Unmerged scores, by model with ground truth."""
    intervals: ScoreIntervals
    """[low, high] of each number in `baseline`."""
    candidates: list[CandidateRecord]
    at_chance: dict[str, str] = field(default_factory=dict)
    """A warning for each model whose unmerged score is no better than chance."""
    measured: Sequence[DeviceMeasurement] = ()
    """The candidates on devices."""

    @classmethod
    def of(cls, result: Result) -> VerifiedCandidates:
        """Return those of a finished run."""
        return cls(
            result.baseline,
            result.baseline_intervals,
            result.candidates,
            result.at_chance,
            result.measured,
        )


def significance(difference: Sequence[float]) -> Significance:
    """Return the significance of [difference, low, high]: the interval must exclude 0."""
    _, low, high = difference
    return "better" if low > 0 else "worse" if high < 0 else "no difference"


def verified_front(candidates: list[CandidateRecord]) -> list[str]:
    """Return the hashes of the non-dominated plans in measured bytes and quality, by bytes.

    The list is empty if no quality was measured.
    """
    pairs = [(c, c.quality_kept) for c in candidates if c.quality_kept is not None]
    points = [(candidate.bytes, quality) for candidate, quality in pairs]
    return [pairs[i][0].hash for i in front_indices(points)]


def choose_candidate(
    candidates: list[CandidateRecord], floor: float | None
) -> CandidateRecord | None:
    """Return the best candidate, or None if there is none.

    Without a floor: the highest quality kept (fidelity if there are no labels); of equals the
    smallest. With a floor: the smallest candidate in which every model keeps at least the floor.
    """
    if floor is not None:
        candidates = [c for c in candidates if c.kept and min(c.kept.values()) >= floor]
        return max(candidates, key=lambda c: (-c.bytes, _quality(c)), default=None)
    return max(candidates, key=lambda c: (_quality(c), -c.bytes), default=None)


def _quality(candidate: CandidateRecord) -> tuple[float, float]:
    """Return measured quality, then fidelity; a missing number is below all others."""
    quality, fidelity = candidate.quality_kept, candidate.mean_fidelity
    return (-1.0 if quality is None else quality, -1.0 if fidelity is None else fidelity)
