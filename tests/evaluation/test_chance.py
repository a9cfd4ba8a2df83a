"""Unmerged scores that are no better than chance are reported, with what is likely wrong."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tiny import STREET

from search.data.ground_truth import BoxTruth, ClassTruth, scenes_truth
from search.evaluation.chance import scores_at_chance
from search.evaluation.tasks.classification import chance_of


def labelled(labels: Sequence[int]) -> ClassTruth:
    return ClassTruth.single(scenes_truth(STREET, 1, "detection").frames, labels)


@pytest.mark.parametrize(
    ("labels", "chance"),
    [([0, 1, 2, 3], 0.25), ([0, 0, 0, 1], 0.75), ([5, 5], None), ([7], None)],
)
def test_chance_is_the_best_constant_answer(labels: list[int], chance: float | None) -> None:
    assert chance_of(labelled(labels)) == chance


@pytest.mark.parametrize(
    ("labels", "top1", "at_chance"),
    [
        ([0, 1] * 50, 0.5, True),
        ([0, 1] * 50, 0.58, True),
        ([0, 1] * 50, 0.59, False),
        ([0] * 90 + [1] * 10, 0.9, True),
        ([0] * 90 + [1] * 10, 0.99, False),
        ([0, 1, 2, 3] * 25, 0.0, True),
        ([3] * 10, 0.0, True),
        ([3] * 10, 0.1, False),
    ],
)
def test_a_top_1_counts_only_if_it_is_significantly_above_chance(
    labels: list[int], top1: float, at_chance: bool
) -> None:
    warnings = scores_at_chance({"a": {"top1": top1, "top5": 1.0}}, {"a": labelled(labels)})
    assert ("a" in warnings) == at_chance


@pytest.mark.parametrize(("score", "at_chance"), [(-1.0, True), (0.019, True), (0.02, False)])
def test_an_map_near_zero_is_chance(score: float, at_chance: bool) -> None:
    truth = scenes_truth(STREET, 1, "detection")
    assert isinstance(truth, BoxTruth)
    assert ("a" in scores_at_chance({"a": {"map": score}}, {"a": truth})) == at_chance


def test_a_warning_names_the_likely_reasons_and_their_keys() -> None:
    text = scores_at_chance({"a": {"top1": 0.5, "top5": 1.0}}, {"a": labelled([0, 1] * 9)})["a"]
    assert text.startswith("truth.a: the unmerged model has a top-1 of 50.0%, not significantly")
    for key in ("models.a.size", "truth.a.classes", "models.a.input", "on their side"):
        assert key in text
