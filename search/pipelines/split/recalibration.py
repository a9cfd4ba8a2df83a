"""The BatchNorms behind the splits that are verified, recalibrated where held-out frames gain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from search.pipelines.split.inputs import SplitInputs
from search.split.fit import FittedCodec
from search.split.recalibrate import recalibrate_steps
from search.utils.reporter import Reporter
from spaces.split.coefficients import Coding
from spaces.split.recalibrated import StatisticsByCoding
from spaces.split.split import Split

CodedSplit = tuple[Split, Coding]


def recalibrate_splits(
    inputs: SplitInputs,
    verified: Iterable[CodedSplit],
    codecs: Mapping[Split, FittedCodec],
    reporter: Reporter,
) -> dict[Split, StatisticsByCoding]:
    """Return the statistics of each split that gains by some, at the steps that are verified.

    The splits are those of plans as they are; the precision of the device plays no part.
    """
    steps: dict[Split, dict[int, None]] = {}
    for split, coding in verified:
        steps.setdefault(split, {})[coding.step] = None
    if inputs.settings.recalibrate == "none" or not len(inputs.held_out):
        return {}
    reporter.step(f"Recalibration of the BatchNorms behind {len(steps)} splits")
    found: dict[Split, StatisticsByCoding] = {}
    with reporter.progress("codings", sum(map(len, steps.values()))) as progress:
        for split, of_split in steps.items():
            recalibration = recalibrate_steps(
                inputs.setup, split, codecs[split], inputs.fitted_on, inputs.held_out,
                [*of_split], progress,
            )  # fmt: skip
            if recalibration:
                found[split] = recalibration.by_coding
    helped = f"{len(found)} of {len(steps)}" if found else "none of them"
    reporter.say(f"  held-out frames gain by it behind {helped}")
    return found
