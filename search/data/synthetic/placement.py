"""Places for road users on free ground in view, and the order in which they hide each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from search.data.synthetic.rendering import Array, Light, PinholeCamera, Stroke, fill, strokes
from search.data.synthetic.street import (
    BUILDERS,
    CLASSES,
    CROSSING_HALF_WIDTH,
    PAVEMENT,
    ROAD_HALF_WIDTH,
    RoadUser,
)

RIVAL_AREA = 0.7
"""Maximum area of another road user in the frame, relative to the subject's."""
PLACEMENT_TRIES = 60

SUBJECT_RANGE = {
    "car": (5.5, 10.0), "van": (6.5, 11.0), "truck": (9.0, 13.5), "bus": (10.0, 14.5),
    "cyclist": (4.8, 8.0), "pedestrian": (4.5, 7.5),
}  # fmt: skip
"""Distances of the subject of a frame from the camera, metres."""
OTHERS_RANGE = {
    "car": (9.0, 24.0), "van": (10.0, 26.0), "truck": (14.0, 30.0), "bus": (15.0, 32.0),
    "cyclist": (6.0, 14.0), "pedestrian": (6.0, 14.0),
}  # fmt: skip
"""Distances of all other road users from the camera, metres."""


@dataclass(frozen=True, eq=False)
class StreetView:
    """The parts of a frame that do not depend on its road users."""

    camera: PinholeCamera
    light: Light
    crossing: float
    """The y of the side street, metres."""


@dataclass(frozen=True)
class Pose:
    """A place on the ground, metres, and a heading in radians clockwise from +y."""

    x: float
    y: float
    heading: float

    def strip(self, half_width: float, back: float, front: float) -> Array:
        """Return the corners (4, 2) of a rectangle from `back` to `front` along the heading."""
        ahead = np.array((np.sin(self.heading), np.cos(self.heading)))
        aside = np.array((ahead[1], -ahead[0])) * half_width
        middle = np.array((self.x, self.y))
        tail, head = middle + back * ahead, middle + front * ahead
        return np.stack((tail - aside, head - aside, head + aside, tail + aside))


@dataclass(frozen=True, eq=False)
class Actor:
    """A road user in its place: its class, its shape in the frame and on the ground."""

    kind: int
    """Index into CLASSES."""
    footprint: Array
    """(4, 2), metres."""
    height: float
    """Metres."""
    beam: Array
    """(4, 2), metres: the ground that its headlights reach."""
    strokes: tuple[Stroke, ...]
    area: int
    """Pixels inside the frame, if nothing hid it."""
    whole: int
    """Pixels, if neither anything nor the borders of the frame hid it."""


def cast(view: StreetView, rng: Generator) -> list[Actor]:
    """Draw the road users of a frame: a subject of uniformly drawn kind, or none, and others that
    look smaller."""
    subject = int(rng.integers(len(CLASSES) + 1)) - 1
    if subject < 0:
        return []
    actors: list[Actor] = []
    main = _place(subject, SUBJECT_RANGE, 0.2, actors, view, rng)
    if main is not None:
        actors.append(main)
    for kind in rng.integers(len(CLASSES), size=rng.integers(1, 7)).tolist():
        other = _place(kind, OTHERS_RANGE, 0.06, actors, view, rng)
        if other is not None and (main is None or other.area < RIVAL_AREA * main.area):
            actors.append(other)
    return actors


def _place(
    kind: int,
    ranges: dict[str, tuple[float, float]],
    margin: float,
    others: Sequence[Actor],
    view: StreetView,
    rng: Generator,
) -> Actor | None:
    """Build a road user of this kind on free ground in view; None if no try finds a place.

    `margin` is the share of the frame's width, on either side, in which no centre is placed.
    """
    name = CLASSES[kind]
    camera, user = view.camera, BUILDERS[name](rng)
    farther = max(0.0, _blind_distance(camera) - ranges[name][0])
    for _ in range(PLACEMENT_TRIES):
        bearing = np.arctan(rng.uniform(margin - 0.5, 0.5 - margin) * camera.width / camera.focal)
        distance = rng.uniform(*ranges[name]) + farther
        x = float(camera.x + distance * np.sin(camera.yaw + bearing))
        y = float(distance * np.cos(camera.yaw + bearing))
        heading = _heading(name, x, y, view.crossing, rng)
        if heading is None:
            continue
        pose = Pose(x, y, heading)
        footprint = pose.strip(user.half_width, -user.half_length, user.half_length)
        if _in_view(footprint, camera) and not any(
            _overlap(footprint, other.footprint) for other in others
        ):
            return _actor(kind, user, pose, view)
    return None


def _blind_distance(camera: PinholeCamera) -> float:
    """Return the distance of the nearest ground above the lower border of the frame, metres."""
    lowest = camera.pitch + np.arctan(0.45 * camera.rows / camera.focal)
    return float(camera.height / np.tan(lowest))


