"""`merge-search promote` and `rollback`: which merged model is in service, by the config's rule.

The champion is the plan in service, the challenger the one that the last search proposed. Both are
versions of one registered model; what is known of each was written down when it was registered.
"""

from __future__ import annotations

from dataclasses import dataclass

from search.config.run import RunConfig
from search.config.search import PromotionConfig
from search.deploy.comparison import Comparison
from search.evaluation.bundles import Difference, Measure
from search.results.registered_plan import RegisteredPlan
from search.study.problem import Limits
from search.tracking import client
from search.tracking.target import Target
from search.utils.format import megabytes, percent, percent_interval
from search.utils.reporter import Reporter
from spaces.errors import MergeSearchError


class NotPromoted(MergeSearchError):
    """The rule does not let the challenger take the champion's place."""

    exit_code = 4


@dataclass(frozen=True)
class PlanInService:
    """The plan that a promotion or a rollback has put in service."""

    model: str
    """Name of the registered model in MLflow."""
    version: str
    """Version of that model."""
    plan: RegisteredPlan
    reason: str


class NoSuchVersion(MergeSearchError):
    """There is no challenger to promote, or no champion to go back from."""


@dataclass(frozen=True)
class PromotionDecision:
    """Whether the challenger is promoted, and why."""

    promoted: bool
    reason: str
    by: Measure
    """What it was measured by."""


def judge(rule: PromotionConfig, limits: Limits, contest: Comparison) -> PromotionDecision:
    """By the rule, whether the challenger may take the champion's place.

    It has to keep within the limits and to be measured as the rule wants it; if there is a
    champion, on the same frames, and not to be worse than it outside the interval: of their
    difference if both were measured at once, else its own.
    """
    challenger, champion = contest.challenger, contest.champion
    by = _measure(rule, challenger, champion)
    asked = _unfit(by, limits, challenger)
    if asked:
        return PromotionDecision(False, asked, by)
    told = f"{megabytes(challenger.bytes)} are within the limits"
    if champion is None:
        return PromotionDecision(
            True, f"there was no champion; {told}; {_quality(by, challenger)}", by
        )
    if challenger.bundle == champion.bundle:
        return PromotionDecision(False, "it is the champion already", by)
    apart = _not_comparable(rule, by, challenger, champion)
    if apart:
        return PromotionDecision(False, apart, by)
    difference = contest.differences.get(by)
    if difference is None:
        best_case = _own_best_case(by, challenger, champion)
        against = f"outside its interval: {_against(by, challenger, champion)}"
    else:
        best_case = difference.high
        against = f"frame by frame: {_against(by, challenger, champion)}, {_points(difference)}"
    if best_case + rule.slack < 0:
        return PromotionDecision(False, f"it is worse {against}", by)
    return PromotionDecision(True, f"it is not worse {against}; {told}", by)


def measured(by: Measure, standing: RegisteredPlan) -> float | None:
    """The quality that is compared; None if it is not known."""
    return standing.quality if by == "truth" else standing.fidelity


def promote(config: RunConfig, reporter: Reporter) -> PlanInService:
    """Make the challenger of the config's name the champion, if the rule lets it.

    Raises:
        NobodyThere: there is no challenger.
        NotPromoted: the rule does not; the reason is told and recorded.
        TrackerUnreachable: MLflow cannot be asked.
    """
    with client.registry(Target.of(config), config.name) as registry:
        challenger, champion = registry.challenger(), registry.champion()
        if challenger is None:
            raise NoSuchVersion(
                f"{config.name} has no challenger in MLflow; `merge-search run` proposes one"
            )
        comparison = Comparison(challenger.plan, None if champion is None else champion.plan)
        limits = config.limits(challenger.plan.unmerged_bytes)
        judgement = judge(config.promotion, limits, comparison)
        if not judgement.promoted:
            registry.refuse(challenger, judgement.reason)
            raise NotPromoted(
                f"version {challenger.version} of {config.name} (plan {challenger.plan.plan}) "
                f"is not promoted: {judgement.reason}"
            )
        registry.promote(challenger, champion, judgement.reason)
    reporter.say(
        f"Version {challenger.version} of {config.name} (plan {challenger.plan.plan}) "
        f"is the champion: {judgement.reason}"
    )
    return PlanInService(config.name, challenger.version, challenger.plan, judgement.reason)


