"""Fit the codecs of splits to unlabelled frames, in closed form."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search.data.frames import FrameSet, Subset
from search.split.answer_weights import AnswerGradients, ZoneWeights, unweighted
from search.split.magnitudes import MagnitudePass
from search.split.rate_curve import RateCurve
from search.split.settings import CodecSettings
from search.split.setup import SplitSetup, representations
from search.split.zone_maps import FittedTransform, fit_transforms
from search.split.zone_statistics import StatisticsPass, ZoneStatistics, coded_form
from search.utils.progress import Progress, silent
from spaces.execution import computing
from spaces.merged import MergedModel
from spaces.node import Node
from spaces.plan import SharePlan
from spaces.split.codec import Decoder, Encoder
from spaces.split.split import Split, SplitParts
from spaces.split.tables import CodingTables
from spaces.split.transform import TensorForm

MAGNITUDE_SHARE = 3
"""Every third frame tells how large the coefficients are, and all others what the maps are fitted
to: coefficients of the frames of the fit itself are smaller than those of any others."""


@dataclass(frozen=True, eq=False)
class FittedCodec:
    """Both ends of a codec, and what its messages take."""

    encoder: Encoder
    decoder: Decoder
    curve: RateCurve


def fit_codecs(
    setup: SplitSetup,
    splits: Sequence[Split],
    frames: FrameSet,
    settings: CodecSettings,
    progress: Progress = silent,
) -> dict[Split, FittedCodec]:
    """Return the codec of each split.

    Each frame runs once per plan, for all its splits at once, and then counts as progress; some
    run a second time for the gradients.

    Raises:
        BadSplit: a split does not fit its plan.
    """
    by_plan: defaultdict[SharePlan, list[Split]] = defaultdict(list)
    for split in dict.fromkeys(splits):
        by_plan[split.plan].append(split)
    codecs: dict[Split, FittedCodec] = {}
    for plan, members in by_plan.items():
        merged = setup.merged(plan)
        parts = {split: SplitParts.of(merged, split) for split in members}
        codecs |= _PlanFit(setup, merged, parts, frames, settings, progress).codecs()
    return {split: codecs[split] for split in splits}


class _PlanFit:
    """The codecs of all splits of one plan."""

    def __init__(
        self,
        setup: SplitSetup,
        merged: MergedModel,
        parts: Mapping[Split, SplitParts],
        frames: FrameSet,
        settings: CodecSettings,
        progress: Progress,
    ) -> None:
        self._setup, self._merged, self._parts = setup, merged, parts
        self._frames, self._later_frames = _shared_out(frames)
        self._settings, self._progress = settings, progress
        crossing = (node for part in parts.values() for node in part.crossing)
        self._nodes = tuple(dict.fromkeys(crossing))

    def codecs(self) -> dict[Split, FittedCodec]:
        statistics = self._statistics()
        weights = self._weights(statistics)
        transforms = {
            split: fit_transforms(
                [statistics[node] for node in part.crossing],
                [weights[split][node] for node in part.crossing],
                self._settings.device_values,
            )
            for split, part in self._parts.items()
        }
        return self._with_rates(transforms)

    def _statistics(self) -> dict[Node, ZoneStatistics]:
        passes: dict[Node, StatisticsPass] = {}
        for values in self._batches(self._frames):
            for node, value in values.items():
                if node not in passes:
                    passes[node] = StatisticsPass(self._form(value))
                passes[node].add(value)
        return {node: part.finish() for node, part in passes.items()}

    def _form(self, value: Tensor) -> TensorForm:
        settings = self._settings
        return coded_form(tuple(value.shape[1:]), settings.zones, settings.device_values)

    def _batches(self, frames: FrameSet) -> Iterator[dict[Node, Tensor]]:
        part, batch = computing(self._nodes), self._settings.batch
        return representations(self._setup, self._merged, part, frames, batch, self._progress)

    def _weights(self, statistics: Mapping[Node, ZoneStatistics]) -> dict[Split, ZoneWeights]:
        if self._settings.weight == "none":
            return {split: self._unweighted(split, statistics) for split in self._parts}
        settings = self._settings
        gradients = AnswerGradients(
            self._setup, self._merged, self._frames, settings.gradient_frames
        )
        forms = {node: part.form for node, part in statistics.items()}
        return gradients.weights(self._parts, forms, settings.seed)

    def _unweighted(self, split: Split, statistics: Mapping[Node, ZoneStatistics]) -> ZoneWeights:
        crossing = self._parts[split].crossing
        return {
            node: unweighted(statistics[node].variance, statistics[node].form) for node in crossing
        }

    def _with_rates(
        self, transforms: Mapping[Split, Sequence[FittedTransform]]
    ) -> dict[Split, FittedCodec]:
        device = next(iter(self._setup.models.values())).device
        forward = {
            split: [part.forward.to(device) for part in parts]
            for split, parts in transforms.items()
        }
        passes = {
            split: MagnitudePass([row for part in parts for row in part.row_counts], device)
            for split, parts in forward.items()
        }
        for values in self._batches(self._later_frames):
            for split, magnitudes in passes.items():
                tensors = [values[node] for node in self._parts[split].crossing]
                pairs = zip(forward[split], tensors, strict=True)
                magnitudes.add(torch.cat([part(tensor) for part, tensor in pairs], 1))
        return {split: _codec(parts, passes[split]) for split, parts in transforms.items()}


def _shared_out(frames: FrameSet) -> tuple[Subset, Subset]:
    """Return the frames that maps are fitted to, and those that magnitudes are measured on."""
    magnitudes = range(1, len(frames), MAGNITUDE_SHARE)
    fitted = tuple(k for k in range(len(frames)) if k not in magnitudes)
    return Subset(frames, fitted), Subset(frames, tuple(magnitudes) or fitted)


def _codec(parts: Sequence[FittedTransform], magnitudes: MagnitudePass) -> FittedCodec:
    rows, tables = magnitudes.rows(), CodingTables.laplace()
    return FittedCodec(
        Encoder([part.forward.cpu() for part in parts], rows, tables),
        Decoder([part.inverse for part in parts], rows, tables),
        RateCurve(magnitudes.finish(), tables, sum(part.lost for part in parts)),
    )
