"""The streaming pass: sums that add up over batches, and nothing but finite numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

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
from search.statistics.ridge import RidgeRegression
from search.statistics.rows import FOLDS, GridRows, RowCollector
from search.statistics.second_moments import SecondMoments, squares
from search.statistics.streaming import (
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


def collected(samples: dict[Ref, torch.Tensor], *pairs: Pair, first: int = 0) -> GridRows:
    """Return the rows as one block; every fourth row is held out."""
    collector = RowCollector(pairs)
    count = len(next(iter(samples.values())))
    for ref, rows in samples.items():
        collector.take(ref, rows, count - count // 4)
    collector.end_block(first, 1.0)
    return collector.finish()


def assert_near(rows: GridRows, samples: dict[Ref, torch.Tensor], rtol: float = 1e-4) -> None:
    """Assert that means and products are those of the samples, computed in float64."""
    moments = SecondMoments(rows, FOLDS)
    exact = {ref: values.double().numpy() for ref, values in samples.items()}
    centred = {ref: values - values.mean(0) for ref, values in exact.items()}
    assert moments.count == len(next(iter(exact.values())))
    for donor, x in centred.items():
        np.testing.assert_allclose(
            moments.mean(donor), exact[donor].mean(0), atol=rtol * x.std(), rtol=1e-6
        )
        assert moments.variance(donor) == pytest.approx(float(x.var(0).sum()), rel=rtol)
        for recipient, y in centred.items():
            np.testing.assert_allclose(
                moments.product(donor, recipient), x.T @ y / len(x), atol=rtol * x.std() * y.std()
            )


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_blocks_merge_in_any_order_to_the_same_rows(sizes: list[int], order: Random) -> None:
    samples = {A: random_rows(sum(sizes), 5, 1, mean=3), B: random_rows(sum(sizes), 3, 2)}
    starts = np.cumsum([0, *sizes[:-1]])
    shards = [
        collected({r: v[s : s + n] for r, v in samples.items()}, PAIR, BACK, first=int(s))
        for s, n in zip(starts, sizes, strict=True)
    ]
    in_order, shuffled = GridRows((PAIR, BACK)), GridRows((PAIR, BACK))
    for shard in shards:
        in_order.merge(shard)
    for shard in order.sample(shards, len(shards)):
        shuffled.merge(shard)
    assert in_order.blocks == shuffled.blocks
    for ref, coded in in_order.coded.items():
        for name, tensor in vars(coded).items():
            assert torch.equal(tensor, vars(shuffled.coded[ref])[name])
    if sum(sizes) > 2:
        assert_near(in_order, samples)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_no_range_of_values_is_lost(scale: float) -> None:
    samples = {A: random_rows(40, 5, 1) * scale, B: random_rows(40, 3, 2)}
    moments = SecondMoments(collected(samples, PAIR), FOLDS)
    x = samples[A].double()
    correlations = moments.product(A, B) / scale
    exact = ((x - x.mean(0)).T @ samples[B].double() / 40 / scale).numpy()
    np.testing.assert_allclose(correlations, exact, atol=1e-4)


def test_a_channel_far_above_or_below_the_others_keeps_its_precision() -> None:
    x = random_rows(64, 4, 1) * torch.tensor([1e-5, 1.0, 1e5, 0.0]) + torch.tensor([0, 0, 0, 7.0])
    moments = SecondMoments(collected({A: x, B: x}, PAIR), FOLDS)
    variances = squares(moments.deviations(A))
    np.testing.assert_allclose(variances, x.double().var(0, correction=0), rtol=1e-4)
    assert variances[3] == 0 and moments.mean(A)[3] == 7


def test_a_mean_far_above_the_deviations_loses_no_digits() -> None:
    x = random_rows(64, 40, 1) * 1e-3 + 100.0
    rows = collected({A: x, B: x}, PAIR)
    covariance = SecondMoments(rows, FOLDS).product(A, A).numpy()
    assert np.linalg.eigvalsh(covariance).min() > -1e-13
    np.testing.assert_allclose(covariance, np.cov(x.double().numpy().T, bias=True), atol=2e-10)


def test_a_row_of_weight_two_counts_as_two_rows() -> None:
    samples = {A: random_rows(12, 3, 1), B: random_rows(12, 2, 2)}
    heavy, single = (collected(samples, PAIR) for _ in range(2))
    heavy.blocks = tuple(replace(block, weight=2.0) for block in heavy.blocks)
    single.merge(collected(samples, PAIR))
    other = {ref: rows + 1 for ref, rows in samples.items()}
    for rows in (heavy, single):
        rows.merge(collected(other, PAIR, first=12))
    weighted, repeated = SecondMoments(heavy, FOLDS), SecondMoments(single, FOLDS)
    assert weighted.weight == repeated.weight == 36 and weighted.count == 24
    np.testing.assert_allclose(weighted.product(A, B), repeated.product(A, B), atol=1e-7)


@pytest.mark.parametrize("channels", [3, 300])
def test_the_side_of_rows_gives_the_solution_of_the_side_of_channels(channels: int) -> None:
    x, y = random_rows(60, channels, 1, mean=2), random_rows(60, 4, 2)
    moments = SecondMoments(collected({A: x, B: y}, PAIR), FOLDS)
    rows, target = moments.deviations(A).double(), moments.deviations(B).double()
    square = rows.T @ rows
    penalty = 0.1 * square.trace() / channels
    expected = torch.linalg.solve(square + penalty * torch.eye(channels), rows.T @ target)
    solution = RidgeRegression.of(A, moments).solver(0.1).solution(target.float())
    np.testing.assert_allclose(solution.weight, expected, atol=1e-6)
    np.testing.assert_allclose(solution.predicted, squares(rows @ expected), atol=1e-6)


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
        one, other = (SecondMoments(m.grids[grid], FOLDS) for m in (small, large))
        assert one.count == other.count
        for ref in one.rows.refs:
            square = other.product(ref, ref)
            np.testing.assert_allclose(
                one.product(ref, ref), square, atol=1e-4 * float(square.abs().max())
            )


def test_both_folds_together_hold_every_sampled_position(models: dict[str, StagedModel]) -> None:
    moments = measure(models, 16, PassSettings(batch=8, positions=10))
    for grid, rows in moments.grids.items():
        positions = 1 if grid is None else min(10, grid[0] * grid[1])
        assert SecondMoments(rows, ["held"]).count == 4 * positions
        assert SecondMoments(rows, ["fit"]).count == 12 * positions


def test_the_means_are_exact_where_all_positions_are_sampled(
    models: dict[str, StagedModel],
) -> None:
    moments = measure(models, 8, PassSettings(batch=4, positions=10_000))
    whole = whole_representations(models, RenderedScenes(STREET, 8), 4)
    for ref, grid in ((Ref("a", "blocks.3"), (4, 4)), (Ref("b", "stem"), (32, 32))):
        exact = whole[ref].reshape(8, -1, grid[0] * grid[1]).mean((0, 2))
        mean = SecondMoments(moments.grids[grid], FOLDS).mean(ref)
        np.testing.assert_allclose(mean, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())


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
    means = [SecondMoments(m.grids[32, 32], ["fit"]).mean(ref) for m in (one, same, other)]
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
