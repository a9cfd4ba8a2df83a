"""The forms of representations: what they are taken for, and that maps are read back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spaces.representation_form import Form, form_of

SQUARE, WIDE = (224, 224), (128, 256)


@pytest.mark.parametrize(
    ("shape", "view", "prefix", "form"),
    [
        ((2, 64), SQUARE, None, Form("pooled", None)),
        ((2, 64, 7, 7), SQUARE, None, Form("map", (7, 7))),
        ((2, 7, 7, 64), SQUARE, None, Form("channels last", (7, 7))),
        ((2, 7, 7, 7), SQUARE, None, Form("map", (7, 7))),
        ((2, 64, 8, 16), WIDE, None, Form("map", (8, 16))),
        ((2, 8, 16, 64), WIDE, None, Form("channels last", (8, 16))),
        ((2, 64, 1, 1), WIDE, None, Form("map", (1, 1))),
        ((2, 64, 5, 9), WIDE, None, Form("map", (5, 9))),
        ((2, 16, 196, 96), SQUARE, None, None),
        ((2, 197, 64), SQUARE, None, Form("tokens", (14, 14), 1)),
        ((2, 196, 64), SQUARE, 1, Form("tokens", (14, 14), 0)),
        ((2, 201, 64), SQUARE, 5, Form("tokens", (14, 14), 5)),
        ((2, 130, 64), WIDE, None, Form("tokens", (8, 16), 2)),
        ((2, 1, 64), SQUARE, None, Form("tokens", (1, 1), 0)),
        ((2, 1, 64), SQUARE, 1, Form("tokens", (1, 1), 0)),
        ((2, 190, 64), SQUARE, 1, None),
        ((2, 3, 4, 5, 6), SQUARE, None, None),
        ((2,), SQUARE, None, None),
    ],
)
def test_a_shape_has_the_form_that_fits_the_input(
    shape: tuple[int, ...], view: tuple[int, int], prefix: int | None, form: Form | None
) -> None:
    assert form_of(shape, view, prefix) == form


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_become_a_map_and_are_read_back(prefix: int) -> None:
    tokens = torch.randn(3, prefix + 6, 4)
    form = Form("tokens", (2, 3), prefix)
    mapped = through(form.to_map(), tokens)
    assert mapped.shape == (3, 4 * (1 + prefix), 2, 3)
    torch.testing.assert_close(through(form.from_map(), mapped), tokens)


def test_a_token_of_a_position_lies_at_that_position() -> None:
    tokens = torch.randn(2, 1 + 6, 4)
    mapped = through(Form("tokens", (2, 3), 1).to_map(), tokens)
    assert torch.equal(mapped[:, :4, 1, 2], tokens[:, 1 + 5])
    assert torch.equal(mapped[:, 4:, 0, 1], tokens[:, 0])


def test_the_class_token_is_read_as_a_mean_over_the_positions() -> None:
    """So a map of the channels predicts it from the mean of the donor's representation."""
    form, donor = Form("tokens", (4, 4), 1), torch.randn(2, 5, 4, 4)
    weight = torch.randn(6, 5)
    mapped = torch.einsum("rd,bdhw->brhw", weight, donor)
    read = through(form.from_map(), mapped)
    torch.testing.assert_close(read[:, 0], donor.mean((2, 3)) @ weight[3:].T)


def test_channels_last_are_permuted_and_permuted_back() -> None:
    values = torch.randn(2, 3, 5, 7)
    form = Form("channels last", (3, 5))
    assert through(form.to_map(), values).shape == (2, 7, 3, 5)
    assert torch.equal(through(form.from_map(), through(form.to_map(), values)), values)


@pytest.mark.parametrize("form", [Form("map", (2, 2)), Form("pooled", None)])
def test_maps_and_pooled_features_stay_as_they_are(form: Form) -> None:
    assert not form.to_map() and not form.from_map()


def through(modules: list[nn.Module], values: Tensor) -> Tensor:
    output: Tensor = nn.Sequential(*modules)(values)
    return output
