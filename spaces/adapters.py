"""Adapters turn a donor's tensor into the recipient's: a spatial resize, then optionally a linear
map of the channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces.errors import BadPlan
from spaces.plan import Share
from spaces.stages import Grid


@dataclass(frozen=True, eq=False)
class LinearMap:
    """The map y = weight @ x + bias at every position.

    `weight` is (recipient channels, donor channels), `bias` is (recipient channels,).
    """

    weight: Tensor
    bias: Tensor

    def __post_init__(self) -> None:
        if self.weight.dim() != 2 or self.bias.shape != self.weight.shape[:1]:
            raise BadPlan(
                f"linear map: weight {tuple(self.weight.shape)} and bias {tuple(self.bias.shape)} "
                "do not fit; they must be (recipient, donor) and (recipient,)"
            )

    def to(self, device: torch.device) -> LinearMap:
        """Return the same map on a device."""
        return LinearMap(self.weight.to(device), self.bias.to(device))

    def low_rank(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return the best factors of the weight, by SVD: (recipient, rank) and (rank, donor)."""
        left, values, right = torch.linalg.svd(self.weight, full_matrices=False)
        return left[:, :rank] * values[:rank], right[:rank]


class Adapter(nn.Module):
    """Resize to the recipient's grid: all that an identity share or a folded share needs."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, representation: Tensor) -> Tensor:
        return resize(representation, self.grid)


class LinearAdapter(Adapter):
    """Resize, then apply 1x1 maps in sequence; the last one adds the bias.

    The weights may be stored in half precision; they are applied in the precision of the input.
    """

    def __init__(self, grid: Grid, weights: list[Tensor], bias: Tensor) -> None:
        super().__init__(grid)
        self.weights = nn.ParameterList(
            [nn.Parameter(weight.contiguous(), requires_grad=False) for weight in weights]
        )
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, representation: Tensor) -> Tensor:
        dtype = representation.dtype
        weights = [weight.to(dtype) for weight in self.weights]
        # Only `apply_maps` holds the resized representation, so each map frees what it has read.
        return apply_maps(super().forward(representation), weights, self.bias.to(dtype))


def build_adapter(share: Share, linear: LinearMap | None, grid: Grid) -> Adapter:
    """Build the module of a share whose map is not folded.

    Raises:
        BadPlan: the share's adapter is linear and `linear` is None.
    """
    if share.adapter.kind == "identity":
        return Adapter(grid)
    if linear is None:
        raise BadPlan(f"{share}: no linear map was fitted for it")
    if share.adapter.rank:
        up, down = linear.low_rank(share.adapter.rank)
        return LinearAdapter(grid, [down, up], linear.bias)
    return LinearAdapter(grid, [linear.weight], linear.bias)


def resize(representation: Tensor, grid: Grid) -> Tensor:
    """Resize a representation, (batch, channels, h, w) or pooled (batch, channels), to a grid.

    Use average pooling where both sides shrink to half or less, so that no position is skipped,
    and bilinear interpolation otherwise. Both compute means with weights that sum to 1, so they
    commute with a 1x1 map.
    """
    if representation.dim() == 2:
        return representation if grid is None else representation[:, :, None, None]
    if grid is None:
        return representation.mean((2, 3))
    height, width = representation.shape[-2:]
    if (height, width) == grid:
        return representation
    if height >= 2 * grid[0] and width >= 2 * grid[1]:
        return F.adaptive_avg_pool2d(representation, grid)
    return F.interpolate(representation, grid, mode="bilinear", align_corners=False)


def apply_maps(values: Tensor, weights: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """Apply maps in sequence at every position; the last one adds the bias.

    Each is (channels that it makes, channels that it reads).
    """
    *inner, last = weights
    for weight in inner:
        values = _map(values, weight, None)
    return _map(values, last, bias)


def _map(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if values.dim() == 2:
        return F.linear(values, weight, bias)
    return F.conv2d(values, weight[:, :, None, None], bias)
