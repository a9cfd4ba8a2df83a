"""How close the answers of plans are to those of the unmerged models, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.data.frames import FrameSet, batch_ranges
from search.data.inputs.input_batches import model_batches
from search.evaluation.bootstrap import bootstrap_draws, percentile_interval
from search.evaluation.evaluate import UNMERGED_PLAN, EvaluationSetup
from search.utils.arrays import FloatVector
from search.utils.progress import Progress
from spaces.node import Output
from spaces.plan import SharePlan
from spaces.plan_set import PlanSet
from spaces.stages import StagedModel


def closeness_by_frame(
    setup: EvaluationSetup, plans: Sequence[SharePlan], frames: FrameSet, progress: Progress
) -> list[FloatVector]:
    """Return, per plan, the closeness to the unmerged models on each frame, (frames,).

    It is the mean over the models of `StagedModel.closeness`. `progress` counts frames.
    """
    plan_set = PlanSet(setup.models, setup.facts, [UNMERGED_PLAN, *plans], setup.maps)
    collected: dict[Output, list[NDArray[np.float32]]] = {o: [] for o in plan_set.distinct}
    ranges = batch_ranges(len(frames), setup.batch)
    for batch in model_batches(frames, ranges, setup.models, plan_set.inputs_read):
        for output, closeness in plan_set.compare_with_first(batch.inputs, StagedModel.closeness):
            collected[output].append(closeness.cpu().numpy())
        progress(len(batch))
    _, *merged = plan_set.outputs
    return [
        np.mean([np.concatenate(collected[o]) for o in outputs.values()], axis=0, dtype=float)
        for outputs in merged
    ]


def paired_gain(before: FloatVector, after: FloatVector, seed: str) -> list[float]:
    """Return [mean gain, low, high] over frames; both vectors are (frames,), of the same frames.

    Draws depend on `seed` only, for example the hash of the frames.
    """
    gains = after - before
    tables = bootstrap_draws(len(gains), list(seed.encode()))
    drawn = np.concatenate([counts @ gains / len(gains) for counts in tables])
    value = float(gains.mean())
    return [value, *percentile_interval(value, drawn)]
