"""Intervals over frames agree with closed forms and hold their stated confidence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny import STREET

from search.data.frames import RenderedScenes
from search.data.ground_truth import ClassTruth, Truth
from search.evaluation.bootstrap import (
    BOOTSTRAP_DRAWS,
    CONFIDENCE_LEVEL,
    bootstrap_draws,
    percentile_interval,
)
from search.evaluation.confidence import Resampling
from search.evaluation.per_frame import FrameScores
from search.evaluation.tasks.classification import ClassFrameScores
from search.results.search_result import significance

FRAMES = 60
Hits = NDArray[np.bool_]


def truth(frames: int = FRAMES) -> ClassTruth:
    return ClassTruth.single(RenderedScenes(STREET, frames), [0] * frames)


def frame_scores(first: Hits) -> ClassFrameScores:
    return ClassFrameScores(first, np.ones_like(first))


def right(count: int, frames: int = FRAMES) -> Hits:
    """Hits of a classifier that is right on the first `count` frames."""
    return np.arange(frames) < count


def binomial_quantile(count: int, chance: float, share: float) -> int:
    """Return the least k with P(binomial <= k) >= share."""
    total = 0.0
    for k in range(count + 1):
        total += comb(count, k) * chance**k * (1 - chance) ** (count - k)
        if total >= share:
            return k
    return count


def test_a_draw_holds_as_many_points_as_the_sample() -> None:
    counts = np.concatenate(list(bootstrap_draws(FRAMES, 1)))
    assert counts.shape == (BOOTSTRAP_DRAWS, FRAMES)
    assert (counts.sum(1) == FRAMES).all() and (counts >= 0).all()
    # how often a point is drawn is binomial: its mean is 1, its variance 1 - 1 / points
    assert counts.mean() == 1 and counts.var() == pytest.approx(1 - 1 / FRAMES, rel=0.02)
    assert (counts.mean(0) < 1.2).all() and (
        counts.mean(0) > 0.8
    ).all()  # and all points are equally likely


def test_draws_depend_on_the_seed() -> None:
    one, same, other = (
        np.concatenate(list(bootstrap_draws(FRAMES, [seed]))) for seed in (1, 1, 2)
    )
    assert (one == same).all() and (one != other).any()


def test_an_interval_is_the_percentiles_of_the_finite_draws_and_holds_the_value() -> None:
    values = np.arange(1001) / 1000
    assert percentile_interval(0.5, values) == pytest.approx((0.025, 0.975))
    assert percentile_interval(0.5, np.append(values, [np.nan] * 50)) == pytest.approx(
        (0.025, 0.975)
    )
    assert percentile_interval(0.99, values) == pytest.approx((0.025, 0.99))
    assert percentile_interval(0.0, values) == pytest.approx((0.0, 0.975))
    assert percentile_interval(0.3, np.full(9, np.nan)) == (0.3, 0.3)


@pytest.mark.parametrize("count", [6, 30, 51])
def test_the_interval_of_an_accuracy_is_that_of_the_binomial_distribution(count: int) -> None:
    resampling = Resampling({"a": truth()})
    low, high = resampling.intervals({"a": frame_scores(right(count))})["a"]["top1"]
    tail = (1 - CONFIDENCE_LEVEL) / 2
    for end, share in ((low, tail), (high, 1 - tail)):
        expected = binomial_quantile(FRAMES, count / FRAMES, share)
        assert abs(end * FRAMES - expected) <= 1  # 1000 draws are exact to about half a frame


def test_a_model_that_is_always_right_or_always_wrong_has_an_interval_of_width_0() -> None:
    interval = Resampling({"a": truth()}).intervals({"a": frame_scores(right(FRAMES))})
    assert interval == {"a": {"top1": [1, 1], "top5": [1, 1]}}
    interval = Resampling({"a": truth()}).intervals({"a": frame_scores(right(0))})
    assert interval["a"]["top1"] == [0, 0]


@pytest.mark.parametrize("losses", [3, 12])
def test_the_interval_of_a_difference_depends_on_the_frames_that_differ(losses: int) -> None:
    unmerged, merged = right(50), right(50 - losses)
    difference = Resampling({"a": truth()}).differences(
        {"a": frame_scores(merged)}, {"a": frame_scores(unmerged)}
    )
    value, low, high = difference["a"]["top1"]
    assert value == pytest.approx(-losses / FRAMES)
    tail = (1 - CONFIDENCE_LEVEL) / 2
    for end, share in ((-high, tail), (-low, 1 - tail)):
        expected = binomial_quantile(FRAMES, losses / FRAMES, share)
        assert abs(end * FRAMES - expected) <= 1
    assert difference["a"]["top5"] == [0, 0, 0]


def test_a_paired_difference_shows_a_loss_that_overlapping_intervals_hide() -> None:
    unmerged, merged = {"a": frame_scores(right(45))}, {"a": frame_scores(right(37))}
    resampling = Resampling({"a": truth()})
    one, other = resampling.intervals(unmerged), resampling.intervals(merged)
    assert one["a"]["top1"][0] < other["a"]["top1"][1]  # they overlap
    assert significance(resampling.differences(merged, unmerged)["a"]["top1"]) == "worse"
    assert significance(resampling.differences(unmerged, merged)["a"]["top1"]) == "better"


def test_equal_answers_make_no_difference_and_keep_all_quality() -> None:
    one, same = {"a": frame_scores(right(40))}, {"a": frame_scores(right(40))}
    resampling = Resampling({"a": truth()})
    difference = resampling.differences(same, one)
    assert difference == {"a": {"top1": [0, 0, 0], "top5": [0, 0, 0]}}
    assert significance(difference["a"]["top1"]) == "no difference"
    assert resampling.quality_interval({"a": 1.0}, same, one) == [1, 1]


def test_as_many_frames_lost_as_gained_make_no_difference() -> None:
    unmerged, merged = right(30), np.roll(right(30), 5)
    difference = Resampling({"a": truth()}).differences(
        {"a": frame_scores(merged)}, {"a": frame_scores(unmerged)}
    )
    value, low, high = difference["a"]["top1"]
    assert value == 0 and low < 0 < high and significance([value, low, high]) == "no difference"


@pytest.mark.parametrize(
    ("difference", "word"),
    [
        ([0.1, 0.05, 0.2], "better"),
        ([-0.1, -0.2, -0.05], "worse"),
        ([0.1, -0.01, 0.2], "no difference"),
        ([0.1, 0.0, 0.2], "no difference"),
        ([-0.1, -0.2, 0.0], "no difference"),
        ([0.0, 0.0, 0.0], "no difference"),
    ],
)
def test_only_an_interval_without_0_is_significant(difference: list[float], word: str) -> None:
    assert significance(difference) == word


def test_models_share_draws_only_if_they_share_frames() -> None:
    """Two models, each right where the other is wrong, keep the same total in every draw."""
    hits = right(FRAMES // 2)
    unmerged = {name: frame_scores(np.ones(FRAMES, dtype=bool)) for name in ("a", "b")}
    merged = {"a": frame_scores(hits), "b": frame_scores(~hits)}
    quality = {"a": 0.5, "b": 0.5}
    together = Resampling({"a": truth(), "b": truth()})
    assert together.quality_interval(quality, merged, unmerged) == pytest.approx([0.5, 0.5])
    apart = Resampling({"a": truth(), "b": truth(FRAMES + 1)})
    merged["b"], unmerged["b"] = (frame_scores(np.append(scores["b"].first, True))
                                  for scores in (merged, unmerged))  # fmt: skip
    interval = apart.quality_interval(quality, merged, unmerged)
    assert interval is not None and interval[1] - interval[0] > 0.1


def test_a_model_without_ground_truth_halves_the_interval() -> None:
    ground_truth: dict[str, Truth] = {"a": truth()}
    unmerged, merged = {"a": frame_scores(right(50))}, {"a": frame_scores(right(40))}
    resampling = Resampling(ground_truth)
    alone = resampling.quality_interval({"a": 0.8}, merged, unmerged)
    beside = resampling.quality_interval({"a": 0.8, "b": 0.6}, merged, unmerged)
    assert alone is not None and alone[1] > alone[0]
    assert beside == pytest.approx([(end + 0.6) / 2 for end in alone])


def test_quality_is_undefined_where_every_unmerged_score_is_0() -> None:
    resampling = Resampling({"a": truth()})
    hopeless: dict[str, FrameScores] = {"a": frame_scores(right(0))}
    assert resampling.quality_interval({"a": 0.9}, {"a": frame_scores(right(4))}, hopeless) is None
    assert resampling.quality_interval({"a": 0.9}, {}, {}) is None


def test_draws_with_an_unmerged_score_of_0_are_ignored() -> None:
    interval = Resampling({"a": truth()}).quality_interval(
        {"a": 1.0}, {"a": frame_scores(right(1))}, {"a": frame_scores(right(1))}
    )
    assert interval == [1, 1]  # in a third of the draws it would be 0 / 0


def test_frame_scores_are_resampled_once() -> None:
    @dataclass(frozen=True, eq=False)
    class Counting(ClassFrameScores):
        draw_counts: list[int]

        def resample(self, counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
            self.draw_counts.append(len(counts))
            return super().resample(counts)

    once = Counting(right(9), right(19), [])
    unmerged = {"a": once}
    resampling = Resampling({"a": truth()})
    resampling.intervals(unmerged)
    resampling.differences({"a": frame_scores(right(3))}, unmerged)
    resampling.quality_interval({"a": 0.5}, {"a": once}, unmerged)
    assert sum(once.draw_counts) == BOOTSTRAP_DRAWS + 1  # and the sample itself


def test_intervals_are_reproducible_and_json() -> None:
    intervals = [
        Resampling({"a": truth()}).intervals({"a": frame_scores(right(17))}) for _ in range(2)
    ]
    assert intervals[0] == intervals[1] == json.loads(json.dumps(intervals[0]))


def test_about_one_interval_in_twenty_misses_the_true_value() -> None:
    """Repeated samples of classifiers with known accuracy, for accuracies and for differences."""
    rng, chance, times = np.random.default_rng(5), 0.8, 400
    counts = np.concatenate(list(bootstrap_draws(FRAMES, 9)))
    missed = wrong = 0
    for _ in range(times):
        one, other = (rng.random(FRAMES) < chance for _ in range(2))  # equally good
        low, high = percentile_interval(float(one.mean()), counts @ one / FRAMES)
        missed += not low <= chance <= high
        change = one.astype(float) - other
        low, high = percentile_interval(float(change.mean()), counts @ change / FRAMES)
        wrong += significance([0, low, high]) != "no difference"
    assert 0.02 < missed / times < 0.09
    assert 0.02 < wrong / times < 0.09
