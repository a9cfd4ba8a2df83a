"""Street-camera frames with exact ground truth, drawn from a seed.

`render(settings, index)` composes a scene (light, camera, street, road users), selects the road
users that are visible enough for a label, and draws exactly these. A frame depends only on its
settings and its index, so frames can be drawn in any order and in any shard.
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
RENDERER_VERSION = "1"
"""Part of every frame hash: bump it when any pixel may change."""

__all__ = ["CLASSES", "RENDERER_VERSION", "SCENE_CLASSES", "Scene", "SceneSettings", "render"]

MIN_VISIBLE = 0.35
"""Smallest visible share of a road user; others are not drawn."""
MIN_SIDE = 14.0
"""Shortest side of a box, pixels of a frame 384 wide; smaller road users are not drawn."""


@dataclass(frozen=True)
class SceneSettings:
    """Settings of one camera over one street; each frame varies a little around its mounting."""

    seed: int
    camera_height: float = 3.2
    """Metres."""
    camera_pitch: float = 9.0
    """Degrees; positive looks down."""
    camera_yaw: float = 0.0
    """Degrees; positive looks right."""
    night: float = 0.0
    """Share of frames at night."""
    rain: float = 0.0
    """Share of frames in the rain."""
    width: int = 384
    """Pixels."""
    height: int = 288
    """Pixels."""

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
    """A frame and its ground truth."""

    image: NDArray[np.uint8]
    """uint8 (height, width, 3) RGB."""
    boxes: Array
    """(n, 4): x, y, w, h of the visible extent of each road user, pixels."""
    classes: NDArray[np.int64]
    """(n,): indices into CLASSES."""
    label: int
    """Index into SCENE_CLASSES of the largest visible road user's class; 0 if there is none."""


@dataclass(frozen=True, eq=False)
class Composition:
    """The full description of a frame."""

    view: StreetView
    backdrop_seed: np.random.SeedSequence
    noise_seed: np.random.SeedSequence
    actors: tuple[Actor, ...]
    """In painting order, the farthest first."""


def render(settings: SceneSettings, index: int) -> Scene:
    """Return frame number `index` of the camera."""
    return draw(compose(settings, index))


def compose(settings: SceneSettings, index: int) -> Composition:
    """Return the composition of frame `index`; every road user in it gets a box."""
    entropy = (int(settings.seed), int(index))
    layout_seed, backdrop, noise = np.random.SeedSequence(entropy).spawn(3)
    rng = np.random.Generator(np.random.PCG64(layout_seed))
    light, camera = _light(settings, rng), _camera(settings, rng)
    view = StreetView(camera, light, crossing=float(rng.uniform(9, 60)))
    candidates = in_painting_order(cast(view, rng), camera)
    masks = _visible_masks(candidates, camera)
    # dropping a road user only uncovers the others, so one pass of checks is enough
    actors = [a for a, mask in zip(candidates, masks, strict=True) if _labelled(a, mask, camera)]
    return Composition(view, backdrop, noise, tuple(actors))


def draw(composition: Composition) -> Scene:
    """Return the frame of a composition and its ground truth."""
    camera, light = composition.view.camera, composition.view.light
    rng = np.random.Generator(np.random.PCG64(composition.backdrop_seed))
    picture = sky(camera, light, rng)
    draw_street(picture, camera, light, composition.view.crossing, rng)
    shadows = ((actor.footprint, actor.height) for actor in composition.actors)
    picture = cast_shadows(picture, shadows, camera, light)
    brush = ImageDraw.Draw(picture)
    for stroke in (stroke for actor in composition.actors for stroke in actor.strokes):
        fill(brush, stroke, stroke.colour, SUPERSAMPLING)
    frame = np.asarray(picture.reduce(SUPERSAMPLING), dtype=np.float64)
    noise = np.random.Generator(np.random.PCG64(composition.noise_seed))
    if light.lamps > 0:
        frame = glow(
            frame, _lamps(composition.actors, camera), _pools(composition, noise), light.lamps
        )
    if light.rain > 0:
        frame = rain_streaks(frame, light.rain, noise)
    return Scene(expose(frame, noise), *label_composition(composition))


