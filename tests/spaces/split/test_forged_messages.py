"""Messages with a right checksum that no device has sent: each is refused, or decoded to numbers.

A checksum finds what the link has changed. It does not keep anyone from making messages up.
"""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.random import Generator
from split_bundles import COARSE, SPLITS, split_networks, write_own_split

from spaces.errors import BadInput
from spaces.split.coefficients import Coding
from spaces.split.damaged import DamagedMessage
from spaces.split.device import SplitDevice, load_device
from spaces.split.message import LARGEST_SIDE, MOST_PIXELS, Message, has_possible_size
from spaces.split.server import ForeignMessage, SplitServer, load_server

FORGERIES = 4000
MIDDLE = Coding(-24, 8)
MOST_MEMORY = 24e6
"""Bytes for one message: its coefficients take less than 0.1 MB."""
EIGHT_K = (4320, 7680)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[SplitDevice, SplitServer]:
    folder = tmp_path_factory.mktemp("forged") / "bundle"
    write_own_split(folder, [*SPLITS.values()])
    return load_device(folder / "device"), load_server(folder / "server")


@pytest.fixture(scope="module")
def messages(parts: tuple[SplitDevice, SplitServer]) -> list[Message]:
    frames = split_networks().frames
    return [
        Message.parse(parts[0].encode(frames[number], coding, number))
        for number in range(len(SPLITS))
        for coding in (COARSE, MIDDLE)
    ]


def forge(message: Message, chance: Generator) -> Message:
    """Return a message that differs in its payload, its coding, its split or its bundle."""
    payload = bytearray(message.payload)
    kind = int(chance.integers(6))
    if kind == 0:
        return replace(message, payload=bytes(payload[: chance.integers(len(payload))]))
    if kind == 1:
        for place in chance.integers(len(payload), size=int(chance.integers(1, 5))):
            payload[place] ^= 1 << int(chance.integers(8))
        return replace(message, payload=bytes(payload))
    if kind == 2:
        step, bands = int(chance.integers(-128, 128)), int(chance.integers(256))
        return replace(message, coding=Coding(step, bands))
    if kind == 3:
        return replace(message, split=int(chance.integers(256)))
    if kind == 4:
        return replace(message, bundle=int(chance.integers(2**32)))
    return replace(message, payload=chance.bytes(int(chance.integers(4000))))


def test_forged_messages_are_refused_or_decoded(
    parts: tuple[SplitDevice, SplitServer], messages: list[Message]
) -> None:
    server, chance = parts[1], np.random.default_rng(5)
    decoded = []
    for number in range(FORGERIES):
        message = forge(messages[number % len(messages)], chance)
        try:
            frame = server.receive(message.to_bytes())
        except DamagedMessage as error:
            is_foreign = message.bundle != int(server.identity, 16)
            assert isinstance(error, ForeignMessage) == is_foreign
            assert re.fullmatch(r"[^\n]{10,200}", str(error))
            continue
        rows = server._part.codecs[frame.split].coder.rows
        assert frame.coefficients.shape == (rows.total,)
        assert np.isfinite(frame.coefficients).all()
        decoded.append(frame)
    assert 0 < len(decoded) < FORGERIES / 4
    for frame in decoded[:: len(decoded) // 20 + 1]:
        (answers,) = server.answer([frame])
        assert torch.isfinite(answers.get("cls", torch.zeros(1))).all()


def test_a_message_takes_bounded_memory_whatever_it_says(
    parts: tuple[SplitDevice, SplitServer], messages: list[Message]
) -> None:
    """Long payloads of zeros, ones and chance, which ask for long numbers and many words."""
    server, chance = parts[1], np.random.default_rng(6)
    longest = server.most_bytes - 64
    payloads = [bytes(longest), b"\xff" * longest, chance.bytes(longest), b"\x06" + bytes(longest)]
    tracemalloc.start()
    try:
        for message in messages:
            for payload in payloads:
                with pytest.raises(DamagedMessage):
                    server.receive(replace(message, payload=payload).to_bytes())
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def test_an_8k_frame_is_possible_and_none_of_gigabytes() -> None:
    assert has_possible_size(EIGHT_K) and has_possible_size((1, LARGEST_SIDE))
    for size in ((0, 9), (9, LARGEST_SIDE + 1), (LARGEST_SIDE, LARGEST_SIDE), (8192, 8192)):
        assert not has_possible_size(size)
    assert MOST_PIXELS * 8 < 300e6  # a class of 8 bytes for every pixel


def test_a_forged_frame_size_is_refused_before_anything_is_built(
    parts: tuple[SplitDevice, SplitServer], messages: list[Message]
) -> None:
    forged = replace(messages[0])
    object.__setattr__(forged, "frame_size", (LARGEST_SIDE, LARGEST_SIDE))
    with pytest.raises(DamagedMessage, match=r"of a frame of \(65535, 65535\) pixels"):
        parts[1].receive(forged.to_bytes())


@pytest.mark.parametrize("size", [(LARGEST_SIDE + 1, 8), (8, LARGEST_SIDE + 1)])
def test_the_device_says_which_frames_are_too_large(
    size: tuple[int, int], parts: tuple[SplitDevice, SplitServer]
) -> None:
    with pytest.raises(BadInput, match=f"a frame of {size[0]} x {size[1]} pixels.*make it small"):
        parts[0].capture(np.zeros((*size, 3), np.uint8))
