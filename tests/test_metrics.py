"""Every metric keeps the contract; beside it, what is each one's own."""

from __future__ import annotations

import pytest
import torch
from contracts import MetricContract
from tiny import shares_in

from search.metrics import METRICS, PairFidelity
from search.observed import Observed
from spaces.inputs import prepare_batch
from spaces.merged import MergedModel
from spaces.plan import LINEAR, SharePlan
from spaces.shares import Pair

pytest_plugins = ["tiny_fixtures"]


@pytest.mark.parametrize("name", METRICS, scope="class")
class TestEveryMetric(MetricContract):
    @pytest.fixture(autouse=True)
    def _pick(self, name: str) -> None:
        self.metric = METRICS[name]


def test_metrics_are_known_by_their_names() -> None:
    assert {name: metric.name for name, metric in METRICS.items()} == {n: n for n in METRICS}
    assert list(METRICS) == ["fidelity", "r2", "position_cka", "cka"]


def test_lookups_are_what_the_statistics_say(pair: Observed) -> None:
    for share in shares_in(pair)[::7]:
        relation = Pair(share.donor, share.recipient)
        said = {name: METRICS[name].similarities(pair, [share])[share] for name in METRICS}
        assert said["cka"] == pair.statistics.image_cka(relation)
        assert said["position_cka"] == pair.statistics.position_cka(relation)
        assert said["r2"] == pair.statistics.explained(share)


def test_fidelity_is_the_agreement_of_the_merged_model_with_the_original(pair: Observed) -> None:
    models = pair.deployment.models
    shares = [s for s in shares_in(pair) if pair.statistics.explained(s) > 0.3][::6]
    assert len(shares) >= 3
    found = METRICS["fidelity"].similarities(pair, shares)
    pictures = [pair.unseen[i] for i in range(len(pair.unseen))]
    inputs = {name: prepare_batch(pictures, model.input) for name, model in models.items()}
    for share in shares:
        plan = SharePlan((share,))
        merged = MergedModel(models, pair.deployment.facts, plan, pair.maps_for([plan]))
        name = share.recipient.model
        with torch.inference_mode():
            one, other = merged(inputs)[name].softmax(1), models[name](inputs[name]).softmax(1)
        overlap = torch.minimum(one, other).sum(1) / torch.maximum(one, other).sum(1)
        assert found[share] == pytest.approx(float(overlap.mean()), abs=1e-4)


def test_fidelity_runs_only_what_explains_something(pair: Observed) -> None:
    values = METRICS["fidelity"].similarities(pair, shares_in(pair))
    for share in shares_in(pair, LINEAR):
        hopeless = pair.statistics.explained(share) <= PairFidelity.HOPELESS
        assert (values[share] == 0) == hopeless
    assert 0 in values.values()
