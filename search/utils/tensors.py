"""Tensors on disk with a JSON header: safetensors files, of which nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from search.utils.files import CannotWrite, replacing


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], title: str, header: Mapping[str, Any]
) -> None:
    """Write the file, wholly or not at all; `title` is the key that its header stands under.

    Raises:
        CannotWrite: the folder does not take it.
    """
    with replacing(path) as temporary:
        try:
            save_file(dict(tensors), temporary, {title: json.dumps(header)})
        except SafetensorError as error:
            raise CannotWrite(f"cannot write {path}: {error}") from error


def header_of(file: Any, title: str) -> Any:
    """The header of a file that `safe_open` has opened.

    Raises:
        KeyError, ValueError: it has none under that title.
    """
    return json.loads((file.metadata() or {})[title])
