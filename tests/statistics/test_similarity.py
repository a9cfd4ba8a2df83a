"""Similarities obey theorems on samples of known relation, and equal slow references."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from tiny import CLASSIFIER, STREET, Matrix, Weights, load_tiny, shares_in

from search.data.frames import Subset
from search.statistics.hsic import u_centred
from search.statistics.observed import Observed
from search.statistics.rows import RowCollector
from search.statistics.similarity import RIDGE_STRENGTHS, DegenerateRepresentation, Statistics
from search.statistics.streaming import (
    HELD_OUT_EVERY,
    Moments,
    PassSettings,
    accumulate_moments,
)
from spaces.activations import Footprint
from spaces.inputs import FieldOfView
from spaces.model_facts import ModelFacts, collect_facts
from spaces.plan import IDENTITY, LINEAR, AdapterSpec, Ref, Share
from spaces.shares import Pair, find_pairs
from spaces.stages import Layout, StageFacts

X, Y = Ref("x", "s"), Ref("y", "s")
PAIR, BACK = Pair(X, Y), Pair(Y, X)
POSITIONS = 6
NONE = Footprint(0, 0)
CODED = 2e-5
"""How far 16 bits a value may take a similarity from float64."""


def seeded(seed: int, *shape: int) -> Matrix:
    return np.random.default_rng(seed).normal(size=shape)


def facts_of(channels: Mapping[str, int]) -> dict[str, ModelFacts]:
    grid = (2, 3)
    return {
        name: ModelFacts(
            Layout(name, ("s",), ("s",)), "classification", FieldOfView("squash", 1.0, 1.0),
            (StageFacts("s", (width, *grid), 4, 4, True, NONE),), {"s": {}}, 0, {"s": {}}, 0, NONE,
        )
        for name, width in channels.items()
    }  # fmt: skip


def statistics(x: Matrix, y: Matrix, batch: int = 8) -> Statistics:
    """Return the statistics of two representations, each (frames, positions, channels)."""
    collector = RowCollector([PAIR, BACK])
    is_held_out = np.arange(len(x)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    for ref, v in ((X, x), (Y, y)):
        fit, held = (v[rows].reshape(-1, v.shape[2]) for rows in (~is_held_out, is_held_out))
        collector.take(ref, torch.from_numpy(np.concatenate([fit, held])), len(fit))
    collector.end_block(0, 1.0)
    moments = Moments((X, Y), len(x), np.zeros((2, 2)), {(2, 3): collector.finish()})
    for start in range(0, len(x), batch):
        flat = [v[start : start + batch].reshape(min(batch, len(x) - start), -1) for v in (x, y)]
        grams = u_centred(torch.from_numpy(np.stack([f @ f.T for f in flat]))).flatten(1)
        moments.hsic += (grams @ grams.T).numpy()
    return Statistics(moments, facts_of({"x": x.shape[2], "y": y.shape[2]}))


def orthogonal(seed: int, size: int) -> Matrix:
    return np.linalg.qr(seeded(seed, size, size))[0]


FRAMES, DONOR, RECIPIENT = 64, 5, 4


@pytest.fixture(scope="module")
def noise() -> tuple[Matrix, Matrix]:
    return seeded(1, 400, POSITIONS, DONOR), seeded(2, 400, POSITIONS, RECIPIENT)


@pytest.fixture(scope="module")
def related() -> tuple[Matrix, Matrix]:
    """Samples (x, y): y is a linear map of x plus independent noise."""
    x = seeded(1, FRAMES, POSITIONS, DONOR)
    return x, x @ seeded(3, DONOR, RECIPIENT) + 0.5 * seeded(2, FRAMES, POSITIONS, RECIPIENT) + 3


def both(stats: Statistics) -> tuple[float, float]:
    return stats.image_cka(PAIR), stats.position_cka(PAIR)


def test_a_representation_has_similarity_1_to_itself(related: tuple[Matrix, Matrix]) -> None:
    _, y = related
    assert both(statistics(y, y)) == pytest.approx((1, 1), abs=1e-12)


def test_cka_is_symmetric(related: tuple[Matrix, Matrix]) -> None:
    stats = statistics(*related)
    assert stats.image_cka(PAIR) == pytest.approx(stats.image_cka(BACK), abs=1e-12)
    assert stats.position_cka(PAIR) == pytest.approx(stats.position_cka(BACK), abs=1e-12)


def test_rotation_scale_and_shift_do_not_change_cka(related: tuple[Matrix, Matrix]) -> None:
    x, y = related
    moved = 7.5 * (x @ orthogonal(4, DONOR)) + seeded(5, DONOR)
    assert both(statistics(moved, y)) == pytest.approx(both(statistics(x, y)), abs=CODED)
    assert both(statistics(y, moved)) == pytest.approx(both(statistics(y, x)), abs=CODED)


def test_another_invertible_map_changes_cka(related: tuple[Matrix, Matrix]) -> None:
    x, y = related
    stretched = x * np.array([30, 1, 1, 1, 0.1])
    for one, other in zip(both(statistics(stretched, y)), both(statistics(x, y)), strict=True):
        assert abs(one - other) > 0.02


def test_independent_noise_is_not_similar(noise: tuple[Matrix, Matrix]) -> None:
    image, position = both(statistics(*noise))
    assert abs(image) < 0.1
    assert position < 0.05
    assert statistics(*noise).ridge(PAIR).explained < 0.05


def test_the_unbiased_estimator_stays_near_zero_where_the_biased_one_does_not() -> None:
    x, y = seeded(1, 400, POSITIONS, 60), seeded(2, 400, POSITIONS, 60)
    flat = [v.reshape(50, 8, -1) - v.reshape(50, 8, -1).mean(1, keepdims=True) for v in (x, y)]
    k, l_ = (f @ f.transpose(0, 2, 1) for f in flat)
    biased = (k * l_).sum() / np.sqrt((k * k).sum() * (l_ * l_).sum())
    assert biased > 0.8
    assert abs(statistics(x, y).image_cka(PAIR)) < 0.1


def textbook_hsic(k: Matrix, l_: Matrix) -> float:
    """Return HSIC_1 (Song et al. 2012, equation 5)."""
    n = len(k)
    k, l_ = k - np.diag(np.diag(k)), l_ - np.diag(np.diag(l_))
    first_terms = np.trace(k @ l_) + k.sum() * l_.sum() / ((n - 1) * (n - 2))
    return float(first_terms - 2 / (n - 2) * (k @ l_).sum()) / (n * (n - 3))


def textbook_cka(x: Matrix, y: Matrix, batch: int) -> float:
    """Return the minibatch CKA (Nguyen et al. 2021, equation 3): the quotient of summed HSICs."""
    parts = [slice(start, start + batch) for start in range(0, len(x), batch)]
    grams = [
        [v[part].reshape(batch, -1) @ v[part].reshape(batch, -1).T for v in (x, y)]
        for part in parts
    ]
    cross = sum(textbook_hsic(k, l_) for k, l_ in grams)
    return float(
        cross
        / np.sqrt(sum(textbook_hsic(k, k) for k, _ in grams))
        / np.sqrt(sum(textbook_hsic(l_, l_) for _, l_ in grams))
    )


@pytest.mark.parametrize("batch", [4, 8, 32])
def test_image_cka_equals_the_textbook(related: tuple[Matrix, Matrix], batch: int) -> None:
    cka = statistics(*related, batch=batch).image_cka(PAIR)
    assert cka == pytest.approx(textbook_cka(*related, batch), abs=1e-9)


def representation_of(observed: Observed, ref: Ref) -> Matrix:
    """Return a representation of all frames of the statistics, in float64."""
    from spaces.inputs import prepare_batch

    model = observed.deployment.models[ref.model]
    indices = sorted(set(range(len(observed.frames))) - set(observed.held_out.indices))
    frames = Subset(observed.frames, tuple(indices))
    with torch.inference_mode():
        inputs = prepare_batch([frames[i] for i in range(len(frames))], model.input)
        return dict(model.walk(inputs))[ref.stage].double().numpy()


@pytest.mark.parametrize("stage", ["stem", "blocks.2", "conv_head", "pool"])
def test_image_cka_of_real_networks_equals_the_textbook(pair: Observed, stage: str) -> None:
    one, other = Ref("a", stage), Ref("b", "blocks.4")
    expected = textbook_cka(representation_of(pair, one), representation_of(pair, other), 8)
    assert pair.statistics.image_cka(Pair(one, other)) == pytest.approx(expected, abs=1e-5)


def rows_of(values: Matrix) -> Matrix:
    return values.reshape(-1, values.shape[2])


def test_position_cka_equals_its_slow_reference(related: tuple[Matrix, Matrix]) -> None:
    x, y = (rows_of(v) - rows_of(v).mean(0) for v in related)
    k, l_ = x @ x.T, y @ y.T  # Kornblith et al. 2019: HSIC of the Grams, here of all positions
    expected = (k * l_).sum() / np.sqrt((k * k).sum() * (l_ * l_).sum())
    assert statistics(*related).position_cka(PAIR) == pytest.approx(float(expected), abs=CODED)


def slow_ridge(x: Matrix, y: Matrix, strength: float) -> tuple[Matrix, Matrix]:
    """Return weight and bias of least squares on the samples, with the ridge as extra rows."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    penalty = np.sqrt(strength * (x - mean_x).var(0).mean() * len(x))
    padded_x = np.concatenate([x - mean_x, penalty * np.eye(x.shape[1])])
    padded_y = np.concatenate([y - mean_y, np.zeros((x.shape[1], y.shape[1]))])
    weight = np.linalg.lstsq(padded_x, padded_y, rcond=None)[0]
    return weight, mean_y - mean_x @ weight


