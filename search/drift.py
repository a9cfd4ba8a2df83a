"""Whether a camera's new frames still look like those of the last search; no labels are needed.

Frames are compared by the models' own representations, in two views. `appearance`, the second
quarter of each model's stages, on a coarse grid: light, weather, and where the camera looks. And
`content`, each model's last representation: what is in the frames. Either is blind to most of
what the other sees.

Each view is projected to a few principal axes and what lies outside them, and each of these
statistics is compared by the distance of Kolmogorov and Smirnov, Bonferroni over all of them
(Rabanser, Günnemann & Lipton 2019, "Failing Loudly"). The axes are fitted on other frames than
those that are compared: frames spread further along axes of their own than new ones do.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.stats import ks_2samp, kstwo
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from search.files import CannotWrite, replacing
from search.frames import BadFrames, FrameSet, batches
from search.moments import BadRepresentation
from search.observed import Deployment
from spaces.errors import MergeSearchError
from spaces.stages import StagedModel

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
View = str

VIEWS: tuple[View, View] = ("appearance", "content")
RATE = 0.05
"""The stated false-alarm rate: the share of rounds with an alarm while no camera has changed."""
CONFIDENCE = 0.99
"""In that the rate holds for all windows that one reference serves."""
COMPONENTS = 3
"""Principal axes of a view."""
STRETCHES = 9
"""Of a reference; every third one is for the axes, the others are compared."""
GRID = 3
"""Rows and columns over which `appearance` is averaged: where a camera looks shows in them."""
LEAST_REFERENCE, LEAST_WINDOW = 30, 8
HEADER = "merge-search drift reference"


class BadReference(MergeSearchError):
    """A reference that cannot be read, or is of other models."""


@dataclass(frozen=True)
class Description:
    """Frames as the models see them, in the order in which they were taken."""

    models: str
    """A hash of the models that have seen them."""
    rows: Mapping[View, Matrix]
    """(frames, features) of each view."""

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))


@torch.inference_mode()
def describe(
    deployment: Deployment,
    frames: FrameSet,
    batch: int,
    progress: Callable[[int], None] = lambda frames: None,
) -> Description:
    """Run every model once over the frames, `batch` at a time.

    Raises:
        BadFrames: there are none.
        BadRepresentation: a stage gives NaN or infinite values.
    """
    if not len(frames):
        raise BadFrames("no frames to describe: give at least one")
    running, rows = deployment.running, {view: list[Tensor]() for view in VIEWS}
    for indices, pictures in batches(frames, batch):
        specs = {model.input: model for model in running.values()}
        inputs = {spec: model.prepared(pictures) for spec, model in specs.items()}
        found = [_views(model, inputs[model.input]) for model in running.values()]
        for view, parts in rows.items():
            parts.append(torch.cat([views[view] for views in found], 1).cpu())
        progress(len(indices))
    whole = {view: torch.cat(parts).double().numpy() for view, parts in rows.items()}
    return Description(models_key(deployment), whole)


def models_key(deployment: Deployment) -> str:
    """A hash of the models' names, stages, inputs and weights."""
    known = sorted(deployment.fingerprints.items())
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


def _views(model: StagedModel, inputs: Tensor) -> dict[View, Tensor]:
    """(frames, features) of both views."""
    stages = model.layout.stages
    early = stages[len(stages) // 4 : (len(stages) + 1) // 2]
    kept = {}
    for name, representation in model.walk(inputs):
        if name in early:
            kept[name] = _on_grid(representation)
    last = representation.flatten(2).mean(2) if representation.dim() == 4 else representation
    views = dict(zip(VIEWS, (torch.cat(list(kept.values()), 1), last), strict=True))
    for view, values in views.items():
        if not values.isfinite().all():
            raise BadRepresentation(
                f"{model.name} gives NaN or infinite values on these frames ({view}); are its "
                "weights right?"
            )
    return views


def _on_grid(representation: Tensor) -> Tensor:
    """Channel means over each cell of the grid; pooled features have no positions."""
    if representation.dim() == 4:
        return adaptive_avg_pool2d(representation, GRID).flatten(1)
    return representation


# The projection.


@dataclass(frozen=True)
class Projection:
    """Standardised features to a few principal axes, and the rest to its squared length."""

    mean: Vector
    weight: Vector
    """One over the standard deviation; 0 for features that do not vary."""
    axes: Matrix
    """(components, features), orthonormal."""

    @classmethod
    def fit(cls, rows: Matrix) -> Projection:
        """The axes along which standardised `rows` vary most.

        Raises:
            BadFrames: nothing varies over the rows.
        """
        mean, spread = rows.mean(0), rows.std(0)
        # what float32 cannot tell from its own rounding does not vary
        varies = spread > 1e-6 * np.abs(rows).max(0)
        if not varies.any():
            raise BadFrames(
                "all frames of the reference are the same: nothing is known of how much the "
                "camera's frames differ; give others"
            )
        weight = np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)
        axes = np.linalg.svd((rows - mean) * weight, full_matrices=False)[2]
        return cls(mean, weight, axes[:COMPONENTS])

    def scores(self, rows: Matrix) -> Matrix:
        """(frames, components + 1): along each axis, and the squared distance from all of them."""
        standard = (rows - self.mean) * self.weight
        along = standard @ self.axes.T
        outside = (standard**2).sum(1) - (along**2).sum(1)
        return np.column_stack((along, outside))


