"""What a device and a server have of the codec of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from spaces.split.coefficient_coder import CoefficientCoder
from spaces.split.coefficients import Coding, CoefficientRows, Coefficients
from spaces.split.tables import CodingTables
from spaces.split.transform import ForwardTransform, InverseTransform


class _CodecPart(nn.Module):
    """Transforms of all crossing representations in order, and the coder of their rows."""

    def __init__(self, rows: CoefficientRows, tables: CodingTables) -> None:
        super().__init__()
        self.coder = CoefficientCoder(rows, tables)

    def _stored_coder(self) -> dict[str, Tensor]:
        arrays = {
            "classes": self.coder.rows.classes,
            "tables": self.coder.tables.frequencies,
        }
        return {name: torch.tensor(array, dtype=torch.int16) for name, array in arrays.items()}


class Encoder(_CodecPart):
    """What a device has of a codec."""

    def __init__(
        self, transforms: Sequence[ForwardTransform], rows: CoefficientRows, tables: CodingTables
    ) -> None:
        super().__init__(rows, tables)
        self.transforms = nn.ModuleList(transforms)
        self.parts = tuple(transforms)

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return (batch, coefficients) of the crossing representations, in their order."""
        return torch.cat(
            [part(values) for part, values in zip(self.transforms, tensors, strict=True)], 1
        )

    def encode(self, coefficients: Coefficients, coding: Coding) -> bytes:
        """Return the coefficients of one frame as a payload."""
        return self.coder.encode(self.coder.quantise(coefficients, coding), coding)

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors from which `from_stored` builds the same encoder."""
        return {**self._stored_coder(), **_numbered([part.stored() for part in self.parts])}

    @classmethod
    def from_stored(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the encoder that `stored` wrote."""
        transforms = [ForwardTransform.from_stored(part) for part in _by_number(tensors)]
        return cls(transforms, *_coder_of(tensors, transforms))


class Decoder(_CodecPart):
    """What a server has of a codec."""

    def __init__(
        self, transforms: Sequence[InverseTransform], rows: CoefficientRows, tables: CodingTables
    ) -> None:
        super().__init__(rows, tables)
        self.transforms = nn.ModuleList(transforms)
        self.parts = tuple(transforms)
        self._counts = [transform.coefficient_count for transform in transforms]

    def decode(self, payload: bytes, coding: Coding) -> Coefficients:
        """Return the coefficients of one frame.

        Raises:
            DamagedMessage: no encoder has written the payload with that coding.
        """
        return self.coder.dequantise(self.coder.decode(payload, coding), coding)

    def forward(self, coefficients: Tensor) -> list[Tensor]:
        """Return the crossing representations, in order, of (batch, coefficients)."""
        parts = torch.split_with_sizes(coefficients, self._counts, 1)
        return [part(values) for part, values in zip(self.transforms, parts, strict=True)]

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors from which `from_stored` builds the same decoder."""
        return {**self._stored_coder(), **_numbered([part.stored() for part in self.parts])}

    @classmethod
    def from_stored(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the decoder that `stored` wrote."""
        transforms = [InverseTransform.from_stored(part) for part in _by_number(tensors)]
        return cls(transforms, *_coder_of(tensors, transforms))


def _numbered(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the stored tensors of all transforms, with names like `1.mean`."""
    return {
        f"{number}.{name}": tensor
        for number, part in enumerate(parts)
        for name, tensor in part.items()
    }


def _by_number(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    parts: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, dot, name = key.partition(".")
        if dot:
            parts.setdefault(int(number), {})[name] = tensor
    return [parts[number] for number in sorted(parts)]


def _coder_of(
    tensors: Mapping[str, Tensor], transforms: Sequence[ForwardTransform | InverseTransform]
) -> tuple[CoefficientRows, CodingTables]:
    rows = [row for part in transforms for row in part.row_counts]
    zones, counts = np.array(rows, np.int32).reshape(-1, 2).T
    classes, frequencies = (
        tensors[name].cpu().numpy().astype(np.int32) for name in ("classes", "tables")
    )
    return CoefficientRows(counts, zones, classes), CodingTables(frequencies)
