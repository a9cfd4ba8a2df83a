"""How right the predictions of `split.py` are, and what one codec for all rates costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from scipy.stats import spearmanr
from split_networks import Measured, Networks, Setting
from torch import Tensor

from search.data.frames import FrameSet, Subset
from search.evaluation.splits.codec_coder import CodecCoder
from search.evaluation.splits.crossing import crossing_batches
from search.split.batchnorm_moments import ServerRun
from spaces.node import Node
from spaces.split.recalibrated import with_statistics
from spaces.split.split import Split, SplitParts


def predictions(
    measured: Sequence[Measured], closeness: Mapping[tuple[str, str], float]
) -> dict[str, float]:
    """Return how far predicted bytes are off, and rank correlations of the distortion.

    `closeness` is by method and label. All points are of the same frames.
    """
    ours = [point for point in measured if point.predicted]
    off = [point.predicted["bytes"] / point.scores.mean_bytes - 1 for point in ours]
    expected = [-point.predicted["distortion"] for point in ours]
    fidelity = [point.scores.mean_fidelity for point in ours]
    close = [closeness[point.method, point.label] for point in ours]
    return {
        "largest_error_of_bytes": float(np.abs(off).max()),
        "within_2_percent": float((np.abs(off) <= 0.02).mean()),
        "rank_correlation": float(spearmanr(expected, fidelity).statistic),
        "rank_correlation_of_closeness": float(spearmanr(expected, close).statistic),
        "points": len(ours),
    }


@torch.inference_mode()
def mean_closeness(
    networks: Networks, settings: Sequence[Setting], frames: FrameSet
) -> dict[tuple[str, str], float]:
    """Return the mean closeness over frames and models, by method and label, of our codecs.

    Closeness also tells the changes that change no decision, so it needs fewer frames.
    """
    merged = networks.setup.networks.merged(networks.plan)
    totals: dict[tuple[str, str], float] = {}
    ours = [s for s in settings if s.split and isinstance(s.coder, CodecCoder)]
    servers = [with_statistics(merged, s.statistics) if s.statistics else merged for s in ours]
    for batch in crossing_batches(networks.setup, [*networks.splits.values()], frames):
        for split, tensors in batch.items():
            parts = SplitParts.of(merged, split)
            run = ServerRun(merged, networks.setup.networks.facts, parts.server)
            exact = run.answers(merged, _named(parts, tensors))
            for setting, server in zip(ours, servers, strict=True):
                if setting.split != split:
                    continue
                answers = run.answers(server, _named(parts, _received(setting, tensors)))
                close = [networks.models[name].closeness(answers[name], exact[name]).sum()
                         for name in exact]  # fmt: skip
                key = setting.method, setting.label
                totals[key] = totals.get(key, 0.0) + float(torch.stack(close).mean())
    return {key: total / len(frames) for key, total in totals.items()}


def _named(parts: SplitParts, tensors: Sequence[Tensor]) -> dict[Node, Tensor]:
    return dict(zip(parts.crossing, tensors, strict=True))


def _received(setting: Setting, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return what the server decodes; the payload is lossless, so it is not written."""
    assert isinstance(setting.coder, CodecCoder)
    codec, coding = setting.coder.codec, setting.coder.coding
    coder = codec.encoder.coder
    rows = [coder.dequantise(coder.quantise(row, coding), coding)
            for row in codec.encoder(tensors).numpy()]  # fmt: skip
    decoded: list[Tensor] = codec.decoder(torch.from_numpy(np.stack(rows)))
    return decoded


def rate_alone(networks: Networks, split: Split, distortions: Sequence[float]) -> dict[str, float]:
    """Return the bytes of a step over those of codes that are fitted to that step alone.

    Such a code knows how often each row has each level at that step, and takes the entropy: no
    code that treats the levels of a row alike takes less.
    """
    codec, ratios = networks.codecs[split], dict[str, float]()
    frames = Subset(networks.unlabelled, tuple(range(0, len(networks.unlabelled), 2)))
    rows = []
    with torch.inference_mode():
        for batch in crossing_batches(networks.setup, [split], frames):
            rows.append(codec.encoder(batch[split]).numpy())
    coefficients = np.concatenate(rows)
    ends = np.cumsum(codec.encoder.coder.rows.counts)
    for distortion in distortions:
        coding = networks.coding(split, distortion)
        coder = codec.encoder.coder
        levels = np.stack([coder.quantise(row, coding) for row in coefficients])
        bits = sum(entropy_bits(levels[:, a:b]) for a, b in pairwise([0, *ends]))
        spent = sum(coder.count_bits(row, coding) for row in levels)
        ratios[f"step {coding.step}"] = spent / bits
    return ratios


def entropy_bits(levels: np.typing.NDArray[np.int32]) -> float:
    _, counts = np.unique(levels, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum())
