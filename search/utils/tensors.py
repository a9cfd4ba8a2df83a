"""Tensors with a JSON header in safetensors files, from which nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from search.utils.files import CannotWrite, replace_file
from spaces.json_text import load_json


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], title: str, header: Mapping[str, Any]
) -> None:
    """Write the file, completely or not at all, with its header under the key `title`.

    Raises:
        CannotWrite: the folder cannot be written to.
    """
    with replace_file(path) as temporary:
        try:
            save_file(dict(tensors), temporary, {title: json.dumps(header)})
        except SafetensorError as error:
            raise CannotWrite(f"cannot write {path}: {error}") from error


def read_header(file: Any, title: str) -> Any:
    """Return the header of a file that `safe_open` has opened.

    Raises:
        KeyError, ValueError: the file has no header under that title.
    """
    return load_json((file.metadata() or {})[title])
