"""Milliseconds to encode and to decode on this machine: measured, or predicted from a few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from search.evaluation import latency
from search.evaluation.latency import Stopwatch
from search.pipelines.split.coded import CodedOption
from search.study.pareto import evenly_spaced
from search.utils.arrays import FloatVector
from spaces.split.coefficients import Coding
from spaces.split.message import HEADER_BYTES

TIMED = 10
"""Codecs from which the times of all are predicted, at most."""
CODEC_RUNS = 3
"""A codec is timed this often at a coding."""


@dataclass(frozen=True)
class CodecTime:
    """The times of one message."""

    encode_ms: float
    decode_ms: float


class CodecTimes:
    """Predicts times, as a line in the coefficients of a frame and the bytes of its message."""

    def __init__(self, coded: Sequence[CodedOption]) -> None:
        by_size = sorted(coded, key=_count_coefficients)
        rows, times = [], []
        for number in evenly_spaced(len(by_size), TIMED):
            option = by_size[number]
            for coding in (option.codings[0], option.codings[-1]):
                payload, time = time_codec(option, coding)
                rows.append([1.0, _count_coefficients(option), HEADER_BYTES + len(payload)])
                times.append([time.encode_ms, time.decode_ms])
        self._least = np.array(times).min(0)
        self._terms = np.linalg.lstsq(np.array(rows), np.array(times), rcond=None)[0]

    def predict(self, option: CodedOption, size: float) -> CodecTime:
        """Return the times of a message of that many bytes, at least the quickest measured."""
        row: FloatVector = np.array([1.0, _count_coefficients(option), size])
        encode_ms, decode_ms = np.maximum(row @ self._terms, self._least).tolist()
        return CodecTime(encode_ms, decode_ms)


@torch.inference_mode()
def time_codec(option: CodedOption, coding: Coding) -> tuple[bytes, CodecTime]:
    """Return the payload of a frame with a coding, and the median times to make and to read it."""
    settings = replace(latency.DEFAULT_STOPWATCH, warmup=1, runs=CODEC_RUNS, seconds=0.0, frames=1)
    watch, codec = Stopwatch(settings, torch.device("cpu")), option.codec

    def encode() -> bytes:
        return codec.encoder.encode(codec.encoder(option.tensors)[0].numpy(), coding)

    def decode() -> object:
        return codec.decoder(torch.from_numpy(codec.decoder.decode(payload, coding))[None])

    payload = encode()
    return payload, CodecTime(
        watch.milliseconds(lambda run: encode()), watch.milliseconds(lambda run: decode())
    )


def _count_coefficients(option: CodedOption) -> int:
    return option.codec.encoder.coder.rows.total
