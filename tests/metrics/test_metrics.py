"""Every metric keeps the contract of metrics, and each has its own definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import numpy as np
import pytest
import torch
from contracts import MetricContract, SimilarityContract
from tiny import shares_in

from search.data.frames import Subset
from search.metrics.fidelity import HOPELESS
from search.metrics.fisher import fisher
from search.metrics.registry import METRICS
from search.statistics.observed import Observed
from search.statistics.streaming import PassSettings
from spaces.cost import CostModel
from spaces.inputs import prepare_batch
from spaces.merged import MergedModel
from spaces.plan import IDENTITY, LINEAR, AdapterSpec, Ref, Share, SharePlan
from spaces.shares import Pair
from spaces.stages import total_bytes, unique_tensors

COMPARISONS = ["bytes", "macs", "size"]
"""Metrics of the cost of a share: they ignore the similarity of its representations."""
SIMILARITIES = [name for name in METRICS if name not in (*COMPARISONS, "screened")]


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


def test_the_registry_has_every_metric_under_its_name() -> None:
    assert {name: metric.name for name, metric in METRICS.items()} == {n: n for n in METRICS}
    assert {*SIMILARITIES, *COMPARISONS, "screened"} == set(METRICS)


def test_lookup_metrics_are_the_values_of_the_statistics(pair: Observed) -> None:
    for share in shares_in(pair)[::7]:
        relation = Pair(share.donor, share.recipient)
        similarity_by_metric = {
            name: METRICS[name].similarities(pair, [share])[share] for name in METRICS
        }
        assert similarity_by_metric["cka"] == pair.statistics.image_cka(relation)
        assert similarity_by_metric["position_cka"] == pair.statistics.position_cka(relation)
        assert similarity_by_metric["r2"] == pair.statistics.explained(share)


@pytest.mark.parametrize("name", ["a", "det"])
def test_fidelity_is_the_agreement_of_the_merged_model_with_the_original(
    pair: Observed, mixed: Observed, name: str
) -> None:
    observed = pair if name == "a" else mixed
    models = observed.deployment.models
    into = [s for s in shares_in(observed) if s.recipient.model == name]
    shares = [s for s in into if observed.statistics.explained(s) > 0.2][:5]
    assert len(shares) >= 3
    fidelity_by_share = METRICS["fidelity"].similarities(observed, shares)
    frames = [observed.held_out[i] for i in range(len(observed.held_out))]
    inputs = {name: model.prepare_frames(frames) for name, model in models.items()}
    with torch.inference_mode():
        original = models[name](inputs[name])
        for share in shares:
            plan = SharePlan((share,))
            maps = observed.maps_for([plan])
            merged = MergedModel(models, observed.deployment.facts, plan, maps)(inputs)[name]
            if name == "a":
                equal = float((merged.argmax(1) == original.argmax(1)).float().mean())
                assert fidelity_by_share[share] == pytest.approx(equal, abs=1e-6)
            else:  # suppression hides detections, but a worse share has worse scores
                assert 0 < fidelity_by_share[share] < 1


def test_fidelity_of_a_share_that_explains_nothing_is_0(pair: Observed) -> None:
    values = METRICS["fidelity"].similarities(pair, shares_in(pair))
    hopeless = [s for s in shares_in(pair, LINEAR) if pair.statistics.explained(s) <= HOPELESS]
    assert hopeless and not any(values[share] for share in hopeless)


@pytest.mark.parametrize("name", ["calibrated", "calibrated_r2"])
def test_a_calibrated_similarity_is_the_fidelity_where_it_is_measured(
    pair: Observed, name: str
) -> None:
    """Fidelity is measured at the best donor of every recipient stage and at most two others."""
    shares = shares_in(pair, LINEAR)
    calibrated = METRICS[name].similarities(pair, shares)
    fidelity = METRICS["fidelity"].similarities(pair, shares)
    number = lookup_of(pair, name)
    for donors in by_recipient(shares).values():
        assert calibrated[max(donors, key=number)] == pytest.approx(
            fidelity[max(donors, key=number)]
        )
        assert max(calibrated[s] for s in donors) <= max(fidelity[s] for s in donors) + 1e-9


@pytest.mark.parametrize("name", ["calibrated", "calibrated_r2"])
def test_on_one_side_of_the_best_donor_calibrated_follows_its_lookup(
    pair: Observed, name: str
) -> None:
    shares = shares_in(pair, LINEAR)
    calibrated = METRICS[name].similarities(pair, shares)
    number = lookup_of(pair, name)
    layouts = {model: fact.layout for model, fact in pair.deployment.facts.items()}
    compared = 0
    for donors in by_recipient(shares).values():
        order = layouts[donors[0].donor.model].index
        peak = order(max(donors, key=number).donor.stage)
        before = [s for s in donors if order(s.donor.stage) < peak and calibrated[s] > 0]
        for one, other in pairwise(before):
            ratio = number(one) / number(other)
            assert calibrated[one] / calibrated[other] == pytest.approx(ratio, rel=1e-6)
            compared += 1
    assert compared


def lookup_of(observed: Observed, name: str) -> Callable[[Share], float]:
    """Return the function that the metric calibrates, from its definition."""

    def number(share: Share) -> float:
        explained = max(0.0, observed.statistics.explained(share))
        if name == "calibrated_r2":
            return float(explained**1.5)
        cka = observed.statistics.image_cka(Pair(share.donor, share.recipient))
        return float(explained * min(1.0, max(0.0, cka)))

    return number


def by_recipient(shares: Sequence[Share]) -> dict[Ref, list[Share]]:
    groups: dict[Ref, list[Share]] = {}
    for share in shares:
        groups.setdefault(share.recipient, []).append(share)
    return groups


def test_fisher_information_has_the_closed_form_of_a_linear_classifier(pair: Observed) -> None:
    """For the pooled features of a linear classifier it is V^T (diag p - p p^T) V in closed form.

    The estimate draws labels at random, so every frame is repeated twelve times.
    """
    model = pair.deployment.models["a"]
    frames = Subset(pair.frames, tuple(range(len(pair.frames))) * 12)
    information = fisher(model, frames)[Ref("a", model.layout.stages[-1])]
    images = [pair.frames[i] for i in range(len(pair.frames))]
    with torch.no_grad():
        probabilities = model(model.prepare_frames(images)).softmax(1).double()
    weight = next(p for p in model.head.parameters() if p.dim() == 2).double()
    expected = sum(weight.T @ (p.diag() - torch.outer(p, p)) @ weight for p in probabilities)
    expected = (expected / len(images)).numpy()
    assert np.linalg.norm(information - expected) < 0.1 * np.linalg.norm(expected)


def test_r2_is_the_residual_weighted_by_the_identity(pair: Observed) -> None:
    for share in shares_in(pair, IDENTITY, LINEAR, AdapterSpec("linear", 2))[::11]:
        residual = pair.statistics.residual(share)
        plain = 1 - np.trace(residual.error) / np.trace(residual.spread)
        assert plain == pytest.approx(pair.statistics.explained(share), abs=1e-6)


def test_no_rotation_brings_the_donor_nearer_than_procrustes(pair: Observed) -> None:
    """The sum of singular values is the largest tr(S_xy Q) over all rotations Q."""
    generator = np.random.default_rng(3)
    rotations = 0
    for share in shares_in(pair, IDENTITY)[::3]:
        cov = pair.statistics.covariances(Pair(share.donor, share.recipient))
        scale = np.sqrt(cov.donor_variance * cov.recipient_variance)
        similarity = METRICS["procrustes"].similarities(pair, [share])[share]
        u, _, vh = np.linalg.svd(cov.xy)
        best = vh.T @ u.T
        assert np.trace(cov.xy @ best) / scale == pytest.approx(similarity, abs=1e-9)
        for _ in range(5):
            rotation, _ = np.linalg.qr(generator.normal(size=cov.xy.shape))
            assert np.trace(cov.xy @ rotation) / scale <= similarity + 1e-9
            rotations += 1
    assert rotations >= 20


def test_cosine_is_that_of_the_tensors_and_0_where_channels_differ(pair: Observed) -> None:
    """Where every position of the grid is in the sample, it is the cosine of the whole tensors."""
    models, facts = pair.deployment.models, pair.deployment.facts
    fitted = [i for i in range(len(pair.frames)) if i not in pair.held_out.indices]
    frames = [pair.frames[i] for i in fitted][:24]  # whole batches, as in the pass
    representations = {
        Ref(name, stage): value.double()
        for name, model in models.items()
        for stage, value in model.walk(prepare_batch(frames, model.input))
    }
    compared = 0
    for share in shares_in(pair, IDENTITY):
        x, y = representations[share.donor], representations[share.recipient]
        similarity = METRICS["cosine"].similarities(pair, [share])[share]
        if x.shape == y.shape and x[0, 0].numel() <= PassSettings().positions:
            assert similarity == pytest.approx(
                float((x * y).sum() / x.norm() / y.norm()), abs=1e-5
            )
            compared += 1
    assert compared
    for share in shares_in(pair):
        channels = {facts[r.model].stage(r.stage).channels for r in (share.donor, share.recipient)}
        if len(channels) == 2:
            assert METRICS["cosine"].similarities(pair, [share]) == {share: 0.0}


def test_cost_metrics_are_the_savings_of_the_merged_model(mixed: Observed) -> None:
    models, facts = mixed.deployment.models, mixed.deployment.facts
    whole = {name: total_bytes(unique_tensors(model)) for name, model in models.items()}
    shares = shares_in(mixed)[::9]
    similarity_by_share = METRICS["bytes"].similarities(mixed, shares)
    for share in shares:
        plan = SharePlan((share,))
        merged_bytes = total_bytes(
            unique_tensors(MergedModel(models, facts, plan, mixed.maps_for([plan])))
        )
        saved = sum(whole.values()) - merged_bytes
        own = whole[share.recipient.model]
        assert similarity_by_share[share] == pytest.approx(1 - max(0, saved) / own)
    costs = CostModel(facts)
    for share, similarity in METRICS["macs"].similarities(mixed, shares).items():
        fact = facts[share.recipient.model]
        own = sum(stage.macs for stage in fact.stages) + fact.head_macs
        saved = costs.unmerged_macs - costs.macs(SharePlan((share,)))
        assert similarity == pytest.approx(1 - max(0, saved) / own)
    for share, size in METRICS["size"].similarities(mixed, shares).items():
        stages = {stage.name: prod(stage.shape) for stage in facts[share.recipient.model].stages}
        assert size == stages[share.recipient.stage] / max(stages.values())
