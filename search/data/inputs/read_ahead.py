"""Read the next batch in threads while the models run on the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

ItemT = TypeVar("ItemT")

MOST_READERS = 8
"""More threads wait for each other, as decoding does not leave the interpreter throughout."""


def read_ahead(read: Callable[[int], ItemT], batches: Sequence[range]) -> Iterator[list[ItemT]]:
    """Yield the results of `read` for the indices of each batch, in order.

    Beside the batch that was yielded, only the next one is read. There are as many threads as
    torch would use, at most `MOST_READERS`; all have ended when the iteration ends, also by an
    error or an interrupt. An error of `read` is raised in place of its batch; of several, that of
    the first index.
    """
    pool = ThreadPoolExecutor(min(MOST_READERS, torch.get_num_threads()), "frame-reader")

    def start(number: int) -> list[Future[ItemT]]:
        indices = batches[number] if number < len(batches) else ()
        return [pool.submit(read, index) for index in indices]

    try:
        pending = start(0)
        for number in range(len(batches)):
            items = [future.result() for future in pending]
            pending = start(number + 1)
            yield items
    finally:
        pool.shutdown(cancel_futures=True)
