"""OUT/explore.html: the plans of a search to hover over, zoom and select. The door to plotly.

The file contains plotly, so that it opens without a network, in MLflow and beside the result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.io import to_html

from search.evaluation.per_frame import main_score
from search.report.charts.colours import BLUE, GREY, ORANGE, PALE, RED
from search.report.charts.measured import (
    MeasuredCandidate,
    charted_floor,
    fidelity_label,
    measured_candidates,
    quality_name,
)
from search.report.score_text import score_name
from search.results.kept_quality import readable_quality
from search.results.precisions import StoredBytes, describe_stored
from search.results.search_result import CandidateRecord, PlanRecord, Result
from search.study.objectives import MEGA
from search.study.optimize import StudyResult
from search.study.problem import Cost
from search.utils.files import write_text
from spaces.plan import SharePlan

EXPLORER = "explore.html"
COST_NAMES: Mapping[Cost, str] = {"macs": "MACs"}
"""Names of costs on the axes, where they differ from those of the config."""
MOST_DOTS = 5000
"""If more plans were evaluated, only every n-th is drawn, besides the front."""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem; color: #111827 }}
h1 {{ font-size: 1.3rem }} h2 {{ font-size: 1.05rem; margin-top: 2rem }}</style></head>
<body><h1>{title}</h1>
{sections}
</body></html>
"""


def save_explorer(result: Result, explored: StudyResult, out: Path) -> None:
    """Write the page: the fronts, the candidates in all their numbers, the progress."""
    figures = {
        "Quality against bytes: every evaluated plan, the front, the verified candidates":
            front_figure(result, explored),
        "Candidates across their numbers: drag along an axis to select":
            parallel_figure(result),
        "Hypervolume by trial": progress_figure(explored),
    }  # fmt: skip
    parts = [
        f"<h2>{title}</h2>\n"
        + to_html(
            figure,
            full_html=False,
            include_plotlyjs=number == 0,
            config={"displaylogo": False, "responsive": True},
            div_id=f"figure-{number}",
        )
        for number, (title, figure) in enumerate(figures.items())
    ]
    title = f"{result.name}, {result.created[:10]}"
    write_text(out / EXPLORER, PAGE.format(title=title, sections="\n".join(parts)))


