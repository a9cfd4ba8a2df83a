"""`merge-search verify`: plans of a finished run, measured on data that its search did not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from search.data.frames import FrameSet, summarise_frames
from search.data.ground_truth import Truth, summarise_truth
from search.evaluation.evaluate import EvaluationSetup, fidelity
from search.pipelines.candidates import verify_plans
from search.pipelines.finished_run import Finished, NoSuchPlan
from search.pipelines.prepare import load_deployment, observe, open_truth
from search.pipelines.verify_inputs import FreshData
from search.report.candidate_table import print_candidates
from search.results.documents import DOCUMENTS, PLACES, identity
from search.results.search_result import PlanRecord, Verified, verified_front
from search.results.verification import Verification
from search.tracking.outbox import record_or_keep
from search.tracking.target import Target
from search.utils.records import write_record
from search.utils.reporter import Reporter
from search.utils.timing import StepTimings, this_moment
from spaces.plan import SharePlan


def verify_again(
    out: Path, starts: Sequence[str], data: FreshData, reporter: Reporter
) -> Verification:
    """Measure plans of the run in OUT, write OUT/verify/verified.json, and log it.

    `starts` are the beginnings of the plans' hashes; if there are none, the plans that the run
    has verified.

    Raises:
        NotLogged: MLflow did not take it; everything else is done and kept.
        MergeSearchError: anything else the user can put right.
    """
    finished = Finished.at(out)
    config = data.asked_of(finished)
    plans = _plans(finished, starts)
    clock = StepTimings()
    with clock.timing("models"):
        deployment = load_deployment(config, reporter)
        with reporter.working("frames"):
            frames = finished.frames()
        truth = open_truth(config, deployment, frames, reporter)
        given = data.unlabelled(frames, truth)
    with clock.timing("statistics"):
        observed = observe(config, deployment, frames, reporter)
        unlabelled = observed.unseen if given is None else given
        with reporter.working("linear maps"):
            maps = observed.maps_for([SharePlan.from_dict(record.plan) for record in plans])
    with clock.timing("verification"):
        bench = EvaluationSetup(deployment.served, deployment.facts, maps, config.verify.batch)
        verified = measure(bench, plans, unlabelled, truth, reporter)
    verification = Verification(
        name=config.name,
        seed=config.seed,
        result=identity(finished.document.read_bytes()),
        frames=summarise_frames(unlabelled),
        truth={name: summarise_truth(known) for name, known in truth.items()},
        unmerged_bytes=finished.result.unmerged_bytes,
        baseline=verified.baseline,
        baseline_intervals=verified.intervals,
        candidates=verified.candidates,
        verified_front=verified_front(verified.candidates),
        chosen=next((r.hash for r in plans if r.hash == finished.result.chosen), None),
        config=config.as_written(),
        seconds=clock.seconds,
        created=this_moment(),
    )
    write_record(out / PLACES[Verification] / DOCUMENTS[Verification], verification)
    title = "Verified" if truth else "Fidelity"
    print_candidates(verified, verification.unmerged_bytes, verification.chosen, title, reporter)
    reporter.say(verification.against)
    reporter.step("Logging to MLflow")
    with reporter.working("MLflow"):
        logged = record_or_keep(verification, out, Target.of(config))
    reporter.say(f"  {logged}")
    return verification


def measure(
    bench: EvaluationSetup,
    plans: Sequence[PlanRecord],
    unlabelled: FrameSet,
    truth: Mapping[str, Truth],
    reporter: Reporter,
) -> Verified:
    """Fidelity of the plans on the unlabelled frames, and their scores on ground truth."""
    shares = [SharePlan.from_dict(record.plan) for record in plans]
    reporter.step(f"Fidelity of {len(plans)} plans on {len(unlabelled)} frames")
    with reporter.progress("frames", len(unlabelled)) as progress:
        faithful = fidelity(bench, shares, unlabelled, progress)
    return verify_plans(bench, plans, faithful, truth, reporter)


def _plans(finished: Finished, starts: Sequence[str]) -> list[PlanRecord]:
    if starts:
        return list({r.hash: r for r in map(finished.plan, starts)}.values())
    if not finished.result.candidates:
        raise NoSuchPlan(f"{finished.out}: the run has verified no plan; name one with --plan")
    return list(finished.result.candidates)
