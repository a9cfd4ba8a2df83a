"""`merge-search verify`: measure plans of a finished run on data that its search did not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from search.config.run import RunConfig
from search.data.frames import FrameSet, summarise_frames
from search.data.ground_truth import Truth
from search.evaluation.evaluate import EvaluationSetup, compute_fidelity
from search.execution.jobs import Engine
from search.pipelines.candidates import truth_records, verify_plans
from search.pipelines.deployment.load import load_deployment
from search.pipelines.finished_run import LoadedRun, NoSuchPlan
from search.pipelines.prepare import observe, open_truth, print_remarks
from search.pipelines.verify_inputs import VerificationInputs
from search.refinement.refined_maps import maps_of
from search.report.candidate_table import print_candidates
from search.results.documents import DOCUMENT_FOLDERS, DOCUMENT_NAMES, content_id
from search.results.search_result import PlanRecord, VerifiedCandidates, verified_front
from search.results.verification import Verification
from search.statistics.observed import Observed
from search.tracking.outbox import log_or_queue
from search.tracking.target import Target
from search.utils.records import write_record
from search.utils.reporter import Reporter
from search.utils.timing import StepTimings, utc_now
from spaces.deployment import Deployment
from spaces.plan import SharePlan


@dataclass(frozen=True)
class OpenedPlans:
    """Plans of a finished run with the models and the data that they are measured on."""

    config: RunConfig
    """The run's config with the labels that are used for its `truth`."""
    plans: Sequence[PlanRecord]
    deployment: Deployment
    frames: FrameSet
    """The frames of the search."""
    truth: Mapping[str, Truth]
    given_frames: FrameSet | None
    """The frames for fidelity; None: those that the search held out."""


@dataclass(frozen=True)
class PreparedPlans:
    """Plans of a finished run with all that measuring them takes."""

    config: RunConfig
    """The run's config with the labels that are used for its `truth`."""
    plans: Sequence[PlanRecord]
    truth: Mapping[str, Truth]
    fidelity_frames: FrameSet
    observed: Observed
    setup: EvaluationSetup

    @property
    def share_plans(self) -> list[SharePlan]:
        """The plans themselves."""
        return [SharePlan.from_dict(record.plan) for record in self.plans]

    def on(self, engine: Engine) -> PreparedPlans:
        """Return the plans with another engine that runs them on frames."""
        return replace(self, setup=replace(self.setup, cluster=engine))


@dataclass(frozen=True)
class PlanMeasurement:
    """Plans of a finished run with their measurements."""

    config: RunConfig
    """The run's config with the labels that were used for its `truth`."""
    plans: Sequence[PlanRecord]
    truth: Mapping[str, Truth]
    fidelity_frames: FrameSet
    verified: VerifiedCandidates


def verify(
    out: Path, hash_prefixes: Sequence[str], inputs: VerificationInputs, reporter: Reporter
) -> Verification:
    """Measure plans of the run in OUT, write OUT/verify/verified.json, and log to MLflow.

    `hash_prefixes` select the plans by the beginnings of their hashes; if it is empty, the plans
    that the run verified are measured.

    Raises:
        NotLogged: MLflow did not take the verification; everything else is done, and `sync` can
            log it.
        MergeSearchError: anything else that the user can correct.
    """
    finished = LoadedRun.from_folder(out)
    timings = StepTimings()
    opened = open_plans(finished, hash_prefixes, inputs, timings, reporter)
    prepared = prepare_plans(opened, timings, reporter)
    return report_plans(finished, prepared, timings, reporter)


def report_plans(
    finished: LoadedRun, prepared: PreparedPlans, timings: StepTimings, reporter: Reporter
) -> Verification:
    """Measure plans of the run, write OUT/verify/verified.json, and log to MLflow.

    Raises:
        NotLogged: as `verify`.
    """
    out = finished.out
    measurement = measure_plans(prepared, timings, reporter)
    verification = build_verification(finished, measurement, timings.seconds)
    write_record(out / DOCUMENT_FOLDERS[Verification] / DOCUMENT_NAMES[Verification], verification)
    title = "Verified" if measurement.truth else "Fidelity"
    print_candidates(
        measurement.verified, verification.unmerged_bytes, verification.chosen, title, reporter
    )
    reporter.say(verification.against)
    reporter.step("Logging to MLflow")
    with reporter.working("MLflow"):
        logged = log_or_queue(verification, out, Target.of(measurement.config))
    reporter.say(f"  {logged}")
    return verification


