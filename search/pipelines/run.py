"""`merge-search run`: from a config to a verified front."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from search.config.run import RunConfig
from search.data.frames import described
from search.data.ground_truth import Truth, truth_described
from search.deploy.export import Source, remove_bundle, write
from search.evaluation.evaluate import EvaluationSetup, fidelity
from search.evaluation.latency import Latency
from search.evaluation.per_frame import mean_known
from search.pipelines.candidates import verify_plans
from search.pipelines.prepare import (
    load_deployment,
    observe,
    open_frames,
    open_truth,
    pose,
    similarities,
)
from search.report import figures
from search.report.candidate_table import tell
from search.report.html import write_report
from search.report.interactive import save_explorer
from search.report.next_steps import Places
from search.report.rejected import Shortlisted, Tried
from search.results.rank_agreement import in_words, rungs, shortlist_rung
from search.results.search_result import (
    BUNDLE_FOLDER,
    UNMERGED,
    CandidateRecord,
    ModelRecord,
    PlanRecord,
    Result,
    Rungs,
    Verified,
    choose,
    verified_front,
)
from search.statistics.observed import Observed
from search.study.objectives import PlanEvaluator, Predicted, Valued
from search.study.optimize import Explored, StudySettings, explore
from search.study.pareto import spread
from search.study.problem import Limits
from search.study.smallest_plan import smallest, smallest_thoroughly
from search.study.trials_table import save_trials
from search.study.warm_start import starting_plans
from search.tracking.outbox import record_or_keep
from search.tracking.system_metrics import watched
from search.tracking.target import Target, remember
from search.utils.files import make_folder, write_json
from search.utils.format import megabytes, percent
from search.utils.redact import without_credentials
from search.utils.reporter import Reporter
from search.utils.timing import StepTimings, this_moment
from spaces.bundle import bundle_id
from spaces.deployment import Deployment
from spaces.errors import MergeSearchError
from spaces.plan import Share, SharePlan


class BudgetTooSmall(MergeSearchError):
    """No plan fits the budget; the smallest reachable one is named."""

    exit_code = 2

    def __init__(self, budget: float, unmerged: int, least: Predicted) -> None:
        self.least = least
        share = f"{least.bytes / unmerged:.1%}"
        super().__init__(
            f"budget {megabytes(budget)} cannot be met: the smallest reachable is "
            f"{megabytes(least.bytes)} ({least.bytes} bytes, {share} of the unmerged "
            f"{megabytes(unmerged)}), by plan {least.plan.hash}: {least.plan}"
        )


@dataclass(frozen=True)
class PriorKnowledge:
    """What is there before a search begins."""

    champion: SharePlan | None = None
    """The plan in service: it is tried first, and is among the candidates if it is feasible."""
    deployment: Deployment | None = None
    """The config's models, where they are loaded already."""


NOTHING = PriorKnowledge()


def run(config: RunConfig, reporter: Reporter, known: PriorKnowledge = NOTHING) -> Result:
    """Run the search that the config describes, write its files, and log it.

    What an earlier run into the same folder has found good is tried first.

    Raises:
        BudgetTooSmall: no plan fits.
        NotLogged: MLflow did not take the run; everything else is done and kept.
        MergeSearchError: anything else the user can put right.
    """
    out = make_folder(config.out_folder)
    remember(Target.of(config), out)
    with watched(out):
        result = found(config, out, reporter, known)
    reporter.step("Logging to MLflow")
    with reporter.working("MLflow"):
        logged = record_or_keep(result, out, Target.of(config))
    reporter.say(f"  {logged}")
    return result


@dataclass(frozen=True)
class Searched:
    """What the search is made of, and what it found."""

    observed: Observed
    similarity: Mapping[Share, float]
    valuer: PlanEvaluator
    least: Predicted
    explored: Explored
    champion: Valued | None
    """The plan in service, as it is worth now; None if it cannot be searched."""


@dataclass(frozen=True)
class Climbed:
    """What the ladder has measured."""

    verified: Verified
    rungs: Rungs
    shortlist: tuple[Shortlisted, ...]
    """Plans of which fidelity was measured."""
    latency_ms: dict[str, float]


