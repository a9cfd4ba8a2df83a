"""Networks with other statistics of their BatchNorms: what is shared, stored and chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import ZooDeployment
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spaces.merged import MergedModel
from spaces.plan import SharePlan
from spaces.split.coefficients import Coding
from spaces.split.recalibrated import (
    BatchNormStatistics,
    RecalibratedNetwork,
    StatisticsByCoding,
    batchnorms,
    with_statistics,
)
from spaces.stored_modules import stored_copy


@pytest.fixture(scope="module")
def merged(street: ZooDeployment) -> MergedModel:
    """Two classifiers: layers in chains, and layers of a traced network."""
    models = {name: street.models[name] for name in ("b0", "v3")}
    facts = {name: street.facts[name] for name in models}
    return MergedModel(models, facts, SharePlan(), {})


@pytest.fixture(scope="module")
def inputs(street: ZooDeployment) -> dict[str, Tensor]:
    return street.inputs()


def shifted(network: nn.Module, by: float) -> BatchNormStatistics:
    """Return the statistics of a network, changed in a way of no meaning."""
    own = BatchNormStatistics.of(network)
    return BatchNormStatistics(
        {path: mean + by for path, mean in own.means.items()},
        {path: variance * (1 + by) for path, variance in own.variances.items()},
    )


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@torch.inference_mode()
def test_statistics_change_the_answers_and_changing_back_restores_every_bit(
    merged: MergedModel, inputs: dict[str, Tensor]
) -> None:
    own, state = merged(inputs), {k: v.clone() for k, v in merged.state_dict().items()}
    before = BatchNormStatistics.of(merged)
    for by in (0.1, 0.2):
        changed = with_statistics(merged, shifted(merged, by))
        answers = changed(inputs)
        assert not any(torch.equal(answers[name], own[name]) for name in own)
        assert equal(merged(inputs), own)
        assert equal(with_statistics(changed, before)(inputs), own)
        assert equal(changed(inputs), answers)
    assert equal(dict(merged.state_dict()), state)


def test_all_other_tensors_are_shared(merged: MergedModel) -> None:
    copied = with_statistics(merged, shifted(merged, 0.1))
    own, new = dict(merged.state_dict()), dict(copied.state_dict())
    statistics = {path for path in own if path.endswith(("running_mean", "running_var"))}
    assert own.keys() == new.keys()
    assert len(statistics) == 2 * len([*batchnorms(merged)]) > 0
    for path, tensor in own.items():
        assert (tensor.data_ptr() == new[path].data_ptr()) == (path not in statistics), path


def test_batchnorms_that_are_not_named_keep_their_own(merged: MergedModel) -> None:
    path, norm = next(batchnorms(merged))
    mean = torch.ones_like(norm.get_buffer("running_mean"))
    copied = with_statistics(merged, BatchNormStatistics({path: mean}, {path: 2 * mean}))
    own, new = BatchNormStatistics.of(merged), BatchNormStatistics.of(copied)
    assert {other for other in own.means if own.means[other] is not new.means[other]} == {path}
    assert new.means[path] is mean
    assert torch.equal(new.variances[path], 2 * mean)


@torch.inference_mode()
def test_a_network_with_stored_weights_takes_statistics(
    merged: MergedModel, inputs: dict[str, Tensor]
) -> None:
    """Weights in half precision are read through modules that the copy must have, too."""
    stored = stored_copy(merged)
    changed = with_statistics(stored, shifted(merged, 0.1))
    expected = with_statistics(merged, shifted(merged, 0.1))(inputs)
    assert equal(changed(inputs), expected)


@pytest.mark.parametrize("path", ["stages.nothing", "heads"])
def test_a_path_without_a_batchnorm_is_refused(path: str, merged: MergedModel) -> None:
    ones = torch.ones(3)
    with pytest.raises(ValueError, match="no BatchNorm of 3 channels"):
        with_statistics(merged, BatchNormStatistics({path: ones}, {path: ones}))


def test_another_number_of_channels_is_refused(merged: MergedModel) -> None:
    path, _ = next(batchnorms(merged))
    ones = torch.ones(5)
    with pytest.raises(ValueError, match=f"{path}: no BatchNorm of 5 channels"):
        with_statistics(merged, BatchNormStatistics({path: ones}, {path: ones}))


def by_coding(first_steps: list[list[int]], *present: bool) -> StatisticsByCoding:
    """Return ranges with made-up statistics of the BatchNorm `x`, or with none."""
    statistics = tuple(
        BatchNormStatistics({"x.y": torch.full((2,), float(k))}, {"x.y": torch.ones(2)})
        if there
        else None
        for k, there in enumerate(present)
    )
    return StatisticsByCoding(np.array(first_steps, np.int32), statistics)


@given(st.data(), st.integers(1, 4), st.integers(1, 3))
def test_the_last_range_that_has_begun_is_taken(
    data: st.DataObject, ranges: int, zones: int
) -> None:
    columns = [
        sorted(data.draw(st.lists(st.integers(-9, 9), min_size=ranges, max_size=ranges)))
        for _ in range(zones)
    ]
    chosen = by_coding(np.array(columns).T.tolist(), *[True] * ranges)
    for bands in range(zones + 3):
        column = columns[min(max(bands, 1), zones) - 1]
        for step in range(-11, 12):
            begun = [k for k, first in enumerate(column) if first <= step]
            found = chosen.at(Coding(step, bands))
            assert found is (chosen.statistics[begun[-1]] if begun else None)


def test_statistics_survive_a_file(tmp_path: Path, merged: MergedModel) -> None:
    own, path = shifted(merged, 0.3), tmp_path / "statistics.safetensors"
    written = StatisticsByCoding(np.array([[-4, -3], [0, 1], [7, 9]], np.int32), (own, None, own))
    save_file({k: v.clone() for k, v in written.stored().items()}, path)
    read = StatisticsByCoding.from_stored(load_file(path))
    assert np.array_equal(read.first_steps, written.first_steps)
    first, none, last = read.statistics
    assert none is None
    for found in (first, last):
        assert found is not None
        assert equal(dict(found.means), dict(own.means))
        assert equal(dict(found.variances), dict(own.variances))


@pytest.mark.parametrize(
    ("first_steps", "present", "message"),
    [
        ([[0], [1]], [True], "as many ranges"),
        ([[1, 1], [2, 0]], [True, True], "not in order"),
    ],
)
def test_ranges_without_sense_are_refused(
    first_steps: list[list[int]], present: list[bool], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        by_coding(first_steps, *present)


def test_frames_get_the_network_of_their_coding(merged: MergedModel) -> None:
    coarse = shifted(merged, 0.1)
    ranges = StatisticsByCoding(np.array([[0], [4], [8]], np.int32), (coarse, None, coarse))
    network = RecalibratedNetwork(merged, ranges)
    assert [network.at(Coding(step, 1)) is merged for step in (-1, 0, 3, 4, 7, 8)] == [
        True, False, False, True, True, False,
    ]  # fmt: skip
    found = BatchNormStatistics.of(network.at(Coding(2, 1)))
    assert equal(dict(found.means), dict(coarse.means))
    assert network.at(Coding(2, 1)) is network.at(Coding(3, 1))
