"""The files of a bundle: their names, whether they are as exported, and the bundle's identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from spaces.errors import MergeSearchError
from spaces.json_text import load_json
from spaces.zoo import STRUCTURE

BUNDLE, PLAN, WEIGHTS = "bundle.json", "plan.json", "weights.safetensors"
CODECS, RECALIBRATED = "codecs.safetensors", "batchnorms.safetensors"
"""In a part of a split: its encoders or decoders, and on the server recalibrated statistics."""
FILE_HASHES = "files"
"""The key of bundle.json that lists the other files with their hashes."""


class BadBundle(MergeSearchError):
    """A folder that does not hold a complete, undamaged bundle."""


def seal_bundle(folder: Path) -> None:
    """List every other file of a finished bundle in bundle.json, with its SHA-256."""
    data = load_json((folder / BUNDLE).read_text(encoding="utf-8"))
    data[FILE_HASHES] = {
        name: _sha256(folder / name).hex() for name in sorted(_other_files(folder))
    }
    write_description(folder, data)


def write_description(folder: Path, data: dict[str, Any]) -> None:
    """Write bundle.json."""
    (folder / BUNDLE).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def check_files(folder: Path) -> None:
    """Check that the files of a bundle are those that were exported.

    A file that is not listed is not checked, and one that loading does not need may be missing.
    Bundles without a list pass.

    Raises:
        BadBundle: a file has changed since the export, or one that loading needs is missing.
    """
    try:
        data = load_json((folder / BUNDLE).read_text(encoding="utf-8"))
        for name, expected in data.get(FILE_HASHES, {}).items():
            _check_file(folder, name, expected)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise incomplete_bundle(folder, error) from error


def incomplete_bundle(folder: Path, reason: object) -> BadBundle:
    """Build the error for a folder in which something is missing or cannot be read."""
    return BadBundle(f"{folder}: is not a complete bundle ({reason})")


def bundle_id(folder: Path) -> str:
    """Return the identity of a bundle: twelve hexadecimal digits of the SHA-256 of its files.

    What loading does not need plays no part: a bundle is the same with and without graphs.

    Raises:
        BadBundle: a file is missing or damaged.
    """
    digest = hashlib.sha256()
    try:
        digest.update(hashlib.sha256(_identifying((folder / BUNDLE).read_bytes())).digest())
        networks = sorted(file.name for file in folder.glob(f"{STRUCTURE}.*"))
        for name in (PLAN, WEIGHTS, *networks):
            digest.update(_sha256(folder / name))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise incomplete_bundle(folder, error) from error
    return digest.hexdigest()[:12]


def holds_bundle(folder: Path, identity: str) -> bool:
    """Return whether a folder holds the complete bundle with that identity."""
    try:
        return bundle_id(folder) == identity
    except BadBundle:
        return False


def _check_file(folder: Path, name: str, expected: str) -> None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise BadBundle(f"{folder / BUNDLE}: lists the file {name}, which lies outside the folder")
    file, is_needed = folder / name, _is_needed(name)
    if not file.is_file():
        if is_needed:
            raise incomplete_bundle(folder, f"{name} is missing")
    elif _sha256(file).hex() != expected:
        cure = (
            "export the bundle again, or copy it again"
            if is_needed
            else "restore it, or delete it: loading does not need it"
        )
        raise BadBundle(f"{file}: has changed since the export; {cure}")


def _is_needed(name: str) -> bool:
    return name in (PLAN, WEIGHTS, CODECS, RECALIBRATED) or name.startswith(f"{STRUCTURE}.")


def _other_files(folder: Path) -> Iterator[str]:
    """Yield the relative POSIX path of each file, also in sub-folders, except bundle.json."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != BUNDLE:
            yield name


def _sha256(file: Path) -> bytes:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def _identifying(description: bytes) -> bytes:
    """Return what of bundle.json identifies a bundle; in version 1 that is the file itself."""
    data = load_json(description.decode())
    if data["version"] == 1:
        return description
    described = {key: value for key, value in data.items() if key != FILE_HASHES}
    return json.dumps(described, sort_keys=True, separators=(",", ":")).encode()
