"""Batches of network inputs, from frames that are read ahead and no larger than needed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from search.data.frames import FrameSet, content_of, picture_of
from search.data.inputs.fitted_frames import KEPT, FittedFrame
from search.data.inputs.read_ahead import read_ahead
from spaces.inputs import InputSpec, fit_frame, normalise, resized_size
from spaces.merged import ModelsByName
from spaces.tasks.task import FrameSize

JPEG_REDUCTIONS = (8, 4, 2)
"""How many times smaller a JPEG picture can be decoded."""
LEAST_RATIO = 2
"""A reduced picture is at least this many times as high and as wide as what is made of it."""


@dataclass(frozen=True)
class InputBatch:
    """Consecutive frames as networks take them."""

    indices: range
    """Of the frames in their set."""
    inputs: Mapping[str, Tensor]
    """(batch, channels, height, width) by name; equal specs share one tensor."""
    frame_sizes: Sequence[FrameSize]
    """(height, width) of each frame in its own pixels, whatever was decoded."""

    def __len__(self) -> int:
        return len(self.indices)


def model_batches(
    frames: FrameSet,
    batches: Sequence[range],
    models: ModelsByName,
    names: Collection[str] | None = None,
) -> Iterator[InputBatch]:
    """Yield batches of the inputs of some models, by default all, on the models' devices.

    Pictures have the pixels that *all* of `models` need, so that inputs do not depend on `names`.

    Raises:
        BadFrames: an image cannot be read.
    """
    read = {n: model.input for n, model in models.items() if names is None or n in names}
    for batch in input_batches(frames, batches, read, [m.input for m in models.values()]):
        inputs = {name: values.to(models[name].device) for name, values in batch.inputs.items()}
        yield InputBatch(batch.indices, inputs, batch.frame_sizes)


def input_batches(
    frames: FrameSet,
    batches: Sequence[range],
    inputs: Mapping[str, InputSpec],
    beside: Iterable[InputSpec] = (),
) -> Iterator[InputBatch]:
    """Yield batches of inputs by name, on the CPU.

    `beside` are specs of inputs that nobody takes here, and that limit the reduction of pictures.

    Raises:
        BadFrames: an image cannot be read.
    """
    specs = tuple(dict.fromkeys(inputs.values()))
    all_specs = tuple(dict.fromkeys((*specs, *beside)))

    def read(index: int) -> FittedFrame:
        picture = picture_of(frames, index, lambda size: reduction_for(size, all_specs))
        fitted = {spec: fit_frame(picture.pixels, spec) for spec in specs}
        return FittedFrame(fitted, picture.frame_size)

    def read_once(index: int) -> FittedFrame:
        content = content_of(frames, index)
        if content is None:
            return read(index)
        return KEPT.get((content, frozenset(specs), frozenset(all_specs)), partial(read, index))

    for indices, fitted in zip(batches, read_ahead(read_once, batches), strict=True):
        by_spec = {s: normalise([frame.by_spec[s] for frame in fitted], s) for s in specs}
        by_name = {name: by_spec[spec] for name, spec in inputs.items()}
        yield InputBatch(indices, by_name, [frame.size for frame in fitted])


def reduction_for(frame_size: FrameSize, specs: Iterable[InputSpec]) -> int:
    """Return how many times smaller a (height, width) frame may be decoded for some inputs.

    It divides both sides, so that every pixel of the smaller picture stands for as many of the
    frame, and the inputs show the same part at the same place.
    """
    needed = [_needed(frame_size, spec) for spec in specs]
    return next((f for f in JPEG_REDUCTIONS if all(_leaves(frame_size, f, n) for n in needed)), 1)


def _needed(frame_size: FrameSize, spec: InputSpec) -> FrameSize:
    """Return the least size that a reduced picture must have."""
    if spec.interpolation == "nearest":  # takes single pixels of the frame
        return frame_size
    height, width = resized_size(frame_size, spec)
    return LEAST_RATIO * height, LEAST_RATIO * width


def _leaves(frame_size: FrameSize, factor: int, needed: FrameSize) -> bool:
    return all(
        side % factor == 0 and side // factor >= least
        for side, least in zip(frame_size, needed, strict=True)
    )
