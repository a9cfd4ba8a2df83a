"""Street-camera frames with exact ground truth, drawn from nothing but a seed.

`render(settings, index)` composes a scene (light, camera, street, road users), keeps the road
users that can be seen well enough to be labelled, and draws exactly those. Every frame depends
on its settings and its index alone, so frames can be drawn in any order and in any shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from search.rendering import (
    SUPERSAMPLING,
    Array,
    Camera,
    Light,
    Stroke,
    cast_shadows,
    expose,
    fill,
    fill_polygon,
    glow,
    ground,
    rain_streaks,
    sky,
    strokes,
)
from search.street import (
    BUILDERS,
    CLASSES,
    CROSSING_HALF_WIDTH,
    PAVEMENT,
    ROAD_HALF_WIDTH,
    RoadUser,
    draw_street,
)

SCENE_CLASSES = ("empty", *CLASSES)
RENDERER_VERSION = "1"  # part of every frame hash: bump it when any pixel may change

__all__ = ["CLASSES", "RENDERER_VERSION", "SCENE_CLASSES", "Scene", "SceneSettings", "render"]

MIN_VISIBLE = 0.35  # a road user that shows less of itself is not drawn at all
MIN_SIDE = 14.0  # pixels in a frame 384 wide; neither is one with a shorter box side
RIVAL_AREA = 0.7  # the others look at most this large next to the subject
PLACEMENT_TRIES = 60

# how far the subject of a frame stands from the camera, and everybody else, metres
SUBJECT_RANGE = {
    "car": (5.5, 10.0), "van": (6.5, 11.0), "truck": (9.0, 13.5), "bus": (10.0, 14.5),
    "cyclist": (4.8, 8.0), "pedestrian": (4.5, 7.5),
}  # fmt: skip
OTHERS_RANGE = {
    "car": (9.0, 24.0), "van": (10.0, 26.0), "truck": (14.0, 30.0), "bus": (15.0, 32.0),
    "cyclist": (6.0, 14.0), "pedestrian": (6.0, 14.0),
}  # fmt: skip


@dataclass(frozen=True)
class SceneSettings:
    """One camera over one street; each frame jitters a little around this mounting.

    `camera_height` in metres; `camera_pitch` (positive looks down) and `camera_yaw` (positive
    looks right) in degrees; `night` and `rain` are the shares of frames with each.
    """

    seed: int
    camera_height: float = 3.2
    camera_pitch: float = 9.0
    camera_yaw: float = 0.0
    night: float = 0.0
    rain: float = 0.0
    width: int = 384
    height: int = 288

    def __post_init__(self) -> None:
        limits = {
            "seed": (0, 2**63 - 1), "camera_height": (2.4, 8.0), "camera_pitch": (0.0, 35.0),
            "camera_yaw": (-45.0, 45.0), "night": (0.0, 1.0), "rain": (0.0, 1.0),
            "width": (64, 4096), "height": (64, 4096),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be between {low} and {high}, not {value}")
        for name in ("seed", "width", "height"):
            if not isinstance(getattr(self, name), int | np.integer):
                raise ValueError(f"{name} must be a whole number, not {getattr(self, name)}")


@dataclass(frozen=True)
class Scene:
    """A frame and its ground truth.

    image: uint8 (height, width, 3); boxes: float64 (n, 4), x, y, w, h in pixels of the visible
    extent; classes: int64 (n,), indices into CLASSES; label: index into SCENE_CLASSES of the
    kind with the largest visible road user, 0 when there is none.
    """

    image: NDArray[np.uint8]
    boxes: Array
    classes: NDArray[np.int64]
    label: int


@dataclass(frozen=True, eq=False)
class Actor:
    """A road user in its place: its class, its shape in the frame and on the ground."""

    kind: int
    footprint: Array  # (4, 2), metres
    height: float  # metres
    beam: Array  # (4, 2), metres: the ground its headlights reach
    strokes: tuple[Stroke, ...]
    area: int  # pixels inside the frame if nothing stood before it
    whole: int  # the same, and also without the borders of the frame


@dataclass(frozen=True)
class Composition:
    """Everything that decides a frame; `actors` in painting order, farthest first."""

    camera: Camera
    light: Light
    crossing: float  # y of the side street, metres
    backdrop_seed: np.random.SeedSequence
    noise_seed: np.random.SeedSequence
    actors: tuple[Actor, ...]


def render(settings: SceneSettings, index: int) -> Scene:
    """Frame number `index` of the camera described by `settings`."""
    return draw(compose(settings, index))


def compose(settings: SceneSettings, index: int) -> Composition:
    """Decide what frame `index` shows: every road user in it will get a box."""
    entropy = (int(settings.seed), int(index))
    layout_seed, backdrop, noise = np.random.SeedSequence(entropy).spawn(3)
    rng = np.random.Generator(np.random.PCG64(layout_seed))
    light, camera = _light(settings, rng), _camera(settings, rng)
    crossing = float(rng.uniform(9, 60))
    candidates = _in_painting_order(_cast(camera, light, crossing, rng), camera)
    masks = _visible_masks(candidates, camera)
    # leaving somebody out only uncovers the others, so one pass of checks is enough
    seen = [a for a, mask in zip(candidates, masks, strict=True) if _labelled(a, mask, camera)]
    return Composition(camera, light, crossing, backdrop, noise, tuple(seen))


def draw(plan: Composition) -> Scene:
    """The frame of a composition, with boxes measured on the drawn shapes themselves."""
    camera, light = plan.camera, plan.light
    rng = np.random.Generator(np.random.PCG64(plan.backdrop_seed))
    picture = sky(camera, light, rng)
    draw_street(picture, camera, light, plan.crossing, rng)
    shadows = ((actor.footprint, actor.height) for actor in plan.actors)
    picture = cast_shadows(picture, shadows, camera, light)
    brush = ImageDraw.Draw(picture)
    for stroke in (stroke for actor in plan.actors for stroke in actor.strokes):
        fill(brush, stroke, stroke.colour, SUPERSAMPLING)
    frame = np.asarray(picture.reduce(SUPERSAMPLING), dtype=np.float64)
    noise = np.random.Generator(np.random.PCG64(plan.noise_seed))
    if light.lamps > 0:
        frame = glow(frame, _lamps(plan.actors, camera), _pools(plan, noise), light.lamps)
    if light.rain > 0:
        frame = rain_streaks(frame, light.rain, noise)
    masks = _visible_masks(plan.actors, camera)
    classes = np.array([actor.kind for actor in plan.actors], dtype=np.int64)
    boxes = np.array([_box(mask) for mask in masks], dtype=np.float64).reshape(-1, 4)
    largest = int(np.argmax([mask.sum() for mask in masks])) if masks else -1
    label = int(classes[largest]) + 1 if masks else 0
    return Scene(expose(frame, noise), boxes, classes, label)


def _light(settings: SceneSettings, rng: Generator) -> Light:
    by_night = bool(rng.random() < settings.night)
    rain = float(rng.uniform(0.5, 1.0)) if rng.random() < settings.rain else 0.0
    bearing, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.2)
    flat = np.cos(elevation)
    sun = np.array((flat * np.cos(bearing), flat * np.sin(bearing), np.sin(elevation)))
    zenith = np.array((0.0, 0.0, 1.0))
    if by_night:
        ambient = np.array((0.24, 0.26, 0.36)) * rng.uniform(0.85, 1.25)
        return Light(zenith, ambient, 0.12, 1.0, rain, 160, ((10, 12, 26), (44, 42, 58)))
    if rain or rng.random() < 0.3:
        ambient = np.array((0.66, 0.68, 0.72)) * rng.uniform(0.85, 1.1)
        return Light(zenith, ambient, 0.22, 0.0, rain, 150, ((128, 136, 148), (190, 194, 198)))
    ambient = np.array((0.52, 0.54, 0.60)) * rng.uniform(0.9, 1.1)
    return Light(sun, ambient, rng.uniform(0.6, 0.8), 0.0, 0.0, 120,
                 ((84, 140, 206), (206, 220, 232)))  # fmt: skip


def _camera(settings: SceneSettings, rng: Generator) -> Camera:
    pitch = np.radians(settings.camera_pitch + rng.uniform(-1.5, 1.5))
    yaw = np.radians(settings.camera_yaw + rng.uniform(-4, 4))
    # a camera that looks across the road stands on the other side of it
    x = rng.uniform(-4, 4) - 0.1 * settings.camera_yaw
    up = settings.camera_height + rng.uniform(-0.3, 0.3)
    focal = 1.1 * settings.width
    return Camera(x, up, pitch, yaw, focal, settings.width, settings.height)


def _cast(camera: Camera, light: Light, crossing: float, rng: Generator) -> list[Actor]:
    """A subject of uniformly drawn kind (or nobody), and others that look smaller than it."""
    subject = int(rng.integers(len(SCENE_CLASSES))) - 1
    if subject < 0:
        return []
    actors: list[Actor] = []
    first = _place(subject, SUBJECT_RANGE, 0.2, actors, camera, light, crossing, rng)
    if first is not None:
        actors.append(first)
    for kind in rng.integers(len(CLASSES), size=rng.integers(1, 7)).tolist():
        other = _place(kind, OTHERS_RANGE, 0.06, actors, camera, light, crossing, rng)
        if other is not None and (first is None or other.area < RIVAL_AREA * first.area):
            actors.append(other)
    return actors


def _place(
    kind: int,
    ranges: dict[str, tuple[float, float]],
    margin: float,
    others: Sequence[Actor],
    camera: Camera,
    light: Light,
    crossing: float,
    rng: Generator,
) -> Actor | None:
    """Someone of this kind on free ground in view, or None when no try finds a place."""
    name = CLASSES[kind]
    user = BUILDERS[name](rng)
    farther = max(0.0, _blind_distance(camera) - ranges[name][0])
    for _ in range(PLACEMENT_TRIES):
        bearing = np.arctan(rng.uniform(margin - 0.5, 0.5 - margin) * camera.width / camera.focal)
        distance = rng.uniform(*ranges[name]) + farther
        x = float(camera.x + distance * np.sin(camera.yaw + bearing))
        y = float(distance * np.cos(camera.yaw + bearing))
        heading = _heading(name, x, y, crossing, rng)
        if heading is None:
            continue
        footprint = _rectangle(user, x, y, heading, 0.0, user.half_length)
        if _in_view(footprint, camera) and not any(
            _overlap(footprint, other.footprint) for other in others
        ):
            return _actor(kind, user, footprint, x, y, heading, camera, light)
    return None


def _blind_distance(camera: Camera) -> float:
    """How far ahead the lower border of the frame shows the ground, metres."""
    lowest = camera.pitch + np.arctan(0.45 * camera.rows / camera.focal)
    return float(camera.height / np.tan(lowest))


def _heading(name: str, x: float, y: float, crossing: float, rng: Generator) -> float | None:
    """A direction to travel in from (x, y), radians clockwise from +y; None: not a place to be."""
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


def _rectangle(
    user: RoadUser, x: float, y: float, heading: float, back: float, front: float
) -> Array:
    """Corners (4, 2) of a strip of the user's width from behind to before it, metres."""
    start = -user.half_length if back == 0.0 else back
    ahead = np.array((np.sin(heading), np.cos(heading)))
    aside = np.array((ahead[1], -ahead[0])) * user.half_width
    middle = np.array((x, y))
    tail, head = middle + start * ahead, middle + front * ahead
    return np.stack((tail - aside, head - aside, head + aside, tail + aside))