def folds_of(values: Matrix) -> tuple[Matrix, Matrix]:
    is_held_out = np.arange(len(values)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return rows_of(values[~is_held_out]), rows_of(values[is_held_out])


def slow_explained(y: Matrix, predicted: Matrix) -> float:
    return float(1 - ((y - predicted) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())


few_or_many_rows = pytest.mark.parametrize(("frames", "donor"), [(FRAMES, DONOR), (12, 90)])
"""More rows than the donor has channels, and fewer."""


def relation(frames: int, donor: int, recipient: int = RECIPIENT) -> tuple[Matrix, Matrix]:
    """Return samples (x, y) where y is a linear map of x plus independent noise."""
    x = seeded(1, frames, POSITIONS, donor)
    own = seeded(2, frames, POSITIONS, recipient)
    return x, x @ seeded(3, donor, recipient) / donor**0.5 + 0.2 * own + 3


@few_or_many_rows
def test_held_out_ridge_equals_its_slow_reference(frames: int, donor: int) -> None:
    related = relation(frames, donor)
    (fit_x, held_x), (fit_y, held_y) = (folds_of(v) for v in related)
    scores = {}
    for strength in RIDGE_STRENGTHS:
        weight, bias = slow_ridge(fit_x, fit_y, strength)
        scores[strength] = slow_explained(held_y, held_x @ weight + bias)
    ridge = statistics(*related).ridge(PAIR)
    best = max(scores, key=lambda s: scores[s])
    assert ridge.explained == pytest.approx(scores[best], abs=CODED)
    assert ridge.strength == best


def test_shrinkage_is_chosen_where_samples_are_few() -> None:
    x, own = seeded(1, 12, POSITIONS, 40), seeded(2, 12, POSITIONS, 3)
    few = x, x @ seeded(3, 40, 3) * 0.1 + own
    assert statistics(*few).ridge(PAIR).strength > RIDGE_STRENGTHS[0]


def test_no_r2_exceeds_one_and_a_linear_relation_reaches_it(
    related: tuple[Matrix, Matrix], noise: tuple[Matrix, Matrix]
) -> None:
    x, y = related
    exact = x @ seeded(3, DONOR, RECIPIENT) + seeded(4, RECIPIENT)
    assert 0.999 < statistics(x, exact).ridge(PAIR).explained <= 1
    for stats in (statistics(x, y), statistics(*noise)):
        for one in (PAIR, BACK):
            assert stats.ridge(one).explained < 1


def test_an_invertible_map_of_the_donor_does_not_change_r2(related: tuple[Matrix, Matrix]) -> None:
    x, y = related
    invertible = seeded(6, DONOR, DONOR) + 3 * np.eye(DONOR)
    moved = x @ invertible + seeded(7, DONOR)
    one, other = (statistics(v, y).ridge(PAIR).explained for v in (x, moved))
    assert one == pytest.approx(other, abs=1e-3)
    rotated = x @ orthogonal(4, DONOR)  # a rotation does not change the ridge either
    assert statistics(rotated, y).ridge(PAIR).explained == pytest.approx(one, abs=CODED)


def test_the_map_recovers_the_weight_and_bias_that_made_the_data() -> None:
    x = seeded(1, FRAMES, POSITIONS, DONOR) + 2
    weight, bias = seeded(3, RECIPIENT, DONOR), seeded(4, RECIPIENT)
    linear_map = statistics(x, x @ weight.T + bias).linear_map(share(LINEAR))
    assert (
        linear_map.weight.shape == (RECIPIENT, DONOR) and linear_map.weight.dtype == torch.float32
    )
    np.testing.assert_allclose(linear_map.weight.numpy(), weight, atol=2e-3)
    np.testing.assert_allclose(linear_map.bias.numpy(), bias, atol=5e-3)


@few_or_many_rows
def test_the_map_is_the_ridge_of_both_folds_stretched_to_the_recipients_variance(
    frames: int, donor: int
) -> None:
    related = relation(frames, donor)
    stats = statistics(*related)
    x, y = (rows_of(v) for v in related)
    weight, _ = slow_ridge(x, y, stats.ridge(PAIR).strength)
    stretch = y.std(0) / (x @ weight).std(0)
    assert (stretch > 1.0001).all()  # a regression predicts less variance than there is
    linear_map = stats.linear_map(share(LINEAR))
    np.testing.assert_allclose(linear_map.weight.numpy().T, weight * stretch, atol=1e-4)
    bias = y.mean(0) - x.mean(0) @ (weight * stretch)
    np.testing.assert_allclose(linear_map.bias.numpy(), bias, atol=1e-4)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_the_output_of_the_map_has_the_mean_and_variance_of_each_recipient_channel(
    related: tuple[Matrix, Matrix], noise: tuple[Matrix, Matrix], rank: int
) -> None:
    for x, y in (related, noise):
        linear_map = statistics(x, y).linear_map(share(AdapterSpec("linear", rank)))
        if rank:
            assert torch.linalg.matrix_rank(linear_map.weight, rtol=1e-5) == rank
        output = (
            rows_of(x) @ linear_map.weight.double().numpy().T + linear_map.bias.double().numpy()
        )
        np.testing.assert_allclose(output.mean(0), rows_of(y).mean(0), atol=1e-4)
        np.testing.assert_allclose(output.std(0), rows_of(y).std(0), rtol=1e-4)


def test_a_constant_channel_is_mapped_to_its_mean() -> None:
    x, y = seeded(1, FRAMES, POSITIONS, DONOR), seeded(2, FRAMES, POSITIONS, RECIPIENT)
    y[..., 0] = 3.0
    linear_map = statistics(x, y).linear_map(share(LINEAR))
    assert torch.isfinite(linear_map.weight).all() and torch.isfinite(linear_map.bias).all()
    assert float(linear_map.weight[0].abs().max()) < 1e-6
    assert float(linear_map.bias[0]) == pytest.approx(3.0, abs=1e-5)


def share(adapter: AdapterSpec) -> Share:
    return Share(Y, X, adapter)


def test_identity_explains_the_variance_without_the_plain_difference() -> None:
    x = seeded(1, FRAMES, POSITIONS, DONOR) + 1
    y = x + 0.3 * seeded(2, FRAMES, POSITIONS, DONOR) + 0.2
    held_x, held_y = folds_of(x)[1], folds_of(y)[1]
    explained = statistics(x, y).explained(share(IDENTITY))
    assert explained == pytest.approx(slow_explained(held_y, held_x), abs=CODED)
    assert statistics(y, y).explained(share(IDENTITY)) == pytest.approx(1, abs=1e-9)


def test_identity_does_worse_than_the_mean_for_unrelated_representations() -> None:
    x, y = seeded(1, FRAMES, POSITIONS, 4), seeded(2, FRAMES, POSITIONS, 4)
    assert statistics(x, y).explained(share(IDENTITY)) < -0.5


@pytest.mark.parametrize(
    ("frames", "donor", "recipient"),
    [(FRAMES, DONOR, RECIPIENT), (12, 90, RECIPIENT), (12, 90, 100), (12, DONOR, 100)],
)
def test_a_low_rank_map_explains_as_much_as_its_product(
    frames: int, donor: int, recipient: int
) -> None:
    """Also with fewer rows than either has channels."""
    related = relation(frames, donor, recipient)
    stats = statistics(*related)
    held_x, held_y = (folds_of(v)[1] for v in related)
    fit_x, fit_y = (folds_of(v)[0] for v in related)
    ridge, _ = slow_ridge(fit_x, fit_y, stats.ridge(PAIR).strength)
    right = np.linalg.svd((fit_x - fit_x.mean(0)) @ ridge)[2][:2]
    weight = ridge @ right.T @ right
    predicted = (held_x - fit_x.mean(0)) @ weight + fit_y.mean(0)
    explained = stats.explained(share(AdapterSpec("linear", 2)))
    assert explained == pytest.approx(slow_explained(held_y, predicted), abs=CODED)


def test_a_higher_rank_explains_more_up_to_the_full_map(
    related: tuple[Matrix, Matrix],
) -> None:
    stats = statistics(*related)
    by_rank = [stats.explained(share(AdapterSpec("linear", rank))) for rank in (1, 2, 3)]
    full = stats.explained(share(LINEAR))
    assert by_rank[0] < by_rank[1] < by_rank[2] < full + 1e-3


def test_a_constant_stage_is_refused_by_name() -> None:
    x = seeded(1, FRAMES, POSITIONS, DONOR)
    with pytest.raises(DegenerateRepresentation, match="y:s does not vary over the frames"):
        statistics(x, np.ones((FRAMES, POSITIONS, RECIPIENT)))


def test_frames_that_are_all_the_same_are_refused(weights: Weights) -> None:
    from search.data.frames import RenderedScenes

    models = load_tiny(weights, {"a": (CLASSIFIER, 1), "b": (CLASSIFIER, 2)})
    facts = collect_facts(models)
    same = Subset(RenderedScenes(STREET, 1), (0,) * 16)
    with pytest.raises(DegenerateRepresentation, match="are they all the same image"):
        Statistics(
            accumulate_moments(
                models, facts, find_pairs(facts).legal, same, PassSettings(batch=8)
            ),
            facts,
        )


def test_every_number_of_real_networks_is_finite(pair: Observed, mixed: Observed) -> None:
    for observed in (pair, mixed):
        stats = observed.statistics
        for one in shares_in(observed, IDENTITY, LINEAR, AdapterSpec("linear", 2)):
            relation = Pair(one.donor, one.recipient)
            values = [stats.explained(one), stats.image_cka(relation),
                      stats.position_cka(relation)]  # fmt: skip
            assert np.isfinite(values).all() and max(values) <= 1 + 1e-9


def test_copies_of_a_network_explain_each_other_wholly(copies: Observed) -> None:
    for one in shares_in(copies, IDENTITY):
        if one.donor.stage == one.recipient.stage:
            assert copies.statistics.explained(one) == pytest.approx(1, abs=1e-6)
            relation = Pair(one.donor, one.recipient)
            assert copies.statistics.image_cka(relation) == pytest.approx(1, abs=1e-6)
            assert copies.statistics.position_cka(relation) == pytest.approx(1, abs=1e-6)


def test_many_maps_at_once_are_the_maps_one_by_one(mixed: Observed) -> None:
    shares = shares_in(mixed, LINEAR, AdapterSpec("linear", 2))[::5]
    moments, facts = mixed.statistics.moments, mixed.statistics.facts
    together = Statistics(moments, facts).linear_maps(shares)
    assert tuple(together) == shares
    alone = Statistics(moments, facts)
    for one_share in shares[::3]:
        one, other = alone.linear_map(one_share), together[one_share]
        scale = float(one.weight.abs().max())
        np.testing.assert_allclose(one.weight, other.weight, atol=1e-5 * scale, rtol=1e-5)
        np.testing.assert_allclose(one.bias, other.bias, atol=1e-4, rtol=1e-4)


def test_no_maps_are_asked_for_and_none_are_given(pair: Observed) -> None:
    assert pair.statistics.linear_maps([]) == {}