# What a camera looked like.


@dataclass(frozen=True)
class Sample:
    """How one view of a camera is distributed, as far as its frames tell."""

    projection: Projection
    scores: Matrix
    """(frames, statistics) of frames that the projection has not been fitted on."""
    times: Vector
    """Autocorrelation times of the statistics, in frames: one of so many is independent."""

    @classmethod
    def of(cls, rows: Matrix) -> Sample:
        axes = for_axes(len(rows))
        projection = Projection.fit(rows[axes])
        scores = projection.scores(rows[~axes])
        return cls(projection, scores, autocorrelation_times(scores))

    @property
    def statistics(self) -> int:
        return len(self.times)


@dataclass(frozen=True)
class Reference:
    """What a camera looked like when it was searched last; serves any number of windows."""

    models: str
    samples: Mapping[View, Sample]

    @classmethod
    def of(cls, seen: Description) -> Reference:
        """From the frames of the last search, in the order in which they were taken.

        Raises:
            BadFrames: there are too few of them, or nothing varies.
        """
        if len(seen) < LEAST_REFERENCE:
            raise BadFrames(
                f"{len(seen)} frames are too few to know a camera by: give {LEAST_REFERENCE} or "
                "more, better 240"
            )
        return cls(seen.models, {view: Sample.of(rows) for view, rows in seen.rows.items()})


def for_axes(frames: int) -> NDArray[np.bool_]:
    """Which of a reference's frames the axes are fitted on.

    They come from all of its time, but in stretches: a frame is much like the one before, and
    axes that know every frame's neighbour fit the reference better than any new frame.
    """
    stretches = np.arange(frames) * STRETCHES // frames
    return np.equal(stretches % 3, 0)


