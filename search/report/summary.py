"""What was asked and what was found: one sentence, and three numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.report.score_text import score_name, score_text
from search.results.search_result import CandidateRecord, Result
from search.utils.format import MEGABYTE, megabytes, percent, percents


@dataclass(frozen=True)
class Number:
    """A number that stands out: what it is of, and what to compare it with."""

    name: str
    value: str
    notes: tuple[str, ...]


def sentence(result: Result) -> str:
    """What was asked, and what was found."""
    chosen, models = result.chosen_candidate, listed(list(result.models))
    if chosen is None:
        return f"No verified plan lets {models} {_asked(result)}{_nearest(result)}."
    asked = (
        f"Within {megabytes(result.budget_bytes)}"
        if result.budget_bytes is not None
        else f"To keep {percent(result.quality_floor)} of every model's quality"
    )
    unmerged = f"{result.unmerged_bytes / MEGABYTE:.2f}"
    held = f"hold {megabytes(chosen.bytes)} instead of {unmerged} ({chosen.saved_pct:.1f}% less)"
    return f"{asked}, {models} {held} and {_kept(chosen)}."


def numbers(result: Result) -> list[Number]:
    """Bytes, quality, and what it means for each model; of the unmerged set if none was chosen."""
    chosen = result.chosen_candidate
    if chosen is None:
        return [
            Number("held unmerged", megabytes(result.unmerged_bytes), (_limit(result),)),
            _nearest_number(result),
            Number("chosen", "none", ("verify more, or ask for less",)),
        ]
    less = f"{chosen.saved_pct:.1f}% less than {megabytes(result.unmerged_bytes)} unmerged"
    return [
        Number("held", megabytes(chosen.bytes), (less, _limit(result))),
        _quality(result, chosen),
        _models(result, chosen),
    ]


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _asked(result: Result) -> str:
    if result.quality_floor is not None:
        return f"all keep {percent(result.quality_floor)} of their quality"
    return f"fit into {megabytes(result.budget_bytes or 0)}"


def _limit(result: Result) -> str:
    if result.budget_bytes is not None:
        return f"budget {megabytes(result.budget_bytes)}"
    return f"every model is to keep {percent(result.quality_floor)}"


def _kept(chosen: CandidateRecord) -> str:
    if chosen.quality_kept is not None:
        return f"keep {percent(chosen.quality_kept)} of their quality"
    if chosen.mean_fidelity is not None:
        return f"agree to {percent(chosen.mean_fidelity)} with what they said unmerged"
    return "nothing is known of their quality"


def _nearest(result: Result) -> str:
    worst = result.nearest_worst
    return "" if worst is None else f": the nearest keeps {percent(worst)} on its worst"


def _nearest_number(result: Result) -> Number:
    return Number(
        "kept on its worst model", percent(result.nearest_worst), ("by the nearest plan",)
    )


def _quality(result: Result, chosen: CandidateRecord) -> Number:
    if chosen.quality_kept is None:
        note = "agreement with the unmerged models; accuracy was not measured: there are no labels"
        return Number("fidelity", percent(chosen.mean_fidelity), (note,))
    notes = ["mean over the models; 100% is unmerged"]
    if chosen.quality_interval is not None:
        notes.insert(0, f"95% interval {percents(chosen.quality_interval)}")
    guessed = [name for name in result.models if name not in result.baseline]
    if guessed:
        notes.append(f"no labels for {listed(guessed)}: by fidelity")
    return Number("quality kept", percent(chosen.quality_kept), tuple(notes))


def _models(result: Result, chosen: CandidateRecord) -> Number:
    """How many models are not worse, and what each does."""
    if not result.baseline:
        known = [f"{name}: fidelity {percent(f)}" for name, f in chosen.fidelity.items()]
        shares = len(chosen.plan["shares"])
        return Number("shares" if shares != 1 else "share", str(shares), tuple(known))
    worse = sum(verdict == "worse" for verdict in chosen.verdicts.values())
    notes = [
        f"{name}: {score_name(scores)} {score_text(chosen.accuracy[name])}, unmerged "
        f"{score_text(scores)}: {chosen.verdicts[name]}"
        for name, scores in result.baseline.items()
    ]
    notes += [
        f"{name}: fidelity {percent(chosen.fidelity.get(name))}"
        for name in result.models
        if name not in result.baseline
    ]
    judged = len(chosen.verdicts)
    return Number("models no worse", f"{judged - worse} of {judged}", tuple(notes))
