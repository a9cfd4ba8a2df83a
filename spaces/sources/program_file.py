"""Read programs that `torch.export.save` has written, without running code that they name.

`torch.export.load` unpickles what a program may hold beside its operations, imports compiled
libraries, and evaluates the expressions of its sizes. So an archive is read here first, and one
that holds any of it is refused.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from spaces.errors import BadInput
from spaces.quiet import quiet

PROGRAM_GRAPH = "models/model.json"
EXAMPLE_INPUTS = "data/sample_inputs/model.pt"
TENSOR_TABLES = {
    "data/weights/model_weights_config.json": "weight_",
    "data/constants/model_constants_config.json": "tensor_",
}
"""The tables of the tensors in an archive, and how the names of tensors without pickles begin."""
OPERATIONS = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_\w+"
    r"|_operator\.(add|sub|mul|neg|floordiv|truediv|mod|pow|getitem|[gl][et]|eq|ne|and_|or_)"
)
SIZE_WORDS = {
    "Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "FloorDiv",
    "CeilDiv", "CleanDiv", "PythonMod", "positive", "integer", "nonnegative", "True", "False",
}  # fmt: skip
"""The words in expressions of sizes, besides symbols such as s77."""


class _Unreadable(Exception):
    """Why a file is no program, as the end of a sentence."""


def read_program(path: Path, model: str) -> ExportedProgram:
    """Read a program; `model` is for errors.

    Raises:
        BadInput: the file is missing, damaged, of another kind, or holds more than operations and
            tensors.
    """
    try:
        content = path.read_bytes()
        _check_archive(content)
        return _load(content)
    except OSError as error:
        raise BadInput(f"{model}: program {path}: {error.strerror or error}") from error
    except _Unreadable as error:
        raise BadInput(f"{model}: program {path}: {error}") from error


def _load(content: bytes) -> ExportedProgram:
    try:
        with quiet():
            program = torch.export.load(io.BytesIO(content))
    except Exception as error:
        # damaged bytes, and programs of other versions of torch, raise any exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _Unreadable(f"torch {torch.__version__} cannot load it: {reason}") from error
    program._guards_code = []  # they would run as code; the batch is checked by its shape
    return program


def _check_archive(content: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = {name.partition("/")[2]: name for name in archive.namelist()}
            if PROGRAM_GRAPH not in files:
                raise _Unreadable(
                    "holds no program of torch.export: save one with torch.export.save"
                )
            _check_names(files)
            for name, beginning in TENSOR_TABLES.items():
                _check_tensors(json.loads(archive.read(files[name])), beginning)
            _check_graph(json.loads(archive.read(files[PROGRAM_GRAPH])))
            examples = archive.read(files[EXAMPLE_INPUTS])
    except (
        zipfile.BadZipFile,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        raise _Unreadable(
            f"is damaged, or was not written by torch.export.save ({error})"
        ) from error
    try:
        if examples:
            torch.load(io.BytesIO(examples), weights_only=True)
    except Exception as error:
        # torch would unpickle them without a check
        raise _Unreadable("its example inputs are not just tensors") from error


def _check_names(files: dict[str, str]) -> None:
    for name in files:
        is_pickle = name.endswith(".pt") and name != EXAMPLE_INPUTS
        is_other = name.startswith("models/") and name != PROGRAM_GRAPH
        if is_pickle or is_other or name.startswith("data/aotinductor"):
            raise _Unreadable(f"holds {name}: only operations and tensors are read")


def _check_tensors(table: dict[str, Any], beginning: str) -> None:
    for name, entry in table["config"].items():
        if entry["use_pickle"] or not entry["path_name"].startswith(beginning):
            raise _Unreadable(f"{name} is pickled or no tensor: only plain tensors are read")


def _check_graph(program: dict[str, Any]) -> None:
    for key, value in _entries(program):
        if key == "target" and not OPERATIONS.fullmatch(value):
            raise _Unreadable(
                f"holds the operation {value}: only those of torch.ops.aten are read"
            )
        if key == "expr_str":
            words = re.findall(r"[^\W\d]\w*", value)
            if any(
                word not in SIZE_WORDS and not re.fullmatch(r"[su]\d+", word) for word in words
            ):
                raise _Unreadable(f"the size {value!r} is no expression of numbers")


def _entries(value: Any) -> Iterator[tuple[str, str]]:
    """Yield the keys of all texts in nested JSON, with the texts."""
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            yield from ((key, text) for key, text in current.items() if isinstance(text, str))
            pending += current.values()
        elif isinstance(current, list):
            pending += current