def autocorrelation_times(values: Matrix) -> Vector:
    """Of each column of (times, columns): the sum of its autocorrelations over all lags.

    The mean of n values varies as that of n over so many independent ones. 1 if they are
    independent, never less. Source: the initial monotone sequence estimator of Geyer 1992,
    "Practical Markov Chain Monte Carlo", section 3.3.
    """
    centred = values - values.mean(0)
    count = len(centred)
    power = np.abs(np.fft.rfft(centred, 2 * count, axis=0)) ** 2
    lags = np.fft.irfft(power, axis=0)[: count // 2 * 2]
    lags = np.divide(lags, lags[0], out=np.zeros_like(lags), where=lags[0] > 0)
    pairs = np.minimum.accumulate(lags.reshape(count // 2, 2, -1).sum(1))
    times: Vector = np.maximum(1.0, 2 * np.maximum(pairs, 0).sum(0) - 1)
    return times


# The test.


@dataclass(frozen=True)
class Drift:
    """What a window of new frames says."""

    p_value: float
    """Of frames as far from the reference as these, if nothing had changed; corrected for all
    statistics and for all comparisons of the round."""
    rate: float
    """Share of rounds with an alarm, at most, while no camera has changed."""
    least: float
    """The p-value of as many frames that have nothing in common with the reference."""
    view: View
    """In which the two differ most."""
    distance: float
    """There: 0 if both are distributed alike, 1 if they have nothing in common."""

    @property
    def noticed(self) -> bool:
        """Whether the camera has changed."""
        return self.p_value <= self.rate

    @property
    def blind(self) -> bool:
        """Whether the frames are too few, or too much alike, for any change to be noticed."""
        return self.least > self.rate


def compare(
    reference: Reference, window: Description, rate: float = RATE, comparisons: int = 1
) -> Drift:
    """Whether frames come from the camera that the reference is of.

    `rate` is that of false alarms in a round, and `comparisons` how many cameras it judges.

    One reference serves many windows. A two-sample test has its level over pairs of samples; with
    one and the same reference it may alarm several times as often, in every round again. So the
    reference is granted the distance that it may have from its camera, at CONFIDENCE, and the
    window is tested by what is left: if F is the camera's distribution, |F_window - F_reference|
    is at most |F_window - F| + |F - F_reference|, and both follow `scipy.stats.kstwo`. Given a
    reference within that distance, which CONFIDENCE of them are, the rate holds for its windows.

    Frames in a row resemble each other. Both samples count as the number of independent frames
    that they are worth, by the reference's autocorrelation.

    Raises:
        BadFrames: there are too few frames.
        BadReference: reference and window were described by different models.
    """
    if len(window) < LEAST_WINDOW:
        raise BadFrames(
            f"{len(window)} frames are too few to compare: give {LEAST_WINDOW} or more"
        )
    if reference.models != window.models:
        raise BadReference(
            "the reference was described by other models than these frames: describe the frames "
            "of the last search anew"
        )
    tests = comparisons * sum(sample.statistics for sample in reference.samples.values())
    found = [
        _Distance.between(sample, number, scores, view)
        for view, sample in reference.samples.items()
        for number, scores in enumerate(sample.projection.scores(window.rows[view]).T)
    ]
    first = min(found, key=lambda one: (one.p_value(one.value, tests), -one.value))
    least = min(one.p_value(1.0, tests) for one in found)
    return Drift(first.p_value(first.value, tests), rate, least, first.view, first.value)


@dataclass(frozen=True)
class _Distance:
    """Reference and window by one statistic alone, and how many independent frames they are."""

    view: View
    value: float
    known: int
    new: int

    @classmethod
    def between(cls, sample: Sample, number: int, scores: Vector, view: View) -> _Distance:
        known, time = sample.scores[:, number], sample.times[number]
        value = float(ks_2samp(known, scores, method="asymp").statistic)
        return cls(view, value, _worth(known, time), _worth(scores, time))

    def p_value(self, distance: float, tests: int) -> float:
        left = max(0.0, distance - _granted(self.known, tests))
        return min(1.0, tests * float(kstwo.sf(left, self.new)))


@lru_cache
def _granted(frames: int, tests: int) -> float:
    """How far so many frames may lie from their own distribution; takes scipy some time."""
    return float(kstwo.isf((1 - CONFIDENCE) / tests, frames))


def _worth(values: Vector, time: float) -> int:
    """How many independent frames tell as much as these."""
    return max(1, math.floor(len(values) / float(time)))


# On disk.


def save(path: Path, reference: Reference) -> None:
    """Write the file, wholly or not at all.

    Raises:
        CannotWrite: the folder does not take it.
    """
    tensors = {
        f"{view}/{name}": np.ascontiguousarray(values)
        for view, sample in reference.samples.items()
        for name, values in _arrays(sample).items()
    }
    header = {"models": reference.models, "views": list(reference.samples)}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, {HEADER: json.dumps(header)})
        except SafetensorError as error:
            raise CannotWrite(f"cannot write {path}: {error}") from error


def load(path: Path) -> Reference:
    """Read a file that `save` has written.

    Raises:
        BadReference: it is damaged, or is no such file.
    """
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            samples = {str(view): _sample(file, view) for view in header["views"]}
            return Reference(str(header["models"]), samples)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadReference(
            f"{path} is not a whole drift reference ({type(error).__name__}); delete it, and the "
            "frames of the last search are described anew"
        ) from error


def _arrays(sample: Sample) -> dict[str, Matrix | Vector]:
    fitted = sample.projection
    return {
        "mean": fitted.mean, "weight": fitted.weight, "axes": fitted.axes,
        "scores": sample.scores, "times": sample.times,
    }  # fmt: skip


def _sample(file: Any, view: View) -> Sample:
    mean, weight, axes, scores, times = (
        file.get_tensor(f"{view}/{name}") for name in ("mean", "weight", "axes", "scores", "times")
    )
    return Sample(Projection(mean, weight, axes), scores, times)
