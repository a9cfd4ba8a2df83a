"""Every metric keeps the contract; beside it, what is each one's own."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from contracts import MetricContract, SimilarityContract
from tiny import shares_in

from search.metrics import METRICS
from search.moments import PassSettings
from search.observed import Observed
from search.pair_fidelity import PairFidelity
from spaces.cost import CostModel
from spaces.inputs import prepare_batch
from spaces.merged import MergedModel
from spaces.plan import IDENTITY, LINEAR, Ref, SharePlan
from spaces.shares import Pair
from spaces.stages import bytes_of, tensors_of

pytest_plugins = ["tiny_fixtures"]


COMPARISONS = ["bytes", "macs", "size"]
"""The seed paper's other guides: they look at what is shared, not at how like it is."""
SIMILARITIES = [name for name in METRICS if name not in COMPARISONS]


@pytest.mark.parametrize("name", SIMILARITIES, scope="class")
class TestEverySimilarity(SimilarityContract):
    @pytest.fixture(autouse=True)
    def _pick(self, name: str) -> None:
        self.metric = METRICS[name]


@pytest.mark.parametrize("name", COMPARISONS, scope="class")
class TestEveryComparison(MetricContract):
    @pytest.fixture(autouse=True)
    def _pick(self, name: str) -> None:
        self.metric = METRICS[name]


def test_metrics_are_known_by_their_names() -> None:
    assert {name: metric.name for name, metric in METRICS.items()} == {n: n for n in METRICS}
    assert set(SIMILARITIES) | set(COMPARISONS) == set(METRICS)


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


def test_no_rotation_takes_the_donor_nearer_than_procrustes_says(pair: Observed) -> None:
    """The sum of singular values is the largest tr(S_xy Q) over all rotations Q."""
    generator = np.random.default_rng(3)
    tried = 0
    for share in shares_in(pair, IDENTITY)[::3]:
        cov = pair.statistics.covariances(Pair(share.donor, share.recipient))
        scale = np.sqrt(np.trace(cov.xx) * np.trace(cov.yy))
        found = METRICS["procrustes"].similarities(pair, [share])[share]
        left, _, right = np.linalg.svd(cov.xy)
        best = right.T @ left.T
        assert np.trace(cov.xy @ best) / scale == pytest.approx(found, abs=1e-9)
        for _ in range(5):
            rotation, _ = np.linalg.qr(generator.normal(size=cov.xy.shape))
            assert np.trace(cov.xy @ rotation) / scale <= found + 1e-9
            tried += 1
    assert tried >= 20


def test_cosine_is_that_of_the_tensors_and_0_where_channels_differ(pair: Observed) -> None:
    """Where every position of the grid is in the sample, it is the cosine of the whole tensors."""
    models, facts = pair.deployment.models, pair.deployment.facts
    seen = [i for i in range(len(pair.frames)) if i not in pair.unseen.indices]
    pictures = [pair.frames[i] for i in seen][:24]  # whole batches, as the pass takes them
    representations = {
        Ref(name, stage): value.double()
        for name, model in models.items()
        for stage, value in model.walk(prepare_batch(pictures, model.input))
    }
    small = 0
    for share in shares_in(pair, IDENTITY):
        x, y = representations[share.donor], representations[share.recipient]
        found = METRICS["cosine"].similarities(pair, [share])[share]
        if x.shape == y.shape and x[0, 0].numel() <= PassSettings().positions:
            assert found == pytest.approx(float((x * y).sum() / x.norm() / y.norm()), abs=1e-5)
            small += 1
    assert small
    for share in shares_in(pair):
        channels = {facts[r.model].stage(r.stage).channels for r in (share.donor, share.recipient)}
        if len(channels) == 2:
            assert METRICS["cosine"].similarities(pair, [share]) == {share: 0.0}


def test_comparisons_are_what_the_merged_model_no_longer_holds(mixed: Observed) -> None:
    models, facts = mixed.deployment.models, mixed.deployment.facts
    whole = {name: bytes_of(tensors_of(model)) for name, model in models.items()}
    shares = shares_in(mixed)[::9]
    found = METRICS["bytes"].similarities(mixed, shares)
    for share in shares:
        plan = SharePlan((share,))
        held = bytes_of(tensors_of(MergedModel(models, facts, plan, mixed.maps_for([plan]))))
        saved = sum(whole.values()) - held
        own = whole[share.recipient.model]
        assert found[share] == pytest.approx(1 - max(0, saved) / own)
    costs = CostModel(facts)
    for share, kept in METRICS["macs"].similarities(mixed, shares).items():
        fact = facts[share.recipient.model]
        own = sum(stage.macs for stage in fact.stages) + fact.head_macs
        saved = costs.unmerged_macs - costs.macs(SharePlan((share,)))
        assert kept == pytest.approx(1 - max(0, saved) / own)
    for share, size in METRICS["size"].similarities(mixed, shares).items():
        stages = {stage.name: prod(stage.shape) for stage in facts[share.recipient.model].stages}
        assert size == stages[share.recipient.stage] / max(stages.values())