def found(
    config: RunConfig, out: Path, reporter: Reporter, known: PriorKnowledge = NOTHING
) -> Result:
    """The search itself: from models and frames to what lies in OUT."""
    clock = StepTimings()
    with clock.timing("models"):
        deployment = known.deployment or load_deployment(config, reporter)
        frames = open_frames(config, reporter)
        truth = open_truth(config, deployment, frames, reporter)
    with clock.timing("statistics"):
        observed = observe(config, deployment, frames, reporter)
    with clock.timing("similarity"):
        similarity = similarities(config, observed, config.search.adapter_specs, reporter)
    latency = Latency(observed)
    valuer = PlanEvaluator(pose(config, deployment, similarity), latency.milliseconds)
    with reporter.working("smallest plan"):
        least = reachable(valuer, out)
    earlier = earlier_front(config.out_folder)
    with clock.timing("search"):
        served = [known.champion] if known.champion else []
        explored = search(config, valuer, [*served, *earlier, least.plan], reporter)
    kept = in_service(known.champion, valuer, reporter)
    searched = Searched(observed, similarity, valuer, least, explored, kept)
    with clock.timing("verification"):
        climbed = climb(config, searched, truth, latency, reporter)
    result = told(config, searched, climbed, truth, clock, out)
    with reporter.working("pictures"):
        draw(result, searched, out)
    save(result, out)
    result = bundled(Source(config, result, observed), out, reporter)
    write_report(result, tried(searched, climbed), Places.of(config), out)
    summarise(result, reporter)
    return result


def told(
    config: RunConfig,
    searched: Searched,
    climbed: Climbed,
    truth: Mapping[str, Truth],
    clock: StepTimings,
    out: Path,
) -> Result:
    """Everything of the run as plain data."""
    observed, valuer, explored = searched.observed, searched.valuer, searched.explored
    problem, candidates = valuer.problem, climbed.verified.candidates
    chosen = choose(candidates, config.quality_floor)
    return Result(
        name=config.name,
        seed=config.seed,
        metric=config.search.metric,
        budget_bytes=None if config.budget is None else int(problem.limits.bytes),
        quality_floor=config.quality_floor,
        unmerged_bytes=valuer.costs.unmerged_bytes,
        unmerged_macs=valuer.costs.unmerged_macs,
        smallest_bytes=searched.least.bytes,
        frames=described(observed.frames),
        models=_model_records(config, observed.deployment),
        study={
            "problem": problem.hash,
            "sampler": config.search.sampler,
            "objectives": list(problem.costs),
            "trials": explored.trials,
            "space": problem.encoding.size,
            "exhausted": explored.exhausted,
            "hypervolume": list(explored.progress),
        },
        baseline=climbed.verified.baseline,
        baseline_intervals=climbed.verified.intervals,
        front=[_plan_record(valued, valuer) for valued in explored.front],
        candidates=candidates,
        verified_front=verified_front(candidates),
        chosen=chosen.hash if chosen else None,
        rungs=climbed.rungs,
        config=config.as_written(),
        base=os.path.relpath(config.base, out),
        truth={name: truth_described(known) for name, known in truth.items()},
        latency_ms=climbed.latency_ms,
        seconds=clock.seconds,
        created=this_moment(),
    )


def draw(result: Result, searched: Searched, out: Path) -> None:
    """Pictures, the page to explore, and the trials as a table."""
    figures.draw(result, searched.similarity, out)
    save_trials(searched.explored, searched.valuer, out)
    save_explorer(result, searched.explored, out)


def tried(searched: Searched, climbed: Climbed) -> Tried:
    """What the report says of plans and shares that were left."""
    pairs = searched.observed.deployment.pairs
    feasible = len(searched.explored.feasible)
    return Tried(
        searched.similarity, pairs.rejected, len(pairs.legal), feasible, climbed.shortlist
    )


def reachable(valuer: PlanEvaluator, out: Path) -> Predicted:
    """The smallest plan known, if it is within the limits.

    Raises:
        BudgetTooSmall: it is not; the plan is written to OUT/plans.
    """
    budget, problem = valuer.problem.limits.bytes, valuer.problem
    least = smallest(problem, valuer)
    if least.bytes > budget:
        least = smallest_thoroughly(problem, valuer)
    if least.bytes > budget:
        write_json(out / "plans" / f"{least.plan.hash}.json", least.plan.to_dict())
        raise BudgetTooSmall(budget, valuer.costs.unmerged_bytes, least)
    return least


