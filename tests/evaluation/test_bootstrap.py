"""Intervals over frames: closed forms, what pairing is for, and how often they are right."""

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
from search.evaluation.bootstrap import DRAWS, LEVEL, draws, interval
from search.evaluation.confidence import Resampling
from search.evaluation.per_frame import ClassTally, FrameScores
from search.results.search_result import significance

FRAMES = 60
Hits = NDArray[np.bool_]


def truth(frames: int = FRAMES) -> ClassTruth:
    return ClassTruth.single(RenderedScenes(STREET, frames), [0] * frames)


def tally(first: Hits) -> ClassTally:
    return ClassTally(first, np.ones_like(first))


def right(count: int, frames: int = FRAMES) -> Hits:
    """A classifier that is right on so many frames, the first ones."""
    return np.arange(frames) < count


def binomial_quantile(count: int, chance: float, share: float) -> int:
    """The least k that a binomial variable does not exceed with that probability."""
    total = 0.0
    for k in range(count + 1):
        total += comb(count, k) * chance**k * (1 - chance) ** (count - k)
        if total >= share:
            return k
    return count


def test_a_draw_holds_as_many_points_as_there_are() -> None:
    counts = np.concatenate(list(draws(FRAMES, 1)))
    assert counts.shape == (DRAWS, FRAMES)
    assert (counts.sum(1) == FRAMES).all() and (counts >= 0).all()
    # how often a point is drawn is binomial: its mean is 1, its variance 1 - 1 / points
    assert counts.mean() == 1 and counts.var() == pytest.approx(1 - 1 / FRAMES, rel=0.02)
    assert (counts.mean(0) < 1.2).all() and (counts.mean(0) > 0.8).all()  # of none more


def test_the_same_seed_draws_the_same_and_another_draws_other() -> None:
    one, same, other = (np.concatenate(list(draws(FRAMES, [seed]))) for seed in (1, 1, 2))
    assert (one == same).all() and (one != other).any()


def test_an_interval_is_the_percentiles_of_what_is_defined_and_holds_the_value() -> None:
    drawn = np.arange(1001) / 1000
    assert interval(0.5, drawn) == pytest.approx((0.025, 0.975))
    assert interval(0.5, np.append(drawn, [np.nan] * 50)) == pytest.approx((0.025, 0.975))
    assert interval(0.99, drawn) == pytest.approx((0.025, 0.99))
    assert interval(0.0, drawn) == pytest.approx((0.0, 0.975))
    assert interval(0.3, np.full(9, np.nan)) == (0.3, 0.3)


@pytest.mark.parametrize("count", [6, 30, 51])
def test_the_interval_of_a_share_of_frames_is_the_binomials(count: int) -> None:
    resampling = Resampling({"a": truth()})
    low, high = resampling.intervals({"a": tally(right(count))})["a"]["top1"]
    tail = (1 - LEVEL) / 2
    for found, share in ((low, tail), (high, 1 - tail)):
        wanted = binomial_quantile(FRAMES, count / FRAMES, share)
        assert abs(found * FRAMES - wanted) <= 1  # 1000 draws know it to about half a frame


def test_what_is_always_right_or_always_wrong_has_no_width() -> None:
    found = Resampling({"a": truth()}).intervals({"a": tally(right(FRAMES))})
    assert found == {"a": {"top1": [1, 1], "top5": [1, 1]}}
    found = Resampling({"a": truth()}).intervals({"a": tally(right(0))})
    assert found["a"]["top1"] == [0, 0]


@pytest.mark.parametrize("lost", [3, 12])
def test_the_difference_is_drawn_from_the_frames_on_which_the_two_differ(lost: int) -> None:
    unmerged, merged = right(50), right(50 - lost)
    found = Resampling({"a": truth()}).differences({"a": tally(merged)}, {"a": tally(unmerged)})
    value, low, high = found["a"]["top1"]
    assert value == pytest.approx(-lost / FRAMES)
    tail = (1 - LEVEL) / 2
    for end, share in ((-high, tail), (-low, 1 - tail)):
        wanted = binomial_quantile(FRAMES, lost / FRAMES, share)
        assert abs(end * FRAMES - wanted) <= 1
    assert found["a"]["top5"] == [0, 0, 0]


def test_on_the_same_frames_a_small_loss_is_seen_that_two_intervals_would_hide() -> None:
    unmerged, merged = {"a": tally(right(45))}, {"a": tally(right(37))}
    resampling = Resampling({"a": truth()})
    one, other = resampling.intervals(unmerged), resampling.intervals(merged)
    assert one["a"]["top1"][0] < other["a"]["top1"][1]  # they overlap
    assert significance(resampling.differences(merged, unmerged)["a"]["top1"]) == "worse"
    assert significance(resampling.differences(unmerged, merged)["a"]["top1"]) == "better"


