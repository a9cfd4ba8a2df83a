"""The device's part of a split model: from camera frames to messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spaces.bundle import finished_answers
from spaces.errors import BadInput
from spaces.frame_arrays import as_frames
from spaces.inputs import prepare_batch
from spaces.merged import PartialRun, run_head
from spaces.split.codec import Encoder
from spaces.split.coefficients import Coding, Coefficients
from spaces.split.message import (
    HEADER_BYTES,
    LARGEST_SIDE,
    MOST_PIXELS,
    SENDABLE_STEPS,
    Message,
    has_possible_size,
)
from spaces.split.operating_point import OperatingPoint
from spaces.split.split_bundle import DEVICE_PART, LoadedPart, load_part
from spaces.tasks.task import FrameSize

FINEST_STEP, COARSEST_STEP = SENDABLE_STEPS[0], SENDABLE_STEPS[-1]


@dataclass(frozen=True, eq=False)
class CapturedFrame:
    """What the device has computed of one frame: it can be sent in any coding."""

    split: int
    coefficients: Coefficients
    frame_size: FrameSize
    answers: dict[str, Any]
    """Of the models that the device answers for itself, as `Bundle` answers."""


class SplitDevice(nn.Module):
    """The stages of all splits of a bundle that a device runs, and their encoders.

    Another split or another coding is only an argument: nothing is loaded for it.
    """

    def __init__(self, part: LoadedPart[Encoder]) -> None:
        super().__init__()
        self.identity = part.identity
        self.splits = part.contents.splits
        self.points: tuple[OperatingPoint, ...] = part.contents.points
        self._contents = part.contents.models
        self.merged_by_plan = nn.ModuleDict(part.merged)
        self.encoders = nn.ModuleList(part.codecs)
        self._part = part

    @property
    def held_bytes(self) -> int:
        """Bytes of weights and encoders as they are stored."""
        return self._part.held_bytes

    @torch.inference_mode()
    def capture(self, frame: object, split: int = 0) -> CapturedFrame:
        """Run the device's stages and the transform of the encoder on one frame.

        `frame` is one uint8 (height, width, 3) RGB frame: an array, a tensor or an image.

        Raises:
            BadInput: it is not, it is larger than a message can tell, or the bundle has no split
                of that number.
        """
        self._check_split(split)
        frames = as_frames(frame)
        if len(frames) != 1:
            raise BadInput(f"{len(frames)} frames; a message holds one")
        size = (frames[0].shape[0], frames[0].shape[1])
        if not has_possible_size(size):
            raise BadInput(
                f"a frame of {size[0]} x {size[1]} pixels: a message can be about one of "
                f"{LARGEST_SIDE} pixels a side and {MOST_PIXELS:,} in all; make it smaller"
            )
        entry = self._part.entries[split]
        inputs = {
            name: prepare_batch(frames, self._contents.inputs[name])
            for name in sorted(entry.inputs_read)
        }
        result = self.run(split, inputs)
        encoder = self._part.codecs[split]
        coefficients = encoder([result.representations[node] for node in entry.gives])
        answers = finished_answers(
            result.answers, [size], self._contents.tasks, self._contents.inputs
        )
        return CapturedFrame(split, coefficients[0].numpy(), size, answers)

    @torch.inference_mode()
    def run(self, split: int, inputs: Mapping[str, Tensor]) -> PartialRun[Tensor]:
        """Run the device's stages of a split on prepared (batch, c, height, width) inputs."""
        merged = self._part.merged[self.splits[split].plan.hash]
        return merged.run(self._part.entries[split], inputs, {}, run_head)

    def message(self, captured: CapturedFrame, coding: Coding) -> bytes:
        """Return the message of a captured frame.

        Raises:
            BadInput: the step is beyond what a message can name, or no band is sent.
        """
        if not FINEST_STEP <= coding.step <= COARSEST_STEP or not 0 < coding.bands < 256:
            raise BadInput(
                f"{coding}: a step from {FINEST_STEP} to {COARSEST_STEP} and 1 to 255 bands are "
                "possible"
            )
        payload = self._part.codecs[captured.split].encode(captured.coefficients, coding)
        bundle = int(self.identity, 16)
        message = Message(bundle, captured.split, coding, captured.frame_size, payload)
        return message.to_bytes()

    def finest_within(
        self, captured: CapturedFrame, most_bytes: float, coarsest: int = COARSEST_STEP
    ) -> Coding:
        """Return the finest coding, with all bands, whose message takes at most so many bytes.

        If none does, it is the one with the step `coarsest`. The bytes are counted and not coded.
        """
        low, high = FINEST_STEP, coarsest
        while low < high:
            middle = (low + high) // 2
            if self.count_bytes(captured, Coding(middle, 255)) <= most_bytes:
                high = middle
            else:
                low = middle + 1
        return Coding(high, 255)

    def count_bytes(self, captured: CapturedFrame, coding: Coding) -> float:
        """Return the expected bytes of a message without coding it."""
        coder = self._part.codecs[captured.split].coder
        levels = coder.quantise(captured.coefficients, coding)
        return HEADER_BYTES + coder.count_bits(levels, coding) / 8

    def message_within(self, captured: CapturedFrame, most_bytes: int) -> bytes:
        """Return the message in the finest coding, with all bands, that takes so many bytes.

        Raises:
            BadInput: it takes more in any coding.
        """
        coding = self.finest_within(captured, most_bytes)
        message = self.message(captured, coding)
        # The count is an expected value: a message may have some bytes more.
        while len(message) > most_bytes and coding.step < COARSEST_STEP:
            coding = coding._replace(step=coding.step + 1)
            message = self.message(captured, coding)
        if len(message) > most_bytes:
            raise BadInput(
                f"no message of split {captured.split} fits into {most_bytes} bytes; the smallest "
                f"of this frame takes {len(message)}"
            )
        return message

    def encode(self, frame: object, coding: Coding | None = None, split: int = 0) -> bytes:
        """Return the message of a frame; see `capture` and `message`.

        Without a coding it is that of the split's operating point of the best quality.

        Raises:
            BadInput: as by these; or there is neither a coding nor an operating point.
        """
        return self.message(self.capture(frame, split), coding or self._best_coding(split))

    def encode_within(self, frame: object, most_bytes: int, split: int = 0) -> bytes:
        """Return the message of a frame; see `capture` and `message_within`."""
        return self.message_within(self.capture(frame, split), most_bytes)

    def _best_coding(self, split: int) -> Coding:
        self._check_split(split)
        codings = [point.coding for point in self.points if point.split == split]
        if not codings:
            raise BadInput(f"split {split} has no operating point in this bundle: name a coding")
        return codings[0]

    def _check_split(self, split: int) -> None:
        if not 0 <= split < len(self.splits):
            raise BadInput(f"no split {split}; the bundle has {len(self.splits)}, from 0")


def load_device(folder: Path | str) -> SplitDevice:
    """Load the device's part of a split model from the folder DIR/device.

    Raises:
        BadBundle: a file is missing, damaged, changed, or of another part.
    """
    device = SplitDevice(load_part(Path(folder), DEVICE_PART, Encoder))
    return device.eval().requires_grad_(False)
