"""The second step of a run: measure the predicted front.

Each verification stage passes fewer plans on to the next: the proxy predicts every plan of the
study, fidelity is measured for a shortlist of the front, ground truth for the candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from search.data.frames import FrameSet
from search.evaluation.evaluate import EvaluationSetup, compute_fidelity
from search.evaluation.latency import Latency
from search.evaluation.per_frame import mean_of_available
from search.pipelines.candidates import verify_plans
from search.pipelines.run_steps.alternatives import alternatives_of, plans_without_merging
from search.pipelines.run_steps.build_result import plan_record
from search.pipelines.run_steps.records import FrontSearch, FrontVerification, RunInputs
from search.pipelines.run_steps.refine_candidates import refine_candidates
from search.report.rejected import ShortlistedPlan
from search.results.rank_agreement import rank_agreement, shortlist_rank_agreement
from search.results.refinement import RefinementRecord
from search.results.search_result import UNMERGED, CandidateRecord, PlanRecord
from search.statistics.observed import Observed
from search.study.objectives import EvaluatedPlan
from search.study.pareto import evenly_spaced
from search.utils.progress import silent
from search.utils.reporter import Reporter
from spaces.plan import SharePlan

FidelityByModel = dict[str, float | None]


class MeasuredPlan(NamedTuple):
    """A plan with its fidelity by model."""

    evaluated: EvaluatedPlan
    fidelity: FidelityByModel


def verify_front(
    inputs: RunInputs, front_search: FrontSearch, reporter: Reporter
) -> FrontVerification:
    """Measure the fidelity of a shortlist, and ground truth and latency of its best plans.

    Also compute how well each verification stage predicted the order of plans in the next.
    """
    settings, observed = inputs.config.verify, front_search.observed
    always = _always_verified(front_search)
    shortlist = _with_front(always, front_search.explored.shortlist(settings.shortlist))
    others = plans_without_merging(inputs.deployment)
    setup, fidelities, other_fidelities = measure_shortlist(
        inputs, observed, [e.plan for e in shortlist], others, reporter
    )
    best = select_candidates(
        fidelities, shortlist, settings.candidates, inputs.config.quality_floor
    )
    best = [*range(len(always)), *(k for k in best if k >= len(always))]
    candidates = [MeasuredPlan(shortlist[k], fidelities[k]) for k in best]
    refinements: list[RefinementRecord] = []
    if settings.refine:
        plans = [c.evaluated.plan for c in candidates]
        setup, refinements = refine_candidates(observed, setup, plans, reporter)
        candidates += measure_kept(setup, candidates, refinements, observed.held_out)
    measured = verify_plans(
        setup,
        [*(plan_record(c.evaluated, front_search.evaluator) for c in candidates), *others],
        [*(c.fidelity for c in candidates), *other_fidelities],
        inputs.truth,
        reporter,
    )
    verified = replace(measured, candidates=measured.candidates[: len(candidates)])
    with reporter.working("latency"):
        latency_ms = measure_latency(verified.candidates, front_search.latency)
    proxies = [evaluated.proxy for evaluated in shortlist]
    return FrontVerification(
        verified=verified,
        rank_agreement=rank_agreement(verified.candidates)
        | shortlist_rank_agreement(proxies, fidelities),
        shortlist=tuple(
            ShortlistedPlan(e.plan.hash, e.bytes, e.proxy, mean_of_available(by_model))
            for e, by_model in zip(shortlist, fidelities, strict=True)
        ),
        latency_ms=latency_ms,
        refinements=refinements,
        alternatives=alternatives_of(measured.candidates[len(candidates) :]),
    )


def measure_shortlist(
    inputs: RunInputs,
    observed: Observed,
    shortlist: Sequence[SharePlan],
    others: Sequence[PlanRecord],
    reporter: Reporter,
) -> tuple[EvaluationSetup, list[FidelityByModel], list[FidelityByModel]]:
    """Return the setup that plans are measured with, and the fidelities of both groups of plans.

    All run in one pass, which computes what they have in common once.
    """
    deployment, held_out = inputs.deployment, observed.held_out
    with reporter.working("linear maps"):
        maps = observed.maps_for(shortlist)
    setup = EvaluationSetup(
        deployment.deployed_models,
        deployment.facts,
        maps,
        inputs.config.verify.batch,
        observed.cluster,
    )
    plans = [*shortlist, *(SharePlan.from_dict(record.plan) for record in others)]
    count = len(shortlist)
    reporter.step(f"Fidelity of the {count} most promising plans on {len(held_out)} frames")
    with reporter.progress("frames", len(held_out)) as progress:
        fidelities = compute_fidelity(setup, plans, held_out, progress)
    return setup, fidelities[:count], fidelities[count:]


def measure_kept(
    setup: EvaluationSetup,
    candidates: Sequence[MeasuredPlan],
    refinements: Sequence[RefinementRecord],
    frames: FrameSet,
) -> list[MeasuredPlan]:
    """Return the refined plans that are kept, with their fidelity on frames."""
    kept = {record.plan for record in refinements if record.is_kept}
    refined = [
        replace(c.evaluated, plan=replace(c.evaluated.plan, refined=True))
        for c in candidates
        if c.evaluated.plan.hash in kept
    ]
    if not refined:
        return []
    fidelities = compute_fidelity(setup, [e.plan for e in refined], frames, silent)
    return [MeasuredPlan(*both) for both in zip(refined, fidelities, strict=True)]


def _with_front(
    always: Sequence[EvaluatedPlan], front: Sequence[EvaluatedPlan]
) -> list[EvaluatedPlan]:
    """Return the plans that are always verified, then the others of the front."""
    known = [evaluated.plan for evaluated in always]
    return [*always, *(evaluated for evaluated in front if evaluated.plan not in known)]


def _always_verified(front_search: FrontSearch) -> list[EvaluatedPlan]:
    """Return the champion and the smallest plan that shares nothing, as far as there are any.

    So no result is below what storing the weights in fewer bytes gives, where the limits allow it.
    """
    champion = [front_search.champion] if front_search.champion else []
    unshared = [
        evaluated
        for evaluated in front_search.explored.feasible
        if evaluated.plan.precisions and not evaluated.plan.shares
    ]
    smallest = sorted(unshared, key=lambda evaluated: evaluated.bytes)[:1]
    return [*champion, *(e for e in smallest if e not in champion)]


def select_candidates(
    fidelities: Sequence[Mapping[str, float | None]],
    shortlist: Sequence[EvaluatedPlan],
    most: int,
    quality_floor: float | None,
) -> list[int]:
    """Return the indices of the plans to verify on ground truth, in rising order.

    Without a floor these are the plans with the best mean fidelity, and of equals the smallest.
    With a floor they are the smallest plans with which every model's fidelity reaches it, then the
    plans that miss it by least. If no fidelity is defined, they are spread evenly.
    """
    means = [mean_of_available(by_model) for by_model in fidelities]
    defined = [k for k, mean in enumerate(means) if mean is not None]
    if not defined:
        return evenly_spaced(len(fidelities), most)

    def sort_key(k: int) -> tuple[float, float]:
        if quality_floor is None:
            return (-(means[k] or 0.0), shortlist[k].bytes)
        worst = min(value for value in fidelities[k].values() if value is not None)
        return (max(0.0, quality_floor - worst), shortlist[k].bytes)

    return sorted(sorted(defined, key=sort_key)[:most])


def measure_latency(candidates: Sequence[CandidateRecord], latency: Latency) -> dict[str, float]:
    """Return milliseconds per frame of the unmerged models and of each candidate."""
    plans = {c.hash: SharePlan.from_dict(c.plan).in_closed_form() for c in candidates}
    return {
        name: round(latency.milliseconds(plan), 3)
        for name, plan in {UNMERGED: SharePlan(), **plans}.items()
    }
