"""The names of a network's classes, in a list or in a text file with one name per line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from search.data.ground_truth import BadTruth


def check_class_names(names: Iterable[str | int], source: str) -> tuple[str, ...]:
    """Return the names as text; each stands once.

    Raises:
        BadTruth: a name stands twice.
    """
    texts = tuple(str(name) for name in names)
    name, count = Counter(texts).most_common(1)[0] if texts else ("", 0)
    if count > 1:
        raise BadTruth(f"{source}: names the class {name!r} more than once")
    return texts


def read_class_names(file: Path) -> tuple[str, ...]:
    """Return the lines of a text file without the empty ones at its end.

    Raises:
        BadTruth: the file cannot be read, is empty, or has an empty line or a name twice.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadTruth(f"classes {file}: cannot be read ({error})") from error
    names = [line.strip() for line in lines]
    if not all(names) or not names:
        line = names.index("") + 1 if names else 1
        raise BadTruth(f"classes {file}: line {line}: is empty; each line must name a class")
    return check_class_names(names, f"classes {file}")