def front_figure(result: Result, explored: StudyResult) -> go.Figure:
    """Draw bytes held against quality."""
    figure = go.Figure()
    thinned = explored.evaluated[:: 1 + len(explored.evaluated) // MOST_DOTS]
    _add_dots(
        figure,
        "evaluated (proxy)",
        [(v.bytes, v.proxy) for v in thinned],
        [_hint(v.plan) for v in thinned],
        {"mode": "markers", "marker": {"color": PALE, "size": 5}},
    )
    front = sorted(result.front, key=lambda record: record.bytes)
    _add_dots(
        figure,
        "front (proxy)",
        [(r.bytes, r.proxy) for r in front],
        [record_hint(r) for r in front],
        {"mode": "lines+markers", "line": {"color": GREY, "width": 1}, "marker": {"size": 6}},
    )
    _add_verified(figure, result)
    square = {"color": "black", "symbol": "square", "size": 9}
    _add_dots(figure, "unmerged", [(result.unmerged_bytes, 1.0)], ["nothing shared"],
          {"mode": "markers", "marker": square})  # fmt: skip
    _draw_limits(figure, result)
    return _with_layout(figure, "bytes held (MB)", f"{quality_name(result)} (1 = unmerged)")


def _draw_limits(figure: go.Figure, result: Result) -> None:
    line = {"color": RED, "dash": "dash"}
    if result.budget_bytes is not None:
        budget = result.budget_bytes / MEGA
        figure.add_vline(budget, line=line, annotation_text=f"budget {budget:.2f} MB")
    floor = charted_floor(result)
    if floor is not None:
        text = f"every model keeps {floor:.0%}"
        figure.add_hline(floor, line=line, annotation_text=text)


def parallel_figure(result: Result) -> go.Figure:
    """Draw a line per candidate over an axis per number that all have; the colour is quality."""
    columns = candidate_columns(result)
    colour = columns.get("quality kept", columns.get("fidelity", columns.get("proxy", [])))
    figure = go.Figure(
        go.Parcoords(
            line={"color": colour, "colorscale": "Viridis", "showscale": True},
            dimensions=[{"label": name, "values": values} for name, values in columns.items()],
        )
    )
    return figure.update_layout(height=420, margin={"t": 70, "l": 70, "r": 40, "b": 30})


def progress_figure(explored: StudyResult) -> go.Figure:
    """Draw the dominated share of the rectangle below the limits after each trial."""
    figure = go.Figure(
        go.Scatter(
            y=list(explored.hypervolumes), mode="lines", line={"color": BLUE, "shape": "hv"}
        )
    )
    return _with_layout(figure, "trial", "hypervolume")


def candidate_columns(result: Result) -> dict[str, list[float]]:
    """Return the numbers that all candidates have: the name and a value per candidate."""
    rows = [_numbers(candidate, result.at_chance) for candidate in result.candidates]
    shared = [name for name in rows[0] if all(name in row for row in rows)] if rows else []
    return {name: [row[name] for row in rows] for name in shared}


def _numbers(candidate: CandidateRecord, at_chance: Collection[str]) -> dict[str, float]:
    numbers: Mapping[str, float | None] = {
        "MB": candidate.bytes / MEGA,
        "MACs (M)": candidate.macs / MEGA,
        **{f"{COST_NAMES.get(name, name)} ({candidate.cost_units[name]})": value
           for name, value in candidate.costs_besides_bytes.items()},
        "proxy": candidate.proxy,
        "fidelity": candidate.mean_fidelity,
        "quality kept": readable_quality(candidate.quality_kept, at_chance),
        **{f"{name} {score_name(scores)}": main_score(scores)
           for name, scores in candidate.accuracy.items()},
    }  # fmt: skip
    return {name: value for name, value in numbers.items() if value is not None}


def _add_verified(figure: go.Figure, result: Result) -> None:
    measured = measured_candidates(result)
    on_front = [m for m in measured if m.on_front]
    _add_dots(figure, "verified front", *_points_and_hints(on_front),
          {"mode": "lines", "line": {"color": BLUE}})  # fmt: skip
    name = "verified (95%)" if result.has_baseline else fidelity_label(result)
    _add_dots(figure, name, *_points_and_hints(measured),
          {"mode": "markers", "marker": {"color": BLUE, "symbol": "diamond", "size": 10},
           "error_y": _error_bars(measured)})  # fmt: skip
    chosen = [m for m in measured if m.record.hash == result.chosen]
    _add_dots(figure, "chosen", *_points_and_hints(chosen),
          {"mode": "markers", "marker": {"color": ORANGE, "symbol": "circle-open", "size": 19,
                                         "line": {"width": 3}}})  # fmt: skip


def _error_bars(candidates: Sequence[MeasuredCandidate]) -> dict[str, Any]:
    """Return the 95% intervals as plotly takes them: distances up and down from the value."""
    up, down = [], []
    for m in candidates:
        low, high = m.interval or (m.quality, m.quality)
        up.append(high - m.quality)
        down.append(m.quality - low)
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down,
            "color": BLUE, "thickness": 1}  # fmt: skip


def _points_and_hints(
    candidates: Sequence[MeasuredCandidate],
) -> tuple[list[tuple[float, float]], list[str]]:
    points = [(float(m.record.bytes), m.quality) for m in candidates]
    return points, [record_hint(m.record) for m in candidates]


def _add_dots(
    figure: go.Figure,
    name: str,
    points: Sequence[tuple[float, float]],
    hints: Sequence[str],
    style: Mapping[str, Any],
) -> None:
    if points:
        figure.add_scatter(
            x=[held / MEGA for held, _ in points], y=[quality for _, quality in points],
            text=list(hints), name=name,
            hovertemplate="%{x:.2f} MB, %{y:.1%}<br>%{text}<extra></extra>", **style,
        )  # fmt: skip


def record_hint(record: PlanRecord) -> str:
    """Return the text that a dot of a recorded plan shows under the pointer."""
    return _hint(SharePlan.from_dict(record.plan), record.stored)


def _hint(plan: SharePlan, stored: StoredBytes | None = None) -> str:
    lines = [
        plan.hash,
        *(str(share) for share in plan.shares),
        describe_stored(plan, stored or {}),
    ]
    return "<br>".join(line for line in lines if line)


def _with_layout(figure: go.Figure, across: str, up: str) -> go.Figure:
    return figure.update_layout(
        template="plotly_white", height=480, xaxis_title=across, yaxis_title=up,
        margin={"t": 30, "r": 20}, legend={"orientation": "h", "y": -0.2},
    )  # fmt: skip
