"""The names of a network's classes: in a list, in a text file, or in ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from search.data.ground_truth import BadTruth, BoxTruth, MaskTruth, Truth
from spaces.tasks.task import ClassNames


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


def names_in_truth(truth: Truth, num_classes: int) -> ClassNames:
    """Return the names that ground truth gives to the classes of a model.

    Those of a detector, which count from 1, have the names of their categories. Labels of a
    classifier must name every class: ten folders may be any ten of its thousand classes.

    Raises:
        BadTruth: the categories do not fit the number of classes.
    """
    if isinstance(truth, BoxTruth):
        names = {int(entry["id"]): str(entry["name"]) for entry in truth.categories}
        ids = truth.category_ids(num_classes)
        return ("", *("" if number is None else names.get(number, "") for number in ids))
    if isinstance(truth, MaskTruth) or len(truth.names) == num_classes:
        return truth.names
    return ()
