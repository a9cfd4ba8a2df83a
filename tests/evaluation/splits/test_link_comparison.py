"""The cheapest point that keeps enough, and paired differences on the same frames."""

from __future__ import annotations

import numpy as np
import pytest
from links import FRAMES

from search.data.frames import RenderedScenes
from search.evaluation.per_frame import MeanFrameScores
from search.evaluation.splits.comparison import (
    SentPoint,
    byte_ratio,
    cheapest_keeping,
    kept_difference,
)
from search.evaluation.splits.link_scores import (
    LinkScores,
    ShownFrames,
    join_scores,
    link_resampling,
)
from search.utils.arrays import FloatVector

RNG = np.random.default_rng(0)
MANY = RenderedScenes(FRAMES.settings, 200)
SIZES = RNG.uniform(1000, 3000, len(MANY))
RIGHT = (RNG.uniform(size=len(MANY)) < 0.8).astype(float)


def link(sizes: FloatVector, right: FloatVector) -> LinkScores:
    return LinkScores({MANY.hash: sizes}, {}, {"net": MeanFrameScores({"top1": right})})


def test_the_cheapest_point_of_each_method_that_keeps_enough() -> None:
    points = [
        SentPoint("ours", "fine", 900, 0.99),
        SentPoint("ours", "coarse", 500, 0.965),
        SentPoint("ours", "too coarse", 300, 0.9),
        SentPoint("JPEG", "q90", 9000, 0.97),
        SentPoint("AVIF", "q10", 200, 0.5),
    ]
    found = cheapest_keeping(points, 0.96)
    assert {name: point.label for name, point in found.items()} == {
        "ours": "coarse",
        "JPEG": "q90",
    }


def test_the_ratio_of_proportional_bytes_has_no_spread() -> None:
    ratio = byte_ratio(link(0.15 * SIZES, RIGHT), link(SIZES, RIGHT))
    assert [ratio.value, ratio.low, ratio.high] == pytest.approx([0.15] * 3)


def test_the_interval_of_a_ratio_is_that_of_its_normal_approximation() -> None:
    """By the delta method, for a ratio of means of independent numbers."""
    other = RNG.uniform(100, 500, len(MANY))
    ratio = byte_ratio(link(other, RIGHT), link(SIZES, RIGHT))
    error = (other - ratio.value * SIZES).std() / SIZES.mean() / np.sqrt(len(MANY))
    assert ratio.high - ratio.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_differences_are_paired() -> None:
    worse = RIGHT.copy()
    worse[np.flatnonzero(RIGHT)[:6]] = 0
    first, second = link(SIZES, worse), link(SIZES, RIGHT)
    resampling = link_resampling([ShownFrames.unlabelled(MANY, ["net"])])
    difference = kept_difference(first.fidelity, second.fidelity, resampling)
    assert difference is not None
    assert difference.value == pytest.approx(-0.03)
    assert -0.06 < difference.low < -0.03 < difference.high < -0.005
    assert kept_difference({}, {}, resampling) is None


def test_methods_on_other_frames_are_not_compared() -> None:
    other = LinkScores({"other": SIZES}, {}, {})
    with pytest.raises(ValueError, match="other frames"):
        byte_ratio(other, link(SIZES, RIGHT))
    with pytest.raises(ValueError, match="other models"):
        kept_difference({}, link(SIZES, RIGHT).fidelity, link_resampling([]))


def test_scores_of_several_sets_of_frames_are_joined() -> None:
    joined = join_scores([link(SIZES, RIGHT), LinkScores({"other": SIZES * 3}, {}, {})])
    assert joined.mean_bytes == pytest.approx(2 * SIZES.mean())
    assert joined.high_bytes == pytest.approx(np.percentile(np.r_[SIZES, 3 * SIZES], 95))
    assert joined.fidelity_by_model(["net", "silent"]) == {
        "net": pytest.approx(RIGHT.mean()),
        "silent": None,
    }
    assert np.isnan(LinkScores({"other": SIZES}, {}, {}).mean_fidelity)
