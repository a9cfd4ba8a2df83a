"""Pictures of a run: the front, and the similarity of every pair of stages."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from search.metrics.registry import METRICS
from search.results.search_result import Result
from search.utils.files import write_bytes
from search.utils.format import MEGABYTE
from spaces.plan import Share

BLUE, ORANGE, GREY, RED = "#2563eb", "#d97706", "#6b7280", "#b91c1c"
FRONT_PICTURE = "front.png"
HEATMAP_PICTURE = "similarity.png"
SAME_STAGE_PICTURE = "same_stage.png"


def draw(result: Result, similarity: Mapping[Share, float], out: Path) -> None:
    """Write the pictures of a run into its folder."""
    save_figure(front_figure(result), out / FRONT_PICTURE)
    stages = {name: [s["name"] for s in m.stages] for name, m in result.models.items()}
    save_figure(heatmap_figure(similarity, stages, result.metric), out / HEATMAP_PICTURE)
    save_figure(same_stage_figure(similarity, stages, result.metric), out / SAME_STAGE_PICTURE)


def front_figure(result: Result) -> Figure:
    """Bytes held against quality: the proxy's front, and what verification measured."""
    figure, axes = plt.subplots(figsize=(8.0, 4.6), layout="constrained")
    front = sorted(result.front, key=lambda record: record.bytes)
    axes.plot(
        [r.bytes / MEGABYTE for r in front],
        [r.proxy for r in front],
        "o-", color=GREY, markersize=3, linewidth=1, label="front, predicted (proxy)",
    )  # fmt: skip
    _draw_verified(axes, result)
    axes.plot([result.unmerged_bytes / MEGABYTE], [1.0], "s", color="black", label="unmerged")
    _draw_limit(axes, result)
    axes.set_xlabel("bytes held by the merged set (MB)")
    axes.set_ylabel("quality kept (1 = unmerged)")
    axes.set_title(f"{result.name}: quality against bytes", loc="left")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _draw_limit(axes: Axes, result: Result) -> None:
    """The budget as an upright line, or the quality to keep as a level one."""
    style: dict[str, Any] = {"color": RED, "linestyle": "--", "linewidth": 1}
    told: dict[str, Any] = {
        "xytext": (4, 6), "textcoords": "offset points", "color": RED, "fontsize": 9,
    }  # fmt: skip
    if result.budget_bytes is not None:
        budget = result.budget_bytes / MEGABYTE
        axes.axvline(budget, **style)
        where = ("data", "axes fraction")
        axes.annotate(f"budget {budget:.1f} MB", (budget, 0.0), xycoords=where, **told)
    if result.quality_floor is not None:
        floor = result.quality_floor
        axes.axhline(floor, **style)
        where = ("axes fraction", "data")
        axes.annotate(f"every model keeps {floor:.0%}", (0.0, floor), xycoords=where, **told)


def heatmap_figure(
    similarity: Mapping[Share, float], stages: Mapping[str, list[str]], metric: str
) -> Figure:
    """One map per ordered pair of models: donor stages down, recipient stages across."""
    pairs = [(d, r) for r in stages for d in stages if d != r]
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(5.4 * columns, 4.6 * rows), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(pairs) :]:
        axes.set_axis_off()
    image = None
    for axes, (donor, recipient) in zip(grid.flat, pairs, strict=False):
        values = matrix(similarity, donor, stages[donor], recipient, stages[recipient])
        image = axes.imshow(np.clip(values, 0, 1), vmin=0, vmax=1, cmap="viridis", aspect="auto")
        label_cells(axes, values)
        axes.set_xticks(range(len(stages[recipient])), stages[recipient], rotation=60, ha="right")
        axes.set_yticks(range(len(stages[donor])), stages[donor])
        axes.set_xlabel(f"recipient: {recipient}")
        axes.set_ylabel(f"donor: {donor}")
    if image is not None:
        figure.colorbar(image, ax=grid, shrink=0.7, label=METRICS[metric].label)
    figure.suptitle("Similarity of representations (blank: not a legal share)", x=0.02, ha="left")
    return figure


def same_stage_figure(
    similarity: Mapping[Share, float], stages: Mapping[str, list[str]], metric: str
) -> Figure:
    """Shares between stages of one name: ordered pairs of models down, stages across."""
    pairs = [(d, r) for r in stages for d in stages if d != r]
    names = list(dict.fromkeys(name for listed in stages.values() for name in listed))
    values = np.array(
        [matrix(similarity, d, names, r, names).diagonal() for d, r in pairs], dtype=float
    )
    size = (2.2 + 0.75 * len(names), 1.6 + 0.45 * len(pairs))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.imshow(np.clip(values, 0, 1), vmin=0, vmax=1, cmap="viridis", aspect="auto")
    label_cells(axes, values)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(pairs)), [f"{d} to {r}" for d, r in pairs])
    axes.set_title(f"Same stage: {METRICS[metric].label}", loc="left", fontsize=10)
    return figure


def save_heatmap(
    similarity: Mapping[Share, float], stages: Mapping[str, list[str]], metric: str, path: Path
) -> None:
    save_figure(heatmap_figure(similarity, stages, metric), path)


def matrix(
    similarity: Mapping[Share, float],
    donor: str,
    donor_stages: list[str],
    recipient: str,
    recipient_stages: list[str],
) -> np.ndarray:
    """(donor stages, recipient stages); the best adapter's value, NaN where there is no share."""
    known: dict[tuple[str, str], float] = {}
    for share, value in similarity.items():
        pair = (str(share.donor), str(share.recipient))
        known[pair] = max(value, known.get(pair, value))
    return np.array(
        [
            [known.get((f"{donor}:{i}", f"{recipient}:{j}"), np.nan) for j in recipient_stages]
            for i in donor_stages
        ]
    )


def _draw_verified(axes: Axes, result: Result) -> None:
    measured = {
        c.hash: (c.bytes / MEGABYTE, c.quality_kept)
        for c in result.candidates
        if c.quality_kept is not None
    }
    if not measured:
        return
    steps = [measured[plan] for plan in result.verified_front]
    if len(steps) > 1:
        axes.plot(*zip(*steps, strict=True), "-", color=BLUE, label="verified front")
    axes.plot(
        *zip(*measured.values(), strict=True),
        "D", color=BLUE, markersize=6, label="verified on ground truth",
    )  # fmt: skip
    if result.chosen in measured:
        x, y = measured[result.chosen]
        axes.plot(
            [x], [y], "o", markersize=14, markerfacecolor="none", color=ORANGE,
            markeredgewidth=2, label="chosen",
        )  # fmt: skip


def label_cells(axes: Axes, values: np.ndarray) -> None:
    """Write each cell's number, if it has one, into a map whose colours go from 0 to 1."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            shade = "black" if value > 0.6 else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6,
                      color=shade)  # fmt: skip


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, wholly or not at all, and let go of it."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    plt.close(figure)
    write_bytes(path, picture.getvalue())
