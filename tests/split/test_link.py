"""The time that a message takes on a link of constant rate."""

import pytest

from search.split.link import ConstantLink


def test_a_transfer_is_the_bits_at_the_rate_and_a_round_trip() -> None:
    assert ConstantLink(2).transfer_ms(2500) == pytest.approx(10)
    assert ConstantLink(2, rtt_ms=30).transfer_ms(0) == 30
    assert ConstantLink(8, 30, loss=0.2).transfer_ms(8000) == pytest.approx(
        8000 * 8 / (8e3 * 0.8) + 30
    )


@pytest.mark.parametrize("values", [(0, 0, 0), (1, -1, 0), (1, 0, 1), (1, 0, -0.1)])
def test_a_link_refuses_impossible_values(values: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="mbit"):
        ConstantLink(*values)
