"""bench/split_curves.py compares methods at the bytes at which they keep the same answers."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from bench_scripts import load_script

from search.evaluation.splits.link_scores import LinkScores
from search.evaluation.tasks.classification import ClassFrameScores
from search.utils.arrays import FloatMatrix

FRAMES = 200
KEPT = (0.80, 0.90, 0.94, 0.97, 0.99)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("split_curves")


def pooled(values: list[float]) -> list[float]:
    """Return the isotonic fit of one row as textbooks do: neighbours out of order are pooled."""
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) >= np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [float(np.mean(block)) for block in blocks for _ in block]


def agreement() -> FloatMatrix:
    """Return answers of settings of rising fidelity: each keeps those of the one before."""
    return np.array([np.arange(FRAMES) < kept * FRAMES for kept in KEPT], dtype=np.float64)


def sizes(first: float) -> FloatMatrix:
    """Return bytes that double from setting to setting and differ from frame to frame."""
    frames = 1 + np.arange(FRAMES) % 7
    return first * np.outer(2.0 ** np.arange(len(KEPT)), frames / frames.mean())


def test_the_isotonic_fit_is_that_of_pooled_neighbours(script: ModuleType) -> None:
    values = np.random.default_rng(0).normal(np.arange(9) / 4, 1, (50, 9))
    expected = [pooled([*row]) for row in values]
    np.testing.assert_allclose(script.isotonic(values), expected)


def test_a_curve_is_linear_in_the_logarithm_of_the_bytes(script: ModuleType) -> None:
    curve, whole = script.Curve(sizes(100.0), agreement()), np.ones((1, FRAMES))
    for target, expected in ((0.94, 400.0), (0.92, 100 * 2**1.5), (0.85, 100 * 2**0.5)):
        assert curve.bytes_at(target, whole)[0] == pytest.approx(expected)


@pytest.mark.parametrize("target", [0.75, 0.995])
def test_a_target_beyond_the_settings_has_no_bytes(script: ModuleType, target: float) -> None:
    curve = script.Curve(sizes(100.0), agreement())
    assert np.isnan(curve.bytes_at(target, np.ones((1, FRAMES)))).all()
    equal = script.EqualAnswers({"one": curve}, target)
    assert equal.described("one")["at_target"] is None


def test_a_setting_that_is_better_than_the_next_dearer_one_is_not_chosen(
    script: ModuleType,
) -> None:
    points = []
    for number, kept in enumerate((0.95, 0.97, 0.94, 0.97, 0.98)):
        right = np.arange(FRAMES) < kept * FRAMES
        sent = np.full(FRAMES, 100.0 * (1 + number))
        points.append(LinkScores({"frames": sent}, {}, {"net": ClassFrameScores(right, right)}))
    assert script.cheapest_on_curve(points, 0.96) == 3
    assert script.cheapest_on_curve(points, 0.99) is None


def test_methods_of_the_same_answers_differ_by_their_bytes_in_every_draw(
    script: ModuleType,
) -> None:
    curves = {name: script.Curve(sizes(first), agreement())
              for name, first in (("small", 100.0), ("large", 400.0))}  # fmt: skip
    equal = script.EqualAnswers(curves, 0.95)
    assert equal.ratio("small", "large") == {"at_target": [0.25, 0.25, 0.25], "inside": 1.0}
    value, low, high = equal.described("small")["at_target"]
    assert low < value < high
