"""Work in threads: results in order, and the number of torch threads is restored."""

from __future__ import annotations

import pytest
import torch

from search.statistics.similarity import map_in_threads


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_every_item_has_its_result_in_order(count: int) -> None:
    threads = torch.get_num_threads()
    assert map_in_threads(lambda k: k * k, range(count)) == [k * k for k in range(count)]
    assert torch.get_num_threads() == threads


def test_an_error_is_raised_and_the_number_of_threads_is_restored() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        map_in_threads(lambda k: 1 // k, [2, 0, 1])
    assert torch.get_num_threads() == threads