def _actor(
    kind: int,
    user: RoadUser,
    footprint: Array,
    x: float,
    y: float,
    heading: float,
    camera: Camera,
    light: Light,
) -> Actor:
    shapes = strokes((solid.placed(x, y, heading) for solid in user.solids), camera, light)
    reach = 0.0 if CLASSES[kind] == "pedestrian" else 7.0
    beam = _rectangle(user, x, y, heading, user.half_length, user.half_length + reach)
    width, rows = camera.width, camera.rows
    # a canvas twice as wide and high shows how much of it the borders of the frame cut off
    canvas = Image.new("L", (2 * width, 2 * rows), 0)
    brush = ImageDraw.Draw(canvas)
    for stroke in shapes:
        fill(brush, stroke, 1, 1.0, (width / 2, rows / 2))
    alone = np.asarray(canvas)
    left, top = width // 2, rows // 2
    area = int(alone[top : top + rows, left : left + width].sum())
    return Actor(kind, footprint, user.height, beam, shapes, area, int(alone.sum()))


def _in_view(footprint: Array, camera: Camera) -> bool:
    """Whether the whole footprint (4, 2) is before the lens and its middle above the border."""
    points = np.column_stack((footprint, np.zeros(4)))
    viewed = camera.view(points)
    if viewed[:, 2].min() < 2.5:
        return False
    middle = camera.pixels(viewed.mean(axis=0, keepdims=True))[0]
    return bool(middle[1] < 0.95 * camera.rows)


