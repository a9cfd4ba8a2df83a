"""The files that hold the refined maps of plans, so that they are trained once."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from search.statistics.observed import Observed
from search.utils.files import replace_file, short_hash
from spaces.adapters import LinearMap
from spaces.plan import Share, SharePlan

REFINEMENT_VERSION = 1
"""Part of the names of the files: bump it when the refinement changes."""


def read_refined_maps(observed: Observed, plan: SharePlan) -> dict[Share, LinearMap] | None:
    """Return the maps of a plan; None if there is no file, or a damaged one."""
    path = _path(observed, plan)
    if path is None or not path.is_file():
        return None
    with contextlib.suppress(SafetensorError, KeyError, OSError):
        tensors = load_file(path)
        return {
            share: LinearMap(*(tensors[name] for name in _names(share)))
            for share in plan.mapped_shares
        }
    return None


def write_refined_maps(
    observed: Observed, plan: SharePlan, maps: Mapping[Share, LinearMap]
) -> None:
    """Write the maps of a plan, unless nothing is to be cached."""
    path = _path(observed, plan)
    if path is None:
        return
    tensors: dict[str, Tensor] = {}
    for share, linear in maps.items():
        tensors |= dict(zip(_names(share), (linear.weight, linear.bias), strict=True))
    with replace_file(path) as part:
        save_file(tensors, part)


def _names(share: Share) -> tuple[str, str]:
    return f"{share.recipient}.weight", f"{share.recipient}.bias"


def _path(observed: Observed, plan: SharePlan) -> Path | None:
    if not observed.parts:
        return None
    folders = [part.cache_folder for part in observed.parts]
    text = " ".join([str(REFINEMENT_VERSION), plan.hash, *(folder.name for folder in folders)])
    return folders[0] / f"maps-{short_hash(text)}.safetensors"
