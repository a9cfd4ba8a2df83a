"""Drawing a street: a pinhole camera, shaded solids, round limbs, light and weather.

World axes in metres: x to the right, y along the road, z up; the camera stands at y = 0.
Image axes in pixels of the final frame: x to the right, y down.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Array = NDArray[np.float64]
Colour = tuple[int, int, int]

SUPERSAMPLING = 2  # the picture is drawn this much larger and averaged down: antialiasing
NEAR = 0.4  # metres; whatever is closer to the lens is cut away


@dataclass(frozen=True)
class PinholeCamera:
    """A pinhole camera over the street; angles in radians, `pitch` positive looking down."""

    x: float
    height: float
    pitch: float
    yaw: float
    focal: float
    width: int
    rows: int

    @cached_property
    def position(self) -> Array:
        """World position, shape (3,), metres."""
        return np.array((self.x, 0.0, self.height))

    @cached_property
    def axes(self) -> Array:
        """Rows are the world directions right, down and forward, shape (3, 3)."""
        ahead = np.array((np.sin(self.yaw), np.cos(self.yaw), 0.0))
        up = np.array((0.0, 0.0, 1.0))
        right = np.array((np.cos(self.yaw), -np.sin(self.yaw), 0.0))
        cosine, sine = np.cos(self.pitch), np.sin(self.pitch)
        return np.stack((right, -(cosine * up + sine * ahead), cosine * ahead - sine * up))

    def view(self, points: Array) -> Array:
        """World points (n, 3) in camera axes (n, 3): right, down, forward, metres."""
        return (points - self.position) @ self.axes.T

    def pixels(self, viewed: Array) -> Array:
        """PinholeCamera points (n, 3) in front of the lens as pixels (n, 2)."""
        centre = np.array((self.width / 2, self.rows / 2))
        return centre + self.focal * viewed[:, :2] / viewed[:, 2:]


@dataclass(frozen=True)
class Light:
    """How the street is lit: `sun` points at the sun; `ambient` and `direct` are multipliers."""

    sun: Array  # (3,), unit length
    ambient: Array  # (3,), per colour channel
    direct: float
    lamps: float  # 0 by day, 1 when headlights and street lamps are on
    rain: float  # 0 dry, 1 pouring
    shadow: int  # 255 no shadow, 0 black
    sky: tuple[Colour, Colour]  # at the top of the frame and at the horizon

    def shade(self, colours: Array, normals: Array, emission: Array) -> list[Colour]:
        """Surface colours (n, 3) with unit normals (n, 3), as the camera sees them."""
        direct = self.direct * np.maximum(0.0, normals @ self.sun)
        own = (emission * self.lamps)[:, None]
        lit = colours * (self.ambient + direct[:, None]) * (1 - own) + own * colours
        seen: list[Colour] = [
            (red, green, blue) for red, green, blue in np.clip(lit, 0, 255).astype(int).tolist()
        ]
        return seen


@dataclass(frozen=True)
class Part:
    """A flat face (points (k, 3), radius 0) or a round limb (points (2, 3), radius > 0)."""

    points: Array
    colour: Colour
    radius: float = 0.0
    emission: float = 0.0  # 1: shines by itself when the lamps are on


@dataclass(frozen=True)
class Solid:
    """A convex body and what is painted on it; a higher `tier` is drawn over a lower one."""

    parts: tuple[Part, ...]
    tier: int = 0

    @cached_property
    def centre(self) -> Array:
        """The middle of the bounding box, shape (3,), metres."""
        points = np.concatenate([part.points for part in self.parts])
        middle: Array = (points.min(axis=0) + points.max(axis=0)) / 2
        return middle

    def placed(self, x: float, y: float, heading: float) -> Solid:
        """This solid turned clockwise by `heading` radians (0: along +y) and moved to (x, y)."""
        cosine, sine = np.cos(heading), np.sin(heading)
        turn = np.array(((cosine, sine, 0.0), (-sine, cosine, 0.0), (0.0, 0.0, 1.0)))
        move = np.array((x, y, 0.0))
        parts = (
            Part(part.points @ turn.T + move, part.colour, part.radius, part.emission)
            for part in self.parts
        )
        return Solid(tuple(parts), self.tier)


@dataclass(frozen=True)
class Stroke:
    """One flat shape in the frame: points (k, 2) in pixels; a line when `thickness` > 0."""

    points: Array
    colour: Colour
    thickness: float
    emission: float


def prism(profile: Array, half_width: Array, colour: Colour) -> tuple[Part, ...]:
    """The faces of a convex profile (k, 2) in (y, z), drawn out sideways by (k,) metres."""
    left = np.column_stack((-half_width, profile))
    right = np.column_stack((half_width, profile))
    count = len(profile)
    around = (
        np.stack((left[i], left[(i + 1) % count], right[(i + 1) % count], right[i]))
        for i in range(count)
    )
    return tuple(Part(points, colour) for points in (left, right, *around))


def block(
    across: tuple[float, float],
    along: tuple[float, float],
    up: tuple[float, float],
    colour: Colour,
) -> tuple[Part, ...]:
    """The faces of an axis-aligned box given by its x, y and z intervals, metres."""
    (y0, y1), (z0, z1) = along, up
    profile = np.array([(y0, z0), (y1, z0), (y1, z1), (y0, z1)])
    half = np.full(4, (across[1] - across[0]) / 2)
    middle = np.array(((across[0] + across[1]) / 2, 0.0, 0.0))
    return tuple(Part(part.points + middle, colour) for part in prism(profile, half, colour))


def limb(start: Sequence[float], end: Sequence[float], radius: float, colour: Colour) -> Solid:
    """A round bar from `start` to `end`, metres."""
    return Solid((Part(np.array((start, end), dtype=np.float64), colour, radius),))


def strokes(solids: Iterable[Solid], camera: PinholeCamera, light: Light) -> tuple[Stroke, ...]:
    """The visible faces of `solids` in painting order, farthest first within each tier."""
    eye = camera.position
    ordered = sorted(solids, key=lambda one: (one.tier, -float(np.sum((one.centre - eye) ** 2))))
    parts = [part for solid in ordered for part in solid.parts]
    centres = np.stack([solid.centre for solid in ordered for _ in solid.parts])
    corners = np.stack([part.points[[0, 1, -1]] for part in parts])
    normals, facing = _orient(corners, centres, eye)
    bars = np.array([part.radius > 0 for part in parts])
    # a round bar shows the camera its lit and its dark side: shade it half way up
    normals[bars] = (0.0, -0.5, 0.75)
    colours = light.shade(
        np.array([part.colour for part in parts]),
        normals,
        np.array([part.emission for part in parts]),
    )
    ends = np.cumsum([len(part.points) for part in parts])
    viewed = np.split(camera.view(np.concatenate([part.points for part in parts])), ends[:-1])
    shapes = (
        _stroke(parts[i], viewed[i], colours[i], camera) for i in np.flatnonzero(facing | bars)
    )
    return tuple(shape for shape in shapes if shape is not None)


def _orient(corners: Array, centres: Array, eye: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Outward unit normals (n, 3) of faces (n, 3 corners, 3), and which of them the eye sees."""
    along, up = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normals = np.cross(along, up)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    inward = np.sum(normals * (corners.mean(axis=1) - centres), axis=1) < 0
    normals[inward] *= -1
    return normals, np.sum(normals * (eye - corners[:, 0]), axis=1) > 0


