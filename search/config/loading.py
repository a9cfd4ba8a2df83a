"""Reads a config file, and says in one sentence what is wrong with it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    ValidationError,
)

from search.config.base import BadConfig
from search.config.run import RunConfig
from search.utils.redact import without_credentials

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check a config; `overrides` are `dotted.key=value` with the value as YAML.

    Raises:
        BadConfig: the file is missing, is not YAML, or any key or value is not accepted.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"config {path}: cannot be read ({error})") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadConfig(f"config {path}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(data, dict):
        raise BadConfig(f"config {path}: must be a mapping of keys such as name, models, frames")
    for override in overrides:
        _override(data, override)
    return config_of(_expand(data, path, ()), path.parent.resolve(), path)


def config_of(data: Mapping[str, Any], base: Path, source: Path) -> RunConfig:
    """Check a config that was read from `source`; its paths start from `base`.

    Raises:
        BadConfig: any key or value is not accepted.
    """
    if "base" in data:
        raise BadConfig(f"config {source}: base: unknown key")
    try:
        return RunConfig.model_validate({**data, "base": base})
    except ValidationError as error:
        raise BadConfig(_report(source, error)) from error


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadConfig(f"--set {text}: write it as dotted.key=value")
    *parents, last = key.split(".")
    at: Any = data
    for parent in parents:
        at = at.setdefault(parent, {}) if isinstance(at, dict) else None
    if not isinstance(at, dict):
        raise BadConfig(f"--set {text}: {key} does not lie within a mapping")
    try:
        at[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BadConfig(f"--set {text}: the value is not YAML") from error


def _expand(value: Any, path: Path, keys: tuple[str, ...]) -> Any:
    """`${NAME}` in any text becomes the environment variable's value."""
    if isinstance(value, dict):
        return {key: _expand(inner, path, (*keys, str(key))) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, path, keys) for inner in value]
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


def _report(path: Path, error: ValidationError) -> str:
    lines = [_sentence(detail) for detail in error.errors()]
    return f"config {path}: " + "; ".join(dict.fromkeys(lines))


def _sentence(detail: Mapping[str, Any]) -> str:
    """One problem as `key: what is wrong`, with the value where it is short."""
    key = ".".join(str(part) for part in detail["loc"]) or "the config"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if detail["type"] == "missing":
        return f"{key}: is missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    given = detail["input"]
    shown = f" (given: {given!r})" if isinstance(given, (str, int, float, bool)) else ""
    return without_credentials(f"{key}: {message[0].lower()}{message[1:]}{shown}")
