"""Log the runs of a document: for a search a parent with children, else a single run."""

from __future__ import annotations

from pathlib import Path

from search.results.documents import Document
from search.results.metric_comparison import MetricComparison
from search.results.registered_plan import RegisteredPlan
from search.results.search_result import BUNDLE_FOLDER, CandidateRecord, Result
from search.results.split_result import SplitResult
from search.results.verification import Verification
from search.tracking.payloads import comparisons, search_run
from search.tracking.run_writer import NOTE_TAG, PARENT_TAG, PLAN_TAG, ResultRuns
from search.tracking.split_runs import log_split
from search.tracking.system_metrics import SYSTEM_FILE
from search.utils.format import MEGABYTE
from spaces.bundle_files import holds_bundle
from spaces.plan import SharePlan


def log_runs(writer: ResultRuns, document: Document, folder: Path) -> str:
    """Log all runs of a document and the files in its folder; return a summary in words."""
    if isinstance(document, Result):
        return _log_search(writer, document, folder)
    if isinstance(document, MetricComparison):
        return _log_metric_comparison(writer, document, folder)
    if isinstance(document, SplitResult):
        return log_split(writer, document, folder)
    return _log_verification(writer, document, folder)


def _log_search(writer: ResultRuns, result: Result, folder: Path) -> str:
    parent = writer.start_parent("search", result.name)
    writer.client.set_tag(parent, NOTE_TAG, search_run.search_note(result))
    writer.log_parameters(parent, search_run.search_parameters(result))
    writer.log_metrics(parent, search_run.search_metrics(result))
    writer.log_steps(parent, "hypervolume", result.study["hypervolume"])
    writer.log_system_metrics(parent, folder / SYSTEM_FILE)
    writer.log_datasets(parent, search_run.dataset_facts(result))
    writer.client.log_text(parent, search_run.stages_markdown(result), "stages.md")
    writer.client.log_table(parent, search_run.front_columns(result), "front.json")
    writer.log_files(parent, folder)
    _log_unmerged(writer, parent, result)
    for candidate in result.candidates:
        model = _log_candidate(writer, parent, result, candidate, folder)
        if model is not None:
            writer.models.attach(model, parent)
    writer.finish_parent(parent)
    return f"run {parent}: 1 parent, {len(result.candidates) + 1} children"


def _log_unmerged(writer: ResultRuns, parent: str, result: Result) -> None:
    unmerged = SharePlan()
    tags = {PARENT_TAG: parent, PLAN_TAG: unmerged.hash}
    name = f"{result.unmerged_bytes / MEGABYTE:.1f} MB, unmerged"
    run = writer.start("baseline", name, tags)
    writer.log_parameters(run, search_run.plan_parameters(result, unmerged))
    writer.log_metrics(run, search_run.unmerged_metrics(result))
    writer.finish(run)


def _log_candidate(
    writer: ResultRuns, parent: str, result: Result, candidate: CandidateRecord, folder: Path
) -> str | None:
    """Log the run of a candidate; for the chosen plan, also its bundle as a model.

    Returns the id of the model, if one was logged.
    """
    is_chosen, model = candidate.hash == result.chosen, None
    tags = {
        PARENT_TAG: parent,
        PLAN_TAG: candidate.hash,
        "merge_search.chosen": str(is_chosen).lower(),
    }
    run = writer.start("candidate", search_run.candidate_run_name(candidate), tags)
    writer.log_parameters(run, search_run.candidate_parameters(result, candidate))
    # A later run into the same folder may have replaced the bundle.
    if is_chosen and result.bundle and holds_bundle(folder / BUNDLE_FOLDER, result.bundle):
        parameters = search_run.model_parameters(result, candidate)
        logged = writer.models.log(folder / BUNDLE_FOLDER, result.name, run, parameters)
        plan = RegisteredPlan.of(result, candidate)
        writer.registry.register(logged, plan, writer.identity)
        model = str(logged.model_id)
    writer.log_metrics(run, search_run.measured_metrics(result, candidate), model)
    writer.client.log_dict(run, candidate.plan, "plan.json")
    writer.finish(run)
    return model


def _log_metric_comparison(writer: ResultRuns, comparison: MetricComparison, folder: Path) -> str:
    run = writer.start_parent("correlate", f"{comparison.name} guides")
    writer.log_parameters(run, comparisons.metric_comparison_parameters(comparison))
    writer.log_metrics(run, comparisons.metric_comparison_metrics(comparison))
    writer.client.log_table(run, comparisons.metric_comparison_columns(comparison), "guides.json")
    writer.client.log_artifact(run, str(folder / "guides.csv"))
    writer.log_files(run, folder)
    writer.finish_parent(run)
    return f"run {run}"


def _log_verification(writer: ResultRuns, verification: Verification, folder: Path) -> str:
    run = writer.start_parent("verify", f"{verification.name} verified")
    writer.log_parameters(run, comparisons.verification_parameters(verification))
    if verification.main_candidate is not None:
        metrics = search_run.candidate_metrics(verification.main_candidate)
        writer.log_metrics(run, metrics)
    columns = comparisons.verification_columns(verification)
    writer.client.log_table(run, columns, "candidates.json")
    writer.log_files(run, folder)
    writer.finish_parent(run)
    return f"run {run}"
