"""A transform is an orthonormal DCT and maps over channels, and its inverse undoes it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn

from spaces.split.transform import (
    ChannelMaps,
    ForwardTransform,
    FrequencyTransform,
    InverseTransform,
    TensorForm,
    dct_matrix,
    zone_of_frequencies,
)

FORMS = (
    TensorForm((6, 14, 14), 8, 8),
    TensorForm((5, 7, 12), 8, 2),
    TensorForm((4, 3, 1), 4, 1),
    TensorForm((9,), 8, 8),
)


def random_maps(form: TensorForm, ranks: int, scale: float = 1.0) -> ChannelMaps:
    generator = torch.Generator().manual_seed(3)
    count = max(form.map_of_zones) + 1
    maps = torch.randn((count, form.channels, form.channels), generator=generator).double()
    bases = torch.linalg.qr(maps).Q * scale
    gains = torch.linspace(1, 0.5, len(form.zone_sizes))
    return ChannelMaps(torch.randn(form.channels, generator=generator), gains, bases[:, :ranks])


def inverse_of(forward: ForwardTransform) -> InverseTransform:
    maps = [torch.linalg.pinv(part.double()).T for part in forward.channel_maps]
    return InverseTransform(
        forward.form, ChannelMaps(forward.mean.flatten(), 1 / forward.gains, maps)
    )


def random_values(form: TensorForm, batch: int = 3) -> torch.Tensor:
    return torch.randn((batch, *form.shape), generator=torch.Generator().manual_seed(1))


@given(size=st.integers(1, 40))
def test_dct_is_orthonormal(size: int) -> None:
    matrix = dct_matrix(size)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_frequencies_are_those_of_scipy_zone_after_zone(form: TensorForm) -> None:
    values = random_values(form)
    maps = values.reshape(3, form.channels, *form.grid).double().numpy()
    expected = dctn(maps, axes=(2, 3), norm="ortho").reshape(3, form.channels, -1)
    zones = zone_of_frequencies(*form.grid, form.zones)
    frequencies = FrequencyTransform(form)(values).numpy()
    first = 0
    for zone, size in enumerate(form.zone_sizes):
        ours = np.sort(frequencies[:, :, first : first + size], 2)
        theirs = np.sort(expected[:, :, zones == zone], 2)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        first += size


@given(height=st.integers(1, 20), width=st.integers(1, 20), zones=st.integers(1, 8))
def test_zones_are_rings_that_share_out_all_frequencies(
    height: int, width: int, zones: int
) -> None:
    found = zone_of_frequencies(height, width, zones)
    assert found.shape == (height * width,)
    assert found[0] == 0 and {*found} == {*range(found.max() + 1)}
    assert found.max() < zones
    rows, columns = np.divmod(np.arange(height * width), width)
    radii = np.hypot(rows / height, columns / width)
    for zone in range(found.max()):
        assert radii[found == zone].max() < radii[found == zone + 1].min() + 1e-9


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6], ids="{:.0e}".format)
@pytest.mark.parametrize("form", FORMS)
def test_inverse_of_the_rounded_maps_gives_the_values_back(form: TensorForm, scale: float) -> None:
    forward = ForwardTransform(form, random_maps(form, form.channels, scale))
    values = random_values(form)
    coefficients = forward(values)
    assert coefficients.shape == (3, forward.coefficient_count)
    assert forward.coefficient_count == math.prod(form.shape)
    back = inverse_of(forward)(coefficients)
    torch.testing.assert_close(back, values, atol=1e-4, rtol=1e-4)


def test_rows_hold_one_component_of_one_zone() -> None:
    form = TensorForm((4, 5, 5), 3, 3)
    maps = random_maps(form, 2)
    forward = ForwardTransform(form, maps)
    rows = forward.row_counts
    assert rows == [(zone, size) for zone, size in enumerate(form.zone_sizes) for _ in range(2)]
    values = random_values(form, 1)
    places = zone_of_frequencies(5, 5, 3)
    centred = (values - forward.mean)[0].double().numpy()
    spectrum = dctn(centred, axes=(1, 2), norm="ortho").reshape(4, -1)
    expected = [
        np.square(gain * part @ spectrum[:, places == zone]).sum()
        for zone, (gain, maps_of_zone) in enumerate(
            zip(maps.gains.numpy(), np.asarray(maps.maps), strict=True)
        )
        for part in maps_of_zone
    ]
    sizes = [size for _, size in rows]
    actual = [float(part.square().sum()) for part in forward(values)[0].split(sizes)]
    np.testing.assert_allclose(actual, expected, rtol=5e-3)  # maps are rounded to float16


@pytest.mark.parametrize("form", FORMS)
def test_stored_transforms_are_the_same_ones(form: TensorForm) -> None:
    forward = ForwardTransform(form, random_maps(form, max(1, form.channels - 2)))
    stored = forward.stored()
    assert stored["maps"].dtype == torch.float16
    read, values = ForwardTransform.from_stored(stored), random_values(form)
    assert torch.equal(read(values), forward(values))
    inverse = inverse_of(forward)
    again = InverseTransform.from_stored(inverse.stored())
    assert torch.equal(again(forward(values)), inverse(forward(values)))