def rollback(config: RunConfig, why: str, reporter: Reporter) -> PlanInService:
    """Put the champion before this one back in service.

    Raises:
        NobodyThere: there is no champion, or it replaced none.
        TrackerUnreachable: MLflow cannot be asked.
    """
    with client.registry(Target.of(config), config.name) as registry:
        champion = registry.champion()
        if champion is None:
            raise NoSuchVersion(f"{config.name} has no champion in MLflow")
        before = registry.before(champion)
        if before is None:
            raise NoSuchVersion(
                f"version {champion.version} of {config.name} replaced no champion: there is "
                "nothing to go back to"
            )
        registry.go_back(champion, before, why)
    reporter.say(
        f"Version {before.version} of {config.name} (plan {before.plan.plan}) is the "
        f"champion again, instead of version {champion.version}"
    )
    return PlanInService(config.name, before.version, before.plan, why)


def _measure(
    rule: PromotionConfig, challenger: RegisteredPlan, champion: RegisteredPlan | None
) -> Measure:
    if rule.by != "either":
        return rule.by
    sides = [challenger] if champion is None else [challenger, champion]
    return "truth" if all(side.quality is not None for side in sides) else "fidelity"


def _unfit(by: Measure, limits: Limits, challenger: RegisteredPlan) -> str:
    """Why it cannot be champion whoever is; empty if it can."""
    if challenger.bytes > limits.bytes:
        return (
            f"its {megabytes(challenger.bytes)} are over the budget of {megabytes(limits.bytes)}"
        )
    if measured(by, challenger) is None:
        what = "verified on ground truth" if by == "truth" else "measured for fidelity"
        return f"it was not {what}, which promotion.by asks for"
    if challenger.worst is not None and challenger.worst < limits.quality:
        return (
            f"one of its models keeps {percent(challenger.worst)}, below the floor of "
            f"{percent(limits.quality)}"
        )
    return ""


def _not_comparable(
    rule: PromotionConfig, by: Measure, challenger: RegisteredPlan, champion: RegisteredPlan
) -> str:
    """Why the two cannot be compared; empty if they can."""
    if measured(by, champion) is None:
        return f"the champion was not measured by {by}, as promotion.by asks for"
    what, same = (
        ("labels", challenger.labels == champion.labels)
        if by == "truth"
        else ("frames", challenger.frames == champion.frames)
    )
    if same or rule.measured_on == "any":
        return ""
    return (
        f"the champion was measured on other {what}: run the search again on those {what}, or "
        "set promotion.measured_on: any to compare across them"
    )


def _own_best_case(by: Measure, challenger: RegisteredPlan, champion: RegisteredPlan) -> float:
    """Its lead at the upper end of its own interval, if that is known."""
    sure = _interval(by, challenger)
    best = (measured(by, challenger) or 0.0) if sure is None else sure[1]
    return best - (measured(by, champion) or 0.0)


def _against(by: Measure, challenger: RegisteredPlan, champion: RegisteredPlan) -> str:
    return f"{_quality(by, challenger)}; the champion's {percent(measured(by, champion))}"


def _points(difference: Difference) -> str:
    value, low, high = (f"{100 * share:+.1f}" for share in difference)
    return f"{value} points ({low} to {high})"


def _quality(by: Measure, standing: RegisteredPlan) -> str:
    known, sure = percent(measured(by, standing)), _interval(by, standing)
    what = "it keeps" if by == "truth" else "fidelity"
    return f"{what} {known}" + (f" ({percent_interval(sure)})" if sure else "")


def _interval(by: Measure, standing: RegisteredPlan) -> tuple[float, float] | None:
    return standing.interval if by == "truth" else standing.fidelity_interval
