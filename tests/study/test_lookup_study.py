"""A study of choices finds the front of its space, each combination once, and continues."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from search.study.lookup.choices import Choices, Combination, Outcome
from search.study.lookup.lookup_study import LookupResult, LookupSettings, run_lookup_study
from search.study.pareto import nondominated_indices

SMALL = Choices(
    {"split": tuple("abcd"), "step": tuple(map(str, range(5))), "bands": ("1", "2", "3")}
)
STAGES, LEVELS = 8, 24
REAL = Choices(
    {
        "split": tuple(f"{a},{b}" for a in range(STAGES) for b in range(STAGES)),
        "precision": ("float32", "int8"),
        "level": tuple(map(str, range(LEVELS))),
    },
)
"""As many combinations as two networks of eight stages have."""


def look_up_small(combination: Combination) -> Outcome:
    """Return two objectives of made-up splits, and a limit that every third step breaks."""
    split, step, bands = (SMALL.values[n].index(combination[n]) for n in SMALL.values)
    cost = (split + 1) * 7.0 / (step + 1) + bands
    loss = step**1.5 + (3 - split) * 0.4 + (2 - bands)
    return Outcome((cost, loss), {"limit": 0.5 if step == 3 else -0.5})


def look_up_real(combination: Combination) -> Outcome:
    """Return bytes, MACs, memory and distortion like those of the splits of two networks.

    Both are cut somewhere; early cuts cross with more values, and some cuts are poor.
    """
    ends, level = combination["split"].split(","), int(combination["level"])
    int8 = combination["precision"] == "int8"
    depths = [int(end) / (STAGES - 1) for end in ends]
    sizes = [np.exp(2.5 - 3 * d + 0.8 * np.sin(5 * d + k)) for k, d in enumerate(depths)]
    size = 24 + 1500 * 2 ** (-level / 3) * sum(sizes)
    held = sum(0.05 + d**2 for d in depths) * (0.3 if int8 else 1.0)
    memory = held + max(0.3 * (1 - d) for d in depths)
    loss = 1e-3 * 2 ** (level / 3) + (0.002 * sum(depths) if int8 else 0)
    return Outcome((size, 1 + 5 * sum(depths), memory, loss), {"memory": memory / 1.5 - 1})


def settings(
    folder: Path, trials: int, seed: int = 0, sampler: Literal["predicted", "random"] = "predicted"
) -> LookupSettings:
    return LookupSettings("study", str(folder / "study.log"), trials, seed, sampler)


def keys(choices: Choices, result: LookupResult) -> list[str]:
    return [choices.key(point.combination) for point in result.evaluated]


Points = NDArray[np.float64]


@cache
def whole_space() -> Points:
    """Return (points, objectives) of all feasible combinations of the real space."""
    return np.array([o.values for c in REAL.all() if (o := look_up_real(c)).feasible])


def in_octaves(points: Points) -> Points:
    """Return points with bytes and distortion in octaves."""
    return np.column_stack([np.log2(points[:, 0]), points[:, 1:3], np.log2(points[:, 3])])


def dominated_share(points: Points, whole: Points) -> float:
    """Return the part that points dominate of what the whole space dominates.

    Within the box of all points, by seeded draws.
    """
    best, worst = whole.min(0), whole.max(0)
    draws = best + np.random.default_rng(0).random((2000, points.shape[1])) * (worst - best)
    found, all_found = (
        sum((values <= draw).all(1).any() for draw in draws) for values in (points, whole)
    )
    return float(found / all_found)


def study_of_real_size(folder: Path, sampler: Literal["predicted", "random"], seed: int) -> Points:
    folder.mkdir()
    result = run_lookup_study(REAL, look_up_real, settings(folder, 400, seed, sampler))
    return np.array([point.outcome.values for point in result.feasible])


def test_a_whole_space_has_its_enumerated_front(tmp_path: Path) -> None:
    result = run_lookup_study(SMALL, look_up_small, settings(tmp_path, 1000))
    assert result.exhausted
    assert sorted(keys(SMALL, result)) == sorted(map(SMALL.key, SMALL.all()))
    feasible = [o.values for c in SMALL.all() if (o := look_up_small(c)).feasible]
    expected = [feasible[i] for i in nondominated_indices(feasible)]
    assert [point.outcome.values for point in result.front] == expected
    assert len(result.feasible) == len(feasible) == 48


def test_no_combination_is_looked_up_twice_and_starts_come_first(tmp_path: Path) -> None:
    starts = [*itertools.islice(SMALL.all(), 20, 24)]
    result = run_lookup_study(SMALL, look_up_small, settings(tmp_path, 40), [*starts, *starts])
    found = keys(SMALL, result)
    assert len(found) == len({*found}) == 40 and not result.exhausted
    assert found[:4] == [*map(SMALL.key, starts)]


def test_a_study_continues_where_it_stopped(tmp_path: Path) -> None:
    first = run_lookup_study(SMALL, look_up_small, settings(tmp_path, 10))
    reported: list[int] = []
    second = run_lookup_study(SMALL, look_up_small, settings(tmp_path, 25), (), reported.append)
    assert keys(SMALL, second)[:10] == keys(SMALL, first)
    assert reported[0] == 10 and sum(reported) == 25
    assert len({*keys(SMALL, second)}) == 25


def test_a_study_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    a, b, c = (
        keys(SMALL, run_lookup_study(SMALL, look_up_small, settings(tmp_path / folder, 30, seed)))
        for folder, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert a == b != c


def test_a_study_of_real_size_finds_the_front_and_beats_random_choice(tmp_path: Path) -> None:
    """By hypervolume, nearly all of it; where octaves count, more than random choice finds."""
    shares: dict[str, list[float]] = {"predicted": [], "random": []}
    for sampler, seed in (("predicted", 0), ("random", 0), ("random", 1)):
        found = study_of_real_size(tmp_path / f"{sampler}{seed}", sampler, seed)  # type: ignore[arg-type]
        assert sampler == "random" or dominated_share(found, whole_space()) > 0.99
        shares[sampler].append(dominated_share(in_octaves(found), in_octaves(whole_space())))
    assert min(shares["predicted"]) > max(shares["random"]), shares


def test_a_space_needs_something_to_choose() -> None:
    with pytest.raises(ValueError, match="a value to choose"):
        Choices({"split": ()})
