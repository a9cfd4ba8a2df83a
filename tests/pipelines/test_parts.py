"""Frames in parts: measurements of old parts are reused, and only new parts are measured."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts import MetricContract
from PIL import Image
from tiny import (
    CLASSIFIER,
    DETECTOR,
    Weights,
    capture_reporter,
    config_data,
    shares_in,
    with_changes,
    write_config,
)

from search.config.loading import load_config
from search.config.run import RunConfig
from search.data.frames import BadFrames, JoinedFrames, split_parts
from search.data.ground_truth import BadTruth
from search.data.synthetic.scenes import SceneSettings, render
from search.metrics.fidelity import HOPELESS, fidelity_alone
from search.metrics.fidelity_cache import BadFidelityCache
from search.metrics.registry import METRICS
from search.pipelines.deployment.load import load_deployment
from search.pipelines.finished_run import LoadedRun
from search.pipelines.open_data import open_frame_set
from search.pipelines.prepare import compute_similarities, observe
from search.pipelines.run import run_without_logging
from search.pipelines.run_steps.records import PriorKnowledge
from search.pipelines.statistics_cache import sum_moments
from search.results.search_result import Result
from search.statistics.observed import Observed
from search.statistics.similarity import Statistics
from search.statistics.streaming import Moments, PassSettings, accumulate_moments
from search.utils.files import make_folder
from search.utils.progress import Progress
from search.utils.reporter import Reporter, SilentReporter
from spaces.deployment import Deployment
from spaces.plan import Share, SharePlan

DAY: dict[str, Any] = {"scenes": {"seed": 1}, "count": 28}
WINDOW: dict[str, Any] = {"scenes": {"seed": 4, "night": 1.0}, "count": 12}
"""Three frames are held out; nine are used: a batch of eight and one more."""


class CountingReporter(SilentReporter):
    """Counts the units that each task reports: frames through the models, shares, ..."""

    def __init__(self) -> None:
        self.done_by_task: dict[str, int] = {}

    @contextmanager
    def progress(self, task: str, total: int) -> Iterator[Progress]:
        def count(units: int) -> None:
            assert units >= 0
            self.done_by_task[task] = self.done_by_task.get(task, 0) + units

        yield count


def config_of(weights: Weights, folder: Path, frames: Any, **changes: Any) -> RunConfig:
    changes = {"frames": frames, "search.metric": "fidelity", **changes}
    return load_config(write_config(folder, with_changes(config_data(weights), changes)))


def observe_config(config: RunConfig, reporter: Reporter | None = None) -> Observed:
    reporter = reporter or capture_reporter().reporter
    deployment = load_deployment(config, reporter)
    return observe(config, deployment, open_frame_set(config), reporter)


def similarities_of(config: RunConfig, observed: Observed) -> dict[Share, float]:
    return compute_similarities(
        config, observed, config.search.adapter_specs, capture_reporter().reporter
    )


def files_in(folder: Path) -> dict[str, bytes]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def used_halves(observed: Observed) -> list[Any]:
    assert isinstance(observed.frames, JoinedFrames)
    return [used for used, _ in split_parts(observed.frames, 12)]


def moments_of(deployment: Deployment, frames: Any) -> Moments:
    settings = PassSettings(batch=8, positions=8, seed=3)
    return accumulate_moments(
        deployment.fused_models, deployment.facts, deployment.pairs.legal, frames, settings
    )


@pytest.fixture(scope="module")
def two_parts(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    folder = tmp_path_factory.mktemp("two-parts")
    return observe_config(config_of(weights, folder, {"parts": [DAY, WINDOW]}))


@pytest.fixture(scope="module")
def pair(two_parts: Observed) -> Observed:
    """The name that the contract uses."""
    return two_parts


@pytest.fixture(scope="module")
def mixed(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    """A classifier and a detector."""
    detector = {"arch": DETECTOR, "weights": str(weights(DETECTOR, 3)), "size": 128,
                "num_classes": 6, "fit": "squash"}  # fmt: skip
    models = {"cls": config_data(weights)["models"]["a"], "det": detector}
    folder = tmp_path_factory.mktemp("mixed")
    return observe_config(
        config_of(weights, folder, {"parts": [DAY, WINDOW]}, models=models, truth={})
    )


# Statistics.


def test_the_statistics_of_all_parts_are_the_rows_of_every_part(two_parts: Observed) -> None:
    total = two_parts.statistics.moments
    separate = [moments_of(two_parts.deployment, used) for used in used_halves(two_parts)]
    assert [m.frames for m in separate] == [16, 8] and total.frames == 24
    np.testing.assert_allclose(total.hsic, sum(m.hsic for m in separate))
    for grid, rows in total.grids.items():
        parts = [m.grids[grid] for m in separate]
        assert sorted(rows.blocks, key=str) == sorted(
            (b for p in parts for b in p.blocks), key=str
        )
        for ref, coded in rows.coded.items():
            codes = [part.coded[ref].codes.numpy().sum(0, dtype=int) for part in parts]
            np.testing.assert_array_equal(coded.codes.numpy().sum(0, dtype=int), sum(codes))


def test_the_order_of_parts_changes_the_sum_only_by_rounding(two_parts: Observed) -> None:
    halves = used_halves(two_parts)
    forward, backward = (
        Statistics(
            sum_moments(moments_of(two_parts.deployment, h) for h in order),
            two_parts.deployment.facts,
        )
        for order in (halves, halves[::-1])
    )
    for pair in two_parts.deployment.pairs.legal[::5]:
        assert forward.image_cka(pair) == pytest.approx(backward.image_cka(pair), abs=1e-9)
        assert forward.ridge(pair).explained == pytest.approx(
            backward.ridge(pair).explained, abs=1e-6
        )


def test_only_a_new_part_is_measured_and_files_of_old_parts_stay(
    weights: Weights, tmp_path: Path
) -> None:
    alone = config_of(weights, tmp_path, DAY)
    similarities_of(alone, observe_config(alone))
    before = files_in(alone.cache_folder)
    reporter = CountingReporter()
    more = config_of(weights, tmp_path, {"parts": [DAY, WINDOW]})
    observed = observe_config(more, reporter)
    compute_similarities(more, observed, more.search.adapter_specs, reporter)
    assert reporter.done_by_task["frames"] == 8
    assert reporter.done_by_task["shares"] == len(shares_in(observed))
    after = files_in(more.cache_folder)
    assert {name: after[name] for name in before} == before
    new = sorted(name.split("/")[0] for name in set(after) - set(before))
    assert new == ["notes", "statistics"]
    notes = [json.loads(text) for name, text in after.items() if name.startswith("notes")]
    assert sorted(n["frames"] for n in notes) == [3, 12]


def test_the_cache_changes_no_number(weights: Weights, tmp_path: Path) -> None:
    """All parts measured together or added and removed one by one: equal bit for bit."""
    third = {"scenes": {"seed": 8}, "count": 9}
    at_once = config_of(weights, tmp_path / "at-once", {"parts": [DAY, third, WINDOW]})
    expected = similarities_of(at_once, observe_config(at_once))
    steps = ([DAY], [DAY, WINDOW], [DAY, third], [DAY, third, WINDOW])
    for parts in steps:
        grown = config_of(weights, tmp_path / "grown", {"parts": parts})
        values = similarities_of(grown, observe_config(grown))
    assert values == expected
    for kind in ("notes", "statistics"):
        assert len(files_in(grown.cache_folder / kind)) == 3


def test_one_part_equals_frames_without_parts(weights: Weights, tmp_path: Path) -> None:
    alone = config_of(weights, tmp_path, DAY)
    observed = observe_config(alone)
    expected = similarities_of(alone, observed)
    assert expected == fidelity_alone(observed, shares_in(observed))
    before = files_in(alone.cache_folder)
    listed = config_of(weights, tmp_path, {"parts": [DAY]})
    observed_part = observe_config(listed)
    assert observed_part.frames.hash == observed.frames.hash
    assert similarities_of(listed, observed_part) == expected
    assert files_in(listed.cache_folder) == before


def test_image_files_can_be_a_part_beside_rendered_scenes(
    weights: Weights, tmp_path: Path
) -> None:
    (tmp_path / "window").mkdir()
    for k in range(8):
        picture = Image.fromarray(render(SceneSettings(seed=9, width=96, height=72), k).image)
        picture.save(tmp_path / "window" / f"{k}.png")
    config = config_of(weights, tmp_path, {"parts": [DAY, {"folder": "window"}]})
    observed = observe_config(config)
    assert observed.statistics.moments.frames == 16 + 6  # of 28 without 12, and of 8 without 2
    assert observed.held_out.indices[-2:] == (28, 32)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ({"parts": [{**DAY, "count": 20}, {**WINDOW, "count": 5}]}, "12 frames are fewer than"),
        ({"parts": [DAY, {**WINDOW, "count": 4}]}, "3 frames of a part are left"),
        ({"parts": [DAY, {**DAY, "count": 5}]}, "5 frames are in more than one part"),
    ],
)
def test_parts_that_are_too_small_or_equal_are_refused(
    weights: Weights, tmp_path: Path, frames: Any, message: str
) -> None:
    with pytest.raises(BadFrames, match=message):
        observe_config(config_of(weights, tmp_path, frames))


# Similarities.


class TestFidelityOfParts(MetricContract):
    """The contract holds for frames in parts with cached fidelities."""

    metric = METRICS["fidelity"]


def test_each_part_uses_maps_fitted_on_the_first_part_and_itself(
    weights: Weights, tmp_path: Path
) -> None:
    """Recomputed share by share and part by part with new maps: the mean over held-out frames."""
    parts = [DAY, {"scenes": {"seed": 8}, "count": 16}, WINDOW]
    three = observe_config(config_of(weights, tmp_path, {"parts": parts}))
    shares, facts = shares_in(three)[::6], three.deployment.facts
    similarities = METRICS["fidelity"].similarities(three, shares)
    frames = three.frames
    assert isinstance(frames, JoinedFrames)
    fidelity_sums = dict.fromkeys(shares, 0.0)
    (first, _), *_ = halves = split_parts(frames, 12)
    for part, (used, held_out) in zip(frames.parts, halves, strict=True):
        fitted_on = [first] if used == first else [first, used]
        moments = sum_moments(moments_of(three.deployment, frames) for frames in fitted_on)
        observed = Observed(three.deployment, Statistics(moments, facts), part, held_out)
        for share in shares:
            if observed.statistics.explained(share) > HOPELESS:
                fidelity_sums[share] += fidelity_alone(observed, [share])[share] * len(held_out)
    for share in shares:
        assert similarities[share] == pytest.approx(fidelity_sums[share] / (12 + 4 + 3), abs=1e-5)


def test_progress_counts_every_share_once_however_many_parts_are_new(
    weights: Weights, tmp_path: Path
) -> None:
    parts = [DAY]
    for window in (None, WINDOW, {"scenes": {"seed": 8}, "count": 9}):
        parts += [window] if window else []
        config = config_of(weights, tmp_path, {"parts": parts})
        observed, counts = observe_config(config), list[int]()
        shares = shares_in(observed)
        METRICS["fidelity"].similarities(observed, shares, counts.append)
        assert sum(counts) == len(shares) and min(counts) >= 0
    counts.clear()
    config = config_of(weights, tmp_path, {"parts": parts}, cache=str(tmp_path / "empty"))
    METRICS["fidelity"].similarities(observe_config(config), shares, counts.append)
    assert sum(counts) == len(shares) and min(counts) >= 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"frames": 3}', '{"frames": 1, "sums": {}}'])
def test_a_damaged_fidelity_cache_is_refused_by_name(
    weights: Weights, tmp_path: Path, content: str
) -> None:
    config = config_of(weights, tmp_path, DAY)
    observed = observe_config(config)
    similarities_of(config, observed)
    (path,) = (tmp_path / "cache" / "notes").rglob("*.json")
    path.write_text(content)
    with pytest.raises(BadFidelityCache, match=f"{path.name}: .*delete the file"):
        similarities_of(config, observed)
    path.unlink()
    assert similarities_of(config, observed)


def test_other_models_weights_or_shares_have_their_own_fidelity_cache(
    weights: Weights, tmp_path: Path
) -> None:
    changes: list[dict[str, Any]] = [
        {}, {"dtype": "float16"}, {"search.adapters": ["linear", "linear@2"]},
        {"models.b.weights": str(weights(CLASSIFIER, 3))}, {"statistics.positions": 4},
    ]  # fmt: skip
    for count, change in enumerate(changes, 1):
        config = config_of(weights, tmp_path, DAY, **change)
        similarities_of(config, observe_config(config))
        assert len(files_in(tmp_path / "cache" / "notes")) == count


# Whole searches.


@pytest.fixture
def data(weights: Weights) -> dict[str, Any]:
    changes = {"search.trials": 12, "verify.shortlist": 3, "verify.candidates": 2,
               "search.metric": "fidelity"}  # fmt: skip
    return with_changes(config_data(weights), changes)


def search(
    folder: Path, data: Any, champion: SharePlan | None = None
) -> tuple[RunConfig, Result, str]:
    """Run without logging; return the result and the printed text."""
    config, captured = load_config(write_config(folder, data)), capture_reporter()
    make_folder(config.out_folder)
    result = run_without_logging(config, captured.reporter, PriorKnowledge(champion))
    return config, result, captured.text


def evaluated_plans(config: RunConfig) -> list[str]:
    """Return the hashes of the evaluated plans in order."""
    with (config.out_folder / "trials.csv").open() as file:
        return [row["plan"] for row in csv.DictReader(file)]


def test_a_champion_that_maps_equal_stages_is_searched_as_one_that_shares_them(
    weights: Weights, tmp_path: Path, data: dict[str, Any]
) -> None:
    copies = with_changes(data, {"models.b.weights": str(weights(CLASSIFIER, 1))})
    champion = SharePlan((Share.between("a:blocks.2", "b:blocks.2", "linear"),))
    config, _, text = search(tmp_path, copies, champion)
    translated = SharePlan((Share.between("a:blocks.2", "b:blocks.2", "identity"),))
    assert "is not verified" not in text
    assert evaluated_plans(config)[0] == translated.hash


def test_a_search_on_more_frames_begins_with_the_plans_of_the_last_search(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    _, first, _ = search(tmp_path, data)
    config, second, _ = search(tmp_path, with_changes(data, {"frames": {"parts": [DAY, WINDOW]}}))
    assert second.frames["count"] == 40
    assert second.study["problem"] != first.study["problem"]
    earlier_plans = dict.fromkeys([first.chosen, *(c.hash for c in first.candidates)])
    assert evaluated_plans(config)[: len(earlier_plans)] == list(earlier_plans)
    finished = LoadedRun.from_folder(config.out_folder)
    assert finished.frames().hash == second.frames["hash"]
    assert finished.observe(capture_reporter().reporter).statistics.moments.frames == 24


@pytest.mark.parametrize("frames", [DAY, {"parts": [DAY, WINDOW]}])
def test_the_plan_in_service_is_evaluated_and_verified_first(
    tmp_path: Path, data: dict[str, Any], frames: Any
) -> None:
    _, first, _ = search(tmp_path / "first", data)
    champion = SharePlan.from_dict(min(first.front, key=lambda r: r.proxy).plan)
    config, result, _ = search(
        tmp_path / "again", with_changes(data, {"frames": frames}), champion
    )
    verified = [c.hash for c in result.candidates]
    assert verified[0] == evaluated_plans(config)[0] == champion.hash
    assert len(set(verified)) == len(verified) in (2, 3)


def test_a_plan_in_service_outside_the_search_space_is_reported(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    _, first, _ = search(tmp_path / "first", data)
    earlier_plan = SharePlan.from_dict(first.front[0].plan)
    cases: list[tuple[SharePlan, dict[str, Any], str]] = [
        (SharePlan(), {}, "it is predicted to miss the limits of the config"),
        (
            earlier_plan,
            {"search.floor": 1.5, "budget": "100%"},
            "not in the search space",
        ),
    ]
    for number, (champion, changes, why) in enumerate(cases):
        _, result, text = search(tmp_path / str(number), with_changes(data, changes), champion)
        assert champion.hash not in {c.hash for c in result.candidates}
        assert f"The plan in service, {champion.hash}, is not verified: " in text and why in text


def test_labelled_frames_must_not_be_in_any_part(tmp_path: Path, data: dict[str, Any]) -> None:
    truth = {"scenes": WINDOW["scenes"], "count": 6}
    changes = {"frames": {"parts": [DAY, WINDOW]}, "truth": {"a": truth}}
    with pytest.raises(BadTruth, match="6 of its frames are also among"):
        search(tmp_path, with_changes(data, changes))
