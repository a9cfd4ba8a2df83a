"""The precisions in which a plan stores its weights, as numbers and in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from search.utils.format import list_names, percent
from spaces.cost import CostModel
from spaces.plan import HEAD, Precision, Ref, SharePlan

StoredBytes = dict[Precision, dict[str, int]]
"""By precision, the stages, heads and maps whose weights are stored in it, each with the bytes of
all its tensors: `model:stage`, `model:(head)`, or the representation that a map replaces. The
precision with the most bytes comes first; its owners are in the order of the network."""
BITS: Mapping[Precision, int] = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8}
"""Bits of one weight."""
HEAD_NAME = "head"
MOST_NAMED = 3
"""If more stages of a model have the same precision, the first of them are named and the rest is
counted."""


def stored_bytes_by_precision(plan: SharePlan, costs: CostModel) -> StoredBytes:
    """Return how the weights of a canonical plan are stored; nothing if it has no precisions."""
    if not plan.precisions:
        return {}
    by_precision: StoredBytes = {}
    for owner, size in costs.bytes_by_owner(plan).items():
        precision = plan.precision_by_owner.get(owner, costs.facts[owner.model].dtype)
        by_precision.setdefault(precision, {})[str(owner)] = size
    return dict(sorted(by_precision.items(), key=lambda entry: -sum(entry[1].values())))


def owner_precisions(stored: StoredBytes) -> dict[Ref, Precision]:
    """Return the precision of each stage, head and map that a plan holds."""
    return {
        Ref.parse(owner): precision for precision, owners in stored.items() for owner in owners
    }


def describe_stored(plan: SharePlan, stored: StoredBytes) -> str:
    """Return the precisions in words, or an empty text for a plan without precisions.

    For example "weights in int8, except detector blocks.0 and head in float16".
    """
    if not stored:
        return _describe_listed(plan)
    (most, _), *others = stored.items()
    held = by_model(owner_precisions(stored))
    exceptions = [
        f"{_name_owners(map(Ref.parse, owners), plan, held)} in {precision}"
        for precision, owners in others
    ]
    return f"weights in {most}" + (f", except {'; '.join(exceptions)}" if exceptions else "")


def parts_text(stored: StoredBytes) -> str:
    """Return the precisions with their parts of the bytes, such as `int8 91.3%, float16 8.7%`."""
    sizes = {precision: sum(owners.values()) for precision, owners in stored.items()}
    total = sum(sizes.values())
    return ", ".join(f"{p} {percent(size / total)}" for p, size in sizes.items())


def name_weights(owners: Sequence[Ref], plan: SharePlan, most: int = MOST_NAMED) -> str:
    """Return the stages, the head and the maps of one model: `blocks.0, blocks.1 and head`."""
    maps = [owner.stage for owner in owners if owner in plan.by_recipient()]
    stages = [owner.stage for owner in owners if owner.stage not in (HEAD, *maps)]
    names = stages if len(stages) <= most else stages[: most - 1]
    rest = len(stages) - len(names)
    return list_names(
        [
            *names,
            *([f"{rest} more stages"] if rest else []),
            *([HEAD_NAME] if any(owner.stage == HEAD for owner in owners) else []),
            *(f"the map into {stage}" for stage in maps),
        ]
    )


def network_order(owners: Iterable[Ref]) -> list[Ref]:
    """Return owners in the order that their names suggest: numbers by value, heads last."""
    return sorted(owners, key=lambda owner: (owner.model, owner.stage == HEAD, _natural(owner)))


def _natural(owner: Ref) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"(\d+)", owner.stage)
    ]


def _describe_listed(plan: SharePlan) -> str:
    """Describe the precisions that a plan lists, where it is not known what else it holds."""
    if not plan.precisions:
        return ""
    owners: dict[Precision, list[Ref]] = {}
    for owner in network_order(plan.precision_by_owner):
        owners.setdefault(plan.precision_by_owner[owner], []).append(owner)
    parts = [
        f"{_name_owners(owners[precision], plan, {})} in {precision}"
        for precision in sorted(owners, key=lambda precision: -len(owners[precision]))
    ]
    return f"weights of {'; '.join(parts)}; all others in the dtype of the models"


def _name_owners(
    owners: Iterable[Ref], plan: SharePlan, all_by_model: Mapping[str, Sequence[Ref]]
) -> str:
    """Name the owners model by model; a model whose weights they all are has no further names."""
    *most, last = [
        f"all of {model}"
        if len(own) > 1 and len(own) == len(all_by_model.get(model, ()))
        else f"{model} {name_weights(own, plan)}"
        for model, own in by_model(owners).items()
    ]
    return f"{', '.join(most)}, and {last}" if most else last


def by_model(owners: Iterable[Ref]) -> dict[str, list[Ref]]:
    """Return the owners of each model, in the given order."""
    grouped: dict[str, list[Ref]] = {}
    for owner in owners:
        grouped.setdefault(owner.model, []).append(owner)
    return grouped
