"""Properties of every rendered frame, checked on frames of several cameras."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from search.data.synthetic.rendering import fill
from search.data.synthetic.scenes import (
    CLASSES,
    MIN_SIDE,
    SCENE_CLASSES,
    Composition,
    Scene,
    SceneSettings,
    compose,
    draw,
    label_composition,
    render,
)

DRY_DAY = SceneSettings(seed=3)
MIXED = SceneSettings(seed=4, camera_yaw=15, camera_pitch=12, night=0.4, rain=0.4)


def alone(plan: Composition, number: int) -> Composition:
    """Return the composition with only one of its road users."""
    return replace(plan, actors=(plan.actors[number],))


def inside(scene: Scene, margin: float) -> NDArray[np.bool_]:
    """Return the mask (height, width) of the scene's boxes, grown by `margin` pixels."""
    rows, columns = np.mgrid[: scene.image.shape[0], : scene.image.shape[1]] + 0.5
    covered = np.zeros(scene.image.shape[:2], dtype=bool)
    for x, y, w, h in scene.boxes:
        covered |= (
            (columns > x - margin)
            & (columns < x + w + margin)
            & (rows > y - margin)
            & (rows < y + h + margin)
        )
    return covered


def difference(one: Scene, other: Scene) -> NDArray[np.int64]:
    """Return the signed difference of two frames, summed over the channels: (height, width)."""
    return np.asarray((one.image.astype(np.int64) - other.image).sum(axis=2))


def test_a_frame_depends_on_its_settings_and_index_alone() -> None:
    forwards = [render(MIXED, index) for index in range(4)]
    backwards = [render(replace(MIXED), index) for index in reversed(range(4))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert one.boxes.tobytes() == other.boxes.tobytes()
        assert one.classes.tobytes() == other.classes.tobytes()
        assert one.label == other.label


def test_other_indices_and_other_seeds_show_other_frames() -> None:
    frames = [render(replace(MIXED, seed=seed), index) for seed in (1, 2) for index in range(3)]
    assert len({frame.image.tobytes() for frame in frames}) == 6


def test_scenes_have_the_promised_shapes_and_boxes_inside_the_frame() -> None:
    for index in range(12):
        scene = render(MIXED, index)
        assert scene.image.shape == (288, 384, 3) and scene.image.dtype == np.uint8
        assert scene.boxes.shape == (len(scene.classes), 4) and scene.boxes.dtype == np.float64
        assert scene.classes.dtype == np.int64 and len(scene.classes) <= 7
        assert np.isin(scene.classes, range(len(CLASSES))).all()
        assert (scene.boxes[:, :2] >= 0).all() and (scene.boxes[:, 2:] >= MIN_SIDE).all()
        assert (scene.boxes[:, :2] + scene.boxes[:, 2:] <= (384, 288)).all()


def test_other_frame_sizes_scale_the_scene() -> None:
    scene = render(replace(DRY_DAY, width=192, height=144), 5)
    assert scene.image.shape == (144, 192, 3)
    assert (scene.boxes[:, :2] + scene.boxes[:, 2:] <= (192, 144)).all()


def test_road_users_change_only_shadows_outside_their_boxes() -> None:
    for index in range(6):
        plan = compose(DRY_DAY, index)
        full, empty = draw(plan), draw(replace(plan, actors=()))
        outside = ~inside(full, margin=3)
        # Outside the boxes, shadows darken the frame and nothing brightens it.
        assert difference(full, empty)[outside].max(initial=0) <= 3


def test_every_side_of_a_box_touches_its_road_user() -> None:
    for index in range(6):
        plan = compose(DRY_DAY, index)
        if not plan.actors:
            continue
        scene = draw(alone(plan, 0))
        changed = difference(scene, draw(replace(plan, actors=()))) != 0
        x, y, w, h = scene.boxes[0].round().astype(int)
        right, bottom = x + w, y + h
        for edge in (
            changed[y:bottom, x : x + 3],
            changed[y:bottom, right - 3 : right],
            changed[y : y + 3, x:right],
            changed[bottom - 3 : bottom, x:right],
        ):
            assert edge.any()


def test_the_last_painted_user_is_wholly_visible_and_no_user_is_more_visible_than_alone() -> None:
    crowds = (compose(DRY_DAY, index) for index in range(30))
    for plan in [crowd for crowd in crowds if len(crowd.actors) >= 3][:4]:
        boxes, _, _ = label_composition(plan)
        for number in range(len(plan.actors)):
            x, y, w, h = label_composition(alone(plan, number))[0][0]
            visible = boxes[number]
            assert visible[0] >= x and visible[1] >= y
            assert visible[0] + visible[2] <= x + w and visible[1] + visible[3] <= y + h
        assert (label_composition(alone(plan, -1))[0][0] == boxes[-1]).all()


def test_the_label_is_the_kind_with_the_largest_visible_area() -> None:
    for index in range(12):
        plan = compose(MIXED, index)
        _, _, label = label_composition(plan)
        if not plan.actors:
            assert label == 0
            continue
        # Repaint each road user in one colour and count its visible pixels.
        canvas = np.zeros((576, 768), dtype=np.int64)
        for number in range(len(plan.actors)):
            canvas[silhouette(plan, number)] = number + 1
        areas = np.bincount(canvas.ravel(), minlength=len(plan.actors) + 1)[1:]
        assert SCENE_CLASSES[label] == CLASSES[plan.actors[int(areas.argmax())].kind]


def silhouette(plan: Composition, number: int) -> NDArray[np.bool_]:
    """Return the silhouette of one road user at twice the size of the frame."""
    canvas = Image.new("1", (768, 576))
    for stroke in plan.actors[number].strokes:
        fill(ImageDraw.Draw(canvas), stroke, 1, 2.0)
    return np.asarray(canvas)


def test_all_labels_and_all_kinds_occur() -> None:
    truths = [label_composition(compose(DRY_DAY, index)) for index in range(200)]
    assert {kind for _, classes, _ in truths for kind in classes} == set(range(len(CLASSES)))
    counts = np.bincount([label for _, _, label in truths], minlength=len(SCENE_CLASSES))
    assert counts.min() >= 10


def test_night_frames_are_darker_than_day_frames() -> None:
    day = [render(DRY_DAY, index).image.mean() for index in range(5)]
    night = [render(replace(DRY_DAY, night=1.0), index).image.mean() for index in range(5)]
    assert max(night) < min(day)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1), ("seed", 1.5), ("camera_height", 0.5), ("camera_pitch", -1.0),
        ("camera_yaw", 90.0), ("night", 1.2), ("rain", -0.1), ("rain", float("nan")),
        ("width", 0), ("height", 10_000),
    ],
)  # fmt: skip
def test_settings_outside_their_limits_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be "):
        replace(DRY_DAY, **{name: value})  # type: ignore[arg-type]
