"""Search again on the frames of the last search and new windows, and let the rule decide.

The search evaluates the plan in service first. The challenger and the plan in service are then
measured on the same frames (`search.watch.champion_challenger`), and the config's promotion rule
alone decides.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.config.data import FramesConfig, PartConfig
from search.config.run import RunConfig
from search.deploy.champion import CHAMPION_VERSION, Champion, ChampionStore
from search.deploy.comparison import Comparison
from search.deploy.promotion import PromotionDecision, decide, measured_quality
from search.pipelines.finished_run import LoadedRun
from search.pipelines.open_data import open_frame_set
from search.pipelines.prepare import open_truth
from search.pipelines.run import run
from search.pipelines.run_steps.records import PriorKnowledge
from search.report.plan_diff import describe_difference, describe_plan
from search.results.documents import DOCUMENT_NAMES, content_id
from search.results.rounds import PromotionRecord
from search.results.search_result import BUNDLE_FOLDER, CandidateRecord, Result
from search.tracking.outbox import NotLogged
from search.utils.reporter import Reporter
from search.utils.timing import utc_now
from search.watch.champion_challenger import ComparisonSetup, compare_plans
from search.watch.inspection import Inspection
from search.watch.seen_labels import SeenLabels
from search.watch.windows import Window
from search.watch.workspace import Workspace
from spaces.bundle_files import holds_bundle
from spaces.errors import MergeSearchError
from spaces.plan import SharePlan


@dataclass(frozen=True)
class SearchRequest:
    """The request of a round for a search."""

    round: int
    """Number of the round."""
    windows: Sequence[Window]
    """Searched besides the config's own frames."""
    inspection: Inspection
    """Of the new windows."""
    sample: Path | None = None
    """Folder of some frames of the windows, which never changes: they are searched, as one part.
    None: all frames, each window as a part of its own."""

    @property
    def folders(self) -> list[Path]:
        """The folders that are searched besides the config's own frames, a part each."""
        return [window.folder for window in self.windows] if self.sample is None else [self.sample]

    @property
    def new_parts(self) -> list[bool]:
        """For each of `folders`, whether it has frames of this round."""
        new = [window in self.inspection.windows for window in self.windows]
        return new if self.sample is None else [any(new)]


@dataclass(frozen=True)
class SearchOutcome:
    """Result of a search and of its comparison with the champion."""

    record: PromotionRecord | None
    """None if the search chose no plan."""
    fidelity: float | None
    """Mean on the new frames, of the plan that is in service afterwards."""


def search_again(
    config: RunConfig,
    workspace: Workspace,
    champions: ChampionStore,
    request: SearchRequest,
    reporter: Reporter,
) -> SearchOutcome:
    """Search, compare the chosen plan with the champion, and promote it if the rule allows.

    Raises:
        BudgetTooSmall: no plan fits.
        MergeSearchError: another error that the user can fix; the plan in service stays.
    """
    champion = champions.champion()
    if champion is not None and champion.round == request.round:
        # a crash came after the promotion by this round
        return SearchOutcome(champion.promotion, champion.registered_plan.fidelity)
    plan_in_service = None if champion is None else champions.load_plan(champion)
    deployment = request.inspection.deployment
    search_config = build_search_config(config, workspace, request)
    prior = PriorKnowledge(plan_in_service, deployment)
    result = run_or_load(search_config, prior, reporter)
    candidate = result.chosen_candidate
    if candidate is None:
        return SearchOutcome(None, None)
    frames = open_frame_set(search_config)
    setup = ComparisonSetup(
        config=search_config,
        champions=champions,
        seen_labels=SeenLabels(workspace.labels_folder),
        deployment=deployment,
        result=result,
        inspection=request.inspection,
        new_parts=request.new_parts,
        truth=open_truth(search_config, deployment, frames, reporter),
    )
    comparison = compare_plans(setup, candidate, champion, reporter)
    limits = search_config.limits(result.unmerged_bytes)
    decision = decide(search_config.promotion, limits, comparison)
    changes = _changes(candidate, plan_in_service)
    record = _promotion_record(search_config, comparison, decision, changes)
    _note_labels(setup, comparison, champion)
    if not decision.promoted:
        in_service = comparison.champion
        return SearchOutcome(record, None if in_service is None else in_service.fidelity)
    challenger = comparison.challenger
    before = None if champion is None else champion.bundle
    promoted = Champion(
        challenger, utc_now(), decision.reason, before, request.round, record,
        version=CHAMPION_VERSION,
    )  # fmt: skip
    champions.put_in_service(search_config.out_folder / BUNDLE_FOLDER, promoted)
    return SearchOutcome(record, challenger.fidelity)


