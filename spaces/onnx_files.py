"""Write ONNX graphs, with their weights in one file beside them or each with its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

SHARED_WEIGHTS = "weights.data"
SMALLEST_SHARED = 256
"""Bytes; smaller tensors are written into each graph that reads them."""
PAGE_BYTES = 4096
"""Tensors of at least a page begin at the start of one, so that a runtime can map the file."""


def write_with_weights_inside(graphs: Mapping[str, ir.Model], folder: Path) -> None:
    """Write each graph under its file name, with its own copy of its weights."""
    for name, model in graphs.items():
        ir.save(model, folder / name)


def write_with_shared_weights(graphs: Mapping[str, ir.Model], folder: Path) -> None:
    """Write each graph under its file name, and the weights of all into SHARED_WEIGHTS, once.

    Tensors of the same type, shape and content are one tensor, whatever their names.
    """
    values = [
        value
        for model in graphs.values()
        for value in model.graph.initializers.values()
        if value.const_value is not None and value.const_value.nbytes >= SMALLEST_SHARED
    ]
    unique: dict[str, ir.TensorProtocol] = {}
    digests = [_digest(value) for value in values]
    for digest, value in zip(digests, values, strict=True):
        assert value.const_value is not None
        unique.setdefault(digest, value.const_value)
    stored = ir.external_data.convert_tensors_to_external(
        list(unique.values()),
        folder,
        SHARED_WEIGHTS,
        alignment=PAGE_BYTES,
        align_threshold=PAGE_BYTES - 1,
    )
    by_digest = dict(zip(unique, stored, strict=True))
    for digest, value in zip(digests, values, strict=True):
        value.const_value = by_digest[digest]
    for name, model in graphs.items():
        ir.save(model, folder / name)


def _digest(value: ir.Value) -> str:
    tensor = value.const_value
    assert tensor is not None
    digest = hashlib.sha256(f"{tensor.dtype} {tensor.shape}".encode())
    digest.update(tensor.tobytes())
    return digest.hexdigest()
