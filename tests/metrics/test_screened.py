"""Fidelity in full for the shares that a front may use, and on a few frames for the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from contracts import SimilarityContract
from tiny import CLASSIFIER, Weights, load_tiny, observe, shares_in

from search.data.frames import FrameSet, Subset
from search.execution.jobs import FrameJob, LocalEngine, ResultT
from search.metrics.fidelity import AgreementJob, fidelity_alone
from search.metrics.registry import METRICS
from search.metrics.screened import DISCOUNT, DONORS_TRIED, OPTIMISM
from search.statistics.observed import FramePart, Observed
from search.study.exact.branch_and_bound import exact_front
from search.study.local_front.pareto_search import local_front
from search.study.objectives import PlanEvaluator
from search.study.pareto import hypervolume
from search.study.problem import Problem
from search.utils.progress import Progress
from spaces.plan import Share, SharePlan

SCREENED = METRICS["screened"]
FRAMES = 60
"""Forty of them are held out."""


@dataclass
class CountingEngine:
    """Does jobs here, and counts the frames that each share is measured on."""

    local: LocalEngine
    share_frames: list[int] = field(default_factory=list)

    def run(
        self, job: FrameJob[ResultT], frames: FrameSet, progress: Progress
    ) -> Iterator[ResultT]:
        if isinstance(job, AgreementJob):
            self.share_frames.append(len(job.shares) * len(frames))
        return self.local.run(job, frames, progress)


@dataclass(frozen=True)
class Measured:
    """The values of the shares of some classifiers, screened and in full."""

    observed: Observed
    screened: dict[Share, float]
    in_full: dict[Share, float]
    share_frames: tuple[int, int]
    """Frames, summed over the shares, that either was measured on."""


@pytest.fixture(scope="module", params=[2, 3])
def measured(request: pytest.FixtureRequest, weights: Weights) -> Measured:
    archs = {name: (CLASSIFIER, seed) for name, seed in (("a", 1), ("b", 2), ("c", 4))}
    seen = observe(load_tiny(weights, dict([*archs.items()][: request.param])), FRAMES)
    held_out = Subset(seen.frames, tuple(k for k in range(FRAMES) if k % 3))
    engines = [CountingEngine(LocalEngine(seen.deployment)) for _ in range(2)]
    one, other = (replace(seen, held_out=held_out, cluster=engine) for engine in engines)
    shares = shares_in(seen)
    return Measured(
        replace(seen, held_out=held_out),
        SCREENED.similarities(one, shares),
        fidelity_alone(other, shares),
        (sum(engines[0].share_frames), sum(engines[1].share_frames)),
    )


class TestScreened(SimilarityContract):
    metric = SCREENED

    def test_a_similarity_does_not_depend_on_the_other_shares(self, pair: Observed) -> None:
        """It does: a share that is alone is on the front, and measured in full."""
        for share in shares_in(pair)[::37]:
            single = SCREENED.similarities(pair, [share])
            assert single == pytest.approx(fidelity_alone(pair, [share]))


def problem_of(observed: Observed, values: dict[Share, float]) -> Problem:
    kept = {share: value for share, value in values.items() if value > 0.05}
    return Problem(observed.deployment.facts, kept)


def front_of(observed: Observed, values: dict[Share, float]) -> list[SharePlan]:
    """Return the front as the metric computes it."""
    return local_front(problem_of(observed, values), ())


def true_front_of(observed: Observed, values: dict[Share, float]) -> list[SharePlan]:
    return [plan.plan for plan in exact_front(problem_of(observed, values)).front]


def volume(observed: Observed, plans: list[SharePlan], values: dict[Share, float]) -> float:
    """Return the hypervolume of plans by these values."""
    evaluator = PlanEvaluator(problem_of(observed, values))
    valued = [evaluator.predict(plan) for plan in plans]
    unmerged = evaluator.costs.unmerged_bytes
    return hypervolume([(v.bytes / unmerged, v.proxy) for v in valued], (1.0, 0.0))


def test_every_share_of_the_front_is_measured_in_full(measured: Measured) -> None:
    used = {s for plan in front_of(measured.observed, measured.screened) for s in plan.shares}
    assert used
    for share in used:
        assert measured.screened[share] == pytest.approx(measured.in_full[share], abs=1e-6)


def test_no_front_uses_another_share_even_if_it_is_better_than_estimated(
    measured: Measured,
) -> None:
    values, in_full = measured.screened, measured.in_full
    estimated = {s for s in values if values[s] != pytest.approx(in_full[s], abs=1e-6)}
    raised = {
        s: min(1.0, value + min(OPTIMISM.values())) * DISCOUNT if s in estimated else value
        for s, value in values.items()
    }
    used = {share for plan in front_of(measured.observed, raised) for share in plan.shares}
    assert estimated and not used & estimated


def test_the_front_is_close_to_that_of_all_fidelities(measured: Measured) -> None:
    found, best = (
        volume(measured.observed, true_front_of(measured.observed, values), measured.in_full)
        for values in (measured.screened, measured.in_full)
    )
    assert found >= 0.97 * best


def test_fewer_frames_are_computed_than_for_all_fidelities(measured: Measured) -> None:
    screened, in_full = measured.share_frames
    assert screened < in_full


def test_with_few_frames_none_is_estimated_but_shares_that_explain_least(pair: Observed) -> None:
    indices = pair.held_out.indices[: min(OPTIMISM)]
    few = replace(pair, held_out=Subset(pair.held_out.frames, indices))
    shares = shares_in(few)
    screened, in_full = SCREENED.similarities(few, shares), fidelity_alone(few, shares)
    for recipient in {share.recipient for share in shares}:
        donors = [share for share in shares if share.recipient == recipient]
        donors.sort(key=lambda share: -pair.statistics.explained(share))
        for share in donors[:DONORS_TRIED]:
            assert screened[share] == pytest.approx(in_full[share], abs=1e-5)


def test_values_are_cached_and_damaged_files_are_measured_again(
    pair: Observed, tmp_path: Path
) -> None:
    part = FramePart(pair.held_out, lambda: pair.statistics, tmp_path / "part")
    cached, shares = replace(pair, parts=(part,)), shares_in(pair)
    first = SCREENED.similarities(cached, shares)
    (path,) = (tmp_path / "part").iterdir()
    engine = CountingEngine(LocalEngine(pair.deployment))
    assert SCREENED.similarities(replace(cached, cluster=engine), shares) == first
    assert engine.share_frames == []
    path.write_text("{")
    assert SCREENED.similarities(replace(cached, cluster=engine), shares) == first
    assert engine.share_frames and path.read_text() != "{"
