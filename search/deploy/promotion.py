"""`merge-search promote` and `rollback`: put a plan in service by the promotion rule.

The champion is the plan in service, the challenger the plan that the last search proposed. Both
are versions of one registered model, and the registry holds the record of each plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from search.config.run import RunConfig
from search.config.search import PromotionConfig
from search.deploy.comparison import Comparison
from search.evaluation.bundles import Difference, Measure
from search.results.kept_quality import kept_text, no_baseline_text
from search.results.registered_plan import RegisteredPlan
from search.study.problem import Limits
from search.tracking import client
from search.tracking.target import Target
from search.utils.format import megabytes, percent, percent_interval
from search.utils.reporter import Reporter
from spaces.errors import MergeSearchError


class NotPromoted(MergeSearchError):
    """The promotion rule rejects the challenger."""

    exit_code = 4


@dataclass(frozen=True)
class PlanInService:
    """The plan that a promotion or a rollback put in service."""

    model: str
    """Name of the registered model in MLflow."""
    version: str
    """Version of that model."""
    plan: RegisteredPlan
    reason: str


class NoSuchVersion(MergeSearchError):
    """The registry has no challenger to promote, or no champion to roll back."""


@dataclass(frozen=True)
class PromotionDecision:
    """Whether the challenger is promoted, and why."""

    promoted: bool
    reason: str
    by: Measure
    """The verification stage that decided."""


def decide(rule: PromotionConfig, limits: Limits, comparison: Comparison) -> PromotionDecision:
    """Decide by the promotion rule whether the challenger replaces the champion.

    The challenger must meet the limits and be measured as the rule demands. If there is a
    champion, it must be measured on the same frames, and the challenger must not be significantly
    worse: by the interval of their difference if both were measured frame by frame, else by the
    challenger's own interval.
    """
    challenger, champion = comparison.challenger, comparison.champion
    by = _deciding_measure(rule, challenger, champion)
    if ineligible := _ineligible_because(by, limits, challenger):
        return PromotionDecision(False, ineligible, by)
    within_limits = f"{megabytes(challenger.bytes)} are within the limits"
    if champion is None:
        quality = _describe_quality(by, challenger)
        return PromotionDecision(True, f"there was no champion; {within_limits}; {quality}", by)
    if challenger.bundle == champion.bundle:
        return PromotionDecision(False, "it is the champion already", by)
    if incomparable := _incomparable_because(rule, by, challenger, champion):
        return PromotionDecision(False, incomparable, by)
    best_case, against = _best_case(by, comparison, challenger, champion)
    if best_case + rule.slack < 0:
        return PromotionDecision(False, f"it is worse {against}", by)
    return PromotionDecision(True, f"it is not worse {against}; {within_limits}", by)


def measured_quality(by: Measure, plan: RegisteredPlan) -> float | None:
    """Return the number that is compared; None if it was not measured."""
    return plan.quality if by == "truth" else plan.fidelity


def promote(config: RunConfig, reporter: Reporter) -> PlanInService:
    """Make the challenger of the config's name the champion, if the promotion rule accepts it.

    Raises:
        NoSuchVersion: There is no challenger.
        NotPromoted: The rule rejects it; the reason is recorded in the registry.
        TrackerUnreachable: MLflow cannot be reached.
    """
    with client.open_registry(Target.of(config), config.name) as registry:
        challenger, champion = registry.challenger(), registry.champion()
        if challenger is None:
            raise NoSuchVersion(
                f"{config.name} has no challenger in MLflow; `merge-search run` proposes one"
            )
        comparison = Comparison(challenger.plan, None if champion is None else champion.plan)
        limits = config.limits(challenger.plan.unmerged_bytes)
        decision = decide(config.promotion, limits, comparison)
        if not decision.promoted:
            registry.note_refusal(challenger, decision.reason)
            raise NotPromoted(
                f"version {challenger.version} of {config.name} (plan {challenger.plan.plan}) "
                f"is not promoted: {decision.reason}"
            )
        registry.promote(challenger, champion, decision.reason)
    reporter.say(
        f"Version {challenger.version} of {config.name} (plan {challenger.plan.plan}) "
        f"is the champion: {decision.reason}"
    )
    return PlanInService(config.name, challenger.version, challenger.plan, decision.reason)


def rollback(config: RunConfig, reason: str, reporter: Reporter) -> PlanInService:
    """Put the previous champion back in service.

    Raises:
        NoSuchVersion: There is no champion, or it replaced none.
        TrackerUnreachable: MLflow cannot be reached.
    """
    with client.open_registry(Target.of(config), config.name) as registry:
        champion = registry.champion()
        if champion is None:
            raise NoSuchVersion(f"{config.name} has no champion in MLflow")
        previous = registry.previous_champion(champion)
        if previous is None:
            raise NoSuchVersion(
                f"version {champion.version} of {config.name} replaced no champion: there is "
                "nothing to roll back to"
            )
        registry.roll_back(champion, previous, reason)
    reporter.say(
        f"Version {previous.version} of {config.name} (plan {previous.plan.plan}) is the "
        f"champion again, instead of version {champion.version}"
    )
    return PlanInService(config.name, previous.version, previous.plan, reason)


def _deciding_measure(
    rule: PromotionConfig, challenger: RegisteredPlan, champion: RegisteredPlan | None
) -> Measure:
    if rule.by != "either":
        return rule.by
    plans = [challenger] if champion is None else [challenger, champion]
    return "truth" if all(plan.quality is not None for plan in plans) else "fidelity"


def _ineligible_because(by: Measure, limits: Limits, challenger: RegisteredPlan) -> str:
    """Say why the challenger is ineligible regardless of the champion; empty if eligible."""
    if challenger.bytes > limits.bytes:
        return (
            f"its {megabytes(challenger.bytes)} are over the budget of {megabytes(limits.bytes)}"
        )
    if measured_quality(by, challenger) is None:
        measurement = "verified on ground truth" if by == "truth" else "measured for fidelity"
        return f"it was not {measurement}, which promotion.by requires"
    if challenger.worst is not None and challenger.worst < limits.quality:
        floor = f"below the floor of {percent(limits.quality)}"
        if challenger.at_chance:
            return f"one of its models is {floor}; {no_baseline_text(challenger.at_chance)}"
        kept = kept_text(challenger.worst, challenger.at_chance)
        return f"one of its models keeps {kept}, {floor}"
    return ""


def _incomparable_because(
    rule: PromotionConfig, by: Measure, challenger: RegisteredPlan, champion: RegisteredPlan
) -> str:
    """Say why the two cannot be compared; empty if they can."""
    if measured_quality(by, champion) is None:
        stage = "ground truth" if by == "truth" else "fidelity"
        return f"the champion was not measured by {stage}, which promotion.by requires"
    data, same = (
        ("labels", challenger.labels == champion.labels)
        if by == "truth"
        else ("frames", challenger.frames == champion.frames)
    )
    if same or rule.measured_on == "any":
        return ""
    return (
        f"the champion was measured on other {data}: run the search again on those {data}, or "
        "set promotion.measured_on: any to compare across them"
    )


def _best_case(
    by: Measure, comparison: Comparison, challenger: RegisteredPlan, champion: RegisteredPlan
) -> tuple[float, str]:
    """Return the upper end of the challenger's lead over the champion, and its basis in words."""
    difference = comparison.differences.get(by)
    if difference is not None:
        numbers = _describe_both(by, challenger, champion, f", {_in_points(difference)}")
        return difference.high, f"frame by frame{numbers}"
    interval = _interval(by, challenger)
    best = (measured_quality(by, challenger) or 0.0) if interval is None else interval[1]
    numbers = _describe_both(by, challenger, champion, "")
    return best - (measured_quality(by, champion) or 0.0), f"outside its interval{numbers}"


def _describe_both(
    by: Measure, challenger: RegisteredPlan, champion: RegisteredPlan, lead: str
) -> str:
    """Return both qualities and the challenger's lead, or why these are given for neither."""
    at_chance = dict.fromkeys((*challenger.at_chance, *champion.at_chance))
    if by == "truth" and at_chance:
        return f"; {no_baseline_text(at_chance)}"
    champion_quality = percent(measured_quality(by, champion))
    return f": {_describe_quality(by, challenger)}; the champion's {champion_quality}{lead}"


def _in_points(difference: Difference) -> str:
    value, low, high = (f"{100 * share:+.1f}" for share in difference)
    return f"{value} points ({low} to {high})"


def _describe_quality(by: Measure, plan: RegisteredPlan) -> str:
    if by == "truth" and plan.at_chance:
        return no_baseline_text(plan.at_chance)
    quality, interval = percent(measured_quality(by, plan)), _interval(by, plan)
    label = "it keeps" if by == "truth" else "fidelity"
    return f"{label} {quality}" + (f" ({percent_interval(interval)})" if interval else "")


def _interval(by: Measure, plan: RegisteredPlan) -> tuple[float, float] | None:
    return plan.interval if by == "truth" else plan.fidelity_interval
