"""The quality of a graph in int8, on the terminal and in the card of its bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search.deploy.bundle_card import escape_markdown, markdown_table
from search.deploy.int8.int8_quality import Int8Quality, ModelQuality
from search.evaluation.bundles import Difference
from search.evaluation.per_frame import Scores
from search.report.score_text import score_name, score_text
from search.results.kept_quality import kept_interval_text, kept_text, no_baseline_text
from search.utils.format import as_sentence, list_names, megabytes, percent, percent_interval
from search.utils.reporter import Reporter
from spaces.plan import Ref

INT8 = "model_int8.onnx"
MOST_BLAMED, MOST_ADVISED = 5, 2
"""Stages that a warning names, and that it advises to keep in float, at most."""
INT8_HEADER = ["model", "score", "unmerged", "merged", "int8", "quality kept", "95%", "fidelity"]


def print_quality(quality: Int8Quality, written: int, reporter: Reporter) -> None:
    """Print the table of the quality in int8."""
    reporter.table(f"In int8: {INT8}, {megabytes(written)}", INT8_HEADER, _rows(quality))
    reporter.say(f"  {_against(quality)}")


def quality_section(
    quality: Int8Quality, written: int, frames: int, in_float: Sequence[str], warning: str
) -> str:
    """Return the section of the card; `frames` is the number of frames for the ranges."""
    kept = f" In float stay {list_names(in_float)}." if in_float else ""
    paragraphs = [
        "## In int8",
        escape_markdown(
            f"{INT8}, {megabytes(written)}: weights and activations are in int8. The ranges of "
            f"the activations were measured on {frames} of the unlabelled frames.{kept}"
        ),
        markdown_table(INT8_HEADER, _rows(quality)),
        escape_markdown(_against(quality)),
        escape_markdown(as_sentence(warning)) if warning else "",
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def missing_section(reason: str) -> str:
    """Return the section of the card that says why there is no graph in int8."""
    return f"## In int8\n\n{escape_markdown(as_sentence(f'Without {INT8}: {reason}'))}"


def describe_drop(drop: Difference, max_drop: float, losses: Mapping[Ref, float]) -> str:
    """Say how far the quality drops, and which stages and heads change the answers most.

    `losses` are those of each one alone in int8, largest first.
    """
    total = sum(losses.values())
    drops = (
        f"in int8 the quality is {percent(drop.value)} below the merged models in float, more "
        f"than export.max_drop ({percent(max_drop)})"
    )
    if not total:
        return drops
    blamed = [f"{owner} ({percent(loss / total)})" for owner, loss in losses.items()]
    advice = " ".join(f"--keep-float {owner}" for owner in [*losses][:MOST_ADVISED])
    return (
        f"{drops}; alone in int8, the answers are changed most by "
        f"{list_names(blamed[:MOST_BLAMED])} of the change of all stages; to keep the first ones "
        f"in float: {advice}"
    )


def _rows(quality: Int8Quality) -> list[list[str]]:
    return [_row(model, quality.at_chance) for model in quality.models]


def _row(model: ModelQuality, at_chance: Sequence[str]) -> list[str]:
    means_nothing = {model.model} & set(at_chance)
    return [
        model.model,
        score_name(model.unmerged) if model.unmerged else "no labels",
        *(_score_cell(scores) for scores in (model.unmerged, model.merged, model.int8)),
        kept_text(model.kept, means_nothing),
        kept_interval_text(model.interval, means_nothing) or "-",
        percent(model.fidelity),
    ]


def _score_cell(scores: Scores | None) -> str:
    return score_text(scores) if scores else "-"


def _against(quality: Int8Quality) -> str:
    """Say how int8 compares with float, and on what."""
    name = "quality kept" if quality.by == "truth" else "fidelity"
    if quality.at_chance:
        name += f" ({no_baseline_text(quality.at_chance)})"
    elif quality.by == "fidelity":
        name += " (quality was not measured: there are no labels)"
    if quality.drop is None:
        return f"The mean {name} in int8 is undefined."
    drop = quality.drop
    return (
        f"Mean {name}: {percent(drop.value)} lower in int8 than in float "
        f"(95%: {percent_interval([drop.low, drop.high])})."
    )
