"""How much answers change by shares and by rounding, in the unit of a codec's distortion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from search.data.frames import FrameSet, batch_ranges
from search.data.inputs.input_batches import model_batches
from search.utils.progress import Progress, silent
from spaces.merged import LinearMaps, ModelsByName
from spaces.model_facts import ModelFacts
from spaces.node import Output
from spaces.plan import SharePlan
from spaces.plan_set import PlanSet
from spaces.tasks.registry import TASKS

SMALLEST_VARIANCE = 1e-6
"""Of answers that hardly change from frame to frame."""


def answer_changes(
    models: ModelsByName,
    facts: Mapping[str, ModelFacts],
    maps: LinearMaps,
    plan: SharePlan,
    others: Sequence[SharePlan],
    frames: FrameSet,
    batch: int = 16,
    progress: Progress = silent,
) -> list[float]:
    """Return how much the answers change from one plan to each of some others.

    It is the mean square of the differences relative to the variance of the answers over frames,
    summed over models, as in `search.split.answer_weights`. All plans run in one pass, which
    computes what they have in common once. `progress` counts frames.
    """
    plan_set = PlanSet(models, facts, [plan, *others], maps)
    exact, *changed = plan_set.outputs
    squares: defaultdict[Output, float] = defaultdict(float)
    moments: defaultdict[str, list[Tensor]] = defaultdict(list)
    ranges = batch_ranges(len(frames), batch)
    for read in model_batches(frames, ranges, models, plan_set.inputs_read):
        answers: dict[str, Tensor] = {}
        for output, comparable in plan_set.comparables(read.inputs):
            name = output.model
            amplitudes = TASKS[models[name].task].amplitudes(comparable).flatten(1).double()
            if output == exact[name]:  # comes before all others of its model
                answers[name] = amplitudes
                moments[name].append(amplitudes)
            squares[output] += float((amplitudes - answers[name]).square().sum())
        progress(len(read))
    variances = {name: _variance(torch.cat(parts)) for name, parts in moments.items()}
    return [
        sum(squares[output] / len(frames) / variances[name] for name, output in outputs.items())
        for outputs in changed
    ]


def _variance(amplitudes: Tensor) -> float:
    """Return the variance over frames of (frames, amplitudes), summed over amplitudes."""
    return max(float(amplitudes.var(0, correction=0).sum()), SMALLEST_VARIANCE)
