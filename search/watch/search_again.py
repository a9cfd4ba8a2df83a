"""Searching again: on the frames of the last search and new windows of them, and what comes of it.

The plan in service is tried first and measured beside the challenger (`search.verdict`). The
config's rule decides, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.config.data import FramesConfig, PartConfig
from search.config.run import RunConfig
from search.deploy.champion import Champion
from search.deploy.comparison import Comparison
from search.deploy.promotion import PromotionDecision, judge, measured
from search.pipelines.finished_run import LoadedRun
from search.pipelines.open_data import open_frame_set
from search.pipelines.prepare import open_truth
from search.pipelines.run import run
from search.pipelines.run_steps.records import PriorKnowledge
from search.report.plan_diff import describe_difference, describe_plan
from search.results.documents import DOCUMENTS, identity
from search.results.rounds import PromotionRecord
from search.results.search_result import BUNDLE_FOLDER, CandidateRecord, Result
from search.tracking.outbox import NotLogged
from search.utils.reporter import Reporter
from search.utils.timing import this_moment
from search.watch.champion_challenger import ComparisonSetup, compare_plans
from search.watch.inspection import Inspection
from search.watch.workspace import Window, Workspace
from spaces.bundle import holds_bundle
from spaces.errors import MergeSearchError
from spaces.plan import SharePlan


@dataclass(frozen=True)
class SearchOutcome:
    """What a search has come to."""

    verdict: PromotionRecord | None
    """None if it chose no plan."""
    fidelity: float | None
    """Mean, on the new frames, of the plan that is in service now."""


def search_again(
    post: Workspace, number: int, windows: Sequence[Window], seen: Inspection, reporter: Reporter
) -> SearchOutcome:
    """Search on these windows, those of the sight among them, and let the rule choose who serves.

    `number` is that of the round.

    Raises:
        BudgetTooSmall: no plan fits.
        MergeSearchError: anything else the user can put right; the plan in service stays.
    """
    champion = post.service.champion()
    if champion is not None and champion.round == number:  # a crash came after its promotion
        return SearchOutcome(champion.verdict, champion.standing.fidelity)
    known = None if champion is None else post.service.plan(champion)
    config = searching(post, number, windows)
    result = found(config, PriorKnowledge(known, seen.deployment), reporter)
    challenger = result.chosen_candidate
    if challenger is None:
        return SearchOutcome(None, None)
    truth = open_truth(config, seen.deployment, open_frame_set(config), reporter)
    new = [window in seen.windows for window in windows]
    stand = ComparisonSetup(post, config, seen.deployment, result, new, truth)
    both = compare_plans(stand, challenger, champion, reporter)
    proposed, serving = both.challenger, both.champion
    judgement = judge(config.promotion, config.limits(result.unmerged_bytes), both)
    verdict = _verdict(config, both, judgement, _difference(challenger, known))
    before = None if champion is None else champion.bundle
    post.labels.keep(proposed.bundle, truth)
    post.labels.keep_only((proposed.bundle, before, champion.before if champion else None))
    if not judgement.promoted:
        return SearchOutcome(verdict, None if serving is None else serving.fidelity)
    now = this_moment()
    taken = Champion(proposed, now, judgement.reason, before, number, verdict)
    post.service.take(config.out_folder / BUNDLE_FOLDER, taken)
    return SearchOutcome(verdict, proposed.fidelity)


def searching(post: Workspace, number: int, windows: Sequence[Window]) -> RunConfig:
    """The config that searches its own frames, then those of the windows.

    Its trials get a file of their own: what earlier searches tried serves no other.
    """
    config = post.config
    own = config.frames.parts or [PartConfig(**config.frames.model_dump(exclude={"parts"}))]
    new = [PartConfig(folder=_below(config, window.folder)) for window in windows]
    changes: dict[str, Any] = {"frames": FramesConfig(parts=[*own, *new])}
    if config.storage is None:
        changes["storage"] = _below(config, post.trials(number))
    return config.model_copy(update=changes)


def _below(config: RunConfig, path: Path) -> str:
    return os.path.relpath(path, config.base)


def found(config: RunConfig, known: PriorKnowledge, reporter: Reporter) -> Result:
    """What the search of that config finds; or has found, if a crash came after its end."""
    try:
        finished = LoadedRun.from_folder(config.out_folder)
        if finished.result.config == config.as_written() and _whole(finished):
            finished.frames()
            reporter.say("  searched already, before an interruption")
            return finished.result
    except MergeSearchError:
        pass  # no such run, or of other frames: it is searched
    try:
        return run(config, reporter, known)
    except NotLogged as error:
        reporter.warn(str(error))
        return LoadedRun.from_folder(config.out_folder).result


def _whole(finished: LoadedRun) -> bool:
    """Whether its bundle is there: it is written last."""
    identity = finished.result.bundle
    if identity is None:
        return finished.result.chosen is None
    return holds_bundle(finished.out / BUNDLE_FOLDER, identity)


def _verdict(
    config: RunConfig, both: Comparison, judgement: PromotionDecision, difference: list[str]
) -> PromotionRecord:
    serving = both.champion
    return PromotionRecord(
        result=identity((config.out_folder / DOCUMENTS[Result]).read_bytes()),
        challenger=both.challenger.plan,
        bundle=both.challenger.bundle,
        by=judgement.by,
        challenger_quality=measured(judgement.by, both.challenger),
        champion_quality=None if serving is None else measured(judgement.by, serving),
        difference=difference,
        promoted=judgement.promoted,
        reason=judgement.reason,
        measured_on=both.measured_on[judgement.by],
    )


def _difference(challenger: CandidateRecord, known: SharePlan | None) -> list[str]:
    plan = SharePlan.from_dict(challenger.plan)
    return describe_plan(plan) if known is None else describe_difference(plan, known)
