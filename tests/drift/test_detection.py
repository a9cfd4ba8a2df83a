"""Drift: the stated false-alarm rate, what is noticed, and what must not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_camera import Camera, changed
from safetensors.numpy import load_file, save_file
from scipy.stats import kstwo
from tiny import STREET, Matrix

from search.data.frames import BadFrames, RenderedScenes
from search.drift.detection import CONFIDENCE, RATE, compare
from search.drift.frame_features import VIEWS, Description, describe, models_key
from search.drift.reference import (
    COMPONENTS,
    LARGE_REFERENCE,
    BadReference,
    Projection,
    Reference,
    autocorrelation_times,
    fitting_frames,
)
from search.drift.reference_storage import load, save
from search.statistics.observed import Observed
from search.statistics.streaming import BadRepresentation
from search.utils.files import CannotWrite
from spaces.batchnorm_fusion import fuse_batchnorms
from spaces.deployment import Deployment

STATISTICS = len(VIEWS) * (COMPONENTS + 1)


def grown(camera: Camera, windows: int, size: int = 60) -> Reference:
    """A window, and the ones that came after it."""
    reference = Reference.of(camera.frames(size))
    for number in range(windows):
        reference = reference.grown(f"gate-{number}", camera.frames(size))
    return reference


def independent(reference: Reference) -> Reference:
    """The same, told that its frames are."""
    samples = {
        view: replace(sample, times=np.ones_like(sample.times))
        for view, sample in reference.samples.items()
    }
    return replace(reference, samples=samples)


# The rate.


@pytest.mark.parametrize(("features", "known", "new"), [(3, 90, 32), (200, 60, 16), (20, 240, 64)])
def test_an_unchanged_camera_alarms_no_oftener_than_stated(
    features: int, known: int, new: int
) -> None:
    for seed in range(5):
        camera = Camera(features, seed)
        reference = Reference.of(camera.frames(known))
        p_values = np.array([compare(reference, camera.frames(new)).p_value for _ in range(30)])
        assert all((p_values <= share).mean() <= share for share in (RATE, 0.2, 0.5))


def test_the_rate_is_that_of_a_round_however_many_cameras_it_judges() -> None:
    camera = Camera(20)
    reference, window = Reference.of(camera.frames(120)), camera.frames(64, {"content": 4.0})
    p_values = [compare(reference, window, comparisons=n).p_value for n in (1, 2, 8, 1000)]
    assert p_values == sorted(p_values) and 0 < p_values[0] < p_values[1]
    assert compare(reference, window, rate=p_values[0]).noticed
    assert not compare(reference, window, rate=p_values[0] / 2).noticed


def test_frames_of_a_film_count_as_the_few_independent_ones_that_they_are_worth() -> None:
    alarms = alarms_if_independent = 0
    for seed in range(6):
        camera = Camera(12, seed)
        reference = Reference.of(camera.film(240, memory=0.9))
        films = [camera.film(64, memory=0.9) for _ in range(6)]
        alarms += sum(compare(reference, film).noticed for film in films)
        alarms_if_independent += sum(compare(independent(reference), f).noticed for f in films)
    assert alarms <= 36 * RATE < 20 < alarms_if_independent


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_autocorrelation_times_are_those_of_the_closed_form(memory: float) -> None:
    rng, values = np.random.default_rng(1), np.zeros((20_000, 2))
    noise = rng.normal(size=values.shape)
    for k in range(1, len(values)):
        values[k] = memory * values[k - 1] + noise[k]
    wanted = (1 + memory) / (1 - memory)
    np.testing.assert_allclose(autocorrelation_times(values), wanted, rtol=0.15)


def test_no_frames_are_worth_more_than_they_are() -> None:
    alternating = np.tile([[1.0, 5.0], [-1.0, 5.0]], (20, 1))
    np.testing.assert_array_equal(autocorrelation_times(alternating), [1, 1])


@pytest.mark.parametrize("windows", [1, 2, 9])
def test_an_unchanged_camera_alarms_no_oftener_with_a_reference_that_grew(windows: int) -> None:
    for seed in range(5):
        camera = Camera(20, seed)
        reference = grown(camera, windows)
        p_values = np.array([compare(reference, camera.frames(32)).p_value for _ in range(30)])
        assert all((p_values <= share).mean() <= share for share in (RATE, 0.2, 0.5))


# What is noticed.


@pytest.mark.parametrize("view", VIEWS)
def test_a_shift_is_noticed_and_told_where(view: str) -> None:
    camera = Camera(30)
    drift = compare(Reference.of(camera.frames(120)), camera.frames(64, {view: 40.0}))
    assert drift.noticed and not drift.blind
    assert (drift.view, drift.distance) == (view, 1.0)
    assert drift.least <= drift.p_value < 1e-6


def test_what_lies_outside_the_axes_is_noticed() -> None:
    rng = np.random.default_rng(0)
    scale = np.r_[np.full(COMPONENTS, 30.0), np.ones(40)]

    def flat(count: int, rank: int) -> Matrix:
        """Along few directions only, so that the axes hold nearly everything."""
        rows: Matrix = (rng.normal(size=(count, 43)) * scale)[:, :rank] @ basis[:rank]
        return rows + 0.01 * rng.normal(size=rows.shape)

    basis = np.linalg.qr(rng.normal(size=(43, 43)))[0]
    seen, same, fuller = (
        Description("models", dict.fromkeys(VIEWS, rows))
        for rows in (flat(120, COMPONENTS), flat(64, COMPONENTS), flat(64, 43))
    )
    reference = Reference.of(seen)
    assert not compare(reference, same).noticed
    assert compare(reference, fuller).noticed


def test_a_camera_that_shows_one_picture_only_is_noticed() -> None:
    camera = Camera(30)
    still = changed(camera.frames(1), lambda rows: rows.repeat(64, axis=0))
    assert compare(Reference.of(camera.frames(240)), still).noticed


def test_the_reference_is_as_it_is() -> None:
    seen = Camera(30).frames(120)
    same = changed(seen, lambda rows: rows[~fitting_frames(120)])
    assert compare(Reference.of(seen), same).p_value == 1
    assert compare(Reference.of(seen), same).distance == 0


def test_a_reference_that_grows_notices_ever_smaller_changes_until_it_is_large() -> None:
    camera = Camera(20)
    known = [grown(camera, windows) for windows in range(4)]
    window = camera.frames(64, dict.fromkeys(VIEWS, 1e6))
    least = [compare(reference, window).least for reference in known]
    assert sorted(least, reverse=True) == least and len({*least}) == 3
    assert [reference.is_large for reference in known] == [False, False, True, True]
    assert Reference.of(camera.frames(LARGE_REFERENCE)).is_large
    assert not Reference.of(camera.frames(LARGE_REFERENCE - 9)).is_large


def test_a_grown_reference_is_the_first_window_and_the_scores_of_the_others() -> None:
    camera = Camera(20)
    first, second, third = (camera.frames(60) for _ in range(3))
    found = Reference.of(first).grown("second", second).grown("third", third)
    assert found.taken_up == ("second", "third")
    for view, sample in found.samples.items():
        fitted = Projection.fit(first.rows[view][fitting_frames(60)])
        rows = (first.rows[view][~fitting_frames(60)], second.rows[view], third.rows[view])
        wanted = fitted.scores(np.concatenate(rows))
        np.testing.assert_allclose(sample.scores, wanted)
        np.testing.assert_allclose(sample.times, autocorrelation_times(wanted))


def test_a_window_makes_a_reference_larger_once() -> None:
    camera = Camera(20)
    reference, window = Reference.of(camera.frames(60)), camera.frames(60)
    once = reference.grown("gate-7", window)
    assert once.grown("gate-7", window) is once
    assert once.grown("gate-8", window) is not once
    assert Reference.of(camera.frames(LARGE_REFERENCE)).grown("gate-7", window).taken_up == ()


def test_too_few_frames_to_notice_anything_are_told() -> None:
    camera = Camera(5)
    reference = Reference.of(camera.frames(30))
    drift = compare(reference, camera.frames(8, dict.fromkeys(VIEWS, 1e6)), comparisons=50)
    assert drift.blind and not drift.noticed
    assert not compare(reference, camera.frames(64)).blind


def test_the_p_value_by_another_path() -> None:
    camera = Camera(6, seed=3)
    seen, window = camera.frames(90), camera.frames(40, {"appearance": 5.0})
    reference = independent(Reference.of(seen))
    axes, wanted = fitting_frames(90), []
    for view in VIEWS:
        fitted = Projection.fit(seen.rows[view][axes])
        known = fitted.scores(seen.rows[view][~axes])
        new = fitted.scores(window.rows[view])
        for one, other in zip(known.T, new.T, strict=True):
            at = np.concatenate((one, other))[:, None]
            distance = np.abs((one <= at).mean(1) - (other <= at).mean(1)).max()
            granted = kstwo.ppf(1 - (1 - CONFIDENCE) / STATISTICS, len(one))
            wanted.append(STATISTICS * kstwo.sf(distance - granted, len(other)))
    drift = compare(reference, window)
    assert 0 < drift.p_value < 1
    assert drift.p_value == pytest.approx(min(wanted))


# What must not matter.


def test_neither_scale_nor_order_of_features_nor_constant_ones_matter() -> None:
    camera, rng = Camera(30), np.random.default_rng(0)
    seen, window = camera.frames(120), camera.frames(64, dict.fromkeys(VIEWS, 4.0))
    wanted = compare(Reference.of(seen), window)
    assert 0 < wanted.p_value < 1
    scale, order = 2.0 ** rng.integers(-9, 9, 30), rng.permutation(30)
    ways: list[Callable[[Matrix], Matrix]] = [
        lambda rows: rows * scale + 3,
        lambda rows: rows[:, order],
        lambda rows: np.column_stack((rows, np.zeros(len(rows)), np.full(len(rows), 7e4))),
    ]
    for way in ways:
        drift = compare(Reference.of(changed(seen, way)), changed(window, way))
        assert drift.p_value == pytest.approx(wanted.p_value)


def test_the_order_of_a_windows_frames_does_not_matter() -> None:
    camera, rng = Camera(30), np.random.default_rng(0)
    reference, window = Reference.of(camera.frames(120)), camera.frames(64)
    assert compare(reference, changed(window, rng.permutation)) == compare(reference, window)


@pytest.mark.parametrize("shape", [(40, 8), (20, 300), (30, 2)])
def test_the_projection_is_that_of_the_correlation_matrix(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    rows, others = (rng.normal(size=(n, shape[1])) * 5 + 2 for n in (shape[0], 7))
    scores = Projection.fit(rows).scores(others)
    vectors = np.linalg.eigh(np.corrcoef(rows.T))[1][:, ::-1][:, :COMPONENTS]
    standard = (others - rows.mean(0)) / rows.std(0)
    np.testing.assert_allclose(np.abs(scores[:, :-1]), np.abs(standard @ vectors), atol=1e-9)
    rest = standard - standard @ vectors @ vectors.T
    np.testing.assert_allclose(scores[:, -1], np.square(rest).sum(1), atol=1e-9)


# What is refused.


def test_too_few_frames_and_frames_that_are_all_the_same_are_refused() -> None:
    camera = Camera(5)
    with pytest.raises(BadFrames, match="29 frames are too few to know a camera by"):
        Reference.of(camera.frames(29))
    with pytest.raises(BadFrames, match="7 frames are too few to compare"):
        compare(Reference.of(camera.frames(30)), camera.frames(7))
    with pytest.raises(BadFrames, match="all frames of the reference are the same"):
        Reference.of(changed(camera.frames(1), lambda rows: rows.repeat(60, axis=0)))


def test_frames_that_other_models_have_seen_are_refused() -> None:
    camera = Camera(5)
    reference, window = Reference.of(camera.frames(60)), camera.frames(32)
    with pytest.raises(BadReference, match="by other models"):
        compare(reference, replace(window, models="others"))


# On disk.


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, Camera]:
    camera, path = Camera(30), tmp_path / "references" / "gate.safetensors"
    save(path, Reference.of(camera.frames(60)))
    return path, camera


def test_a_reference_comes_back_as_it_was(tmp_path: Path) -> None:
    camera, path = Camera(30), tmp_path / "new" / "gate.safetensors"
    reference, window = grown(camera, 1), camera.frames(32, {"content": 9.0})
    save(path, reference)
    assert compare(load(path), window) == compare(reference, window)
    assert load(path).models == "models" and load(path).taken_up == ("gate-0",)
    assert load(path).grown("gate-0", window).taken_up == ("gate-0",)
    assert [p.name for p in path.parent.iterdir()] == ["gate.safetensors"]


def test_a_damaged_file_is_refused(kept: tuple[Path, Camera]) -> None:
    path, _ = kept
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], b"{}" + whole):
        path.write_bytes(content)
        with pytest.raises(BadReference, match=r"gate.safetensors is not a whole drift reference"):
            load(path)


def test_another_safetensors_file_is_refused(kept: tuple[Path, Camera]) -> None:
    path, _ = kept
    save_file(load_file(path), path)  # the header is lost
    with pytest.raises(BadReference):
        load(path)
    with pytest.raises(BadReference):
        load(path.with_name("missing.safetensors"))


def test_a_folder_that_takes_no_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite):
        save(tmp_path / "file" / "gate.safetensors", Reference.of(Camera(5).frames(60)))


# Real networks.


@pytest.fixture(scope="module")
def seen(mixed: Observed) -> Description:
    return describe(mixed.deployment, RenderedScenes(STREET, 60), batch=20)


def test_a_description_is_the_means_of_early_and_last_representations(
    mixed: Observed, seen: Description
) -> None:
    pictures = [RenderedScenes(STREET, 60)[k] for k in range(2)]
    early, last = list[Matrix](), list[Matrix]()
    for model in mixed.deployment.fused_models.values():
        stages = dict(model.walk(model.prepare_frames(pictures)))
        values = {name: stage.detach().double().numpy() for name, stage in stages.items()}
        count = len(values)
        early += [in_cells(v) for v in list(values.values())[count // 4 : (count + 1) // 2]]
        final = list(values.values())[-1]
        last.append(final.reshape(*final.shape[:2], -1).mean(2))
    for view, parts in zip(VIEWS, (early, last), strict=True):
        expected = np.concatenate(parts, 1)
        assert seen.rows[view].shape == (60, expected.shape[1])
        np.testing.assert_allclose(seen.rows[view][:2], expected, rtol=1e-3, atol=1e-4)


def in_cells(values: Matrix) -> Matrix:
    """(frames, channels, height, width) -> means over the cells of a grid of 3 by 3, which
    overlap where there are no thirds."""
    height, width = values.shape[2:]
    means = [
        values[:, :, i * height // 3 : -(-(i + 1) * height // 3),
               j * width // 3 : -(-(j + 1) * width // 3)].mean((2, 3))
        for i in range(3)
        for j in range(3)
    ]  # fmt: skip
    return np.stack(means, 2).reshape(len(values), -1)


def test_a_description_does_not_hang_on_the_batch(mixed: Observed, seen: Description) -> None:
    told: list[int] = []
    frames = RenderedScenes(STREET, 10)
    others = describe(mixed.deployment, frames, 4, told.append)
    assert told == [4, 4, 2]
    assert others.models == seen.models == models_key(mixed.deployment)
    for view in VIEWS:
        np.testing.assert_allclose(others.rows[view], seen.rows[view][:10], rtol=1e-3, atol=1e-4)


def test_an_unchanged_street_does_not_alarm_and_one_by_night_does(
    mixed: Observed, seen: Description
) -> None:
    reference = Reference.of(seen)
    by_day = describe(mixed.deployment, RenderedScenes(replace(STREET, seed=6), 32), batch=16)
    by_night = RenderedScenes(replace(STREET, seed=7, night=1.0), 32)
    assert not compare(reference, by_day).noticed
    assert compare(reference, describe(mixed.deployment, by_night, batch=16)).noticed


def test_the_key_tells_models_apart(pair: Observed, copies: Observed) -> None:
    assert models_key(pair.deployment) != models_key(copies.deployment)


def test_no_frames_and_infinite_values_are_told(pair: Observed) -> None:
    known = pair.deployment
    with pytest.raises(BadFrames, match="no frames to describe"):
        describe(known, RenderedScenes(STREET, 0), batch=4)
    broken = {name: fuse_batchnorms(model) for name, model in known.models.items()}
    with torch.no_grad():
        next(broken["b"].stages[-2].parameters()).fill_(torch.inf)
    sick = Deployment(broken, known.facts, known.pairs)
    with pytest.raises(BadRepresentation, match="b gives NaN or infinite values"):
        describe(sick, RenderedScenes(STREET, 4), batch=4)