def _stroke(part: Part, viewed: Array, colour: Colour, camera: PinholeCamera) -> Stroke | None:
    """A part seen by the camera at `viewed` (k, 3), or None when it is not before the lens."""
    if part.radius > 0:
        if viewed[:, 2].min() <= NEAR:
            return None
        thickness = 2 * part.radius * camera.focal / float(viewed[:, 2].mean())
        return Stroke(camera.pixels(viewed), colour, thickness, part.emission)
    cut = _cut_near(viewed)
    return Stroke(camera.pixels(cut), colour, 0.0, part.emission) if len(cut) >= 3 else None


def _cut_near(viewed: Array) -> Array:
    """The part of a polygon (k, 3) that lies beyond the near plane, again as a polygon."""
    if viewed[:, 2].min() >= NEAR:
        return viewed
    kept: list[Array] = []
    for here, after in zip(viewed, np.roll(viewed, -1, axis=0), strict=True):
        if here[2] >= NEAR:
            kept.append(here)
        if (here[2] >= NEAR) != (after[2] >= NEAR):
            kept.append(here + (after - here) * (NEAR - here[2]) / (after[2] - here[2]))
    return np.array(kept).reshape(-1, 3)


def ground(points: Sequence[tuple[float, float]], camera: PinholeCamera) -> Array:
    """A polygon on the road surface, (x, y) metres, as pixels (k, 2); empty when unseen."""
    flat = np.array([(x, y, 0.0) for x, y in points])
    viewed = _cut_near(camera.view(flat))
    return camera.pixels(viewed) if len(viewed) >= 3 else np.empty((0, 2))


