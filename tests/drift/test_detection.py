"""Drift detection: its false-alarm rate, the changes that it notices, and its invariances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_camera import MadeUpCamera, map_rows
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


def extended_reference(camera: MadeUpCamera, windows: int, size: int = 60) -> Reference:
    """Return a reference of one window, extended by further windows of `size` frames each."""
    reference = Reference.of(camera.frames(size))
    for number in range(windows):
        reference = reference.grown(f"gate-{number}", camera.frames(size))
    return reference


def independent(reference: Reference) -> Reference:
    """Return the same reference with its frames marked as independent of each other."""
    samples = {
        view: replace(sample, times=np.ones_like(sample.times))
        for view, sample in reference.samples.items()
    }
    return replace(reference, samples=samples)


# The false-alarm rate.


@pytest.mark.parametrize(
    ("features", "reference_frames", "new_frames"), [(3, 90, 32), (200, 60, 16), (20, 240, 64)]
)
def test_an_unchanged_camera_alarms_no_more_often_than_stated(
    features: int, reference_frames: int, new_frames: int
) -> None:
    for seed in range(5):
        camera = MadeUpCamera(features, seed)
        reference = Reference.of(camera.frames(reference_frames))
        windows = (camera.frames(new_frames) for _ in range(30))
        p_values = np.array([compare(reference, window).p_value for window in windows])
        assert all((p_values <= share).mean() <= share for share in (RATE, 0.2, 0.5))


def test_the_rate_of_a_round_does_not_depend_on_its_number_of_cameras() -> None:
    camera = MadeUpCamera(20)
    reference, window = Reference.of(camera.frames(120)), camera.frames(64, {"content": 4.0})
    p_values = [compare(reference, window, comparisons=n).p_value for n in (1, 2, 8, 1000)]
    assert p_values == sorted(p_values) and 0 < p_values[0] < p_values[1]
    assert compare(reference, window, rate=p_values[0]).noticed
    assert not compare(reference, window, rate=p_values[0] / 2).noticed


def test_correlated_frames_count_as_fewer_independent_frames() -> None:
    alarms = alarms_if_independent = 0
    for seed in range(6):
        camera = MadeUpCamera(12, seed)
        reference = Reference.of(camera.correlated_frames(240, correlation=0.9))
        windows = [camera.correlated_frames(64, correlation=0.9) for _ in range(6)]
        alarms += sum(compare(reference, window).noticed for window in windows)
        alarms_if_independent += sum(compare(independent(reference), w).noticed for w in windows)
    assert alarms <= 36 * RATE < 20 < alarms_if_independent


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_autocorrelation_times_are_those_of_the_closed_form(correlation: float) -> None:
    rng, values = np.random.default_rng(1), np.zeros((20_000, 2))
    noise = rng.normal(size=values.shape)
    for k in range(1, len(values)):
        values[k] = correlation * values[k - 1] + noise[k]
    expected = (1 + correlation) / (1 - correlation)
    np.testing.assert_allclose(autocorrelation_times(values), expected, rtol=0.15)


def test_alternating_frames_count_as_independent() -> None:
    alternating = np.tile([[1.0, 5.0], [-1.0, 5.0]], (20, 1))
    np.testing.assert_array_equal(autocorrelation_times(alternating), [1, 1])


@pytest.mark.parametrize("windows", [1, 2, 9])
def test_an_unchanged_camera_alarms_no_more_often_with_an_extended_reference(windows: int) -> None:
    for seed in range(5):
        camera = MadeUpCamera(20, seed)
        reference = extended_reference(camera, windows)
        p_values = np.array([compare(reference, camera.frames(32)).p_value for _ in range(30)])
        assert all((p_values <= share).mean() <= share for share in (RATE, 0.2, 0.5))


# Changes that are noticed.


@pytest.mark.parametrize("view", VIEWS)
def test_a_shift_is_noticed_and_its_view_is_named(view: str) -> None:
    camera = MadeUpCamera(30)
    drift = compare(Reference.of(camera.frames(120)), camera.frames(64, {view: 40.0}))
    assert drift.noticed and not drift.blind
    assert (drift.view, drift.distance) == (view, 1.0)
    assert drift.least <= drift.p_value < 1e-6


def test_a_change_outside_the_fitted_axes_is_noticed() -> None:
    rng = np.random.default_rng(0)
    scale = np.r_[np.full(COMPONENTS, 30.0), np.ones(40)]

    def flat(count: int, rank: int) -> Matrix:
        """Return rows along few directions, so that the axes hold nearly all of the variance."""
        rows: Matrix = (rng.normal(size=(count, 43)) * scale)[:, :rank] @ basis[:rank]
        return rows + 0.01 * rng.normal(size=rows.shape)

    basis = np.linalg.qr(rng.normal(size=(43, 43)))[0]
    first, same, fuller = (
        Description("models", dict.fromkeys(VIEWS, rows))
        for rows in (flat(120, COMPONENTS), flat(64, COMPONENTS), flat(64, 43))
    )
    reference = Reference.of(first)
    assert not compare(reference, same).noticed
    assert compare(reference, fuller).noticed


def test_a_camera_that_repeats_one_image_is_noticed() -> None:
    camera = MadeUpCamera(30)
    still = map_rows(camera.frames(1), lambda rows: rows.repeat(64, axis=0))
    assert compare(Reference.of(camera.frames(240)), still).noticed


def test_the_scored_frames_of_a_reference_are_not_noticed() -> None:
    frames = MadeUpCamera(30).frames(120)
    same = map_rows(frames, lambda rows: rows[~fitting_frames(120)])
    assert compare(Reference.of(frames), same).p_value == 1
    assert compare(Reference.of(frames), same).distance == 0


def test_an_extended_reference_notices_smaller_changes_until_it_is_large() -> None:
    camera = MadeUpCamera(20)
    references = [extended_reference(camera, windows) for windows in range(4)]
    window = camera.frames(64, dict.fromkeys(VIEWS, 1e6))
    least = [compare(reference, window).least for reference in references]
    assert sorted(least, reverse=True) == least and len({*least}) == 3
    assert [reference.is_large for reference in references] == [False, False, True, True]
    assert Reference.of(camera.frames(LARGE_REFERENCE)).is_large
    assert not Reference.of(camera.frames(LARGE_REFERENCE - 9)).is_large


def test_an_extended_reference_has_the_axes_of_the_first_window_and_the_scores_of_all() -> None:
    camera = MadeUpCamera(20)
    first, second, third = (camera.frames(60) for _ in range(3))
    extended = Reference.of(first).grown("second", second).grown("third", third)
    assert extended.taken_up == ("second", "third")
    for view, sample in extended.samples.items():
        fitted = Projection.fit(first.rows[view][fitting_frames(60)])
        rows = (first.rows[view][~fitting_frames(60)], second.rows[view], third.rows[view])
        expected = fitted.scores(np.concatenate(rows))
        np.testing.assert_allclose(sample.scores, expected)
        np.testing.assert_allclose(sample.times, autocorrelation_times(expected))


def test_a_window_extends_a_reference_once() -> None:
    camera = MadeUpCamera(20)
    reference, window = Reference.of(camera.frames(60)), camera.frames(60)
    once = reference.grown("gate-7", window)
    assert once.grown("gate-7", window) is once
    assert once.grown("gate-8", window) is not once
    assert Reference.of(camera.frames(LARGE_REFERENCE)).grown("gate-7", window).taken_up == ()


def test_a_comparison_of_too_few_frames_to_notice_anything_is_blind() -> None:
    camera = MadeUpCamera(5)
    reference = Reference.of(camera.frames(30))
    drift = compare(reference, camera.frames(8, dict.fromkeys(VIEWS, 1e6)), comparisons=50)
    assert drift.blind and not drift.noticed
    assert not compare(reference, camera.frames(64)).blind


def test_the_p_value_is_that_of_scipy() -> None:
    camera = MadeUpCamera(6, seed=3)
    first, window = camera.frames(90), camera.frames(40, {"appearance": 5.0})
    reference = independent(Reference.of(first))
    axes, expected = fitting_frames(90), []
    for view in VIEWS:
        fitted = Projection.fit(first.rows[view][axes])
        reference_scores = fitted.scores(first.rows[view][~axes])
        window_scores = fitted.scores(window.rows[view])
        for one, other in zip(reference_scores.T, window_scores.T, strict=True):
            at = np.concatenate((one, other))[:, None]
            distance = np.abs((one <= at).mean(1) - (other <= at).mean(1)).max()
            tolerance = kstwo.ppf(1 - (1 - CONFIDENCE) / STATISTICS, len(one))
            expected.append(STATISTICS * kstwo.sf(distance - tolerance, len(other)))
    drift = compare(reference, window)
    assert 0 < drift.p_value < 1
    assert drift.p_value == pytest.approx(min(expected))


# Invariances.


def test_scale_and_order_of_features_and_constant_features_do_not_matter() -> None:
    camera, rng = MadeUpCamera(30), np.random.default_rng(0)
    first, window = camera.frames(120), camera.frames(64, dict.fromkeys(VIEWS, 4.0))
    expected = compare(Reference.of(first), window)
    assert 0 < expected.p_value < 1
    scale, order = 2.0 ** rng.integers(-9, 9, 30), rng.permutation(30)
    functions: list[Callable[[Matrix], Matrix]] = [
        lambda rows: rows * scale + 3,
        lambda rows: rows[:, order],
        lambda rows: np.column_stack((rows, np.zeros(len(rows)), np.full(len(rows), 7e4))),
    ]
    for function in functions:
        drift = compare(Reference.of(map_rows(first, function)), map_rows(window, function))
        assert drift.p_value == pytest.approx(expected.p_value)


def test_the_order_of_a_windows_frames_does_not_matter() -> None:
    camera, rng = MadeUpCamera(30), np.random.default_rng(0)
    reference, window = Reference.of(camera.frames(120)), camera.frames(64)
    assert compare(reference, map_rows(window, rng.permutation)) == compare(reference, window)


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


# Errors.


def test_too_few_frames_and_frames_that_are_all_the_same_are_refused() -> None:
    camera = MadeUpCamera(5)
    with pytest.raises(BadFrames, match="29 frames are too few to know a camera by"):
        Reference.of(camera.frames(29))
    with pytest.raises(BadFrames, match="7 frames are too few to compare"):
        compare(Reference.of(camera.frames(30)), camera.frames(7))
    with pytest.raises(BadFrames, match="all frames of the reference are the same"):
        Reference.of(map_rows(camera.frames(1), lambda rows: rows.repeat(60, axis=0)))


def test_features_of_other_models_are_refused() -> None:
    camera = MadeUpCamera(5)
    reference, window = Reference.of(camera.frames(60)), camera.frames(32)
    with pytest.raises(BadReference, match="by other models"):
        compare(reference, replace(window, models="others"))


# Files.


@pytest.fixture
def stored_reference(tmp_path: Path) -> tuple[Path, MadeUpCamera]:
    camera, path = MadeUpCamera(30), tmp_path / "references" / "gate.safetensors"
    save(path, Reference.of(camera.frames(60)))
    return path, camera


def test_a_loaded_reference_equals_the_saved_one(tmp_path: Path) -> None:
    camera, path = MadeUpCamera(30), tmp_path / "new" / "gate.safetensors"
    reference, window = extended_reference(camera, 1), camera.frames(32, {"content": 9.0})
    save(path, reference)
    assert compare(load(path), window) == compare(reference, window)
    assert load(path).models == "models" and load(path).taken_up == ("gate-0",)
    assert load(path).grown("gate-0", window).taken_up == ("gate-0",)
    assert [p.name for p in path.parent.iterdir()] == ["gate.safetensors"]


def test_a_damaged_file_is_refused(stored_reference: tuple[Path, MadeUpCamera]) -> None:
    path, _ = stored_reference
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], b"{}" + whole):
        path.write_bytes(content)
        with pytest.raises(BadReference, match=r"gate.safetensors is not a whole drift reference"):
            load(path)


def test_another_safetensors_file_is_refused(stored_reference: tuple[Path, MadeUpCamera]) -> None:
    path, _ = stored_reference
    save_file(load_file(path), path)  # without the metadata in its header
    with pytest.raises(BadReference):
        load(path)
    with pytest.raises(BadReference):
        load(path.with_name("missing.safetensors"))


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite):
        save(tmp_path / "file" / "gate.safetensors", Reference.of(MadeUpCamera(5).frames(60)))


# Real networks.


@pytest.fixture(scope="module")
def description(mixed: Observed) -> Description:
    return describe(mixed.deployment, RenderedScenes(STREET, 60), batch=20)


def test_a_description_is_the_means_of_early_and_last_representations(
    mixed: Observed, description: Description
) -> None:
    frames = [RenderedScenes(STREET, 60)[k] for k in range(2)]
    early, last = list[Matrix](), list[Matrix]()
    for model in mixed.deployment.fused_models.values():
        stages = dict(model.walk(model.prepare_frames(frames)))
        values = {name: stage.detach().double().numpy() for name, stage in stages.items()}
        count = len(values)
        early += [in_cells(v) for v in list(values.values())[count // 4 : (count + 1) // 2]]
        final = list(values.values())[-1]
        last.append(final.reshape(*final.shape[:2], -1).mean(2))
    for view, parts in zip(VIEWS, (early, last), strict=True):
        expected = np.concatenate(parts, 1)
        assert description.rows[view].shape == (60, expected.shape[1])
        np.testing.assert_allclose(description.rows[view][:2], expected, rtol=1e-3, atol=1e-4)


def in_cells(values: Matrix) -> Matrix:
    """Return the means of (frames, channels, height, width) over the cells of a grid of 3 by 3.

    Cells overlap where a side is not a multiple of 3.
    """
    height, width = values.shape[2:]
    means = [
        values[:, :, i * height // 3 : -(-(i + 1) * height // 3),
               j * width // 3 : -(-(j + 1) * width // 3)].mean((2, 3))
        for i in range(3)
        for j in range(3)
    ]  # fmt: skip
    return np.stack(means, 2).reshape(len(values), -1)


def test_a_description_does_not_depend_on_the_batch_size(
    mixed: Observed, description: Description
) -> None:
    steps: list[int] = []
    frames = RenderedScenes(STREET, 10)
    others = describe(mixed.deployment, frames, 4, steps.append)
    assert steps == [4, 4, 2]
    assert others.models == description.models == models_key(mixed.deployment)
    for view in VIEWS:
        np.testing.assert_allclose(
            others.rows[view], description.rows[view][:10], rtol=1e-3, atol=1e-4
        )


def test_an_unchanged_street_does_not_alarm_and_a_street_by_night_does(
    mixed: Observed, description: Description
) -> None:
    reference = Reference.of(description)
    by_day = describe(mixed.deployment, RenderedScenes(replace(STREET, seed=6), 32), batch=16)
    by_night = RenderedScenes(replace(STREET, seed=7, night=1.0), 32)
    assert not compare(reference, by_day).noticed
    assert compare(reference, describe(mixed.deployment, by_night, batch=16)).noticed


def test_different_models_have_different_keys(pair: Observed, copies: Observed) -> None:
    assert models_key(pair.deployment) != models_key(copies.deployment)


def test_no_frames_and_infinite_values_are_refused(pair: Observed) -> None:
    deployment = pair.deployment
    with pytest.raises(BadFrames, match="no frames to describe"):
        describe(deployment, RenderedScenes(STREET, 0), batch=4)
    broken = {name: fuse_batchnorms(model) for name, model in deployment.models.items()}
    with torch.no_grad():
        next(broken["b"].stages[-2].parameters()).fill_(torch.inf)
    defective = Deployment(broken, deployment.facts, deployment.pairs)
    with pytest.raises(BadRepresentation, match="b gives NaN or infinite values"):
        describe(defective, RenderedScenes(STREET, 4), batch=4)
