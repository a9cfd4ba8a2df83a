"""Gram matrices of a batch of representations: the statistics with images as samples."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1 << 15
"""Values of each frame in one chunk, so that a batch of 32 frames fits into the cache."""
PIECE = 1 << 12
"""Values that are summed in float32; the sums of the pieces are added in float64."""


def gram(representation: Tensor) -> Tensor:
    """Return the (batch, batch) Gram matrix of a batch, float64.

    Its entries are the inner products of the frames' deviations from the first frame, divided by
    the number of values in a frame's representation. Deviations leave the U-centred Gram as it is,
    and keep float32 accurate where the mean is far above them. Deviations from the first frame
    take one pass over memory, deviations from the mean take two.
    """
    flat = _flat(representation)
    batch, values = flat.shape
    total = torch.zeros((batch, batch), dtype=torch.float64, device=flat.device)
    buffer = flat.new_empty((batch, min(CHUNK, values)))
    for start in range(0, values, CHUNK):
        chunk = flat[:, start : start + CHUNK]
        deviations = buffer[:, : chunk.shape[1]]
        torch.sub(chunk, chunk[0], out=deviations)
        total += _products(deviations)
    return total / values


def u_centred(gram: Tensor) -> Tensor:
    """Return the U-centred Gram matrices (..., n, n) of Gram matrices.

    <u_centred(K), u_centred(L)> is n (n - 3) times the unbiased HSIC(K, L).

    Source: Szekely and Rizzo 2014, definition 3; equal to Song et al. 2012, equation 5.
    """
    n = gram.shape[-1]
    gram = gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
    rows = gram.sum(-1) / (n - 2)
    mean = gram.sum((-2, -1)) / ((n - 1) * (n - 2))
    centred = gram - rows[..., :, None] - rows[..., None, :] + mean[..., None, None]
    return centred - torch.diag_embed(centred.diagonal(dim1=-2, dim2=-1))


def _flat(representation: Tensor) -> Tensor:
    """Return (batch, values) without a copy; the order of the values is that in memory."""
    if representation.dim() == 4 and not representation.is_contiguous():
        representation = representation.permute(0, 2, 3, 1)
    return representation.reshape(len(representation), -1)


def _products(deviations: Tensor) -> Tensor:
    batch, values = deviations.shape
    whole = values // PIECE * PIECE
    total = deviations.new_zeros((batch, batch), dtype=torch.float64)
    if whole:
        pieces = deviations[:, :whole].reshape(batch, -1, PIECE).transpose(0, 1)
        total += torch.bmm(pieces, pieces.transpose(1, 2)).double().sum(0)
    if whole < values:
        rest = deviations[:, whole:]
        total += (rest @ rest.T).double()
    return total
