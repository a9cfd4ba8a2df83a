"""References on disk: one safetensors file each; nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from search.drift.frame_features import View
from search.drift.reference import BadReference, Projection, Reference, Sample
from search.utils.arrays import FloatMatrix, FloatVector
from search.utils.tensors import read_header, write_tensors

REFERENCE_FORMAT = "merge-search drift reference"


def save(path: Path, reference: Reference) -> None:
    """Write the file, completely or not at all.

    Raises:
        CannotWrite: the folder cannot be written to.
    """
    tensors = {
        f"{view}/{name}": torch.from_numpy(np.ascontiguousarray(values))
        for view, sample in reference.samples.items()
        for name, values in _arrays(sample).items()
    }
    header = {
        "models": reference.models,
        "views": list(reference.samples),
        "taken_up": list(reference.taken_up),
    }
    write_tensors(path, tensors, REFERENCE_FORMAT, header)


def load(path: Path) -> Reference:
    """Read a file that `save` has written.

    Raises:
        BadReference: the file is missing, damaged, or of another kind.
    """
    try:
        with safe_open(path, framework="np") as file:
            header = read_header(file, REFERENCE_FORMAT)
            samples = {str(view): _sample(file, view) for view in header["views"]}
            taken_up = tuple(str(window) for window in header["taken_up"])
            return Reference(str(header["models"]), samples, taken_up)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadReference(
            f"{path} is not a whole drift reference ({type(error).__name__}); delete it, and the "
            "frames of the last search are described anew"
        ) from error


def _arrays(sample: Sample) -> dict[str, FloatMatrix | FloatVector]:
    projection = sample.projection
    return {
        "mean": projection.mean, "weight": projection.weight, "axes": projection.axes,
        "scores": sample.scores, "times": sample.times,
    }  # fmt: skip


def _sample(file: Any, view: View) -> Sample:
    mean, weight, axes, scores, times = (
        file.get_tensor(f"{view}/{name}") for name in ("mean", "weight", "axes", "scores", "times")
    )
    return Sample(Projection(mean, weight, axes), scores, times)
