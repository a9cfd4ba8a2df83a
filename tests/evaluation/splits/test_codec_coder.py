"""Messages of a fitted codec are scored as a device and a server of that codec would have it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from links import FRAMES, UNSEEN, link_setup, one_share, split_at

from search.evaluation.splits.codec_coder import CodecCoder
from search.evaluation.splits.crossing import crossing_batches, frame_sizes
from search.evaluation.splits.link_scores import LinkSetup, ShownFrames
from search.evaluation.splits.score_splits import SplitCandidate, score_splits
from search.split.fit import FittedCodec, fit_codecs
from search.split.settings import CodecSettings
from search.statistics.observed import Observed
from search.utils.progress import silent
from spaces.split.coefficients import Coding
from spaces.split.message import Message
from spaces.split.split import Split


@pytest.fixture(scope="module")
def split(mixed: Observed) -> Split:
    split: Split = split_at(one_share(mixed), "det:blocks.4")
    return split


@pytest.fixture(scope="module")
def setup(mixed: Observed, split: Split) -> LinkSetup:
    setup: LinkSetup = link_setup(mixed, split.plan)
    return setup


@pytest.fixture(scope="module")
def codec(setup: LinkSetup, split: Split) -> FittedCodec:
    settings = CodecSettings(weight="none", batch=setup.batch)
    return fit_codecs(setup.networks, [split], FRAMES, settings)[split]


def codings(codec: FittedCodec) -> list[Coding]:
    steps = codec.curve.steps
    return [Coding(steps[k * (len(steps) - 1) // 3], codec.curve.zones) for k in range(4)]


def test_a_message_decodes_as_its_payload(
    setup: LinkSetup, split: Split, codec: FittedCodec
) -> None:
    tensors = next(crossing_batches(setup, [split], FRAMES))[split]
    sizes = frame_sizes(FRAMES[k] for k in range(setup.batch))
    for coding in codings(codec):
        coder = CodecCoder(codec, coding)
        messages = coder.encode(tensors, sizes)
        read = [Message.parse(message) for message in messages]
        assert [(one.coding, one.frame_size) for one in read] == [(coding, s) for s in sizes]
        rows = np.stack([codec.decoder.decode(one.payload, coding) for one in read])
        with torch.inference_mode():
            expected = codec.decoder(torch.from_numpy(rows))
        for received, values in zip(coder.decode(messages), expected, strict=True):
            assert torch.equal(received, values)


def test_a_coarser_step_sends_less_and_keeps_less(
    setup: LinkSetup, split: Split, codec: FittedCodec
) -> None:
    candidates = [SplitCandidate(split, CodecCoder(codec, c)) for c in codings(codec)]
    shown = ShownFrames.unlabelled(UNSEEN, setup.models)
    scored = score_splits(setup, candidates, [shown], silent).methods
    sizes = [scores.mean_bytes for scores in scored]
    assert sorted(sizes, reverse=True) == sizes
    assert scored[0].mean_fidelity > scored[-1].mean_fidelity
    assert scored[0].fidelity_by_model(["cls"]) == {"cls": 1.0}
