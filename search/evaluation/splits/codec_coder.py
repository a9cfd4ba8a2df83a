"""Write whole messages with a fitted codec, as a device does, and read them as a server does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search.split.fit import FittedCodec
from spaces.split.coefficients import Coding
from spaces.split.message import Message
from spaces.tasks.task import FrameSize

_ANY_BUNDLE = _ANY_SPLIT = 0
"""In the headers: these messages reach no server of a bundle."""


@dataclass(frozen=True, eq=False)
class CodecCoder:
    """A fitted codec at one coding."""

    codec: FittedCodec
    coding: Coding

    @torch.inference_mode()
    def encode(self, tensors: Sequence[Tensor], frame_sizes: Sequence[FrameSize]) -> list[bytes]:
        """Return the message of each frame, with its header."""
        encoder = self.codec.encoder
        coefficients = encoder(tensors).cpu().numpy()
        return [
            Message(
                _ANY_BUNDLE, _ANY_SPLIT, self.coding, size, encoder.encode(row, self.coding)
            ).to_bytes()
            for row, size in zip(coefficients, frame_sizes, strict=True)
        ]

    @torch.inference_mode()
    def decode(self, messages: Sequence[bytes]) -> list[Tensor]:
        """Return the crossing representations.

        Raises:
            DamagedMessage: a message is damaged.
        """
        decoder = self.codec.decoder
        read = [Message.parse(message) for message in messages]
        rows = np.stack([decoder.decode(message.payload, message.coding) for message in read])
        decoded: list[Tensor] = decoder(torch.from_numpy(rows))
        return decoded
