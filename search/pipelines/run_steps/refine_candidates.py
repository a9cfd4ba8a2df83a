"""Between fidelity and ground truth: refine the maps of the candidates, and keep what gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from search.data.frames import FrameSet
from search.evaluation.closeness import closeness_by_frame, paired_gain
from search.evaluation.evaluate import EvaluationSetup
from search.refinement.refined_maps import maps_of, refinement_steps
from search.results.refinement import RefinementRecord, describe_refinement
from search.statistics.observed import Observed
from search.utils.progress import Progress
from search.utils.reporter import Reporter
from spaces.plan import SharePlan


def refine_candidates(
    observed: Observed, setup: EvaluationSetup, plans: Sequence[SharePlan], reporter: Reporter
) -> tuple[EvaluationSetup, list[RefinementRecord]]:
    """Refine the maps of plans, and measure what that gains on held-out frames.

    Return the setup with the refined maps too, and a record for each plan that has a map.
    """
    refined = [replace(plan, refined=True) for plan in plans if plan.mapped_shares]
    if not refined:
        return setup, []
    reporter.step(f"Refining the linear maps of {len(refined)} candidates on unlabelled frames")
    with reporter.progress("views", refinement_steps(observed, refined)) as progress:
        setup = replace(setup, maps={**setup.maps, **maps_of(observed, refined, progress)})
    with reporter.progress("frames", len(observed.held_out)) as progress:
        records = measure_gains(setup, refined, observed.held_out, progress)
    for record in records:
        reporter.say(f"  {describe_refinement(record)}")
    return setup, records


def measure_gains(
    setup: EvaluationSetup, refined: Sequence[SharePlan], frames: FrameSet, progress: Progress
) -> list[RefinementRecord]:
    """Measure refined plans beside the same plans in closed form."""
    both = [variant for plan in refined for variant in (plan.in_closed_form(), plan)]
    closeness = closeness_by_frame(setup, both, frames, progress)
    return [
        RefinementRecord(
            plan=plan.in_closed_form().hash,
            refined=plan.hash,
            closed_form=float(before.mean()),
            closeness=float(after.mean()),
            gain=paired_gain(before, after, frames.hash),
        )
        for plan, before, after in zip(refined, closeness[::2], closeness[1::2], strict=True)
    ]
