"""The maps of a codec decorrelate, and make errors in all coefficients count alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from search.split.answer_weights import unweighted
from search.split.zone_maps import ZoneMap, fit_transforms
from search.split.zone_statistics import StatisticsPass, ZoneStatistics, coded_form, pooled
from search.utils.arrays import FloatMatrix
from spaces.split.transform import FrequencyTransform, TensorForm

FORM = TensorForm((6, 8, 8), 4, 4)


def positive(seed: int, size: int = 6) -> FloatMatrix:
    values = np.random.default_rng(seed).normal(size=(size, 3 * size))
    return np.asarray(values @ values.T)


def values_of(form: TensorForm, frames: int = 40) -> torch.Tensor:
    """Return smooth maps with correlated channels and a mean."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn((frames, *form.shape), generator=generator)
    mixed = torch.einsum("dc,nchw->ndhw", torch.randn((6, 6), generator=generator), noise)
    return mixed.cumsum(2).cumsum(3) + torch.arange(6.0).reshape(6, 1, 1)


def statistics_of(values: torch.Tensor, form: TensorForm) -> ZoneStatistics:
    moments = StatisticsPass(form)
    for batch in torch.split(values, 7):
        moments.add(batch)
    return moments.finish()


@pytest.fixture(scope="module")
def statistics() -> ZoneStatistics:
    return statistics_of(values_of(FORM), FORM)


def test_statistics_are_those_of_all_frames_at_once(statistics: ZoneStatistics) -> None:
    values = values_of(FORM).double()
    mean = values.mean((0, 2, 3))
    np.testing.assert_allclose(statistics.mean, mean.numpy(), rtol=1e-5)
    centred = (values - mean.reshape(6, 1, 1)).float()
    zones = FrequencyTransform(FORM)(centred).double().split(FORM.zone_sizes, 2)
    for zone, covariance in zip(zones, statistics.covariances, strict=True):
        rows = zone.transpose(0, 1).flatten(1)
        expected = (rows @ rows.T / rows.shape[1]).numpy()
        np.testing.assert_allclose(covariance, expected, rtol=1e-3, atol=1e-3 * expected.max())
    assert statistics.variance == pytest.approx(float(centred.square().sum()) / 40, rel=1e-4)


def test_pooled_statistics_are_those_of_all_frames() -> None:
    values = values_of(FORM)
    values = values + torch.arange(40.0).reshape(40, 1, 1, 1) / 10  # the parts have other means
    parts = [
        statistics_of(values[first:last], FORM) for first, last in ((0, 7), (7, 22), (22, 40))
    ]
    together, expected = pooled(parts), statistics_of(values, FORM)
    assert together.frames == expected.frames == 40
    np.testing.assert_allclose(together.mean, expected.mean, rtol=1e-5)
    for found, wanted in zip(together.covariances, expected.covariances, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * wanted.max())


def test_coefficients_are_uncorrelated_and_errors_count_alike() -> None:
    covariance, weight = positive(1), positive(2)
    fitted = ZoneMap.fit(covariance, weight)
    spread = fitted.forward @ covariance @ fitted.forward.T
    np.testing.assert_allclose(spread, np.diag(fitted.variances), atol=1e-9 * spread.max())
    assert (np.diff(fitted.variances) <= 0).all()
    back = fitted.inverse(fitted.forward)
    np.testing.assert_allclose(back @ fitted.forward, np.eye(6), atol=1e-9)
    # an error of variance d in each coefficient is a weighted error of 6 d in the channels
    np.testing.assert_allclose(back.T @ fitted.weight @ back, np.eye(6), atol=1e-9)


def test_inverse_of_fewer_rows_loses_the_variance_of_the_others() -> None:
    covariance, weight = positive(3), positive(4)
    fitted = ZoneMap.fit(covariance, weight)
    residual = np.eye(6) - fitted.inverse(fitted.forward[:4]) @ fitted.forward[:4]
    lost = np.trace(fitted.weight @ residual @ covariance @ residual.T)
    assert lost == pytest.approx(fitted.variances[4:].sum(), rel=1e-9)


def test_without_weights_maps_are_a_pca(statistics: ZoneStatistics) -> None:
    weights = unweighted(statistics.variance, FORM)
    (fitted,) = fit_transforms([statistics], [weights], 10_000)
    assert fitted.lost == 0
    for part, covariance in zip(fitted.forward.channel_maps, statistics.covariances, strict=True):
        directions = np.linalg.eigh(covariance)[1].T[::-1]
        alike = np.abs(directions @ part.double().numpy().T) * statistics.variance**0.5
        np.testing.assert_allclose(alike, np.eye(6), atol=0.02)
    energy = fitted.forward(values_of(FORM)).double().square().sum() / 40
    assert float(energy) == pytest.approx(1, rel=2e-2)  # of which 1% is the ridge


def test_maps_hold_what_tells_most_within_the_device(statistics: ZoneStatistics) -> None:
    weights = unweighted(statistics.variance, FORM)
    (full,) = fit_transforms([statistics], [weights], 10_000)
    (cut,) = fit_transforms([statistics], [weights], 61)
    assert cut.forward.maps.numel() == 60
    values = values_of(FORM)
    lost = full.forward(values).square().sum() - cut.forward(values).square().sum()
    assert cut.lost == pytest.approx(float(lost) / 40, rel=1e-2)


def test_zones_that_share_a_map_differ_by_a_gain(statistics: ZoneStatistics) -> None:
    form = FORM._replace(maps=1)
    shared = replace(statistics, form=form)
    weights = [scale * positive(5) for scale in (8.0, 4.0, 2.0, 1.0)]
    (fitted,) = fit_transforms([shared], [weights], 10_000)
    gains = fitted.forward.gains
    torch.testing.assert_close(gains / gains[3], torch.tensor([8.0, 4.0, 2.0, 1.0]).sqrt())
    values = values_of(FORM)
    back = fitted.inverse(fitted.forward(values))
    torch.testing.assert_close(back, values, atol=1e-3, rtol=1e-3)


def test_wide_representations_share_maps() -> None:
    assert coded_form((64, 14, 14), 8, 75_000) == TensorForm((64, 14, 14), 8, 8)
    assert coded_form((160, 7, 7), 8, 75_000).maps == 4
    assert coded_form((1280,), 8, 75_000).maps == 1
