"""What a run has looked at and left, and why: pairs, shares, plans."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from search.results.search_result import CandidateRecord, Result
from search.utils.format import megabytes, percent
from spaces.plan import Share
from spaces.shares import Pair

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class ShortlistedPlan:
    """A plan of which fidelity was measured."""

    hash: str
    bytes: int
    proxy: float
    fidelity: float | None
    """Mean over the models where it is known."""


@dataclass(frozen=True)
class SearchTrace:
    """What a result does not hold, since it is only told: all that was tried on the way."""

    similarity: Mapping[Share, float]
    """Of every legal share."""
    rejected: Mapping[Pair, str]
    """Pairs of representations that may not replace each other, with the reason."""
    legal: int
    """Pairs that may."""
    feasible: int
    """Plans that were valued and lay within the limits."""
    shortlist: Sequence[ShortlistedPlan]


@dataclass(frozen=True)
class Left:
    """Something that was left, and why."""

    what: str
    why: str


def reasons(rejected: Iterable[str]) -> list[tuple[str, int]]:
    """Reasons and how often each was given, most frequent first.

    Those that differ only in their numbers are one, with the range of each number.
    """
    groups: dict[str, list[list[str]]] = {}
    for reason in rejected:
        groups.setdefault(_NUMBER.sub("#", reason), []).append(_NUMBER.findall(reason))
    told = [(_with_ranges(words, found), len(found)) for words, found in groups.items()]
    return sorted(told, key=lambda entry: -entry[1])


def _with_ranges(words: str, found: Sequence[Sequence[str]]) -> str:
    parts = words.split("#")
    text = parts[0]
    for values, part in zip(zip(*found, strict=True), parts[1:], strict=True):
        low, high = min(values, key=float), max(values, key=float)
        text += (low if low == high else f"{low} to {high}") + part
    return text


def under_floor(tried: SearchTrace, floor: float) -> list[tuple[Share, float]]:
    """Shares that are too dissimilar to be searched, the most similar first."""
    low = [(share, value) for share, value in tried.similarity.items() if value <= floor]
    return sorted(low, key=lambda entry: (-entry[1], entry[0]))


def unverified(tried: SearchTrace, result: Result) -> list[tuple[ShortlistedPlan, str]]:
    """Plans of the shortlist that are no candidates, and why not."""
    verified = {candidate.hash for candidate in result.candidates}
    return [
        (plan, _why_unverified(plan, result))
        for plan in tried.shortlist
        if plan.hash not in verified
    ]


def _why_unverified(plan: ShortlistedPlan, result: Result) -> str:
    if plan.fidelity is None:
        return "its fidelity is not known"
    if result.quality_floor is not None:
        return "others come closer to what every model is to keep, or keep it with fewer bytes"
    least = min((f for c in result.candidates if (f := c.mean_fidelity) is not None), default=0.0)
    if plan.fidelity < least:
        return f"fidelity {percent(plan.fidelity)}; every candidate's is at least {percent(least)}"
    return "as faithful as the last candidate, but larger"


def not_chosen(result: Result) -> list[Left]:
    """The candidates that were not chosen, by rising bytes, and why not."""
    chosen = result.chosen_candidate
    return [
        Left(c.hash, _why_not(c, chosen, result.quality_floor))
        for c in sorted(result.candidates, key=lambda c: c.bytes)
        if c is not chosen
    ]


def _why_not(
    candidate: CandidateRecord, chosen: CandidateRecord | None, floor: float | None
) -> str:
    if floor is not None:
        short = [f"{n} keeps {percent(k)}" for n, k in candidate.kept.items() if k < floor]
        if short or not candidate.kept:
            told = ", ".join(short) or "nothing is known of it"
            return f"{told}; {percent(floor)} was asked of every model"
    if chosen is None:
        return "nothing was chosen"
    quality = (candidate.quality_kept, chosen.quality_kept)
    faithful = (candidate.mean_fidelity, chosen.mean_fidelity)
    for name, (one, other) in (("quality kept", quality), ("fidelity", faithful)):
        if floor is None and one != other:
            return f"{name} {percent(one)}, the chosen plan's {percent(other)}"
    more = f"{megabytes(candidate.bytes)}, the chosen plan's {megabytes(chosen.bytes)}"
    return f"no better, and it holds {more}" if floor is None else f"it holds {more}"