def search(
    config: RunConfig, valuer: PlanEvaluator, known: Sequence[SharePlan], reporter: Reporter
) -> Explored:
    """Explore the plans within the limits; what is known to be good is tried first."""
    problem = valuer.problem
    settings = StudySettings(
        name=config.name,
        store=config.store,
        sampler=config.search.sampler,
        trials=config.search.trials,
        seed=config.seed,
    )
    reporter.step(
        f"Exploring {problem.encoding.size:,} combinations with {settings.sampler}, "
        f"{_request(config, problem.limits)}"
    )
    if "latency" not in problem.costs:  # which cannot be joined
        where = f"{without_credentials(config.store)} {settings.study_name(problem)}"
        reporter.say(f"  more processes: merge-search worker {where}")
    with reporter.working("plans to try first"):
        starts = starting_plans(problem, known)
    with reporter.progress("trials", config.search.trials) as progress:
        explored = explore(valuer, settings, starts, progress)
    whole = ", which is all that the space holds" if explored.exhausted else ""
    reporter.say(
        f"  {explored.trials} plans valued{whole}; {len(explored.front)} of them on the front"
    )
    return explored


def earlier_front(out: Path) -> list[SharePlan]:
    """The plans that an earlier run into the same folder found good, the one that it chose
    first; none if there was none."""
    try:
        data = json.loads((out / "result.json").read_text(encoding="utf-8"))
        earlier = Result.from_dict(data)
        chosen = [earlier.chosen_candidate] if earlier.chosen_candidate else []
        records = (*chosen, *earlier.candidates, *earlier.front)
        return [SharePlan.from_dict(record.plan) for record in records]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MergeSearchError):
        return []  # not ours, or of another version: it helps, but nothing depends on it


def in_service(
    champion: SharePlan | None, valuer: PlanEvaluator, reporter: Reporter
) -> Valued | None:
    """The plan in service with its value, if the search could have found it."""
    if champion is None:
        return None
    encoding = valuer.problem.encoding
    if encoding.decode(encoding.encode(champion)) == champion:
        valued = valuer.value(champion)
        if valuer.feasible(valued):
            return valued
        reason = "it is predicted to miss what is asked for"
    else:
        reason = "shares of it are not among those that are explored"
    reporter.warn(f"The plan in service, {champion.hash}, is not verified: {reason}.")
    return None


def climb(
    config: RunConfig,
    searched: Searched,
    truth: Mapping[str, Truth],
    latency: Latency,
    reporter: Reporter,
) -> Climbed:
    """Climb the ladder: part of the front to fidelity, the best of those to ground truth.

    Also, how well each rung foretold the next, and how long the best take.
    """
    settings, valuer = config.verify, searched.valuer
    listed = promising(searched, settings.shortlist)
    plans, unseen = [valued.plan for valued in listed], searched.observed.unseen
    deployment = searched.observed.deployment
    with reporter.working("linear maps"):
        maps = searched.observed.maps_for(plans)
    bench = EvaluationSetup(deployment.served, deployment.facts, maps, settings.batch)
    reporter.step(f"Fidelity of the {len(plans)} most promising plans on {len(unseen)} frames")
    with reporter.progress("frames", len(unseen)) as progress:
        faithful = fidelity(bench, plans, unseen, progress)
    best = most_faithful(faithful, listed, settings.candidates, config.quality_floor)
    if searched.champion:
        best = [0, *(k for k in best if k)]
    records = [_plan_record(listed[k], valuer) for k in best]
    verified = verify_plans(bench, records, [faithful[k] for k in best], truth, reporter)
    shortlist = tuple(
        Shortlisted(v.plan.hash, v.bytes, v.proxy, mean_known(f))
        for v, f in zip(listed, faithful, strict=True)
    )
    foretold = shortlist_rung([valued.proxy for valued in listed], faithful)
    with reporter.working("latency"):
        milliseconds = latencies(verified.candidates, latency)
    return Climbed(verified, rungs(verified.candidates) | foretold, shortlist, milliseconds)


def promising(searched: Searched, most: int) -> list[Valued]:
    """The plans to look at more closely: the one in service, and the most promising."""
    listed, champion = searched.explored.shortlist(most), searched.champion
    if champion is None:
        return listed
    return [champion, *(valued for valued in listed if valued.plan != champion.plan)]


