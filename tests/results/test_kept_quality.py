"""A quality kept is written as a percentage only if its baseline is better than chance."""

from __future__ import annotations

from search.results.kept_quality import (
    kept_interval_text,
    kept_text,
    no_baseline_text,
    readable_quality,
)


def test_a_quality_above_chance_is_written_in_percent() -> None:
    assert kept_text(0.873, []) == "87.3%" and kept_text(None, []) == "-"
    assert kept_interval_text([0.8, 0.9], []) == "80.0…90.0%"
    assert kept_interval_text(None, []) == ""
    assert readable_quality(0.873, []) == 0.873


def test_a_quality_at_chance_is_written_without_a_number() -> None:
    assert kept_text(0.873, ["a"]) == "-"
    assert kept_interval_text([0.8, 0.9], ["a"]) == ""
    assert readable_quality(0.873, ["a"]) is None


def test_the_reason_names_the_models_at_chance() -> None:
    assert no_baseline_text(["a"]) == (
        "no baseline: unmerged, a is no better than chance on the labels"
    )
    assert "unmerged, a, b and c are no better than chance" in no_baseline_text(["a", "b", "c"])
