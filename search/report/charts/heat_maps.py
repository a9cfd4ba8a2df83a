"""Heat maps of similarity as PNG: every pair of stages, and pairs of stages of the same name."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from search.metrics.registry import METRICS
from search.report.similarity_matrix import Stages, model_pairs, similarity_matrix
from search.utils.files import write_bytes
from spaces.plan import Share

HEATMAP_PICTURE = "similarity.png"
SAME_STAGE_PICTURE = "same_stage.png"


def write_heat_maps(
    similarity: Mapping[Share, float], stages: Stages, metric: str, out: Path
) -> None:
    """Write OUT/similarity.png and OUT/same_stage.png."""
    save_heatmap(similarity, stages, metric, out / HEATMAP_PICTURE)
    save_figure(same_stage_figure(similarity, stages, metric), out / SAME_STAGE_PICTURE)


def save_heatmap(
    similarity: Mapping[Share, float], stages: Stages, metric: str, path: Path
) -> None:
    save_figure(heatmap_figure(similarity, stages, metric), path)


def heatmap_figure(similarity: Mapping[Share, float], stages: Stages, metric: str) -> Figure:
    """Draw one map per ordered pair of models: donor stages down, recipient stages across."""
    pairs = list(model_pairs(stages))
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(5.4 * columns, 4.6 * rows), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(pairs) :]:
        axes.set_axis_off()
    image = None
    for axes, (donor, recipient) in zip(grid.flat, pairs, strict=False):
        values = similarity_matrix(similarity, stages, donor, recipient)
        image = draw_matrix(axes, values, stages[donor], stages[recipient])
        axes.set_xlabel(f"recipient: {recipient}")
        axes.set_ylabel(f"donor: {donor}")
    if image is not None:
        figure.colorbar(image, ax=grid, shrink=0.7, label=METRICS[metric].label)
    figure.suptitle("Similarity of representations (blank: not a legal share)", x=0.02, ha="left")
    return figure


def same_stage_figure(similarity: Mapping[Share, float], stages: Stages, metric: str) -> Figure:
    """Draw the shares between stages of one name: pairs of models down, stages across."""
    pairs = list(model_pairs(stages))
    names = list(dict.fromkeys(name for listed in stages.values() for name in listed))
    by_model = dict.fromkeys(stages, names)
    values = np.array(
        [similarity_matrix(similarity, by_model, d, r).diagonal() for d, r in pairs], dtype=float
    )
    size = (2.2 + 0.75 * len(names), 1.6 + 0.45 * len(pairs))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    draw_matrix(axes, values, [f"{donor} to {recipient}" for donor, recipient in pairs], names)
    axes.set_title(f"Same stage: {METRICS[metric].label}", loc="left", fontsize=10)
    return figure


def draw_matrix(
    axes: Axes,
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    fontsize: float | None = None,
) -> AxesImage:
    """Draw (rows, columns) in colours from 0 to 1, with each cell's number and the names."""
    image = axes.imshow(np.clip(values, 0, 1), vmin=0, vmax=1, cmap="viridis", aspect="auto")
    _write_numbers(axes, values)
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", fontsize=fontsize)
    axes.set_yticks(range(len(rows)), rows, fontsize=fontsize)
    return image


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically, and close it."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    plt.close(figure)
    write_bytes(path, picture.getvalue())


def _write_numbers(axes: Axes, values: NDArray[np.float64]) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            shade = "black" if value > 0.6 else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6,
                      color=shade)  # fmt: skip