def open_plans(
    finished: LoadedRun,
    hash_prefixes: Sequence[str],
    inputs: VerificationInputs,
    timings: StepTimings,
    reporter: Reporter,
) -> OpenedPlans:
    """Load the models, and open the frames and the labels that plans are measured on."""
    config = inputs.config_for(finished)
    plans = select_plans(finished, hash_prefixes)
    with timings.timing("models"):
        deployment = load_deployment(config, reporter)
        with reporter.working("frames"):
            frames = finished.frames()
        truth = open_truth(config, deployment, frames, reporter)
        given_frames = inputs.fidelity_frames(
            frames, truth, config.frames.largest_unreadable_share
        )
        if inputs.frames is not None and given_frames is not None:
            print_remarks(given_frames, reporter)
    return OpenedPlans(config, plans, deployment, frames, truth, given_frames)


def prepare_plans(opened: OpenedPlans, timings: StepTimings, reporter: Reporter) -> PreparedPlans:
    """Fit the maps of the plans, as the search did."""
    config, deployment = opened.config, opened.deployment
    with timings.timing("statistics"):
        observed = observe(config, deployment, opened.frames, reporter)
        with reporter.working("linear maps"):
            plans = [SharePlan.from_dict(record.plan) for record in opened.plans]
            maps = maps_of(observed, plans)
    setup = EvaluationSetup(
        deployment.deployed_models,
        deployment.facts,
        maps,
        config.verify.batch,
        observed.cluster,
    )
    frames = observed.held_out if opened.given_frames is None else opened.given_frames
    return PreparedPlans(config, opened.plans, opened.truth, frames, observed, setup)


def measure_plans(
    prepared: PreparedPlans, timings: StepTimings, reporter: Reporter
) -> PlanMeasurement:
    """Measure fidelity and ground truth of plans of the run."""
    setup, frames = prepared.setup, prepared.fidelity_frames
    with timings.timing("verification"):
        fidelities = measure_fidelity(setup, prepared.share_plans, frames, reporter)
        verified = verify_plans(setup, prepared.plans, fidelities, prepared.truth, reporter)
    return PlanMeasurement(prepared.config, prepared.plans, prepared.truth, frames, verified)


def measure_fidelity(
    setup: EvaluationSetup, plans: Sequence[SharePlan], frames: FrameSet, reporter: Reporter
) -> list[dict[str, float | None]]:
    """Measure each plan's fidelity by model on unlabelled frames."""
    reporter.step(f"Fidelity of {len(plans)} plans on {len(frames)} frames")
    with reporter.progress("frames", len(frames)) as progress:
        return compute_fidelity(setup, plans, frames, progress)


def build_verification(
    finished: LoadedRun, measurement: PlanMeasurement, seconds: Mapping[str, float]
) -> Verification:
    """Return the verification as plain data: the content of verified.json."""
    config, result, verified = measurement.config, finished.result, measurement.verified
    hashes = {record.hash for record in measurement.plans}
    return Verification(
        name=config.name,
        seed=config.seed,
        result=content_id(finished.document.read_bytes()),
        frames=summarise_frames(measurement.fidelity_frames),
        truth=truth_records(measurement.truth, verified),
        unmerged_bytes=result.unmerged_bytes,
        baseline=verified.baseline,
        baseline_intervals=verified.intervals,
        candidates=verified.candidates,
        verified_front=verified_front(verified.candidates),
        chosen=result.chosen if result.chosen in hashes else None,
        config=config.as_written(),
        seconds=dict(seconds),
        created=utc_now(),
    )


def select_plans(finished: LoadedRun, hash_prefixes: Sequence[str]) -> list[PlanRecord]:
    """Return the plans with these hash prefixes, each once; without any, the verified plans.

    Raises:
        NoSuchPlan: a prefix is of no plan or of several, or the run verified no plan.
    """
    if hash_prefixes:
        return list({r.hash: r for r in map(finished.plan, hash_prefixes)}.values())
    if not finished.result.candidates:
        raise NoSuchPlan(f"{finished.out}: the run verified no plan; name one with --plan")
    return list(finished.result.candidates)
