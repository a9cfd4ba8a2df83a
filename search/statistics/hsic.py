"""Gram matrices of a batch of representations: the statistics with images as samples."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1 << 15
"""Values of each frame handled at a time: 32 of them lie in the processor's cache."""
PIECE = 1 << 12
"""Values summed in float32; the pieces' sums are added up in float64."""


def gram(representation: Tensor) -> Tensor:
    """(batch, batch) float64 inner products of the frames' deviations from the first frame.

    Divided by the number of values in a frame's representation. Taking deviations changes no
    U-centred Gram, and keeps float32 honest where the mean is far above them; from the first
    frame they cost one pass over memory, from the mean two.
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
    """U-centred Gram matrices (..., n, n) of Gram matrices.

    <u_centred(K), u_centred(L)> is n (n - 3) times the unbiased HSIC(K, L).

    Source: Szekely and Rizzo 2014, definition 3; it is Song et al. 2012, equation 5.
    """
    n = gram.shape[-1]
    gram = gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
    rows = gram.sum(-1) / (n - 2)
    mean = gram.sum((-2, -1)) / ((n - 1) * (n - 2))
    centred = gram - rows[..., :, None] - rows[..., None, :] + mean[..., None, None]
    return centred - torch.diag_embed(centred.diagonal(dim1=-2, dim2=-1))


def _flat(representation: Tensor) -> Tensor:
    """(batch, values) without a copy, in whatever order the values lie in memory."""
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
