"""The fleet on disk: one safetensors file, replaced in one step; nothing is unpickled.

OUT/watch/fleet.safetensors    who is in which group and why, and all signatures
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from search.fleet.placement import Fleet, Member
from search.fleet.signature import Signature, ViewSignature
from search.utils.tensors import read_header, write_tensors
from spaces.errors import MergeSearchError

FLEET_FILE = "fleet.safetensors"
FLEET_FORMAT = "merge-search fleet"
CAMERA_TENSORS, GROUP_TENSORS = "cameras", "groups"


class BadFleet(MergeSearchError):
    """The file of the fleet cannot be read."""


def save_fleet(path: Path, fleet: Fleet) -> None:
    """Write the file, completely or not at all.

    Raises:
        CannotWrite: the folder cannot be written to.
    """
    header = {
        "round": fleet.round,
        "models": fleet.models,
        "founded": fleet.founded,
        "members": {name: asdict(member) for name, member in fleet.members.items()},
        "groups": list(fleet.groups),
    }
    tensors = _tensors(CAMERA_TENSORS, fleet.signatures) | _tensors(GROUP_TENSORS, fleet.groups)
    write_tensors(path, tensors, FLEET_FORMAT, header)


def load_fleet(path: Path) -> Fleet:
    """Read a file that `save_fleet` has written; without a file, return an empty fleet.

    Raises:
        BadFleet: the file is damaged, or of another kind.
    """
    if not path.is_file():
        return Fleet()
    try:
        with safe_open(path, framework="np") as file:
            header = read_header(file, FLEET_FORMAT)
            members = {name: Member(**fields) for name, fields in header["members"].items()}
            return Fleet(
                int(header["round"]),
                str(header["models"]),
                int(header["founded"]),
                members,
                {name: _signature(file, f"{CAMERA_TENSORS}/{name}") for name in members},
                {name: _signature(file, f"{GROUP_TENSORS}/{name}") for name in header["groups"]},
            )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFleet(
            f"{path} is not a whole fleet ({type(error).__name__}); delete it, and the cameras "
            "are grouped anew"
        ) from error


def _tensors(kind: str, signatures: Mapping[str, Signature]) -> dict[str, Tensor]:
    return {
        f"{kind}/{name}/{view}/{field}": torch.from_numpy(np.ascontiguousarray(values))
        for name, signature in signatures.items()
        for view, own in signature.views.items()
        for field, values in asdict(own).items()
    }


def _signature(file: Any, prefix: str) -> Signature:
    views: dict[str, dict[str, Any]] = {}
    for key in file.keys():
        if key.startswith(f"{prefix}/"):
            view, field = key.removeprefix(f"{prefix}/").split("/")
            views.setdefault(view, {})[field] = file.get_tensor(key)
    if not views:
        raise KeyError(prefix)
    return Signature({view: ViewSignature(**fields) for view, fields in views.items()})