def label_composition(composition: Composition) -> tuple[Array, NDArray[np.int64], int]:
    """Return the boxes, classes and label of a composition, measured on the drawn shapes."""
    masks = _visible_masks(composition.actors, composition.view.camera)
    classes = np.array([actor.kind for actor in composition.actors], dtype=np.int64)
    boxes = np.array([_box(mask) for mask in masks], dtype=np.float64).reshape(-1, 4)
    label = int(classes[np.argmax([mask.sum() for mask in masks])]) + 1 if masks else 0
    return boxes, classes, label


def _light(settings: SceneSettings, rng: Generator) -> Light:
    """Draw the light of a frame: night, an overcast day or sunshine."""
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
    """Draw the camera of a frame, close to its mounting."""
    pitch = np.radians(settings.camera_pitch + rng.uniform(-1.5, 1.5))
    yaw = np.radians(settings.camera_yaw + rng.uniform(-4, 4))
    # a camera that looks across the road stands on the other side of it
    x = rng.uniform(-4, 4) - 0.1 * settings.camera_yaw
    up = settings.camera_height + rng.uniform(-0.3, 0.3)
    focal = 1.1 * settings.width
    return PinholeCamera(x, up, pitch, yaw, focal, settings.width, settings.height)


def _visible_masks(actors: Sequence[Actor], camera: PinholeCamera) -> list[NDArray[np.bool_]]:
    """Return the visible pixels of each actor on the supersampled canvas, painted in order."""
    canvas = Image.new("L", (camera.width * SUPERSAMPLING, camera.rows * SUPERSAMPLING), 0)
    brush = ImageDraw.Draw(canvas)
    for number, actor in enumerate(actors, start=1):
        for stroke in actor.strokes:
            fill(brush, stroke, number, SUPERSAMPLING)
    numbers = np.asarray(canvas)
    return [numbers == number for number in range(1, len(actors) + 1)]


def _labelled(actor: Actor, mask: NDArray[np.bool_], camera: PinholeCamera) -> bool:
    """Whether enough of an actor is visible for a fair label."""
    visible = float(mask.sum()) / SUPERSAMPLING**2
    if visible < MIN_VISIBLE * actor.whole or visible < 1:
        return False
    return min(_box(mask)[2:]) >= MIN_SIDE * camera.width / 384


def _box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Return x, y, w, h of a mask on the supersampled canvas, in pixels of the frame."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = columns[0] / SUPERSAMPLING, rows[0] / SUPERSAMPLING
    right, bottom = (columns[-1] + 1) / SUPERSAMPLING, (rows[-1] + 1) / SUPERSAMPLING
    return float(x), float(y), float(right - x), float(bottom - y)


def _lamps(actors: Sequence[Actor], camera: PinholeCamera) -> Image.Image:
    """Return a picture of the shining parts alone, hidden where another actor is before them."""
    canvas = Image.new("RGB", (camera.width, camera.rows))
    brush = ImageDraw.Draw(canvas)
    for stroke in (stroke for actor in actors for stroke in actor.strokes):
        fill(brush, stroke, stroke.colour if stroke.emission else (0, 0, 0), 1.0)
    return canvas


def _pools(composition: Composition, rng: Generator) -> Image.Image:
    """Return a picture, at half size, of the ground that street lamps and headlights reach."""
    canvas = Image.new(
        "L", (composition.view.camera.width // 2, composition.view.camera.rows // 2), 14
    )
    brush = ImageDraw.Draw(canvas)
    for y in np.arange(rng.uniform(-4, 6), 60, 14.0):
        for x in (-6.5, 6.5):
            turn = np.linspace(0, 2 * np.pi, 13)[:-1]
            outline = [(x + 4 * float(np.cos(t)), float(y) + 4 * float(np.sin(t))) for t in turn]
            fill_polygon(brush, ground(outline, composition.view.camera) / 2, 70)
    for actor in composition.actors:
        outline = [(float(x), float(y)) for x, y in actor.beam]
        fill_polygon(brush, ground(outline, composition.view.camera) / 2, 150)
    return canvas
