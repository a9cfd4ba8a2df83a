"""Work shared out among threads: the same answers, in order, and torch left as it was."""

from __future__ import annotations

import pytest
import torch

from search.statistics.similarity import map_in_threads


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_every_item_is_answered_in_order(count: int) -> None:
    threads = torch.get_num_threads()
    assert map_in_threads(lambda k: k * k, range(count)) == [k * k for k in range(count)]
    assert torch.get_num_threads() == threads


def test_an_error_comes_through_and_the_threads_are_given_back() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        map_in_threads(lambda k: 1 // k, [2, 0, 1])
    assert torch.get_num_threads() == threads
