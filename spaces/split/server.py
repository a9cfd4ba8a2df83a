"""The server's part of a split model: from messages to answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spaces.bundle import finished_answers
from spaces.merged import MergedModel, run_head
from spaces.node import Node
from spaces.split.codec import Decoder
from spaces.split.coefficients import Coding, Coefficients
from spaces.split.damaged import DamagedMessage
from spaces.split.message import HEADER_BYTES, Message
from spaces.split.recalibrated import RecalibratedNetwork, StatisticsByCoding
from spaces.split.split_bundle import SERVER_PART, LoadedPart, load_part
from spaces.tasks.registry import TASKS
from spaces.tasks.task import FrameSize

BYTES_PER_COEFFICIENT = 12
"""A coefficient takes no more: a symbol, and beyond it 31 zeros, 32 bits, 9 bits and a sign."""

NOT_RECALIBRATED = StatisticsByCoding(np.zeros((0, 1), np.int32), ())


class ForeignMessage(DamagedMessage):
    """A message of the device of another bundle."""


@dataclass(frozen=True, eq=False)
class ReceivedFrame:
    """The decoded content of one message."""

    split: int
    coding: Coding
    coefficients: Coefficients
    frame_size: FrameSize


class SplitServer(nn.Module):
    """What a server runs of all splits of a bundle, and their decoders."""

    def __init__(self, part: LoadedPart[Decoder]) -> None:
        super().__init__()
        self.identity = part.identity
        self.splits = part.contents.splits
        self.contents = part.contents.models
        self.merged_by_plan = nn.ModuleDict(part.merged)
        self.decoders = nn.ModuleList(part.codecs)
        self._part = part
        self._networks = [
            RecalibratedNetwork(
                part.merged[split.plan.hash], part.statistics.get(number, NOT_RECALIBRATED)
            )
            for number, split in enumerate(self.splits)
        ]

    @property
    def held_bytes(self) -> int:
        """Bytes of weights, decoders and recalibrated statistics as they are stored."""
        return self._part.held_bytes

    @property
    def most_bytes(self) -> int:
        """No message of the device takes more bytes."""
        totals = [decoder.coder.rows.total for decoder in self._part.codecs]
        return HEADER_BYTES + BYTES_PER_COEFFICIENT * max(totals) + 1024

    def receive(self, data: bytes) -> ReceivedFrame:
        """Decode a message.

        Raises:
            ForeignMessage: the device of another bundle has sent it.
            DamagedMessage: it is damaged, or names a split that is not there.
        """
        if len(data) > self.most_bytes:
            raise DamagedMessage(f"{len(data)} bytes; no message takes over {self.most_bytes}")
        message = Message.parse(data)
        if message.bundle != int(self.identity, 16):
            raise ForeignMessage(
                f"the message is of the device of bundle {message.bundle:08x}, and this is the "
                f"server of {self.identity}: export both parts together"
            )
        if message.split >= len(self.splits):
            raise DamagedMessage(
                f"the message names split {message.split}; there are {len(self.splits)}, from 0"
            )
        decoder = self._part.codecs[message.split]
        coefficients = decoder.decode(message.payload, message.coding)
        return ReceivedFrame(message.split, message.coding, coefficients, message.frame_size)

    @torch.inference_mode()
    def answer(self, frames: Sequence[ReceivedFrame]) -> list[dict[str, Any]]:
        """Return the answers to frames, by model, in the order of the frames.

        The answers to a frame are those that `Bundle` returns for it. Frames of one split that are
        normalised alike run as one batch.
        """
        answers: list[dict[str, Any]] = [{} for _ in frames]
        groups: dict[tuple[int, MergedModel], list[int]] = {}
        for number, frame in enumerate(frames):
            network = self._networks[frame.split].at(frame.coding)
            groups.setdefault((frame.split, network), []).append(number)
        for (split, network), numbers in groups.items():
            decoded = self._decoded(split, [frames[k].coefficients for k in numbers])
            outputs = self._run(split, network, decoded)
            for row, number in enumerate(numbers):
                size = frames[number].frame_size
                answers[number] = self._finished(outputs, row, size)
        return answers

    def describe(self, model: str, answer: Any) -> list[str]:
        """Return the answer of a model to a frame in words, line by line."""
        names = self.contents.classes.get(model, ())
        return TASKS[self.contents.tasks[model]].describe(answer, 0, names)

    @torch.inference_mode()
    def run(self, split: int, crossing: Mapping[Node, Tensor]) -> dict[str, Tensor]:
        """Run the server's stages of a split on exact (batch, ...) crossing representations."""
        return self._run(split, self._part.merged[self.splits[split].plan.hash], crossing)

    def _run(
        self, split: int, network: MergedModel, crossing: Mapping[Node, Tensor]
    ) -> dict[str, Tensor]:
        return network.run(self._part.entries[split], {}, crossing, run_head).answers

    def _decoded(self, split: int, coefficients: Sequence[Coefficients]) -> dict[Node, Tensor]:
        values = self._part.codecs[split](torch.from_numpy(np.stack(coefficients)))
        return dict(zip(self._part.entries[split].takes, values, strict=True))

    def _finished(self, outputs: dict[str, Tensor], row: int, size: FrameSize) -> dict[str, Any]:
        of_frame = {name: output[row : row + 1] for name, output in outputs.items()}
        return finished_answers(of_frame, [size], self.contents.tasks, self.contents.inputs)


def load_server(folder: Path | str) -> SplitServer:
    """Load the server's part of a split model from the folder DIR/server.

    Raises:
        BadBundle: a file is missing, damaged, changed, or of another part.
    """
    server = SplitServer(load_part(Path(folder), SERVER_PART, Decoder))
    return server.eval().requires_grad_(False)
