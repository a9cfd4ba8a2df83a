"""What goes into which run: a search is a parent and children, all else is one run."""

from __future__ import annotations

from pathlib import Path

from search.results.documents import Document
from search.results.metric_comparison import MetricComparison
from search.results.registered_plan import RegisteredPlan
from search.results.search_result import BUNDLE_FOLDER, CandidateRecord, Result
from search.results.verification import Verification
from search.tracking.payloads import comparisons, search_run
from search.tracking.run_writer import NOTE_TAG, PARENT_TAG, PLAN_TAG, ResultRuns
from search.tracking.system_metrics import SYSTEM
from search.utils.format import MEGABYTE
from spaces.bundle import holds_bundle
from spaces.plan import SharePlan


def log(shelf: ResultRuns, outcome: Document, folder: Path) -> str:
    if isinstance(outcome, Result):
        return _log_search(shelf, outcome, folder)
    if isinstance(outcome, MetricComparison):
        return _log_league(shelf, outcome, folder)
    return _log_verification(shelf, outcome, folder)


def _log_search(shelf: ResultRuns, result: Result, folder: Path) -> str:
    parent = shelf.start_parent("search", result.name)
    shelf.client.set_tag(parent, NOTE_TAG, search_run.note(result))
    shelf.log_parameters(parent, search_run.search_parameters(result))
    shelf.log_metrics(parent, search_run.search_metrics(result))
    shelf.log_steps(parent, "hypervolume", result.study["hypervolume"])
    shelf.log_system(parent, folder / SYSTEM)
    shelf.log_datasets(parent, search_run.datasets(result))
    shelf.client.log_text(parent, search_run.stage_table(result), "stages.md")
    shelf.client.log_table(parent, search_run.front_columns(result), "front.json")
    shelf.log_files(parent, folder)
    _log_unmerged(shelf, parent, result)
    for candidate in result.candidates:
        model = _log_candidate(shelf, parent, result, candidate, folder)
        if model is not None:
            shelf.models.attach(model, parent)
    shelf.finish_parent(parent)
    return f"run {parent}: 1 parent, {len(result.candidates) + 1} children"


def _log_unmerged(shelf: ResultRuns, parent: str, result: Result) -> None:
    nothing = SharePlan()
    tags = {PARENT_TAG: parent, PLAN_TAG: nothing.hash}
    name = f"{result.unmerged_bytes / MEGABYTE:.1f} MB, unmerged"
    run = shelf.start("baseline", name, tags)
    shelf.log_parameters(run, search_run.plan_parameters(result, nothing))
    shelf.log_metrics(run, search_run.unmerged_metrics(result))
    shelf.finish(run)


def _log_candidate(
    shelf: ResultRuns, parent: str, result: Result, candidate: CandidateRecord, folder: Path
) -> str | None:
    """A run for a candidate; for the chosen one also its bundle as a model, with its metrics:
    returns the model's id."""
    chosen, model = candidate.hash == result.chosen, None
    tags = {
        PARENT_TAG: parent,
        PLAN_TAG: candidate.hash,
        "merge_search.chosen": str(chosen).lower(),
    }
    run = shelf.start("candidate", search_run.run_name(candidate), tags)
    shelf.log_parameters(run, search_run.candidate_parameters(result, candidate))
    # a later run into the same folder may have left another one there
    if chosen and result.bundle and holds_bundle(folder / BUNDLE_FOLDER, result.bundle):
        parameters = search_run.model_parameters(result, candidate)
        logged = shelf.models.log(folder / BUNDLE_FOLDER, result.name, run, parameters)
        plan = RegisteredPlan.of(result, candidate)
        shelf.registry.register(logged, plan, shelf.identity)
        model = str(logged.model_id)
    shelf.log_metrics(run, search_run.measured_metrics(result, candidate), model)
    shelf.client.log_dict(run, candidate.plan, "plan.json")
    shelf.finish(run)
    return model


def _log_league(shelf: ResultRuns, league: MetricComparison, folder: Path) -> str:
    run = shelf.start_parent("correlate", f"{league.name} guides")
    shelf.log_parameters(run, comparisons.league_parameters(league))
    shelf.log_metrics(run, comparisons.league_metrics(league))
    shelf.client.log_table(run, comparisons.league_columns(league), "guides.json")
    shelf.client.log_artifact(run, str(folder / "guides.csv"))
    shelf.log_files(run, folder)
    shelf.finish_parent(run)
    return f"run {run}"


def _log_verification(shelf: ResultRuns, verification: Verification, folder: Path) -> str:
    run = shelf.start_parent("verify", f"{verification.name} verified")
    shelf.log_parameters(run, comparisons.verification_parameters(verification))
    if verification.foremost is not None:
        shelf.log_metrics(run, search_run.candidate_metrics(verification.foremost))
    shelf.client.log_table(run, comparisons.verification_columns(verification), "candidates.json")
    shelf.log_files(run, folder)
    shelf.finish_parent(run)
    return f"run {run}"