def _overlap(one: Array, other: Array) -> bool:
    """Whether two rectangles (4, 2) come closer than a hand's breadth: separating axes."""
    for corners in (one, other):
        for edge in (corners[1] - corners[0], corners[3] - corners[0]):
            axis = edge / np.linalg.norm(edge)
            a, b = one @ axis, other @ axis
            if a.max() + 0.25 < b.min() or b.max() + 0.25 < a.min():
                return False
    return True


def _in_painting_order(actors: Iterable[Actor], camera: Camera) -> list[Actor]:
    """Farthest first, so that painting one after the other hides what is hidden."""
    waiting = sorted(actors, key=lambda a: -float(_distances(a.footprint, camera).mean()))
    ordered: list[Actor] = []
    while waiting:
        free = (a for a in waiting if not any(_hides(a, b, camera) for b in waiting if b is not a))
        ordered.append(next(free, waiting[0]))
        waiting.remove(ordered[-1])
    return ordered


def _distances(footprint: Array, camera: Camera) -> Array:
    return np.asarray(np.linalg.norm(footprint - camera.position[:2], axis=1))


def _hides(near: Actor, far: Actor, camera: Camera) -> bool:
    """Whether the ray through the middle of their common bearings meets `near` first."""
    bearings = [_bearings(actor.footprint, camera) for actor in (near, far)]
    low, high = max(b.min() for b in bearings), min(b.max() for b in bearings)
    if low >= high:
        return False
    middle = (low + high) / 2 + camera.yaw
    ray = np.array((np.sin(middle), np.cos(middle)))
    return _entry(near.footprint, ray, camera) < _entry(far.footprint, ray, camera)


