"""Compare two result.json files and print every value that differs.

    python bench/compare_results.py A/result.json B/result.json

Times and library versions are ignored, and so is the identity of the bundle, which covers the
absolute path of the weights and therefore changes with the checkout. Everything else, numbers
included, must be equal to the last digit. The last line of the output is JSON; the exit code is 1
if any value differs. The verification and metric comparison records of two runs can be compared in
the same way.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

IGNORED = frozenset({"seconds", "guide_seconds", "latency_ms", "created", "versions", "bundle"})
"""Top-level keys that depend on the clock, the machine or the checkout."""
ABSENT = "(absent)"


def compare(first: Any, second: Any) -> list[tuple[str, Any, Any]]:
    """Return (path, first value, second value) for each difference between two results.

    A path is written as in `candidates[0].fidelity.detector`. A value that only one of the two
    results has is `ABSENT` in the other. Lists are compared by position.
    """
    shortened = [_without_ignored(result) for result in (first, second)]
    return list(_differences("", *shortened))


def _without_ignored(result: Any) -> Any:
    if not isinstance(result, dict):
        return result
    return {key: value for key, value in result.items() if key not in IGNORED}


def _differences(path: str, first: Any, second: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in [*first, *(key for key in second if key not in first)]:
            inner = f"{path}.{key}" if path else key
            yield from _differences(inner, first.get(key, ABSENT), second.get(key, ABSENT))
    elif isinstance(first, list) and isinstance(second, list):
        for index in range(max(len(first), len(second))):
            values = (items[index] if index < len(items) else ABSENT for items in (first, second))
            yield from _differences(f"{path}[{index}]", *values)
    elif type(first) is not type(second) or first != second:
        yield path, first, second


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        sys.exit("usage: python bench/compare_results.py A/result.json B/result.json")
    results = [json.loads(Path(path).read_text(encoding="utf-8")) for path in arguments]
    differences = compare(*results)
    for path, first, second in differences:
        print(f"{path}: {_short(first)} != {_short(second)}")
    print(json.dumps({"compared": arguments, "differences": len(differences)}))
    return 1 if differences else 0


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
