"""The forms in which networks hold a representation, and their conversion to maps and back.

Between stages, every representation is a map, (batch, channels, height, width), or pooled,
(batch, channels). Networks that hold (batch, height, width, channels) are permuted at the cut.
Transformers hold tokens, (batch, tokens, channels): one per position, after some that have none,
such as the class token. In a map, each of those is a further block of channels that is the same at
all positions. So a map of the channels may predict it from any other network, and its mean over
the positions is read back.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Literal

import torch
from torch import Tensor, nn

MOST_PREFIX_TOKENS = 16


@dataclass(frozen=True)
class Form:
    """How a network holds a representation."""

    kind: Literal["map", "pooled", "channels last", "tokens"]
    grid: tuple[int, int] | None
    """Height and width; None if it is pooled."""
    prefix: int = 0
    """Number of tokens before those of the positions."""

    def to_map(self) -> list[nn.Module]:
        """Return the modules, at most one, that turn it into a map or pooled features."""
        if self.kind == "channels last":
            return [Permute(0, 3, 1, 2)]
        if self.kind == "tokens":
            assert self.grid is not None
            return [TokensToMap(self.grid, self.prefix)]
        return []

    def from_map(self) -> list[nn.Module]:
        """Return the modules, at most one, that undo `to_map`."""
        if self.kind == "channels last":
            return [Permute(0, 2, 3, 1)]
        return [MapToTokens(self.prefix)] if self.kind == "tokens" else []


def form_of(
    shape: tuple[int, ...], view: tuple[int, int], prefix: int | None = None
) -> Form | None:
    """Return the form of a tensor of that shape; None if it is not a representation.

    `view` is the (height, width) of the network's input, whose shape a grid has up to rounding.
    `prefix` is the number of tokens without a position, if the network says so.
    """
    if len(shape) == 2:
        return Form("pooled", None)
    if len(shape) == 4:
        return _form_of_map(shape, view)
    if len(shape) == 3:
        return _form_of_tokens(shape[1], view, prefix)
    return None


def _form_of_map(shape: tuple[int, ...], view: tuple[int, int]) -> Form | None:
    last, first = (shape[2], shape[3]), (shape[1], shape[2])
    is_first = _distortion(first, view) < _distortion(last, view)
    form = Form("channels last", first) if is_first else Form("map", last)
    # Another shape is one of windows x tokens x channels, for example.
    return form if _fits(form.grid or last, view) else None


def _fits(grid: tuple[int, int], view: tuple[int, int]) -> bool:
    """Return whether one stride may lead from the input to a grid, up to one position per side."""
    rows, columns = grid[0] * view[1], grid[1] * view[0]
    return rows - view[1] < columns + view[0] and columns - view[0] < rows + view[1]


def _form_of_tokens(tokens: int, view: tuple[int, int], prefix: int | None) -> Form | None:
    counts = range(MOST_PREFIX_TOKENS) if prefix is None else (prefix, 0)
    for count in counts:
        if count >= tokens:
            continue
        grid = _grid_of(tokens - count, view)
        if grid is not None:
            return Form("tokens", grid, count)
    return None


def _grid_of(positions: int, view: tuple[int, int]) -> tuple[int, int] | None:
    """Return the grid of that many positions which is shaped as the input; None if none is."""
    height = max(1, isqrt(positions * view[0] // view[1]))
    for rows in (height, height + 1):
        if positions % rows == 0 and _fits((rows, positions // rows), view):
            return rows, positions // rows
    return None


def _distortion(grid: tuple[int, int], view: tuple[int, int]) -> float:
    """Return how far the sides of a grid are from the ratio of the input's; 0 is the same."""
    ratio = grid[0] * view[1] / (grid[1] * view[0])
    return max(ratio, 1 / ratio) - 1


class Permute(nn.Module):
    """Permute the dimensions."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, values: Tensor) -> Tensor:
        return values.permute(self.order)


class TokensToMap(nn.Module):
    """Turn (batch, prefix + height x width, channels) into a map of (1 + prefix) x channels."""

    def __init__(self, grid: tuple[int, int], prefix: int) -> None:
        super().__init__()
        self.grid = grid
        self.prefix = prefix

    def forward(self, tokens: Tensor) -> Tensor:
        positions = tokens[:, self.prefix :].transpose(1, 2)
        positions = positions.reshape(*positions.shape[:2], *self.grid)
        if not self.prefix:
            return positions
        without = tokens[:, : self.prefix].flatten(1)[:, :, None, None]
        return torch.cat([positions, without.expand(-1, -1, *self.grid)], dim=1)


class MapToTokens(nn.Module):
    """Turn a map of (1 + prefix) x channels into (batch, prefix + height x width, channels)."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, values: Tensor) -> Tensor:
        if not self.prefix:
            return values.flatten(2).transpose(1, 2)
        channels = values.shape[1] // (1 + self.prefix)
        without = values[:, channels:].mean((2, 3)).reshape(-1, self.prefix, channels)
        return torch.cat([without, values[:, :channels].flatten(2).transpose(1, 2)], dim=1)
