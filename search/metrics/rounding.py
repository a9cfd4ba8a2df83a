"""How much the answers change if the weights of a single stage or head are rounded."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.data.frames import Sampling, Subset, batch_ranges
from search.data.inputs.input_batches import model_batches
from search.statistics.observed import Observed
from search.study.precision.profiles import RoundingLosses, weight_owners
from search.utils.files import short_hash
from search.utils.progress import Progress, silent
from search.utils.records import BadRecord, read_record, write_record
from spaces.node import Output
from spaces.plan import Precision, Ref, SharePlan
from spaces.plan_set import PlanSet
from spaces.stages import StagedModel

ROUNDING_FRAMES = 16
"""Held-out frames of each part that a rounding is measured on, at most."""
ROUNDING_VERSION = 1
"""Part of the names of cached losses: bump it when the measurement changes."""
Rounding = tuple[Ref, Precision]
"""A stage or head, and the precision that its weights are rounded to."""


@dataclass(frozen=True)
class RoundingRecord:
    """The JSON file that holds the losses of several roundings on the same frames."""

    frames: int
    sums: dict[str, float]
    """Loss summed over the frames, by `model:stage precision`."""


def rounding_losses(
    observed: Observed, precisions: Sequence[Precision], progress: Progress = silent
) -> RoundingLosses:
    """Return the loss of each stage and head that holds weights, at each precision.

    The precision of the deployment loses nothing. `progress` counts roundings. The losses of each
    part of the frames are cached.
    """
    facts, dtype = observed.deployment.facts, observed.deployment.dtype
    roundings = [
        (owner, precision)
        for owner in weight_owners(facts)
        for precision in precisions
        if precision != dtype
    ]
    if not roundings:
        return {}
    names = [f"{owner} {precision}" for owner, precision in roundings]
    if observed.parts:
        file = f"rounding-{_hash(*names)}.json"
        records = [
            _load_or_measure(part.cache_folder / file, observed, roundings, part.held_out)
            for part in observed.parts
        ]
    else:
        records = [_measure(observed, roundings, observed.held_out)]
    progress(len(roundings))
    frames = sum(record.frames for record in records)
    return {
        rounding: sum(record.sums[name] for record in records) / frames
        for rounding, name in zip(roundings, names, strict=True)
    }


def _load_or_measure(
    path: Path, observed: Observed, roundings: Sequence[Rounding], held_out: Subset
) -> RoundingRecord:
    with contextlib.suppress(BadRecord):  # a damaged file is measured again and written anew
        if path.is_file():
            return read_record(RoundingRecord, path)
    record = _measure(observed, roundings, held_out)
    write_record(path, record)
    return record


def _measure(
    observed: Observed, roundings: Sequence[Rounding], held_out: Subset
) -> RoundingRecord:
    """Run all roundings in one pass, which computes each distinct representation once."""
    models = observed.deployment.deployed_models
    plans = [SharePlan(precisions=(rounding,)) for rounding in roundings]
    plan_set = PlanSet(models, observed.deployment.facts, [SharePlan(), *plans], {})
    _, *rounded = plan_set.outputs
    sums: defaultdict[Output, float] = defaultdict(float)
    sampled = Subset(held_out, tuple(Sampling(ROUNDING_FRAMES).indices(len(held_out))))
    ranges = batch_ranges(len(sampled), ROUNDING_FRAMES)
    for batch in model_batches(sampled, ranges, models, plan_set.inputs_read):
        for output, closeness in plan_set.compare_with_first(batch.inputs, StagedModel.closeness):
            sums[output] += float((1 - closeness).sum())
    return RoundingRecord(
        len(sampled),
        {
            f"{owner} {precision}": sums[outputs[owner.model]]
            for (owner, precision), outputs in zip(roundings, rounded, strict=True)
        },
    )


def _hash(*texts: str) -> str:
    text = " ".join([str(ROUNDING_VERSION), *texts])
    return short_hash(text)