def _bearings(footprint: Array, camera: Camera) -> Array:
    viewed = camera.axes @ np.column_stack((footprint - camera.position[:2], np.zeros(4))).T
    ahead = np.array((np.sin(camera.yaw), np.cos(camera.yaw)))
    return np.asarray(np.arctan2(viewed[0], (footprint - camera.position[:2]) @ ahead))


def _entry(footprint: Array, ray: Array, camera: Camera) -> float:
    """Distance along a ray from the camera to the first edge of a footprint it crosses."""
    points = footprint - camera.position[:2]
    across = points @ np.array((ray[1], -ray[0]))
    along = points @ ray
    hits = [
        along[i] + (along[j] - along[i]) * across[i] / (across[i] - across[j])
        for i, j in ((0, 1), (1, 2), (2, 3), (3, 0))
        if across[i] * across[j] < 0
    ]
    return float(min(hits, default=along.min()))


def _visible_masks(actors: Sequence[Actor], camera: Camera) -> list[NDArray[np.bool_]]:
    """What each actor shows, on the supersampled canvas, painted in the given order."""
    canvas = Image.new("L", (camera.width * SUPERSAMPLING, camera.rows * SUPERSAMPLING), 0)
    brush = ImageDraw.Draw(canvas)
    for number, actor in enumerate(actors, start=1):
        for stroke in actor.strokes:
            fill(brush, stroke, number, SUPERSAMPLING)
    numbers = np.asarray(canvas)
    return [numbers == number for number in range(1, len(actors) + 1)]


def _labelled(actor: Actor, mask: NDArray[np.bool_], camera: Camera) -> bool:
    """Whether this much of an actor is enough for a fair label."""
    visible = float(mask.sum()) / SUPERSAMPLING**2
    if visible < MIN_VISIBLE * actor.whole or visible < 1:
        return False
    return min(_box(mask)[2:]) >= MIN_SIDE * camera.width / 384


def _box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Extent x, y, w, h of a mask on the supersampled canvas, in pixels of the frame."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = columns[0] / SUPERSAMPLING, rows[0] / SUPERSAMPLING
    right, bottom = (columns[-1] + 1) / SUPERSAMPLING, (rows[-1] + 1) / SUPERSAMPLING
    return float(x), float(y), float(right - x), float(bottom - y)


def _lamps(actors: Sequence[Actor], camera: Camera) -> Image.Image:
    """The shining parts alone, hidden where somebody stands before them."""
    canvas = Image.new("RGB", (camera.width, camera.rows))
    brush = ImageDraw.Draw(canvas)
    for stroke in (stroke for actor in actors for stroke in actor.strokes):
        fill(brush, stroke, stroke.colour if stroke.emission else (0, 0, 0), 1.0)
    return canvas


def _pools(plan: Composition, rng: Generator) -> Image.Image:
    """Where street lamps and headlights reach the ground, at half size."""
    canvas = Image.new("L", (plan.camera.width // 2, plan.camera.rows // 2), 14)
    brush = ImageDraw.Draw(canvas)
    for y in np.arange(rng.uniform(-4, 6), 60, 14.0):
        for x in (-6.5, 6.5):
            turn = np.linspace(0, 2 * np.pi, 13)[:-1]
            outline = [(x + 4 * float(np.cos(t)), float(y) + 4 * float(np.sin(t))) for t in turn]
            fill_polygon(brush, ground(outline, plan.camera) / 2, 70)
    for actor in plan.actors:
        outline = [(float(x), float(y)) for x, y in actor.beam]
        fill_polygon(brush, ground(outline, plan.camera) / 2, 150)
    return canvas