def fill(
    draw: ImageDraw.ImageDraw,
    stroke: Stroke,
    colour: Colour | int,
    scale: float,
    offset: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Paint one stroke in `colour` on a canvas `scale` times the frame, shifted by `offset`."""
    points = stroke.points * scale + np.array(offset)
    if stroke.thickness == 0.0:
        fill_polygon(draw, points, colour)
        return
    thick = stroke.thickness * scale
    (x0, y0), (x1, y1) = points.tolist()
    draw.line((x0, y0, x1, y1), fill=colour, width=max(1, round(thick)))
    for x, y in ((x0, y0), (x1, y1)):
        draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=colour)


def fill_polygon(draw: ImageDraw.ImageDraw, points: Array, colour: Colour | int) -> None:
    """Paint a polygon (k, 2) given in pixels of the canvas; fewer than 3 points paint nothing."""
    if len(points) >= 3:
        draw.polygon(points.ravel().tolist(), fill=colour)


def sky(camera: PinholeCamera, light: Light, rng: np.random.Generator) -> Image.Image:
    """A cloudy gradient on the supersampled canvas."""
    size = (camera.width * SUPERSAMPLING, camera.rows * SUPERSAMPLING)
    blend = np.linspace(0, 1, 9)[:, None, None] ** 0.7
    top, horizon = (np.array(colour, dtype=np.float64) for colour in light.sky)
    clouds = rng.normal(0, 0.09, (9, 12, 1)) * light.ambient.mean()
    small = np.clip((top + (horizon - top) * blend) * (1 + clouds), 0, 255).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def cast_shadows(
    picture: Image.Image,
    prisms: Iterable[tuple[Array, float]],
    camera: PinholeCamera,
    light: Light,
) -> Image.Image:
    """`picture` with the shadows of upright prisms: footprint (4, 2) and height, metres."""
    layer = Image.new("L", (camera.width, camera.rows), 255)
    draw = ImageDraw.Draw(layer)
    for footprint, height in prisms:
        tip = footprint - light.sun[:2] * height / light.sun[2]
        sides = zip(footprint, np.roll(footprint, -1, 0), np.roll(tip, -1, 0), tip, strict=True)
        for outline in (footprint, tip, *(np.stack(side) for side in sides)):
            corners = [(float(x), float(y)) for x, y in outline]
            fill_polygon(draw, ground(corners, camera), light.shadow)
    soft = layer.filter(ImageFilter.GaussianBlur(1.5)).resize(picture.size)
    return ImageChops.multiply(picture, Image.merge("RGB", (soft, soft, soft)))


def glow(frame: Array, lamps: Image.Image, pools: Image.Image, strength: float) -> Array:
    """`frame` (h, w, 3) with what the pools of light brighten and the halo of the lamps."""
    rows, width = frame.shape[:2]
    pool = pools.filter(ImageFilter.GaussianBlur(5)).resize((width, rows))
    halo = lamps.filter(ImageFilter.GaussianBlur(5))
    lit = frame * (1 + strength * np.asarray(pool, dtype=np.float64)[..., None] / 90)
    return lit + strength * 1.6 * np.asarray(halo, dtype=np.float64)


def rain_streaks(frame: Array, strength: float, rng: np.random.Generator) -> Array:
    """`frame` (h, w, 3) behind a grey veil and slanting drops."""
    rows, width = frame.shape[:2]
    layer = Image.new("L", (width, rows), 0)
    draw = ImageDraw.Draw(layer)
    slant = rng.uniform(-0.25, 0.25)
    for x, y, length in rng.uniform((0, -20, 6), (width, rows, 20), (int(170 * strength), 3)):
        draw.line((x, y, x + slant * length, y + length), fill=255)
    drops = np.asarray(layer.filter(ImageFilter.GaussianBlur(0.6)), dtype=np.float64)[..., None]
    bright = 60 + 0.6 * float(frame.mean())
    return frame * (1 - 0.12 * strength) + 0.1 * strength * bright + drops / 255 * bright * 0.45


def expose(frame: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What the sensor returns for `frame` (h, w, 3): lens blur, grain, 8 bits."""
    sharp = Image.fromarray(np.clip(frame, 0, 255).astype(np.uint8))
    seen = np.asarray(sharp.filter(ImageFilter.GaussianBlur(0.5)), dtype=np.float32)
    grain = rng.standard_normal(seen.shape[:2], dtype=np.float32)[..., None] * 3.5
    return np.clip(seen + grain + 0.5, 0, 255).astype(np.uint8)
