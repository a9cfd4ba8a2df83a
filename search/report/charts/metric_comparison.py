"""Pictures of a metric comparison: metrics against accuracy as points, as maps and as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from search.evaluation.correlation import Correlation
from search.metrics.registry import METRICS
from search.report.charts.colours import BLUE, ORANGE, SLATE
from search.report.charts.heat_maps import draw_matrix, save_figure
from search.report.similarity_matrix import Stages, model_pairs, similarity_matrix
from search.results.metric_comparison import (
    SHARE_GROUPS,
    MetricTable,
    MetricTables,
    SimilarityByShare,
    cross_stage,
    same_stage,
)

GROUP_COLOURS = {"all": SLATE, "same": BLUE, "cross": ORANGE}
POINTS_PICTURE, MAPS_PICTURE, BARS_PICTURE = "points.png", "maps.png", "bars.png"
ACCURACY = "accuracy kept (1 = unmerged)"


def write_pictures(
    tables: MetricTables,
    metrics: Mapping[str, SimilarityByShare],
    accuracy_kept: SimilarityByShare,
    stages: Stages,
    out: Path,
) -> None:
    """Write points.png, maps.png and bars.png.

    The deciding table orders the metrics. All drawn numbers are of the reporting part, and
    `accuracy_kept` must be, too.
    """
    names, reporting = tables["deciding"].ranking, tables["reporting"]
    save_figure(points_figure(names, reporting, metrics, accuracy_kept), out / POINTS_PICTURE)
    save_figure(
        maps_figure(names[0], metrics[names[0]], accuracy_kept, stages), out / MAPS_PICTURE
    )
    save_figure(bars_figure(names, reporting), out / BARS_PICTURE)


def points_figure(
    names: Sequence[str],
    reporting: MetricTable,
    metrics: Mapping[str, SimilarityByShare],
    accuracy_kept: SimilarityByShare,
) -> Figure:
    """Draw each metric against accuracy, one point per share."""
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 3.0 * rows + 0.6), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        _draw_points(axes, metrics[name], accuracy_kept)
        axes.set_title(f"{name}: r {_signed(reporting.pearson(name))}", loc="left", fontsize=10)
        axes.set_xlabel(METRICS[name].label, fontsize=8)
    for axes in grid[:, 0]:
        axes.set_ylabel(ACCURACY, fontsize=8)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    figure.suptitle("Every share on its own, measured", x=0.01, ha="left")
    return figure


def maps_figure(
    metric: str, values: SimilarityByShare, accuracy_kept: SimilarityByShare, stages: Stages
) -> Figure:
    """Draw the metric's map beside that of accuracy for every ordered pair of models.

    Stages of the same name are framed.
    """
    recipients = {share.recipient.model for share in accuracy_kept}
    pairs = [(donor, recipient) for donor, recipient in model_pairs(stages)
             if recipient in recipients]  # fmt: skip
    across = 2 if len(pairs) > 3 else 1
    down = -(-len(pairs) // across)
    figure, grid = plt.subplots(
        down, 2 * across, figsize=(8.4 * across, 4.0 * down + 0.5), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    slots = grid.reshape(down * across, 2)
    for axes in slots[len(pairs) :].flat:
        axes.set_axis_off()
    image = None
    for (left, right), (donor, recipient) in zip(slots, pairs, strict=False):
        for axes, by_share, title in (
            (left, values, metric),
            (right, accuracy_kept, "accuracy kept"),
        ):
            cells = similarity_matrix(by_share, stages, donor, recipient)
            image = draw_matrix(axes, cells, stages[donor], stages[recipient], fontsize=8)
            _frame_same_stages(axes, stages[donor], stages[recipient])
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xlabel(f"recipient: {recipient}")
        left.set_ylabel(f"donor: {donor}")
    if image is not None:
        figure.colorbar(image, ax=grid, shrink=0.6, label="1 = as good as unmerged")
    figure.suptitle(
        f"{metric} beside the accuracy that it should predict "
        "(framed: same stage; blank: not legal)",
        x=0.01, ha="left",
    )  # fmt: skip
    return figure


def bars_figure(names: Sequence[str], reporting: MetricTable) -> Figure:
    """Draw |r| of each metric with its interval, over all shares and over cross-stage shares."""
    figure, axes = plt.subplots(figsize=(7.5, 1.2 + 0.55 * len(names)), layout="constrained")
    for offset, group in ((0.2, "all"), (-0.2, "cross")):
        for row, name in enumerate(names[::-1]):
            _draw_bar(axes, row + offset, reporting.pearson(name, group), GROUP_COLOURS[group])
        axes.barh([0], [0], color=GROUP_COLOURS[group], label=SHARE_GROUPS[group])
    axes.set_yticks(range(len(names)), names[::-1])
    axes.set_xlim(0, 1.12)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_xlabel("|Pearson r| with accuracy kept, and its 95% interval")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("What predicts accuracy", loc="left")
    axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return figure


def _draw_points(axes: Axes, values: SimilarityByShare, accuracy_kept: SimilarityByShare) -> None:
    for group, members in (
        ("cross", cross_stage(list(accuracy_kept))),
        ("same", same_stage(list(accuracy_kept))),
    ):
        axes.plot(
            [values[share] for share in members],
            [accuracy_kept[share] for share in members],
            "o", color=GROUP_COLOURS[group], markersize=4, alpha=0.7, markeredgewidth=0,
            label=SHARE_GROUPS[group],
        )  # fmt: skip
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _frame_same_stages(axes: Axes, donor: Sequence[str], recipient: Sequence[str]) -> None:
    for row, name in enumerate(donor):
        if name in recipient:
            corner = (recipient.index(name) - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#dc2626", linewidth=1.2))


def _draw_bar(axes: Axes, at: float, correlation: Correlation, colour: str) -> None:
    """Draw a bar of |r| with its interval, and write the signed value at its end."""
    value, low, high = correlation.value, correlation.low, correlation.high
    if value is None or low is None or high is None:
        axes.text(0.01, at, "not defined", va="center", fontsize=8, color=colour)
        return
    size = abs(value)
    ends = sorted((abs(low), abs(high)))
    least = 0.0 if low <= 0 <= high else ends[0]
    axes.barh([at], [size], height=0.38, color=colour, alpha=0.85)
    axes.errorbar([size], [at], xerr=[[size - least], [ends[1] - size]], color="black",
                  linewidth=1, capsize=2)  # fmt: skip
    axes.text(ends[1] + 0.012, at, _signed(correlation), va="center", fontsize=8)


def _signed(correlation: Correlation) -> str:
    if correlation.value is None:
        return "not defined"
    return f"{correlation.value:z.2f}".replace("-", "\N{MINUS SIGN}")
