"""The pairs of stages, shares and plans that a run rejected, with the reasons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from search.results.kept_quality import kept_text, no_baseline_text
from search.results.search_result import CandidateRecord, Result
from search.utils.format import megabytes, percent
from spaces.plan import Share
from spaces.shares import Pair

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class ShortlistedPlan:
    """A plan whose fidelity was measured."""

    hash: str
    bytes: int
    proxy: float
    fidelity: float | None
    """The mean over the models whose fidelity is defined; None if it is for none."""


@dataclass(frozen=True)
class SearchTrace:
    """The facts about a search that the report shows beyond the result."""

    similarity: Mapping[Share, float]
    """Of every legal share."""
    rejected: Mapping[Pair, str]
    """Pairs of stages that cannot be shared, with the reason."""
    legal: int
    """Number of pairs that can."""
    feasible: int
    """Number of evaluated plans within the limits."""
    shortlist: Sequence[ShortlistedPlan]


@dataclass(frozen=True)
class RejectedPlan:
    """A candidate that was not chosen, and why."""

    hash: str
    reason: str


def count_reasons(reasons: Iterable[str]) -> list[tuple[str, int]]:
    """Return reasons and how often each was given, the most frequent first.

    Reasons that differ only in their numbers are counted together, with the range of each number.
    """
    groups: dict[str, list[list[str]]] = {}
    for reason in reasons:
        groups.setdefault(_NUMBER.sub("#", reason), []).append(_NUMBER.findall(reason))
    counts = [(_with_ranges(text, numbers), len(numbers)) for text, numbers in groups.items()]
    return sorted(counts, key=lambda entry: -entry[1])


def _with_ranges(text: str, numbers: Sequence[Sequence[str]]) -> str:
    parts = text.split("#")
    filled = parts[0]
    for values, part in zip(zip(*numbers, strict=True), parts[1:], strict=True):
        low, high = min(values, key=float), max(values, key=float)
        filled += (low if low == high else f"{low} to {high}") + part
    return filled


def dissimilar_shares(trace: SearchTrace, floor: float) -> list[tuple[Share, float]]:
    """Return the shares that are not above `floor` and so not searched, the most similar first."""
    low = [(share, value) for share, value in trace.similarity.items() if value <= floor]
    return sorted(low, key=lambda entry: (-entry[1], entry[0]))


def unverified_plans(trace: SearchTrace, result: Result) -> list[tuple[ShortlistedPlan, str]]:
    """Return the plans of the shortlist that did not become candidates, and why."""
    candidates = {candidate.hash for candidate in result.candidates}
    return [
        (plan, _why_unverified(plan, result))
        for plan in trace.shortlist
        if plan.hash not in candidates
    ]


def _why_unverified(plan: ShortlistedPlan, result: Result) -> str:
    if plan.fidelity is None:
        return "its fidelity is not known"
    if result.quality_floor is not None:
        return (
            "others come closer to the quality that every model must keep, or keep it in fewer "
            "bytes"
        )
    least = min((f for c in result.candidates if (f := c.mean_fidelity) is not None), default=0.0)
    if plan.fidelity < least:
        return f"fidelity {percent(plan.fidelity)}; every candidate's is at least {percent(least)}"
    return "as faithful as the last candidate, but larger"


def plans_not_chosen(result: Result) -> list[RejectedPlan]:
    """Return the candidates that were not chosen, by rising bytes, and why."""
    chosen = result.chosen_candidate
    return [
        RejectedPlan(c.hash, _why_not_chosen(c, chosen, result))
        for c in sorted(result.candidates, key=lambda c: c.bytes)
        if c is not chosen
    ]


def _why_not_chosen(
    candidate: CandidateRecord, chosen: CandidateRecord | None, result: Result
) -> str:
    floor = result.quality_floor
    if floor is not None:
        short = [name for name, kept in candidate.kept.items() if kept < floor]
        if short or not candidate.kept:
            shortfall = _shortfall(candidate, short, result.at_chance)
            return f"{shortfall}; every model must keep {percent(floor)}"
    if chosen is None:
        return "no plan was chosen"
    qualities = (candidate.quality_kept, chosen.quality_kept)
    fidelities = (candidate.mean_fidelity, chosen.mean_fidelity)
    if floor is None and qualities[0] != qualities[1]:
        return _lower_quality(qualities, result.at_chance)
    if floor is None and fidelities[0] != fidelities[1]:
        own, best = map(percent, fidelities)
        return f"fidelity {own}, the chosen plan's {best}"
    more = f"{megabytes(candidate.bytes)}, the chosen plan's {megabytes(chosen.bytes)}"
    return f"no better, and it holds {more}" if floor is None else f"it holds {more}"


def _shortfall(
    candidate: CandidateRecord, short: Sequence[str], at_chance: Mapping[str, str]
) -> str:
    """Return the quality kept of the models that keep too little; at chance, why none is given."""
    if not short:
        return "its quality is not known"
    parts = [
        f"{name} keeps {kept_text(candidate.kept[name], at_chance.keys() & {name})}"
        for name in short
        if name not in at_chance
    ]
    noise = [name for name in short if name in at_chance]
    return ", ".join([*parts, no_baseline_text(noise)] if noise else parts)


def _lower_quality(
    qualities: tuple[float | None, float | None], at_chance: Mapping[str, str]
) -> str:
    """Compare a candidate's quality kept with that of the chosen plan."""
    if at_chance:
        return f"it scores lower than the chosen plan; {no_baseline_text(at_chance)}"
    own, best = (kept_text(quality, at_chance) for quality in qualities)
    return f"quality kept {own}, the chosen plan's {best}"
