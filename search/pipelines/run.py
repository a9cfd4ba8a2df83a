"""`merge-search run`: from a config to a verified front."""

from __future__ import annotations

from search.config.run import RunConfig
from search.pipelines.deployment.load import load_deployment
from search.pipelines.prepare import open_frames, open_truth
from search.pipelines.run_steps.build_result import build_result
from search.pipelines.run_steps.records import NO_PRIOR_KNOWLEDGE, PriorKnowledge, RunInputs
from search.pipelines.run_steps.search_front import search
from search.pipelines.run_steps.verify_front import verify_front
from search.pipelines.run_steps.write_outputs import write_outputs
from search.report.candidate_table import print_candidates
from search.results.alternative import describe_alternative
from search.results.kept_quality import kept_text, no_baseline_text
from search.results.rank_agreement import describe_rank_agreement
from search.results.search_result import Result, VerifiedCandidates
from search.tracking.outbox import log_or_queue
from search.tracking.system_metrics import sampled_system_metrics
from search.tracking.target import Target, write_target
from search.utils.files import make_folder
from search.utils.format import megabytes, percent
from search.utils.reporter import Reporter
from search.utils.timing import StepTimings


def run(
    config: RunConfig, reporter: Reporter, prior: PriorKnowledge = NO_PRIOR_KNOWLEDGE
) -> Result:
    """Run the search that the config describes, write its files, and log it to MLflow.

    The study begins with the plans that an earlier run into the same folder found.

    Raises:
        BudgetTooSmall: no plan fits.
        NotLogged: MLflow did not take the run; everything else is done, and `sync` can log it.
        MergeSearchError: anything else that the user can correct.
    """
    out = make_folder(config.out_folder)
    write_target(Target.of(config), out)
    with sampled_system_metrics(out):
        result = run_without_logging(config, reporter, prior)
    reporter.step("Logging to MLflow")
    with reporter.working("MLflow"):
        logged = log_or_queue(result, out, Target.of(config))
    reporter.say(f"  {logged}")
    return result


def run_without_logging(
    config: RunConfig, reporter: Reporter, prior: PriorKnowledge = NO_PRIOR_KNOWLEDGE
) -> Result:
    """Search, verify, and write the files under OUT, which must exist.

    Raises:
        BudgetTooSmall: no plan fits.
        MergeSearchError: anything else that the user can correct.
    """
    timings = StepTimings()
    with timings.timing("models"):
        inputs = load_inputs(config, prior, reporter)
    front_search = search(inputs, prior.champion, timings, reporter)
    with timings.timing("verification"):
        verification = verify_front(inputs, front_search, reporter)
    result = build_result(inputs, front_search, verification, timings.seconds)
    result = write_outputs(result, inputs, front_search, verification, reporter)
    print_summary(result, reporter)
    return result


def load_inputs(config: RunConfig, prior: PriorKnowledge, reporter: Reporter) -> RunInputs:
    """Load the models, unless the caller has, and open frames and labels.

    Raises:
        BadConfig: the config is one for splits only.
        NothingToShare: no representation may replace another.
    """
    config.check_request()
    deployment = prior.deployment or load_deployment(config, reporter)
    frames = open_frames(config, reporter)
    truth = open_truth(config, deployment, frames, reporter)
    return RunInputs(config, deployment, frames, truth)


def print_summary(result: Result, reporter: Reporter) -> None:
    """Print the candidates as a table, and a warning if none of them meets the request."""
    verified = VerifiedCandidates.of(result)
    title = f"Verified {_request_text(result)}"
    print_candidates(verified, result.unmerged_bytes, result.chosen, title, reporter)
    others = [describe_alternative(a, result.at_chance) for a in result.alternatives]
    reporter.say(f"Without merging: {'; '.join(others)}")
    reporter.say(describe_rank_agreement(result.rank_agreement))
    if result.chosen is None:
        reporter.warn(_none_chosen_text(result))


def _request_text(result: Result) -> str:
    if result.budget_bytes is not None:
        return f"within {megabytes(result.budget_bytes)}"
    return f"for {percent(result.quality_floor)} of every model's quality"


def _none_chosen_text(result: Result) -> str:
    floor = percent(result.quality_floor)
    if result.at_chance:
        return (
            f"No plan was chosen: whether one keeps {floor} on every model cannot be measured; "
            f"{no_baseline_text(result.at_chance)}"
        )
    nearest = kept_text(result.highest_worst_quality or 0.0, result.at_chance)
    return (
        f"None of them keeps {floor} on every model when verified; the "
        f"nearest keeps {nearest} on its worst. Verify more (verify.candidates, "
        "verify.shortlist), or ask for less (quality_floor)."
    )
