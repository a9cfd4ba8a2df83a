"""The COCO category of each class of a detector, as the user gives it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from search.data.coco.file import CocoFile
from search.data.entry_fields import list_texts
from search.data.ground_truth import BadTruth

Category = str | int
"""A category by its name or its id."""
ClassCategories = Sequence[Category] | Mapping[int, Category]
"""The category of every class of a detector, class 1 first; or of some classes, by class."""


def category_ids(classes: ClassCategories, content: CocoFile) -> tuple[int, ...] | dict[int, int]:
    """Return the category ids that `classes` names, in the same form.

    Raises:
        BadTruth: `classes` names an unknown category, or one category twice.
    """
    category_by_class = classes if isinstance(classes, Mapping) else dict(enumerate(classes, 1))
    ids = {index: _id(category, content) for index, category in category_by_class.items()}
    repeated = [(index, i) for index, i in ids.items() if Counter(ids.values())[i] > 1]
    if repeated:
        first, category_id = repeated[0]
        others = [str(index) for index, i in repeated[1:] if i == category_id]
        raise BadTruth(
            f"labels {content.path}: `classes` gives category {category_by_class[first]!r} to "
            f"class {first} and again to {', '.join(others)}: each class needs its own category"
        )
    return ids if isinstance(classes, Mapping) else tuple(ids.values())


def _id(category: Category, content: CocoFile) -> int:
    """Return the id of a category; of several with one name, of the only one with boxes."""
    key = "name" if isinstance(category, str) else "id"
    ids = [int(entry["id"]) for entry in content.categories if entry[key] == category]
    with_boxes = [i for i in ids if i in content.labelled_categories]
    if len(ids) == 1 or len(with_boxes) == 1:
        return (with_boxes or ids)[0]
    if ids:
        problem = f"several are named {category!r}: give the id, one of {list_texts(ids)}"
    else:
        available = list_texts(entry[key] for entry in content.categories)
        problem = f"no category has the {key} {category!r}; there are {available}"
    raise BadTruth(f"labels {content.path}: `classes`: {problem}")
