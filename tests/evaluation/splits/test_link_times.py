"""Both ways to time a frame run what they say, on the frames of the timer."""

from __future__ import annotations

import pytest
import torch
from links import FRAMES, link_setup, one_share, split_at

from search.evaluation.latency import PartTimer, Stopwatch, StopwatchSettings
from search.evaluation.splits.crossing import crossing_batches
from search.evaluation.splits.link_scores import LinkSetup
from search.evaluation.splits.link_times import time_picture, time_split
from search.evaluation.splits.pictures import PictureCoding, PictureView
from search.evaluation.splits.transparent_coder import TransparentCoder
from search.statistics.observed import Observed
from spaces.split.split import Split, SplitParts

QUICK = StopwatchSettings(warmup=0, runs=2, seconds=0, frames=2)


@pytest.fixture(scope="module")
def split(mixed: Observed) -> Split:
    return split_at(one_share(mixed), "det:blocks.4")


@pytest.fixture(scope="module")
def setup(mixed: Observed, split: Split) -> LinkSetup:
    return link_setup(mixed, split.plan, batch=1)


@pytest.fixture(scope="module")
def timer(setup: LinkSetup, split: Split) -> PartTimer:
    merged = setup.networks.merged(split.plan)
    inputs = [
        {name: setup.models[name].prepare_frames([FRAMES[k]]) for name in merged.inputs_read}
        for k in range(QUICK.frames)
    ]
    return PartTimer(Stopwatch(QUICK, torch.device("cpu")), merged, inputs)


def test_the_parts_of_a_split_and_its_coder_take_time(
    setup: LinkSetup, split: Split, timer: PartTimer
) -> None:
    crossing = next(crossing_batches(setup, [split], FRAMES))[split]
    coder = TransparentCoder(tuple(tuple(tensor.shape[1:]) for tensor in crossing))
    times = time_split(timer, SplitParts.of(timer.merged, split), coder)
    assert min(times.device_ms, times.encode_ms, times.decode_ms, times.server_ms) > 0


def test_a_picture_is_timed_without_resizing_and_runs_no_stage_on_the_device(
    setup: LinkSetup, timer: PartTimer
) -> None:
    view = PictureView.of(setup.models)
    times = time_picture(timer, PictureCoding("jpeg", 75), view, [FRAMES[0], FRAMES[1]])
    assert times.device_ms == 0
    assert min(times.encode_ms, times.decode_ms, times.server_ms) > 0
