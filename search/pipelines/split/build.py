"""The last step of a split: its outcome as plain data, the content of OUT/split/split.json."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from search.data.frames import summarise_frames
from search.data.ground_truth import summarise_truth
from search.pipelines.run_steps.build_result import model_records
from search.pipelines.split.coded import CodedOption
from search.pipelines.split.explore import Explored
from search.pipelines.split.inputs import SplitInputs
from search.pipelines.split.lookup import SplitLookup
from search.pipelines.split.verify import VerifiedPoints, choose_point, split_rank_agreement
from search.results.split_result import SplitBaselineRecord, SplitResult
from search.utils.timing import utc_now


def build_split_result(
    inputs: SplitInputs,
    coded: Sequence[CodedOption],
    lookup: SplitLookup,
    explored: Explored,
    verified: VerifiedPoints,
    baselines: Sequence[SplitBaselineRecord],
    seconds: Mapping[str, float],
) -> SplitResult:
    """Return the outcome. `seconds` says how long each step took."""
    config = inputs.config
    points = sorted(verified.points, key=lambda point: point.bytes)
    front = sorted(map(lookup.prediction, explored.front), key=lambda p: p.predicted_bytes)
    chosen = choose_point(points, inputs.settings.keep)
    truth = {name: summarise_truth(labelled) for name, labelled in inputs.truth.items()}
    return SplitResult(
        name=config.name,
        seed=config.seed,
        link=inputs.conditions,
        models=model_records(config, inputs.deployment),
        frames=summarise_frames(inputs.frames),
        truth=truth,
        plans={plan.hash: plan.to_dict() for plan in inputs.plans},
        study={
            "space": lookup.choices.size,
            "trials": len(explored.result.evaluated),
            "splits": len(coded),
            "exhausted": explored.result.exhausted,
            "sampler": "predicted",
        },
        unsplit=verified.unsplit,
        front=[prediction for prediction in front if prediction.feasible],
        points=points,
        baselines=[*baselines],
        chosen=chosen.hash if chosen else None,
        rank_agreement=split_rank_agreement(points),
        config=config.as_written(),
        base=os.path.relpath(config.base, config.out_folder),
        seconds=dict(seconds),
        created=utc_now(),
    )
