"""Independent pieces of linear algebra, one to a core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from joblib import Parallel, delayed

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What `work` makes of each item, in order.

    As many threads as torch would use, each of which computes alone: a decomposition of one matrix
    gains little from a second core, two decompositions at once gain all of it.
    """
    listed = list(items)
    if len(listed) < 2:
        return [work(item) for item in listed]
    threads = torch.get_num_threads()

    def alone(item: Item) -> Result:
        torch.set_num_threads(1)
        return work(item)

    try:
        results: list[Result] = Parallel(threads, prefer="threads")(
            delayed(alone)(item) for item in listed
        )
        return results
    finally:
        torch.set_num_threads(threads)
