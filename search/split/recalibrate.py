"""Recalibrate the BatchNorms behind a split for coarse codings, where unseen frames gain by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from search.data.frames import FrameSet, Sampling, Subset
from search.split.batchnorm_moments import ServerRun, in_batches
from search.split.fit import FittedCodec
from search.split.rate_curve import RateCurve
from search.split.setup import SplitSetup, representations
from search.utils.arrays import FloatVector
from search.utils.progress import Progress, silent
from spaces.merged import MergedModel
from spaces.node import Node
from spaces.split.coefficients import Coding, Coefficients
from spaces.split.message import SENDABLE_STEPS
from spaces.split.recalibrated import BatchNormStatistics, StatisticsByCoding, with_statistics
from spaces.split.split import Split, SplitParts

MOST_FRAMES = 64
"""Frames that statistics are measured on, at most: four times as many gain next to nothing."""
_BATCH = 16
"""Frames that run at once where nothing is measured."""
NOISE = 1.96
"""Standard errors by which a gain must exceed 0: 97.5% of a normal distribution lie below."""
MEASURED_DISTORTIONS = (0.01, 0.025, 0.05, 0.1, 0.2)
"""The predicted distortions of the codings that are tried."""


@dataclass(frozen=True, eq=False)
class Recalibration:
    """Statistics for one coding, and what they change on unseen frames."""

    coding: Coding
    statistics: BatchNormStatistics
    fidelity: float
    """Agreement with the answers without a split, mean over held-out frames and models."""
    recalibrated_fidelity: float
    """The same with these statistics."""
    fidelity_noise: float
    """The standard error of the difference of both: frame by frame, on the same frames."""
    gain: float
    """The mean by which answers come closer, see `StagedModel.closeness`."""
    gain_noise: float
    """The standard error of `gain`."""

    @property
    def helps(self) -> bool:
        """Whether answers come closer by more than noise, and fidelity rises.

        Closeness also tells changes that change no decision, so that a few hundred frames show
        whether anything is gained; fidelity, which is noisier, only has to rise by more than one
        standard error.
        """
        rise = self.recalibrated_fidelity - self.fidelity
        return self.gain > NOISE * self.gain_noise and rise > self.fidelity_noise


@dataclass(frozen=True, eq=False)
class SplitRecalibration:
    """What recalibration is worth at a split, from fine to coarse codings."""

    by_coding: StatisticsByCoding
    """For the server; ranges begin at the codings that were tried."""
    tried: tuple[Recalibration, ...]
    """Those that were kept, and those that were not, in order of their steps."""


def recalibrate(
    setup: SplitSetup,
    split: Split,
    codec: FittedCodec,
    coding: Coding,
    frames: FrameSet,
    held_out: FrameSet,
) -> Recalibration | None:
    """Return statistics for frames of one coding; None if held-out frames gain nothing by them.

    The models of `setup` must not be fused: where a convolution holds its BatchNorm, no
    statistics are left.

    Raises:
        BadSplit: the split does not fit its plan.
    """
    found = _Recalibrator(setup, split, codec, frames, held_out).try_coding(coding)
    return found if found and found.helps else None


def recalibrate_steps(
    setup: SplitSetup,
    split: Split,
    codec: FittedCodec,
    frames: FrameSet,
    held_out: FrameSet,
    steps: Sequence[int] = (),
    progress: Progress = silent,
) -> SplitRecalibration | None:
    """Return statistics for all codings of a split; None if held-out frames gain nothing by any.

    They are measured at some `steps` with all bands, by default at those whose predicted
    distortions are `MEASURED_DISTORTIONS`. Statistics serve all codings of at least the predicted
    distortion of the one that they were measured at, up to that of the next. `progress` counts
    steps. Otherwise as `recalibrate`.

    Raises:
        BadSplit: the split does not fit its plan.
    """
    curve = codec.curve
    recalibrator = _Recalibrator(setup, split, codec, frames, held_out)
    tried = []
    for step in sorted({*(steps or steps_to_try(curve))}):
        tried.append(recalibrator.try_coding(Coding(step, curve.zones)))
        progress(1)
    measured = tuple(found for found in tried if found)
    if not any(found.helps for found in measured):
        return None
    return SplitRecalibration(_by_coding(measured, curve), measured)


def steps_to_try(curve: RateCurve) -> list[int]:
    """Return the finest useful steps of at least `MEASURED_DISTORTIONS`, in order."""
    distortions = np.array([curve.distortion(Coding(step, curve.zones)) for step in curve.steps])
    reached = [np.flatnonzero(distortions >= least)[:1] for least in MEASURED_DISTORTIONS]
    return sorted({curve.steps[int(first[0])] for first in reached if len(first)})


def _by_coding(tried: Sequence[Recalibration], curve: RateCurve) -> StatisticsByCoding:
    bands = range(1, curve.zones + 1)
    first_steps = [[_first_step(found.coding, count, curve) for count in bands] for found in tried]
    # predicted distortions may rise and fall by a little from step to step
    ordered = np.maximum.accumulate(np.array(first_steps, np.int32), axis=0)
    return StatisticsByCoding(
        ordered, tuple(found.statistics if found.helps else None for found in tried)
    )


def _first_step(coding: Coding, bands: int, curve: RateCurve) -> int:
    """Return the finest step that, with fewer bands, has the distortion of a coding or more."""
    if bands == coding.bands:
        return coding.step
    least, step = curve.distortion(coding), coding.step
    while step > SENDABLE_STEPS[0] and curve.distortion(Coding(step - 1, bands)) >= least:
        step -= 1
    return step


class _Recalibrator:
    """What does not depend on the coding, computed once."""

    def __init__(
        self,
        setup: SplitSetup,
        split: Split,
        codec: FittedCodec,
        frames: FrameSet,
        held_out: FrameSet,
    ) -> None:
        self._setup, self._codec = setup, codec
        self._merged = setup.merged(split.plan)
        self._parts = SplitParts.of(self._merged, split)
        self._run = ServerRun(self._merged, setup.facts, self._parts.server)
        crossing = self._crossing(_spread(frames))
        self._exact = self._run.exact_moments(crossing)
        self._frames = self._coefficients(crossing)
        unseen = self._crossing(held_out)
        self._held_out = self._coefficients(unseen)
        self._unsplit = self._answers(self._merged, unseen)

    def try_coding(self, coding: Coding) -> Recalibration | None:
        """Return what statistics for a coding change; None without any BatchNorm."""
        if not self._exact:
            return None
        decoded = self._decode(self._frames, coding)
        statistics = self._run.matching_statistics(self._exact, decoded)
        networks = (self._merged, with_statistics(self._merged, statistics))
        own, recalibrated = self._compare(networks, self._decode(self._held_out, coding))
        rise, rise_noise = _mean_and_noise(recalibrated.agreement - own.agreement)
        gain, gain_noise = _mean_and_noise(recalibrated.closeness - own.closeness)
        fidelity = float(own.agreement.mean())
        return Recalibration(
            coding, statistics, fidelity, fidelity + rise, rise_noise, gain, gain_noise
        )

    def _crossing(self, frames: FrameSet) -> dict[Node, Tensor]:
        part = self._parts.device
        batches = [*representations(self._setup, self._merged, part, frames, _BATCH, silent)]
        return {node: torch.cat([one[node] for one in batches]) for node in self._parts.crossing}

    @torch.inference_mode()
    def _coefficients(self, crossing: Mapping[Node, Tensor]) -> list[Coefficients]:
        """Return the coefficients of each frame."""
        tensors = [crossing[node].cpu() for node in self._parts.crossing]
        return [*self._codec.encoder(tensors).numpy()]

    @torch.inference_mode()
    def _decode(self, frames: Sequence[Coefficients], coding: Coding) -> dict[Node, Tensor]:
        """Return what the server receives: the payload is lossless, so it is not written."""
        coder, device = self._codec.decoder.coder, next(self._merged.parameters()).device
        received = [coder.dequantise(coder.quantise(frame, coding), coding) for frame in frames]
        tensors = self._codec.decoder(torch.from_numpy(np.stack(received)))
        pairs = zip(self._parts.crossing, tensors, strict=True)
        return {node: tensor.to(device) for node, tensor in pairs}

    @torch.inference_mode()
    def _compare(
        self, networks: Sequence[MergedModel], decoded: Mapping[Node, Tensor]
    ) -> list[_Likeness]:
        """Return how much each network answers to held-out frames as without a codec."""
        return [
            _Likeness(*torch.cat(parts, 1).cpu().double().numpy())
            for parts in (
                [*map(self._likeness, self._answers(network, decoded), self._unsplit)]
                for network in networks
            )
        ]

    @torch.inference_mode()
    def _answers(
        self, network: MergedModel, taken: Mapping[Node, Tensor]
    ) -> list[dict[str, Tensor]]:
        """Return the comparable answers of each batch of frames."""
        return [self._run.answers(network, batch) for batch in in_batches(taken, _BATCH)]

    def _likeness(self, answers: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> Tensor:
        """Return agreement and closeness of frames, (2, frames): the means over models."""
        models = [(self._setup.models[name], answers[name], exact[name]) for name in exact]
        rows = [
            torch.stack([model.agreement(new, old), model.closeness(new, old)])
            for model, new, old in models
        ]
        return torch.stack(rows).mean(0)


class _Likeness(NamedTuple):
    """How much answers to frames are as they should be, (frames,) each."""

    agreement: FloatVector
    closeness: FloatVector


def _mean_and_noise(values: FloatVector) -> tuple[float, float]:
    """Return the mean over frames, and its standard error."""
    return float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5


def _spread(frames: FrameSet) -> Subset:
    """Return frames of which any first ones are spread over all of them."""
    sampled = np.array(Sampling(MOST_FRAMES).indices(len(frames)))
    return Subset(frames, tuple(np.random.default_rng(0).permutation(sampled).tolist()))
