"""The memory of statistics in closed form, against that of real passes."""

from __future__ import annotations

import pytest
from tiny import CLASSIFIER, Weights, load_tiny, observe

from search.statistics.footprint import measure_footprint
from search.statistics.sampling import MOST_ROWS, PositionSampling
from search.statistics.streaming import PassSettings
from spaces.model_facts import collect_facts
from spaces.shares import find_pairs


@pytest.mark.parametrize("count", [36, 47])
@pytest.mark.parametrize("settings", [PassSettings(batch=8), PassSettings(batch=16, positions=3)])
def test_the_rows_take_as_many_bytes_as_the_closed_form_says(
    weights: Weights, count: int, settings: PassSettings
) -> None:
    models = load_tiny(weights, {"a": (CLASSIFIER, 1), "b": (CLASSIFIER, 2)})
    moments = observe(models, count, settings).statistics.moments
    facts = collect_facts(models)
    footprint = measure_footprint(facts, find_pairs(facts).legal, settings, [moments.frames])
    assert footprint.rows == sum(rows.nbytes for rows in moments.grids.values())


@pytest.mark.parametrize("frames", [600, 3 * MOST_ROWS])
def test_many_frames_have_about_as_many_rows_as_the_closed_form_says(
    weights: Weights, frames: int
) -> None:
    facts = collect_facts(load_tiny(weights, {"a": (CLASSIFIER, 1), "b": (CLASSIFIER, 2)}))
    pairs, settings = find_pairs(facts).legal, PassSettings(batch=8)
    sampling = PositionSampling(settings.positions, settings.seed, frames)
    taken = sum(sampling.takes(frame) for frame in range(frames))
    assert taken == pytest.approx(min(frames, MOST_ROWS), rel=0.01)
    bytes_of = [
        measure_footprint(facts, pairs, settings, [count]).rows for count in (frames, 2 * frames)
    ]
    assert bytes_of[0] <= bytes_of[1] < 1.4 * bytes_of[0]  # a grid keeps MOST_ROWS rows


def test_sets_of_frames_add_up(weights: Weights) -> None:
    facts = collect_facts(load_tiny(weights, {"a": (CLASSIFIER, 1), "b": (CLASSIFIER, 2)}))
    pairs, settings = find_pairs(facts).legal, PassSettings(batch=8)
    one, other, both = (
        measure_footprint(facts, pairs, settings, counts).rows for counts in ([40], [24], [40, 24])
    )
    assert both == one + other