def build_search_config(
    config: RunConfig, workspace: Workspace, request: SearchRequest
) -> RunConfig:
    """Return the config with the windows added to its frames.

    Trials go into a file of the round: those of earlier searches are on other frames.
    """
    of_a_part = set(PartConfig.model_fields)
    own = config.frames.parts or [PartConfig(**config.frames.model_dump(include=of_a_part))]
    windows = [PartConfig(folder=_relative(config, folder)) for folder in request.folders]
    of_all_parts = config.frames.model_dump(exclude=of_a_part | {"parts"}, exclude_unset=True)
    frames = FramesConfig(parts=[*own, *windows], **of_all_parts)
    changes: dict[str, Any] = {"frames": frames}
    if config.storage is None:
        changes["storage"] = _relative(config, workspace.trials_file(request.round))
    return config.model_copy(update=changes)


def _relative(config: RunConfig, path: Path) -> str:
    return os.path.relpath(path, config.base)


def run_or_load(config: RunConfig, prior: PriorKnowledge, reporter: Reporter) -> Result:
    """Run the search, or load its result if a crash came after its end."""
    try:
        finished = LoadedRun.from_folder(config.out_folder)
        if finished.result.config == config.as_written() and _is_complete(finished):
            finished.frames()
            reporter.say("  searched already, before an interruption")
            return finished.result
    except MergeSearchError:
        pass  # no such run, or one of other frames
    try:
        return run(config, reporter, prior)
    except NotLogged as error:
        reporter.warn(str(error))
        return LoadedRun.from_folder(config.out_folder).result


def _is_complete(finished: LoadedRun) -> bool:
    """Return whether the run's bundle, which is written last, is complete."""
    bundle = finished.result.bundle
    if bundle is None:
        return finished.result.chosen is None
    return holds_bundle(finished.out / BUNDLE_FOLDER, bundle)


def _promotion_record(
    config: RunConfig, comparison: Comparison, decision: PromotionDecision, changes: list[str]
) -> PromotionRecord:
    challenger, champion = comparison.challenger, comparison.champion
    return PromotionRecord(
        result=content_id((config.out_folder / DOCUMENT_NAMES[Result]).read_bytes()),
        challenger=challenger.plan,
        bundle=challenger.bundle,
        by=decision.by,
        challenger_quality=measured_quality(decision.by, challenger),
        champion_quality=None if champion is None else measured_quality(decision.by, champion),
        difference=changes,
        promoted=decision.promoted,
        reason=decision.reason,
        measured_on=comparison.measured_on[decision.by],
        at_chance=challenger.at_chance if decision.by == "truth" else (),
    )


def _changes(candidate: CandidateRecord, plan_in_service: SharePlan | None) -> list[str]:
    """Describe the differences of the candidate's plan from the plan in service."""
    plan = SharePlan.from_dict(candidate.plan)
    if plan_in_service is None:
        return describe_plan(plan)
    return describe_difference(plan, plan_in_service)


def _note_labels(
    setup: ComparisonSetup, comparison: Comparison, champion: Champion | None
) -> None:
    """Record the labels that this search used; drop the records of bundles that cannot return."""
    bundle = comparison.challenger.bundle
    setup.seen_labels.record(bundle, setup.truth)
    in_use = () if champion is None else (champion.bundle, champion.previous_bundle)
    setup.seen_labels.keep_only((bundle, *in_use))