def _heading(name: str, x: float, y: float, crossing: float, rng: Generator) -> float | None:
    """Draw a direction of travel from (x, y), radians clockwise from +y.

    Returns None if a road user of this class does not belong there.
    """
    wobble = rng.normal(0, 0.07)
    if name == "pedestrian":
        if abs(x) > ROAD_HALF_WIDTH + PAVEMENT - 0.7:
            return None
        along = rng.random() < (0.7 if abs(x) > ROAD_HALF_WIDTH else 0.25)
        return float((0.0 if along else np.pi / 2) + np.pi * rng.integers(2) + 4 * wobble)
    if abs(y - crossing) < CROSSING_HALF_WIDTH - 1.2 and rng.random() < 0.8:
        return float((np.pi / 2 if y < crossing else -np.pi / 2) + 2 * wobble)
    if abs(x) > ROAD_HALF_WIDTH - (0.5 if name == "cyclist" else 1.2):
        return None
    turning = rng.choice((-1.0, 1.0)) * rng.uniform(0.3, 1.4) if rng.random() < 0.3 else 0.0
    return float((0.0 if x > 0 else np.pi) + wobble + turning)


def _actor(kind: int, user: RoadUser, pose: Pose, view: StreetView) -> Actor:
    """Build the actor of a road user, and count its pixels."""
    placed = (solid.placed(pose.x, pose.y, pose.heading) for solid in user.solids)
    shapes = strokes(placed, view.camera, view.light)
    reach = 0.0 if CLASSES[kind] == "pedestrian" else 7.0
    footprint = pose.strip(user.half_width, -user.half_length, user.half_length)
    beam = pose.strip(user.half_width, user.half_length, user.half_length + reach)
    width, rows = view.camera.width, view.camera.rows
    # twice as wide and high as the frame, to show the pixels that its borders cut off
    canvas = Image.new("L", (2 * width, 2 * rows), 0)
    brush = ImageDraw.Draw(canvas)
    for stroke in shapes:
        fill(brush, stroke, 1, 1.0, (width / 2, rows / 2))
    mask = np.asarray(canvas)
    left, top = width // 2, rows // 2
    area = int(mask[top : top + rows, left : left + width].sum())
    return Actor(kind, footprint, user.height, beam, shapes, area, int(mask.sum()))


def _in_view(footprint: Array, camera: PinholeCamera) -> bool:
    """Whether all of the footprint (4, 2) is before the lens, its middle above the border."""
    points = np.column_stack((footprint, np.zeros(4)))
    corners = camera.view(points)
    if corners[:, 2].min() < 2.5:
        return False
    middle = camera.pixels(corners.mean(axis=0, keepdims=True))[0]
    return bool(middle[1] < 0.95 * camera.rows)


def _overlap(one: Array, other: Array) -> bool:
    """Whether two rectangles (4, 2) are at most 0.25 m apart on every axis of either.

    Source: the separating axis theorem.
    """
    for corners in (one, other):
        for edge in (corners[1] - corners[0], corners[3] - corners[0]):
            axis = edge / np.linalg.norm(edge)
            a, b = one @ axis, other @ axis
            if a.max() + 0.25 < b.min() or b.max() + 0.25 < a.min():
                return False
    return True


def in_painting_order(actors: Iterable[Actor], camera: PinholeCamera) -> list[Actor]:
    """Return the actors in painting order: each before the actors that hide it."""
    waiting = sorted(actors, key=lambda a: -float(_distances(a.footprint, camera).mean()))
    ordered: list[Actor] = []
    while waiting:
        free = (a for a in waiting if not any(_hides(a, b, camera) for b in waiting if b is not a))
        farthest = next(free, waiting[0])
        ordered.append(farthest)
        waiting.remove(farthest)
    return ordered


def _distances(footprint: Array, camera: PinholeCamera) -> Array:
    """Return the distances of the corners from the camera on the ground (4,), metres."""
    return np.asarray(np.linalg.norm(footprint - camera.position[:2], axis=1))


def _hides(near: Actor, far: Actor, camera: PinholeCamera) -> bool:
    """Whether the ray through the middle of their common bearings meets `near` before `far`."""
    bearings = [_bearings(actor.footprint, camera) for actor in (near, far)]
    low, high = max(b.min() for b in bearings), min(b.max() for b in bearings)
    if low >= high:
        return False
    middle = (low + high) / 2 + camera.yaw
    ray = np.array((np.sin(middle), np.cos(middle)))
    return _entry(near.footprint, ray, camera) < _entry(far.footprint, ray, camera)


def _bearings(footprint: Array, camera: PinholeCamera) -> Array:
    """Return the bearings of the corners from the camera (4,), radians clockwise from its yaw."""
    points = camera.axes @ np.column_stack((footprint - camera.position[:2], np.zeros(4))).T
    ahead = np.array((np.sin(camera.yaw), np.cos(camera.yaw)))
    return np.asarray(np.arctan2(points[0], (footprint - camera.position[:2]) @ ahead))


def _entry(footprint: Array, ray: Array, camera: PinholeCamera) -> float:
    """Return the distance along a ray from the camera to the first edge that it crosses."""
    points = footprint - camera.position[:2]
    across = points @ np.array((ray[1], -ray[0]))
    along = points @ ray
    hits = [
        along[i] + (along[j] - along[i]) * across[i] / (across[i] - across[j])
        for i, j in ((0, 1), (1, 2), (2, 3), (3, 0))
        if across[i] * across[j] < 0
    ]
    return float(min(hits, default=along.min()))
