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
from search.split.zone_maps import FittedTransform, Ranks, fit_transforms
from search.split.zone_statistics import StatisticsPass, ZoneStatistics, coded_form, pooled
from search.utils.progress import Progress, silent
from spaces.execution import computing
from spaces.merged import MergedModel
from spaces.node import Node
from spaces.plan import SharePlan
from spaces.split.codec import Decoder, Encoder
from spaces.split.split import Split, SplitParts
from spaces.split.tables import CodingTables
from spaces.split.transform import TensorForm

_FOLDS = 3
"""Parts of the frames. How large the coefficients of each part are is measured with maps that are
fitted to the other parts: those of the frames of the fit itself are smaller than of any others."""
FITTING_PASSES = 2
"""How often each frame runs, besides the gradients: for the maps, and for the magnitudes."""

NodeStatistics = Mapping[Node, ZoneStatistics]
"""Of all crossing representations."""


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

    Each frame runs `FITTING_PASSES` times per plan, for all its splits at once, and each time
    counts as progress; some run once more for the gradients.

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
        self._frames, self._folds = frames, _folds(frames)
        self._settings, self._progress = settings, progress
        crossing = (node for part in parts.values() for node in part.crossing)
        self._nodes = tuple(dict.fromkeys(crossing))

    def codecs(self) -> dict[Split, FittedCodec]:
        by_fold = [self._statistics(fold) for fold in self._folds]
        everything = _pooled(by_fold)
        weights = self._weights(everything)
        transforms = self._transforms(everything, weights)
        ranks = {split: [part.forward.ranks for part in transforms[split]] for split in transforms}
        magnitudes = self._magnitude_passes(transforms)
        for number, fold in enumerate(self._folds):
            others = [*by_fold[:number], *by_fold[number + 1 :]] or by_fold
            self._measure(fold, self._transforms(_pooled(others), weights, ranks), magnitudes)
        return {split: _codec(parts, magnitudes[split]) for split, parts in transforms.items()}

    def _statistics(self, frames: FrameSet) -> NodeStatistics:
        passes: dict[Node, StatisticsPass] = {}
        for values in self._batches(frames):
            for node, value in values.items():
                if node not in passes:
                    passes[node] = StatisticsPass(self._form(value))
                passes[node].add(value)
        return {node: part.finish() for node, part in passes.items()}

    def _transforms(
        self,
        statistics: NodeStatistics,
        weights: Mapping[Split, ZoneWeights],
        ranks: Mapping[Split, Ranks] | None = None,
    ) -> dict[Split, list[FittedTransform]]:
        """Return the transforms of each split, of given ranks or of those that fit the device."""
        return {
            split: fit_transforms(
                [statistics[node] for node in part.crossing],
                [weights[split][node] for node in part.crossing],
                ranks[split] if ranks else self._settings.device_values,
            )
            for split, part in self._parts.items()
        }

    def _form(self, value: Tensor) -> TensorForm:
        settings = self._settings
        return coded_form(tuple(value.shape[1:]), settings.zones, settings.device_values)

    def _batches(self, frames: FrameSet) -> Iterator[dict[Node, Tensor]]:
        part, batch = computing(self._nodes), self._settings.batch
        return representations(self._setup, self._merged, part, frames, batch, self._progress)

    def _weights(self, statistics: NodeStatistics) -> dict[Split, ZoneWeights]:
        if self._settings.weight == "none":
            return {split: self._unweighted(split, statistics) for split in self._parts}
        settings = self._settings
        gradients = AnswerGradients(
            self._setup, self._merged, self._frames, settings.gradient_frames
        )
        forms = {node: part.form for node, part in statistics.items()}
        return gradients.weights(self._parts, forms, settings.seed)

    def _unweighted(self, split: Split, statistics: NodeStatistics) -> ZoneWeights:
        crossing = self._parts[split].crossing
        return {
            node: unweighted(statistics[node].variance, statistics[node].form) for node in crossing
        }

    def _magnitude_passes(
        self, transforms: Mapping[Split, Sequence[FittedTransform]]
    ) -> dict[Split, MagnitudePass]:
        return {
            split: MagnitudePass(
                [row for part in parts for row in part.forward.row_counts], self._device
            )
            for split, parts in transforms.items()
        }

    def _measure(
        self,
        frames: FrameSet,
        transforms: Mapping[Split, Sequence[FittedTransform]],
        magnitudes: Mapping[Split, MagnitudePass],
    ) -> None:
        """Add the magnitudes of the coefficients of some frames."""
        forward = {
            split: [part.forward.to(self._device) for part in parts]
            for split, parts in transforms.items()
        }
        for values in self._batches(frames):
            for split, parts in forward.items():
                tensors = [values[node] for node in self._parts[split].crossing]
                pairs = zip(parts, tensors, strict=True)
                magnitudes[split].add(torch.cat([part(tensor) for part, tensor in pairs], 1))

    @property
    def _device(self) -> torch.device:
        return next(iter(self._setup.models.values())).device


def _folds(frames: FrameSet) -> list[Subset]:
    count = min(_FOLDS, len(frames))
    return [Subset(frames, tuple(range(first, len(frames), count))) for first in range(count)]


def _pooled(parts: Sequence[NodeStatistics]) -> NodeStatistics:
    return {node: pooled([part[node] for part in parts]) for node in parts[0]}


def _codec(parts: Sequence[FittedTransform], magnitudes: MagnitudePass) -> FittedCodec:
    rows, tables = magnitudes.rows(), CodingTables.laplace()
    return FittedCodec(
        Encoder([part.forward.cpu() for part in parts], rows, tables),
        Decoder([part.inverse for part in parts], rows, tables),
        RateCurve(magnitudes.finish(), tables, sum(part.lost for part in parts)),
    )
