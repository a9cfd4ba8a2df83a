"""The first step of a run: from models and frames to the front that the proxy predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from search.config.run import RunConfig
from search.evaluation.latency import Latency
from search.pipelines.prepare import (
    build_problem,
    compute_rounding_losses,
    compute_similarities,
    observe,
)
from search.pipelines.run_steps.records import FrontSearch, RunInputs
from search.results.search_result import Result
from search.study.objectives import EvaluatedPlan, PlanEvaluator, PredictedPlan
from search.study.optimize import StudyResult, StudySettings, run_study
from search.study.problem import Limits
from search.study.smallest_plan import smallest_plan, smallest_plan_thorough
from search.study.warm_start import starting_plans
from search.utils.files import write_json
from search.utils.format import megabytes, percent
from search.utils.locks import describe_local_locks
from search.utils.records import BadRecord, read_record
from search.utils.redact import without_credentials
from search.utils.reporter import Reporter
from search.utils.timing import StepTimings
from spaces.errors import BadPlan, MergeSearchError
from spaces.plan import SharePlan


class BudgetTooSmall(MergeSearchError):
    """No plan fits the budget; the message names the smallest reachable plan."""

    exit_code = 2

    def __init__(self, budget: float, unmerged: int, least: PredictedPlan) -> None:
        self.least = least
        share = f"{least.bytes / unmerged:.1%}"
        super().__init__(
            f"budget {megabytes(budget)} cannot be met: the smallest reachable is "
            f"{megabytes(least.bytes)} ({least.bytes} bytes, {share} of the unmerged "
            f"{megabytes(unmerged)}), by plan {least.plan.hash}: {least.plan}"
        )


def search(
    inputs: RunInputs, champion: SharePlan | None, timings: StepTimings, reporter: Reporter
) -> FrontSearch:
    """Explore the plans of the config's models within its limits.

    The study evaluates first the champion, then the plans that an earlier run into the same folder
    found, then the smallest plan.

    Raises:
        BudgetTooSmall: no plan fits.
    """
    config, deployment = inputs.config, inputs.deployment
    with timings.timing("statistics"):
        observed = observe(config, deployment, inputs.frames, reporter)
    with timings.timing("similarity"):
        similarity = compute_similarities(config, observed, config.search.adapter_specs, reporter)
        losses = compute_rounding_losses(config, observed, reporter)
    latency = Latency(observed)
    # an earlier search may have shared equal representations through maps
    earlier_plans = [*map(deployment.without_needless_maps, load_earlier_plans(config.out_folder))]
    if champion:
        champion = deployment.without_needless_maps(champion.in_closed_form())
    problem = build_problem(config, deployment, similarity, losses, champion)
    evaluator = PlanEvaluator(problem, latency_objective(latency, problem.rates))
    with timings.timing("smallest plan"), reporter.working("smallest plan"):
        least = smallest_within_limits(evaluator, config.out_folder)
    with timings.timing("search"):
        first = [champion] if champion else []
        start_plans = [*first, *earlier_plans, least.plan]
        explored = explore_plans(config, evaluator, start_plans, reporter)
    evaluated_champion = evaluate_champion(champion, evaluator, reporter)
    return FrontSearch(
        observed, similarity, evaluator, latency, least, explored, evaluated_champion
    )


def latency_objective(
    latency: Latency, rates: Mapping[str, float]
) -> Callable[[SharePlan], float]:
    """Return what measures a plan: per second of camera time if the models have rates."""
    if not rates:
        return latency.milliseconds
    return lambda plan: latency.milliseconds_per_second(plan, rates)


def smallest_within_limits(evaluator: PlanEvaluator, out: Path) -> PredictedPlan:
    """Return the smallest plan known.

    Raises:
        BudgetTooSmall: it exceeds the budget; the plan is written to OUT/plans.
    """
    problem = evaluator.problem
    budget = problem.limits.bytes
    least = smallest_plan(problem, evaluator)
    if least.bytes > budget:
        least = smallest_plan_thorough(problem, evaluator)
    if least.bytes > budget:
        write_json(out / "plans" / f"{least.plan.hash}.json", least.plan.to_dict())
        raise BudgetTooSmall(budget, evaluator.costs.unmerged_bytes, least)
    return least


def load_earlier_plans(out: Path) -> list[SharePlan]:
    """Return the plans in OUT/result.json, the chosen one first; none if it cannot be read."""
    try:
        earlier = read_record(Result, out / "result.json")
        chosen = [earlier.chosen_candidate] if earlier.chosen_candidate else []
        records = (*chosen, *earlier.candidates, *earlier.front)
        return [SharePlan.from_dict(record.plan).in_closed_form() for record in records]
    except (BadRecord, BadPlan):
        return []  # absent, foreign or of another version: these plans are only a head start


def explore_plans(
    config: RunConfig,
    evaluator: PlanEvaluator,
    start_plans: Sequence[SharePlan],
    reporter: Reporter,
) -> StudyResult:
    """Run the config's study on the plans within the limits, beginning with `start_plans`."""
    problem = evaluator.problem
    settings = StudySettings(
        name=config.name,
        store=config.store,
        sampler=config.search.sampler,
        trials=config.search.trials,
        seed=config.seed,
    )
    reporter.step(
        f"Exploring {problem.space.size:,} combinations with {settings.sampler}, "
        f"{_limits_text(config, problem.limits)}"
    )
    if "latency" not in problem.costs:  # a study that measures latency cannot be joined
        where = f"{without_credentials(config.store)} {settings.study_name(problem)}"
        reporter.say(f"  more processes: merge-search worker {where}")
    if config.stores_trials_in_file and (warning := describe_local_locks(Path(config.store))):
        reporter.warn(warning)
    with reporter.working("plans to try first"):
        starts = starting_plans(problem, start_plans)
    with reporter.progress("trials", config.search.trials) as progress:
        explored = run_study(evaluator, settings, starts, progress)
    exhausted = ", which is the whole search space" if explored.exhausted else ""
    reporter.say(
        f"  {explored.trials} plans evaluated{exhausted}; {len(explored.front)} on the front"
    )
    return explored


def evaluate_champion(
    champion: SharePlan | None, evaluator: PlanEvaluator, reporter: Reporter
) -> EvaluatedPlan | None:
    """Return the plan in service with its predicted values.

    Return None, and print why, if it is outside the search space or the limits.
    """
    if champion is None:
        return None
    encoding = evaluator.problem.space
    if encoding.decode(encoding.encode(champion)) == champion:
        evaluated = evaluator.evaluate(champion)
        if evaluator.is_feasible(evaluated):
            return evaluated
        reason = "it is predicted to miss the limits of the config"
    else:
        reason = "some of its shares are not in the search space"
    reporter.warn(f"The plan in service, {champion.hash}, is not verified: {reason}.")
    return None


def _limits_text(config: RunConfig, limits: Limits) -> str:
    if config.budget is None:
        return f"every model to keep {percent(config.quality_floor)} of its quality"
    return f"budget {megabytes(limits.bytes)}"