def test_equal_answers_are_no_difference_and_keep_everything() -> None:
    one, same = {"a": tally(right(40))}, {"a": tally(right(40))}
    resampling = Resampling({"a": truth()})
    found = resampling.differences(same, one)
    assert found == {"a": {"top1": [0, 0, 0], "top5": [0, 0, 0]}}
    assert significance(found["a"]["top1"]) == "no difference"
    assert resampling.quality({"a": 1.0}, same, one) == [1, 1]


def test_frames_lost_and_frames_gained_are_no_difference() -> None:
    unmerged, merged = right(30), np.roll(right(30), 5)
    found = Resampling({"a": truth()}).differences({"a": tally(merged)}, {"a": tally(unmerged)})
    value, low, high = found["a"]["top1"]
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
def test_only_an_interval_without_zero_is_a_verdict(difference: list[float], word: str) -> None:
    assert significance(difference) == word


def test_models_with_the_same_frames_are_drawn_together_and_others_apart() -> None:
    """Two models that are right where the other is wrong: together they keep the same always."""
    hits = right(FRAMES // 2)
    unmerged = {name: tally(np.ones(FRAMES, dtype=bool)) for name in ("a", "b")}
    merged = {"a": tally(hits), "b": tally(~hits)}
    kept = {"a": 0.5, "b": 0.5}
    together = Resampling({"a": truth(), "b": truth()})
    assert together.quality(kept, merged, unmerged) == pytest.approx([0.5, 0.5])
    apart = Resampling({"a": truth(), "b": truth(FRAMES + 1)})
    merged["b"], unmerged["b"] = (tally(np.append(known["b"].first, True))
                                  for known in (merged, unmerged))  # fmt: skip
    found = apart.quality(kept, merged, unmerged)
    assert found is not None and found[1] - found[0] > 0.1


def test_a_model_that_counts_with_its_fidelity_only_halves_the_interval() -> None:
    known: dict[str, Truth] = {"a": truth()}
    unmerged, merged = {"a": tally(right(50))}, {"a": tally(right(40))}
    resampling = Resampling(known)
    alone = resampling.quality({"a": 0.8}, merged, unmerged)
    beside = resampling.quality({"a": 0.8, "b": 0.6}, merged, unmerged)
    assert alone is not None and alone[1] > alone[0]
    assert beside == pytest.approx([(end + 0.6) / 2 for end in alone])


def test_without_an_unmerged_score_no_quality_is_known() -> None:
    resampling = Resampling({"a": truth()})
    hopeless: dict[str, FrameScores] = {"a": tally(right(0))}
    assert resampling.quality({"a": 0.9}, {"a": tally(right(4))}, hopeless) is None
    assert resampling.quality({"a": 0.9}, {}, {}) is None


def test_draws_in_which_the_unmerged_model_is_never_right_do_not_count() -> None:
    found = Resampling({"a": truth()}).quality(
        {"a": 1.0}, {"a": tally(right(1))}, {"a": tally(right(1))}
    )
    assert found == [1, 1]  # in a third of the draws it would be 0 / 0


def test_every_tally_is_drawn_once() -> None:
    @dataclass(frozen=True, eq=False)
    class Counting(ClassTally):
        drawn: list[int]

        def resampled(self, counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
            self.drawn.append(len(counts))
            return super().resampled(counts)

    once = Counting(right(9), right(19), [])
    unmerged = {"a": once}
    resampling = Resampling({"a": truth()})
    resampling.intervals(unmerged)
    resampling.differences({"a": tally(right(3))}, unmerged)
    resampling.quality({"a": 0.5}, {"a": once}, unmerged)
    assert sum(once.drawn) == DRAWS + 1  # and the frames as they are


def test_intervals_are_the_same_each_time_and_are_json() -> None:
    found = [Resampling({"a": truth()}).intervals({"a": tally(right(17))}) for _ in range(2)]
    assert found[0] == found[1] == json.loads(json.dumps(found[0]))


def test_about_one_in_twenty_intervals_misses_and_one_verdict_in_twenty_is_wrong() -> None:
    """Classifiers of known accuracy on frames drawn anew: what 95% promises."""
    rng, chance, times = np.random.default_rng(5), 0.8, 400
    counts = np.concatenate(list(draws(FRAMES, 9)))
    missed = wrong = 0
    for _ in range(times):
        one, other = (rng.random(FRAMES) < chance for _ in range(2))  # equally good
        low, high = interval(float(one.mean()), counts @ one / FRAMES)
        missed += not low <= chance <= high
        change = one.astype(float) - other
        low, high = interval(float(change.mean()), counts @ change / FRAMES)
        wrong += significance([0, low, high]) != "no difference"
    assert 0.02 < missed / times < 0.09
    assert 0.02 < wrong / times < 0.09
