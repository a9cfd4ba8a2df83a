"""The third step of a split: a study of all splits with their codings, and what to verify."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from search.pipelines.split.coded import CodedOption
from search.pipelines.split.inputs import SplitInputs
from search.pipelines.split.lookup import (
    LEVEL,
    PRECISION_OF_DEVICE,
    SPLIT,
    SplitLookup,
    SplitPoint,
)
from search.results.split_result import SPLIT_FOLDER
from search.study.lookup.choices import LookedUp
from search.study.lookup.lookup_study import LookupResult, LookupSettings, run_lookup_study
from search.study.pareto import nondominated_indices
from search.utils.arrays import FloatVector
from search.utils.reporter import Reporter

STUDY_FILE = "study.log"
STARTING_LEVELS = ("4", "10", "16")
USEFUL_DISTORTIONS = (0.003, 0.2)
"""A distortion by the codec below these loses next to nothing, and one above them most; points
beyond are verified only if there are no others."""
SMALLEST_DISTORTION = 1e-9
SPREAD_SHARE = 4
"""One point of so many is verified for its place on the whole front, and the others for their
bytes and distortion."""


@dataclass(frozen=True, eq=False)
class Explored:
    """The points that the study has found."""

    result: LookupResult
    front: list[SplitPoint]
    """Feasible and non-dominated, each once; if nothing is feasible, the nearest points."""
    shortlist: list[SplitPoint]
    """Those to verify."""


def explore_splits(
    inputs: SplitInputs, coded: Sequence[CodedOption], lookup: SplitLookup, reporter: Reporter
) -> Explored:
    """Look up splits with their codings by the trials of a study, and choose what to verify."""
    choices, settings = lookup.choices, inputs.settings
    reporter.step(f"Exploring {choices.size:,} combinations of split, precision and coding")
    study = LookupSettings(
        name=_study_name(inputs, lookup),
        store=str(inputs.config.out_folder / SPLIT_FOLDER / STUDY_FILE),
        trials=settings.trials,
        seed=inputs.config.seed,
    )
    with reporter.progress("trials", settings.trials) as progress:
        result = run_lookup_study(choices, lookup, study, [*_starts(coded, lookup)], progress)
    found = result.front or nearest(result.evaluated)
    front = [*{(point := lookup.point(f.combination)).hash: point for f in found}.values()]
    exhausted = ", which are all" if result.exhausted else ""
    reporter.say(
        f"  {len(result.evaluated)} combinations looked up{exhausted}; "
        f"{len(front) if result.front else 'none'} within the limits on the front"
    )
    return Explored(result, front, choose_to_verify(front, settings.verify))


def _study_name(inputs: SplitInputs, lookup: SplitLookup) -> str:
    """Return the study's name: the same only for the same splits, frames and conditions."""
    conditions = asdict(lookup.conditions)
    text = json.dumps([conditions, inputs.fitted_on.hash, inputs.settings.weight], sort_keys=True)
    problem = hashlib.sha256((lookup.choices.fingerprint + text).encode()).hexdigest()[:8]
    return f"{inputs.config.name}-split-{problem}-{inputs.config.seed}"


def _starts(coded: Sequence[CodedOption], lookup: SplitLookup) -> Iterator[dict[str, str]]:
    """Yield, of each plan, the earliest and the latest split and the one that sends least."""
    for plan in dict.fromkeys(option.option.split.plan for option in coded):
        of_plan = [option for option in coded if option.option.split.plan == plan]
        chosen = {
            min(of_plan, key=lambda o: o.option.device_macs).option.split.hash,
            max(of_plan, key=lambda o: o.option.device_macs).option.split.hash,
            min(of_plan, key=_middle_bytes).option.split.hash,
        }
        for split in sorted(chosen):
            for precision in lookup.choices.values[PRECISION_OF_DEVICE]:
                for level in STARTING_LEVELS:
                    yield {SPLIT: split, PRECISION_OF_DEVICE: precision, LEVEL: level}


def _middle_bytes(option: CodedOption) -> float:
    return option.codec.curve.bytes(option.codings[len(option.codings) // 2])


def nearest(evaluated: Sequence[LookedUp]) -> list[LookedUp]:
    """Return the non-dominated points among those that miss the limits by least."""
    least = min(point.outcome.worst for point in evaluated)
    close = [point for point in evaluated if point.outcome.worst <= 1.1 * least]
    return [close[i] for i in nondominated_indices([p.outcome.values for p in close])]


def choose_to_verify(front: Sequence[SplitPoint], most: int) -> list[SplitPoint]:
    """Return at most `most` points of a front.

    Most of them have the least distortion for their bytes, from little distortion by the codec to
    much, as many of each plan: what a plan itself changes has been verified, and may change the
    answers but not their quality. The others are spread over the front: each is the one that is
    furthest from those before it, where every objective counts from its least to its largest value
    on the front, and bytes, memory and distortion in octaves.
    """
    low, high = USEFUL_DISTORTIONS
    useful = [point for point in front if low <= point.codec_distortion <= high] or [*front]
    plans = [*dict.fromkeys(point.exact_split.plan for point in useful)]
    of_each = max(1, (most - most // SPREAD_SHARE) // len(plans))
    chosen: list[int] = []
    for plan in plans:
        of_plan = [k for k, point in enumerate(useful) if point.exact_split.plan == plan]
        chosen += [of_plan[k] for k in _cheapest([useful[k] for k in of_plan], of_each)]
    chosen, places = chosen[:most], _scaled(useful)
    while len(chosen) < min(most, len(useful)):
        distances = np.abs(places[:, None] - places[chosen][None]).sum(2).min(1)
        chosen.append(int(distances.argmax()))
    return [useful[k] for k in chosen]


def _cheapest(points: Sequence[SplitPoint], most: int) -> list[int]:
    """Return at most `most` points of the least distortion for their bytes, the finest first."""
    pairs = [(point.predicted_bytes, point.distortion) for point in points]
    finest_first = sorted(nondominated_indices(pairs), key=lambda k: pairs[k][1])
    octaves = _octaves([points[k].codec_distortion for k in finest_first])
    wanted = octaves[0] + (np.arange(most) + 0.5) / most * (octaves[-1] - octaves[0])
    nearest_places = np.abs(octaves[:, None] - wanted[None]).argmin(0)
    return [finest_first[place] for place in dict.fromkeys(nearest_places.tolist())]


def _octaves(distortions: Sequence[float]) -> FloatVector:
    return np.log2(np.maximum(distortions, SMALLEST_DISTORTION))


def _scaled(points: Sequence[SplitPoint]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return (points, objectives), each from 0 to 1."""
    values = np.stack(
        [
            np.log2([point.predicted_bytes for point in points]),
            np.array([float(point.coded.option.device_macs) for point in points]),
            np.log2([point.device_memory for point in points]),
            _octaves([point.distortion for point in points]),
        ],
        axis=1,
    )
    spans = np.ptp(values, axis=0)
    return np.asarray((values - values.min(0)) / np.where(spans > 0, spans, 1.0))
