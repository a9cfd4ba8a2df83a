"""Milliseconds of what a split does for one frame, on the machine that measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search.evaluation.latency import PartTimer
from search.evaluation.splits.crossing import run_part
from search.evaluation.splits.pictures import PictureCoding, PictureView
from search.evaluation.splits.score_splits import CrossingCoder
from spaces.inputs import Frame
from spaces.split.split import SplitParts

_SIZE = (1, 1)
"""In the header of timed messages: no box is mapped back to these frames."""


@dataclass(frozen=True)
class LinkTimes:
    """Medians of single frames, without preparing them."""

    device_ms: float
    """The device's stages."""
    encode_ms: float
    decode_ms: float
    server_ms: float
    """The server's stages and heads."""


def time_split(timer: PartTimer, parts: SplitParts, coder: CrossingCoder) -> LinkTimes:
    """Time the parts of a split and its coder on the timer's frames."""
    crossing = [_crossing(timer, parts, number) for number in range(len(timer.inputs))]
    messages = [coder.encode(tensors, [_SIZE]) for tensors in crossing]
    count = len(crossing)
    watch = timer.stopwatch
    return LinkTimes(
        device_ms=timer.milliseconds(parts.device),
        encode_ms=watch.milliseconds(lambda run: coder.encode(crossing[run % count], [_SIZE])),
        decode_ms=watch.milliseconds(lambda run: coder.decode(messages[run % count])),
        server_ms=timer.milliseconds(parts.server, parts.device),
    )


def time_picture(
    timer: PartTimer, coding: PictureCoding, view: PictureView, frames: Sequence[Frame]
) -> LinkTimes:
    """Time a picture's coding and decoding, and the networks as a whole."""
    pictures = [view.take(frame, coding.side) for frame in frames]
    files = [coding.encode(picture) for picture in pictures]
    count, watch = len(frames), timer.stopwatch
    return LinkTimes(
        device_ms=0.0,
        encode_ms=watch.milliseconds(lambda run: coding.encode(pictures[run % count])),
        decode_ms=watch.milliseconds(lambda run: coding.decode(files[run % count])),
        server_ms=timer.milliseconds(timer.merged.whole),
    )


@torch.inference_mode()
def _crossing(timer: PartTimer, parts: SplitParts, number: int) -> list[Tensor]:
    run = run_part(timer.merged, parts.device, timer.inputs[number], {})
    return [run.representations[node] for node in parts.crossing]
