"""The head of the report: one sentence, and three numbers."""

from __future__ import annotations

from dataclasses import dataclass

from search.report.score_text import score_name, score_text
from search.results.kept_quality import kept_interval_text, kept_text, no_baseline_text
from search.results.search_result import CandidateRecord, Result
from search.utils.format import MEGABYTE, list_names, megabytes, percent


@dataclass(frozen=True)
class HeadlineNumber:
    """A large number with its name and notes to compare it with."""

    name: str
    value: str
    notes: tuple[str, ...]


def headline(result: Result) -> str:
    """Return the requirement and the result in one sentence."""
    chosen, models = result.chosen_candidate, list_names(list(result.models))
    if chosen is None:
        return f"No verified plan lets {models} {_requirement(result)}{_nearest(result)}."
    limit = (
        f"Within {megabytes(result.budget_bytes)}"
        if result.budget_bytes is not None
        else f"To keep {percent(result.quality_floor)} of every model's quality"
    )
    unmerged = f"{result.unmerged_bytes / MEGABYTE:.2f}"
    size = f"hold {megabytes(chosen.bytes)} instead of {unmerged} ({chosen.saved_pct:.1f}% less)"
    return f"{limit}, {models} {size} and {_quality_text(result, chosen)}."


def headline_numbers(result: Result) -> list[HeadlineNumber]:
    """Return bytes, quality and the effect on the models; if no plan was chosen, the nearest."""
    chosen = result.chosen_candidate
    if chosen is None:
        return [
            HeadlineNumber("held unmerged", megabytes(result.unmerged_bytes), (_limit(result),)),
            HeadlineNumber(
                "kept on its worst model",
                kept_text(result.highest_worst_quality, result.at_chance),
                (_nearest_note(result),),
            ),
            HeadlineNumber("chosen", "none", ("verify more plans, or require less",)),
        ]
    less = f"{chosen.saved_pct:.1f}% less than {megabytes(result.unmerged_bytes)} unmerged"
    return [
        HeadlineNumber("held", megabytes(chosen.bytes), (less, _limit(result))),
        _quality_number(result, chosen),
        _models_number(result, chosen),
    ]


def _requirement(result: Result) -> str:
    if result.quality_floor is not None:
        return f"all keep {percent(result.quality_floor)} of their quality"
    return f"fit into {megabytes(result.budget_bytes or 0)}"


def _limit(result: Result) -> str:
    if result.budget_bytes is not None:
        return f"budget {megabytes(result.budget_bytes)}"
    return f"every model must keep {percent(result.quality_floor)}"


def _quality_text(result: Result, chosen: CandidateRecord) -> str:
    if chosen.quality_kept is not None and result.has_baseline:
        return f"keep {kept_text(chosen.quality_kept, result.at_chance)} of their quality"
    if chosen.mean_fidelity is not None:
        return f"agree {percent(chosen.mean_fidelity)} with the unmerged models"
    return "their quality is not known"


def _nearest(result: Result) -> str:
    if result.at_chance:
        return f": {no_baseline_text(result.at_chance)}"
    worst = result.highest_worst_quality
    if worst is None:
        return ""
    return f": the nearest keeps {kept_text(worst, result.at_chance)} on its worst model"


def _nearest_note(result: Result) -> str:
    return no_baseline_text(result.at_chance) if result.at_chance else "by the nearest plan"


def _quality_number(result: Result, chosen: CandidateRecord) -> HeadlineNumber:
    if result.at_chance:
        note = no_baseline_text(result.at_chance)
        return HeadlineNumber("fidelity", percent(chosen.mean_fidelity), (note,))
    if chosen.quality_kept is None:
        note = "agreement with the unmerged models; without labels accuracy cannot be measured"
        return HeadlineNumber("fidelity", percent(chosen.mean_fidelity), (note,))
    notes = ["mean over the models; 100% is unmerged"]
    interval = kept_interval_text(chosen.quality_interval, result.at_chance)
    if interval:
        notes.insert(0, f"95% interval {interval}")
    unlabelled = [name for name in result.models if name not in result.baseline]
    if unlabelled:
        notes.append(f"no labels for {list_names(unlabelled)}: fidelity counts instead")
    value = kept_text(chosen.quality_kept, result.at_chance)
    return HeadlineNumber("quality kept", value, tuple(notes))


def _models_number(result: Result, chosen: CandidateRecord) -> HeadlineNumber:
    """Return how many models are not worse, and each model's score; without labels, the shares."""
    if not result.baseline:
        notes = [f"{name}: fidelity {percent(f)}" for name, f in chosen.fidelity.items()]
        count = len(chosen.plan["shares"])
        return HeadlineNumber("shares" if count != 1 else "share", str(count), tuple(notes))
    worse = list(chosen.significance_by_model.values()).count("worse")
    notes = [
        f"{name}: {score_name(scores)} {score_text(chosen.accuracy[name])}, unmerged "
        f"{score_text(scores)}: {chosen.significance_by_model[name]}"
        for name, scores in result.baseline.items()
    ]
    notes += [
        f"{name}: fidelity {percent(chosen.fidelity.get(name))}"
        for name in result.models
        if name not in result.baseline
    ]
    count = len(chosen.significance_by_model)
    return HeadlineNumber("models no worse", f"{count - worse} of {count}", tuple(notes))
