"""References on disk: one safetensors file each, of which nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from search.description import Matrix, View
from search.files import CannotWrite, replacing
from search.reference import BadReference, Projection, Reference, Sample, Vector

HEADER = "merge-search drift reference"


def save(path: Path, reference: Reference) -> None:
    """Write the file, wholly or not at all.

    Raises:
        CannotWrite: the folder does not take it.
    """
    tensors = {
        f"{view}/{name}": np.ascontiguousarray(values)
        for view, sample in reference.samples.items()
        for name, values in _arrays(sample).items()
    }
    header = {"models": reference.models, "views": list(reference.samples)}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, {HEADER: json.dumps(header)})
        except SafetensorError as error:
            raise CannotWrite(f"cannot write {path}: {error}") from error


def load(path: Path) -> Reference:
    """Read a file that `save` has written.

    Raises:
        BadReference: it is damaged, or is no such file.
    """
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            samples = {str(view): _sample(file, view) for view in header["views"]}
            return Reference(str(header["models"]), samples)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadReference(
            f"{path} is not a whole drift reference ({type(error).__name__}); delete it, and the "
            "frames of the last search are described anew"
        ) from error


def _arrays(sample: Sample) -> dict[str, Matrix | Vector]:
    fitted = sample.projection
    return {
        "mean": fitted.mean, "weight": fitted.weight, "axes": fitted.axes,
        "scores": sample.scores, "times": sample.times,
    }  # fmt: skip


def _sample(file: Any, view: View) -> Sample:
    mean, weight, axes, scores, times = (
        file.get_tensor(f"{view}/{name}") for name in ("mean", "weight", "axes", "scores", "times")
    )
    return Sample(Projection(mean, weight, axes), scores, times)
