"""The streaming pass: sums that add up over batches, and nothing but finite numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import (
    CLASSES,
    CLASSIFIER,
    STREET,
    Matrix,
    Weights,
    all_finite,
    load_tiny,
)
from torch import nn

from search.data.frames import RenderedScenes
from search.statistics.hsic import gram, u_centred
from search.statistics.observed import Observed
from search.statistics.second_moments import GridColumns, PooledMoments, SecondMoments
from search.statistics.streaming import (
    FOLDS,
    BadRepresentation,
    Moments,
    PassSettings,
    accumulate_moments,
)
from spaces.errors import BadWeights
from spaces.model_facts import collect_facts
from spaces.model_spec import ModelSpec
from spaces.plan import Ref
from spaces.shares import Pair, find_pairs
from spaces.stages import StagedModel
from spaces.zoo import load_model

A, B = Ref("a", "s"), Ref("b", "s")
PAIR, BACK = Pair(A, B), Pair(B, A)


def random_rows(rows: int, width: int, seed: int, mean: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator) + mean


def moments_of(samples: dict[Ref, torch.Tensor], *pairs: Pair) -> SecondMoments:
    """Return empty moments with columns for the pairs."""
    return SecondMoments(GridColumns.of(pairs, {ref: v.shape[1] for ref, v in samples.items()}))


def assert_exact(
    moments: SecondMoments, samples: dict[Ref, torch.Tensor], *pairs: Pair, atol: float = 1e-9
) -> None:
    """Assert that means and scatter are those of the samples, computed in float64."""
    exact = {ref: rows.double().numpy() for ref, rows in samples.items()}
    centred = {ref: rows - rows.mean(0) for ref, rows in exact.items()}
    assert moments.count == len(next(iter(exact.values())))
    for ref, rows in centred.items():
        np.testing.assert_allclose(moments.mean(ref), exact[ref].mean(0), atol=atol)
        np.testing.assert_allclose(moments.squares[ref], rows.T @ rows, atol=atol)
    for pair in pairs:
        expected = centred[pair.donor].T @ centred[pair.recipient]
        np.testing.assert_allclose(moments.product(pair), expected, atol=atol)


def test_moments_of_two_batches_are_the_moments_of_both_at_once() -> None:
    samples = {A: random_rows(8, 5, 1, mean=3).double(), B: random_rows(8, 3, 2).double()}
    at_once, in_two = moments_of(samples, PAIR, BACK), moments_of(samples, PAIR, BACK)
    at_once.add(samples)
    for part in (slice(0, 3), slice(3, 8)):
        in_two.add({ref: rows[part] for ref, rows in samples.items()})
    for moments in (at_once, in_two):
        assert_exact(moments, samples, PAIR, BACK)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=5), st.integers(0, 50))
def test_merged_moments_are_the_moments_of_all_rows(sizes: list[int], seed: int) -> None:
    sizes = [*sizes, 3]
    samples = {A: random_rows(sum(sizes), 4, seed, mean=9).double(),
               B: random_rows(sum(sizes), 2, seed + 1).double()}  # fmt: skip
    total, start = moments_of(samples, PAIR, BACK), 0
    for size in sizes:
        part = moments_of(samples, PAIR, BACK)
        if size:
            part.add({ref: rows[start : start + size] for ref, rows in samples.items()})
        total.merge(part)
        start += size
    assert_exact(total, samples, PAIR, BACK)


def test_a_merge_does_not_change_the_merged_part() -> None:
    samples = {A: random_rows(8, 5, 1).double(), B: random_rows(8, 3, 2).double()}
    part, total = moments_of(samples, PAIR), moments_of(samples, PAIR)
    part.add(samples)
    for _ in range(2):
        total.merge(part)
    assert_exact(part, samples, PAIR)
    assert_exact(total, {ref: torch.cat([rows, rows]) for ref, rows in samples.items()}, PAIR)


def test_every_pair_of_several_models_has_its_own_products() -> None:
    """Each of three models has two recipients, and a donor on another grid."""
    refs = [Ref(model, stage) for model in "abc" for stage in ("r1", "r2", "d")]
    samples = {ref: random_rows(20, 2 + k, k).double() for k, ref in enumerate(refs)}
    pairs = [
        Pair(donor, recipient)
        for donor in refs
        for recipient in refs
        if donor.model != recipient.model and recipient.stage != "d"
    ]
    moments = moments_of(samples, *pairs)
    moments.add(samples)
    assert_exact(moments, samples, *pairs)
    for donor in refs:
        recipients = moments.columns.recipients_of(donor)
        assert set(recipients) == {pair.recipient for pair in pairs if pair.donor == donor}


def test_models_that_share_nothing_have_no_products() -> None:
    c = Ref("c", "s")
    samples = {
        A: random_rows(6, 4, 1).double(),
        B: random_rows(6, 2, 2).double(),
        c: random_rows(6, 3, 3).double(),
    }
    moments = moments_of(samples, PAIR, Pair(c, B))
    moments.add(samples)
    assert set(moments.products) == {("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")}
    assert moments.columns.recipients_of(c) == (B,)


def test_a_wide_scatter_matrix_is_complete_and_symmetric() -> None:
    x = random_rows(30, 700, 1)
    moments = moments_of({A: x, B: x[:, :2]}, PAIR)
    moments.add({A: x, B: x[:, :2]})
    exact = x.double() - x.double().mean(0)
    np.testing.assert_allclose(moments.squares[A], exact.T @ exact, atol=1e-4)
    np.testing.assert_array_equal(moments.squares[A], moments.squares[A].T)


@pytest.mark.parametrize("parts", [1, 4])
def test_a_mean_far_above_the_deviations_loses_no_digits(parts: int) -> None:
    x = random_rows(64, 40, 1) * 1e-3 + 100.0
    moments = moments_of({A: x, B: x}, PAIR)
    for part in x.chunk(parts):
        moments.add({A: part, B: part})
    covariance = moments.squares[A].numpy() / 64
    exact = np.cov(x.double().numpy().T, bias=True)
    assert np.linalg.eigvalsh(covariance).min() > -1e-11
    np.testing.assert_allclose(covariance, exact, atol=1e-10)


def test_folds_are_pooled_about_their_common_mean_or_another() -> None:
    samples = {A: random_rows(30, 5, 1, mean=2).double(), B: random_rows(30, 3, 2).double()}
    folds = [moments_of(samples, PAIR), moments_of(samples, PAIR)]
    for moments, part in zip(folds, (slice(0, 19), slice(19, 30)), strict=True):
        moments.add({ref: rows[part] for ref, rows in samples.items()})
    pooled = PooledMoments(folds)
    about = {A: torch.full((5,), 7.0).double(), B: torch.full((3,), -2.0).double()}
    own = {ref: rows.mean(0) for ref, rows in samples.items()}
    for means, at in ((own, None), (about, (about[A], about[B]))):
        x, y = (samples[ref] - means[ref] for ref in (A, B))
        np.testing.assert_allclose(pooled.square(A, at and at[0]), x.T @ x / 30, atol=1e-12)
        np.testing.assert_allclose(pooled.product(A, [B], at), x.T @ y / 30, atol=1e-12)
        spread = (x**2).mean(0)
        np.testing.assert_allclose(pooled.variances(A, at and at[0]), spread)
        assert pooled.variance(A, at and at[0]) == pytest.approx(float(spread.sum()))


def slow_hsic(gram: Matrix, other: Matrix) -> float:
    """Return HSIC_1 (Song et al. 2012, equation 5) term by term."""
    n = len(gram)
    k, l_ = gram - np.diag(np.diag(gram)), other - np.diag(np.diag(other))
    ones = np.ones(n)
    trace = float(np.trace(k @ l_))
    sums = float(ones @ k @ ones) * float(ones @ l_ @ ones) / ((n - 1) * (n - 2))
    mixed = 2 / (n - 2) * float(ones @ k @ l_ @ ones)
    return (trace + sums - mixed) / (n * (n - 3))


@pytest.mark.parametrize("n", [4, 5, 9, 32])
def test_u_centring_gives_the_unbiased_estimator_of_the_textbook(n: int) -> None:
    x, y = random_rows(n, 7, 1).double().numpy(), random_rows(n, 3, 2).double().numpy()
    k, l_ = x @ x.T, y @ y.T
    both = u_centred(torch.from_numpy(np.stack([k, l_])))
    fast = float((both[0] * both[1]).sum()) / (n * (n - 3))
    assert fast == pytest.approx(slow_hsic(k, l_), rel=1e-9, abs=1e-12)


def test_the_estimator_is_zero_on_average_for_independent_representations() -> None:
    values = []
    for seed in range(600):
        x, y = random_rows(6, 3, seed).double(), random_rows(6, 3, seed + 10_000).double()
        values.append(float((u_centred(x @ x.T) * u_centred(y @ y.T)).sum()) / 18)
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3 * error


def whole_representations(
    models: dict[str, StagedModel], frames: RenderedScenes, batch: int
) -> dict[Ref, Matrix]:
    """Return every representation of all frames, each (frames, values)."""
    from spaces.inputs import prepare_batch

    parts_by_ref: dict[Ref, list[torch.Tensor]] = {}
    pictures = [frames[i] for i in range(len(frames))]
    with torch.inference_mode():
        for start in range(0, len(frames), batch):
            for name, model in models.items():
                inputs = prepare_batch(pictures[start : start + batch], model.input)
                for stage, value in model.walk(inputs):
                    parts_by_ref.setdefault(Ref(name, stage), []).append(value.flatten(1).double())
    return {ref: torch.cat(parts).numpy() for ref, parts in parts_by_ref.items()}


@pytest.fixture(scope="module")
def models(weights: Weights) -> dict[str, StagedModel]:
    return load_tiny(weights, {"a": (CLASSIFIER, 1), "b": (CLASSIFIER, 2)})


def measure(models: dict[str, StagedModel], count: int, settings: PassSettings) -> Moments:
    facts = collect_facts(models)
    frames = RenderedScenes(STREET, count)
    return accumulate_moments(models, facts, find_pairs(facts).legal, frames, settings)


def test_gram_statistics_equal_the_textbook_on_whole_representations(
    models: dict[str, StagedModel],
) -> None:
    moments = measure(models, 16, PassSettings(batch=8))
    whole = whole_representations(models, RenderedScenes(STREET, 16), 8)
    for i, one in enumerate(moments.refs):
        for j, other in enumerate(moments.refs[: i + 1]):
            expected = 0.0
            for part in (slice(0, 8), slice(8, 16)):
                x, y = whole[one][part], whole[other][part]
                scale = x.shape[1] * y.shape[1]
                expected += slow_hsic(x @ x.T, y @ y.T) * 8 * 5 / scale
            own = (moments.hsic[i, i] * moments.hsic[j, j]) ** 0.5
            assert moments.hsic[i, j] / own == pytest.approx(expected / own, abs=1e-5)


def test_moments_do_not_depend_on_the_size_of_the_batches(models: dict[str, StagedModel]) -> None:
    small, large = (measure(models, 16, PassSettings(batch=batch)) for batch in (4, 8))
    assert small.frames == large.frames == 16
    for grid in small.grids:
        for fold in FOLDS:
            one, other = small.at(grid, fold), large.at(grid, fold)
            assert one.count == other.count
            for ref in one.squares:
                scale = float(other.squares[ref].abs().max())
                np.testing.assert_allclose(one.squares[ref], other.squares[ref], atol=1e-5 * scale)


def test_both_folds_together_hold_every_sampled_position(models: dict[str, StagedModel]) -> None:
    moments = measure(models, 16, PassSettings(batch=8, positions=10))
    for grid, folds in moments.grids.items():
        positions = 1 if grid is None else min(10, grid[0] * grid[1])
        assert folds["held"].count == 4 * positions
        assert folds["fit"].count == 12 * positions


def test_the_means_are_exact_where_all_positions_are_sampled(
    models: dict[str, StagedModel],
) -> None:
    moments = measure(models, 8, PassSettings(batch=4, positions=10_000))
    whole = whole_representations(models, RenderedScenes(STREET, 8), 4)
    for ref, grid in ((Ref("a", "blocks.3"), (4, 4)), (Ref("b", "stem"), (32, 32))):
        exact = whole[ref].reshape(8, -1, grid[0] * grid[1]).mean((0, 2))
        mean = PooledMoments([moments.at(grid, fold) for fold in FOLDS]).mean(ref)
        np.testing.assert_allclose(mean, exact, rtol=1e-6, atol=1e-6 * np.abs(exact).max())


def test_a_remainder_too_small_for_the_estimator_is_left_out(
    models: dict[str, StagedModel],
) -> None:
    assert measure(models, 19, PassSettings(batch=8)).frames == 16
    assert measure(models, 20, PassSettings(batch=8)).frames == 20


def test_the_seed_determines_the_positions(models: dict[str, StagedModel]) -> None:
    one, same, other = (
        measure(models, 8, PassSettings(batch=4, positions=4, seed=seed)) for seed in (1, 1, 2)
    )
    ref = Ref("a", "stem")
    means = [m.at((32, 32), "fit").mean(ref) for m in (one, same, other)]
    assert (means[0] == means[1]).all() and (means[0] != means[2]).any()
    assert (one.hsic == other.hsic).all()


def test_progress_counts_every_frame(models: dict[str, StagedModel]) -> None:
    facts, steps = collect_facts(models), list[int]()
    frames = RenderedScenes(STREET, 12)
    accumulate_moments(
        models, facts, find_pairs(facts).legal, frames, PassSettings(batch=4), steps.append
    )
    assert steps == [4, 4, 4]


@given(st.integers(4, 12), st.integers(0, 50))
def test_rows_of_a_u_centred_gram_sum_to_zero(n: int, seed: int) -> None:
    x = random_rows(n, 4, seed).double()
    centred = u_centred(x @ x.T)
    np.testing.assert_allclose(centred.sum(0), 0, atol=1e-9)
    assert (centred.diagonal() == 0).all()


def test_weights_with_nan_are_refused_when_loaded(weights: Weights, tmp_path: Path) -> None:
    state = load_file(weights(CLASSIFIER, 1))
    state["conv_head.weight"].view(-1)[0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    spec = ModelSpec("a", CLASSIFIER, str(tmp_path / "nan.safetensors"), CLASSES[CLASSIFIER],
                     (64, 64), "squash")  # fmt: skip
    with pytest.raises(BadWeights, match="NaN"):
        load_model(spec)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_the_error_names_a_stage_with_nan_or_infinite_values(
    weights: Weights, value: float
) -> None:
    models = load_tiny(weights, {"a": (CLASSIFIER, 1), "b": (CLASSIFIER, 2)})
    conv = next(part for part in models["b"].stages[3].modules() if isinstance(part, nn.Conv2d))
    with torch.no_grad():
        conv.weight[0] = value
    with pytest.raises(BadRepresentation, match=r"b:blocks\.2 gives NaN or infinite values"):
        facts = collect_facts(models)
        accumulate_moments(models, facts, find_pairs(facts).legal, RenderedScenes(STREET, 8),
                PassSettings(batch=4))  # fmt: skip


def test_a_detector_is_measured_beside_a_classifier(mixed: Observed) -> None:
    assert all_finite(mixed.statistics.moments)
    assert {ref.model for ref in mixed.statistics.moments.refs} == {"cls", "det"}


@pytest.mark.parametrize("shape", [(8, 40), (8, 3, 5, 7), (6, 16, 90, 90)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_grams_are_exact_where_the_mean_is_far_above_the_deviations(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 1000.0
    x = x.contiguous(memory_format=layout) if x.dim() == 4 else x
    flat = x.flatten(1).double()
    exact = u_centred(flat @ flat.T) / flat.shape[1]
    np.testing.assert_allclose(u_centred(gram(x)), exact, atol=1e-5)