def latencies(candidates: Sequence[CandidateRecord], latency: Latency) -> dict[str, float]:
    """Milliseconds per frame of the unmerged models and of each candidate."""
    plans = {c.hash: SharePlan.from_dict(c.plan) for c in candidates}
    return {
        name: round(latency.milliseconds(plan), 3)
        for name, plan in {UNMERGED: SharePlan(), **plans}.items()
    }


def save(result: Result, out: Path) -> None:
    """OUT/plans/*.json and OUT/result.json, each wholly or not at all; result.json last."""
    for record in result.front:
        write_json(out / "plans" / f"{record.hash}.json", record.plan)
    _save_result(result, out)


def _save_result(result: Result, out: Path) -> None:
    write_json(out / "result.json", result.to_dict())


def bundled(source: Source, out: Path, reporter: Reporter) -> Result:
    """OUT/bundle, the chosen plan to deploy; returns the result that tells of it, saved."""
    result, folder = source.result, out / BUNDLE_FOLDER
    chosen = result.chosen_candidate
    if chosen is None:
        remove_bundle(folder)
        return result
    reporter.step(f"Bundle of the chosen plan {chosen.hash}")
    with reporter.working("bundle"):
        checks = write(source, chosen, folder, ())
    for check in checks:
        reporter.say(f"  {check}")
    result = replace(result, bundle=bundle_id(folder))
    _save_result(result, out)
    return result


def summarise(result: Result, reporter: Reporter) -> None:
    """The candidates as a table, and what they mean for the request."""
    verified = Verified(result.baseline, result.baseline_intervals, result.candidates)
    tell(verified, result.unmerged_bytes, result.chosen, f"Verified {_asked(result)}", reporter)
    reporter.say(in_words(result.rungs))
    if result.chosen is None:
        reporter.warn(_none_chosen(result))


def _asked(result: Result) -> str:
    if result.budget_bytes is not None:
        return f"within {megabytes(result.budget_bytes)}"
    return f"for {percent(result.quality_floor)} of every model's quality"


def _request(config: RunConfig, limits: Limits) -> str:
    if config.budget is None:
        return f"every model to keep {percent(config.quality_floor)} of its quality"
    return f"budget {megabytes(limits.bytes)}"


def _none_chosen(result: Result) -> str:
    nearest = percent(result.nearest_worst or 0.0)
    return (
        f"None of them keeps {percent(result.quality_floor)} on every model when verified; the "
        f"nearest keeps {nearest} on its worst. Verify more (verify.candidates, "
        "verify.shortlist), or ask for less (quality_floor)."
    )


def most_faithful(
    faithful: Sequence[Mapping[str, float | None]],
    listed: Sequence[Valued],
    most: int,
    floor: float | None,
) -> list[int]:
    """Indices of the plans to verify, in their order: those with the best mean fidelity.

    With a floor the smallest whose every model is that faithful, then those that fall short of it
    by least. With no fidelity known they are spread evenly.
    """
    means = [mean_known(by_model) for by_model in faithful]
    ranked = [k for k, mean in enumerate(means) if mean is not None]
    if not ranked:
        return spread(len(faithful), most)

    def merit(k: int) -> tuple[float, float]:
        if floor is None:
            return (-(means[k] or 0.0), listed[k].bytes)
        short = max(0.0, floor - min(f for f in faithful[k].values() if f is not None))
        return (short, listed[k].bytes)

    return sorted(sorted(ranked, key=merit)[:most])


def _plan_record(valued: Valued, valuer: PlanEvaluator) -> PlanRecord:
    return PlanRecord(
        hash=valued.plan.hash,
        plan=valued.plan.to_dict(),
        bytes=valued.bytes,
        macs=valuer.costs.macs(valued.plan),
        saved_pct=round(100 * (1 - valued.bytes / valuer.costs.unmerged_bytes), 3),
        proxy=valued.proxy,
        costs=dict(zip(valuer.problem.costs, valued.costs, strict=True)),
    )


def _model_records(config: RunConfig, deployment: Deployment) -> dict[str, ModelRecord]:
    return {
        name: ModelRecord(
            arch=config.models[name].arch,
            task=fact.task,
            stages=[{**asdict(stage), "shape": list(stage.shape)} for stage in fact.stages],
            head_bytes=fact.head_bytes,
            head_macs=fact.head_macs,
        )
        for name, fact in deployment.facts.items()
    }
