"""Read a config from a YAML file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.config.base import BadConfig
from search.config.run import RunConfig
from search.config.yaml_text import NotYaml, read_yaml

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and validate a config file.

    Each override is text of the form `dotted.key=value`, with the value in YAML.

    Raises:
        BadConfig: the file is missing or is not YAML, or a key or value is not accepted.
    """
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise BadConfig(
            f"config {path}: cannot be read as UTF-8, from byte {error.start + 1} on; save it as "
            "UTF-8 text"
        ) from error
    except OSError as error:
        raise BadConfig(f"config {path}: cannot be read ({error.strerror or error})") from error
    except NotYaml as error:
        raise BadConfig(f"config {path}: {error}") from error
    if not isinstance(data, dict):
        raise BadConfig(f"config {path}: must be a mapping of keys such as name, models, frames")
    for override in overrides:
        _apply_override(data, override)
    return config_of(_with_variables(data, path, ()), path.parent.resolve(), path)


def config_of(data: Mapping[str, Any], base: Path, source: Path) -> RunConfig:
    """Validate a config that was read from the file `source`; relative paths start at `base`.

    Raises:
        BadConfig: a key or value is not accepted.
    """
    if "base" in data:
        raise BadConfig(f"config {source}: base: unknown key")
    if not _is_unicode(base):
        raise BadConfig(
            f"config {source}: the name of its folder {base} is not UTF-8, which files of weights "
            "and records need: rename the folder, or run the command with PYTHONUTF8=1"
        )
    for key in data:
        if not isinstance(key, str):
            raise BadConfig(f"config {source}: {key}: keys must be text")
    try:
        return RunConfig(**{**data, "base": base})
    except BadConfig as error:
        raise BadConfig(f"config {source}: {error}") from error


def _is_unicode(path: Path) -> bool:
    """Return whether Python could decode a path; it keeps other bytes as surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in str(path))


def _apply_override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadConfig(f"--set {text}: write it as dotted.key=value")
    *parents, last = key.split(".")
    mapping: Any = data
    for parent in parents:
        mapping = mapping.setdefault(parent, {}) if isinstance(mapping, dict) else None
    if not isinstance(mapping, dict):
        raise BadConfig(f"--set {key}: does not lie within a mapping")
    try:
        mapping[last] = read_yaml(value)
    except NotYaml as error:
        raise BadConfig(f"--set {key}: the value is not YAML ({error})") from error


def _with_variables(value: Any, path: Path, keys: tuple[str, ...]) -> Any:
    """Replace `${NAME}` in any text by the value of the environment variable."""
    if isinstance(value, dict):
        return {
            key: _with_variables(inner, path, (*keys, str(key))) for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_with_variables(inner, path, keys) for inner in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise BadConfig(
                f"config {path}: {'.'.join(keys)}: {value!r} needs the environment variable "
                f"{match[1]}, which is not set"
            )
        return os.environ[match[1]]

    return _VARIABLE.sub(replace, value)
