"""Street-camera frames with exact ground truth, drawn from nothing but a seed.

`render(settings, index)` composes a scene (light, camera, street, road users), keeps the road
users that can be seen well enough to be labelled, and draws exactly those. Every frame depends
on its settings and its index alone, so frames can be drawn in any order and in any shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from search.data.synthetic.placement import Actor, StreetView, cast, in_painting_order
from search.data.synthetic.rendering import (
    SUPERSAMPLING,
    Array,
    Light,
    PinholeCamera,
    cast_shadows,
    expose,
    fill,
    fill_polygon,
    glow,
    ground,
    rain_streaks,
    sky,
)
from search.data.synthetic.street import CLASSES, draw_street

SCENE_CLASSES = ("empty", *CLASSES)
RENDERER_VERSION = "1"  # part of every frame hash: bump it when any pixel may change

__all__ = ["CLASSES", "RENDERER_VERSION", "SCENE_CLASSES", "Scene", "SceneSettings", "render"]

MIN_VISIBLE = 0.35  # a road user that shows less of itself is not drawn at all
MIN_SIDE = 14.0  # pixels in a frame 384 wide; neither is one with a shorter box side


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
class Composition:
    """Everything that decides a frame; `actors` in painting order, farthest first."""

    view: StreetView
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
    view = StreetView(camera, light, crossing=float(rng.uniform(9, 60)))
    candidates = in_painting_order(cast(view, rng), camera)
    masks = _visible_masks(candidates, camera)
    # leaving somebody out only uncovers the others, so one pass of checks is enough
    seen = [a for a, mask in zip(candidates, masks, strict=True) if _labelled(a, mask, camera)]
    return Composition(view, backdrop, noise, tuple(seen))


def draw(plan: Composition) -> Scene:
    """The frame of a composition and its ground truth."""
    camera, light = plan.view.camera, plan.view.light
    rng = np.random.Generator(np.random.PCG64(plan.backdrop_seed))
    picture = sky(camera, light, rng)
    draw_street(picture, camera, light, plan.view.crossing, rng)
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
    return Scene(expose(frame, noise), *label_composition(plan))


def label_composition(plan: Composition) -> tuple[Array, NDArray[np.int64], int]:
    """The boxes, classes and label of a composition, measured on the drawn shapes themselves."""
    masks = _visible_masks(plan.actors, plan.view.camera)
    classes = np.array([actor.kind for actor in plan.actors], dtype=np.int64)
    boxes = np.array([_box(mask) for mask in masks], dtype=np.float64).reshape(-1, 4)
    label = int(classes[np.argmax([mask.sum() for mask in masks])]) + 1 if masks else 0
    return boxes, classes, label


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


def _camera(settings: SceneSettings, rng: Generator) -> PinholeCamera:
    pitch = np.radians(settings.camera_pitch + rng.uniform(-1.5, 1.5))
    yaw = np.radians(settings.camera_yaw + rng.uniform(-4, 4))
    # a camera that looks across the road stands on the other side of it
    x = rng.uniform(-4, 4) - 0.1 * settings.camera_yaw
    up = settings.camera_height + rng.uniform(-0.3, 0.3)
    focal = 1.1 * settings.width
    return PinholeCamera(x, up, pitch, yaw, focal, settings.width, settings.height)


def _visible_masks(actors: Sequence[Actor], camera: PinholeCamera) -> list[NDArray[np.bool_]]:
    """What each actor shows, on the supersampled canvas, painted in the given order."""
    canvas = Image.new("L", (camera.width * SUPERSAMPLING, camera.rows * SUPERSAMPLING), 0)
    brush = ImageDraw.Draw(canvas)
    for number, actor in enumerate(actors, start=1):
        for stroke in actor.strokes:
            fill(brush, stroke, number, SUPERSAMPLING)
    numbers = np.asarray(canvas)
    return [numbers == number for number in range(1, len(actors) + 1)]


def _labelled(actor: Actor, mask: NDArray[np.bool_], camera: PinholeCamera) -> bool:
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


def _lamps(actors: Sequence[Actor], camera: PinholeCamera) -> Image.Image:
    """The shining parts alone, hidden where somebody stands before them."""
    canvas = Image.new("RGB", (camera.width, camera.rows))
    brush = ImageDraw.Draw(canvas)
    for stroke in (stroke for actor in actors for stroke in actor.strokes):
        fill(brush, stroke, stroke.colour if stroke.emission else (0, 0, 0), 1.0)
    return canvas


def _pools(plan: Composition, rng: Generator) -> Image.Image:
    """Where street lamps and headlights reach the ground, at half size."""
    canvas = Image.new("L", (plan.view.camera.width // 2, plan.view.camera.rows // 2), 14)
    brush = ImageDraw.Draw(canvas)
    for y in np.arange(rng.uniform(-4, 6), 60, 14.0):
        for x in (-6.5, 6.5):
            turn = np.linspace(0, 2 * np.pi, 13)[:-1]
            outline = [(x + 4 * float(np.cos(t)), float(y) + 4 * float(np.sin(t))) for t in turn]
            fill_polygon(brush, ground(outline, plan.view.camera) / 2, 70)
    for actor in plan.actors:
        outline = [(float(x), float(y)) for x, y in actor.beam]
        fill_polygon(brush, ground(outline, plan.view.camera) / 2, 150)
    return canvas
