"""Sampled rows of representations, in 16 bits: what the pass keeps of the frames.

Rows grow with the number of stages; products of stages would grow with its square.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from spaces.plan import Ref
from spaces.shares import Pair

FoldName = str
FOLDS: tuple[FoldName, FoldName] = ("fit", "held")
LARGEST_CODE = 32767
"""Codes are integers from minus this to this."""
CODE_BYTES = 2
"""Of each value."""
BLOCK_BYTES = 8
"""Of each channel and block: a centre and a scale."""


@dataclass(frozen=True)
class Block:
    """The rows of some consecutive frames: those of the fit fold first, then those held out."""

    first_frame: int
    fit: int
    """Number of rows in the fit fold."""
    held: int
    """Number of rows that are held out."""
    weight: float
    """How many positions of the frames each row stands for."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.fit + self.held


@dataclass(frozen=True)
class CodedRows:
    """Rows of one representation: centre + scale * code, a centre and a scale for each block.

    In each block and channel the codes reach from one end of the values to the other, so neither
    the range of the values nor a mean far above the deviations matters. The error is at most half
    a scale: 1/131,068 of the channel's range in the block.
    """

    codes: Tensor
    """(rows, channels), int16"""
    centres: Tensor
    """(blocks, channels), float32"""
    scales: Tensor
    """(blocks, channels), float32; 0 for a channel that is constant in the block"""

    @classmethod
    def of(cls, rows: Tensor) -> CodedRows:
        """Return finite rows, (n, channels), as one block on the CPU."""
        values = rows.float()
        low, high = values.amin(0), values.amax(0)
        centre = low + (high / 2 - low / 2)
        scale = torch.maximum(high - centre, centre - low) / LARGEST_CODE
        steps = (values - centre) / scale.where(scale > 0, torch.ones_like(scale))
        codes = steps.round_().clamp_(-LARGEST_CODE, LARGEST_CODE).to(torch.int16)
        return cls(codes.cpu(), centre[None].cpu(), scale[None].cpu())

    @classmethod
    def joined(cls, parts: Sequence[CodedRows]) -> CodedRows:
        """Return the blocks of all parts in one."""
        return cls(
            torch.cat([part.codes for part in parts]),
            torch.cat([part.centres for part in parts]),
            torch.cat([part.scales for part in parts]),
        )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.codes.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, centres and scales."""
        return sum(tensor.nbytes for tensor in (self.codes, self.centres, self.scales))

    def split(self, sizes: Sequence[int]) -> list[CodedRows]:
        """Return each block, of the given numbers of rows, by itself."""
        parts = zip(
            torch.split(self.codes, list(sizes)),
            torch.split(self.centres, 1),
            torch.split(self.scales, 1),
            strict=True,
        )
        return [CodedRows(*part) for part in parts]


@dataclass(frozen=True)
class FoldSpan:
    """The rows of one fold in one block."""

    block: int
    rows: slice
    weight: float

    @property
    def count(self) -> int:
        """Number of rows."""
        return int(self.rows.stop - self.rows.start)


@dataclass
class GridRows:
    """The rows at sampled positions of one grid, of every representation that is read there."""

    pairs: tuple[Pair, ...]
    """The pairs whose recipient has this grid."""
    blocks: tuple[Block, ...] = ()
    """In the order of their frames."""
    coded: dict[Ref, CodedRows] = field(default_factory=dict)
    """The rows of all blocks, of every representation of the pairs."""

    @property
    def refs(self) -> frozenset[Ref]:
        """The representations that are read on the grid."""
        return frozenset(ref for pair in self.pairs for ref in (pair.donor, pair.recipient))

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(coded.nbytes for coded in self.coded.values())

    def recipients_of(self, donor: Ref) -> tuple[Ref, ...]:
        """Return the recipients on the grid that the donor is paired with."""
        return tuple(pair.recipient for pair in self.pairs if pair.donor == donor)

    def spans(self, *folds: FoldName) -> Iterator[FoldSpan]:
        """Yield where the rows of the folds are, block by block."""
        starts = accumulate((block.rows for block in self.blocks), initial=0)
        for k, (start, block) in enumerate(zip(starts, self.blocks, strict=False)):
            middle = start + block.fit
            if "fit" in folds and block.fit:
                yield FoldSpan(k, slice(start, middle), block.weight)
            if "held" in folds and block.held:
                yield FoldSpan(k, slice(middle, middle + block.held), block.weight)

    def merge(self, other: GridRows) -> None:
        """Add the blocks of other frames, in the order of their frames.

        So the sum is the same, to the last bit, in whatever order shards are added.
        """
        blocks = (*self.blocks, *other.blocks)
        order = sorted(range(len(blocks)), key=lambda k: blocks[k].first_frame)
        for ref in self.coded or other.coded:
            parts = [
                part
                for rows in (self, other)
                if rows.blocks
                for part in rows.coded[ref].split([block.rows for block in rows.blocks])
            ]
            self.coded[ref] = CodedRows.joined([parts[k] for k in order])
        self.blocks = tuple(blocks[k] for k in order)


class RowCollector:
    """Rows of one grid, batch by batch; `end_block` codes those that have come since the last."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = tuple(pairs)
        self.refs = GridRows(self.pairs).refs
        self._blocks: list[Block] = []
        self._coded: dict[Ref, list[CodedRows]] = {}
        self._waiting: dict[Ref, tuple[list[Tensor], list[Tensor]]] = {}

    def take(self, ref: Ref, rows: Tensor, fit_rows: int) -> None:
        """Collect a batch's rows of one representation; the first `fit_rows` are the fit fold."""
        fit, held = self._waiting.setdefault(ref, ([], []))
        fit.append(rows[:fit_rows])
        held.append(rows[fit_rows:])

    def end_block(self, first_frame: int, weight: float) -> None:
        """Code the rows that wait."""
        sizes = (0, 0)
        for ref, folds in self._waiting.items():
            fit, held = (torch.cat(parts) for parts in folds)
            sizes = (len(fit), len(held))
            if sum(sizes):
                self._coded.setdefault(ref, []).append(CodedRows.of(torch.cat([fit, held])))
        if sum(sizes):
            self._blocks.append(Block(first_frame, *sizes, weight))
        self._waiting.clear()

    def finish(self) -> GridRows:
        """Return all blocks; the collector is empty afterwards, so that no row exists twice."""
        coded = {ref: CodedRows.joined(self._coded.pop(ref)) for ref in [*self._coded]}
        return GridRows(self.pairs, tuple(self._blocks), coded)
