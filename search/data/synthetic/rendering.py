"""Drawing primitives: a pinhole camera, shaded solids, round limbs, light and weather.

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

SUPERSAMPLING = 2
"""The picture is drawn this many times larger and averaged down, against aliasing."""
NEAR = 0.4
"""Distance of the near plane from the lens, metres; closer points are cut away."""


@dataclass(frozen=True)
class PinholeCamera:
    """A pinhole camera over the street."""

    x: float
    """Metres."""
    height: float
    """Metres above the road."""
    pitch: float
    """Radians; positive looks down."""
    yaw: float
    """Radians; positive looks right."""
    focal: float
    """Focal length, pixels."""
    width: int
    """Of the frame, pixels."""
    rows: int
    """Height of the frame, pixels."""

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
        """Return world points (n, 3) in camera axes (n, 3): right, down, forward, metres."""
        return (points - self.position) @ self.axes.T

    def pixels(self, points: Array) -> Array:
        """Return points (n, 3) in camera axes, in front of the lens, as pixels (n, 2)."""
        centre = np.array((self.width / 2, self.rows / 2))
        return centre + self.focal * points[:, :2] / points[:, 2:]


@dataclass(frozen=True)
class Light:
    """The light and the weather."""

    sun: Array
    """Direction to the sun, (3,), unit length."""
    ambient: Array
    """(3,): factor of each colour channel in the shade."""
    direct: float
    """Factor that is added in full sun."""
    lamps: float
    """0 by day, 1 when headlights and street lamps are on."""
    rain: float
    """0 is dry, 1 is pouring."""
    shadow: int
    """Brightness of shadows: 255 is no shadow, 0 is black."""
    sky: tuple[Colour, Colour]
    """Colours at the top of the frame and at the horizon."""

    def shade(self, colours: Array, normals: Array, emission: Array) -> list[Colour]:
        """Return the colours of surfaces in this light.

        `colours` and unit `normals` are (n, 3); `emission` (n,) is the part of a colour that
        shines by itself when the lamps are on.
        """
        direct = self.direct * np.maximum(0.0, normals @ self.sun)
        own = (emission * self.lamps)[:, None]
        lit = colours * (self.ambient + direct[:, None]) * (1 - own) + own * colours
        return [
            (red, green, blue) for red, green, blue in np.clip(lit, 0, 255).astype(int).tolist()
        ]


@dataclass(frozen=True)
class Part:
    """A flat face with `radius` 0, or a round limb."""

    points: Array
    """Metres: (k, 3) corners of a face, or (2, 3) ends of a limb."""
    colour: Colour
    radius: float = 0.0
    """Of a limb, metres."""
    emission: float = 0.0
    """1 shines by itself when the lamps are on."""


@dataclass(frozen=True)
class Solid:
    """A convex body and the faces painted on it."""

    parts: tuple[Part, ...]
    tier: int = 0
    """Solids of a higher tier are drawn over solids of a lower one."""

    @cached_property
    def centre(self) -> Array:
        """The middle of the bounding box, shape (3,), metres."""
        points = np.concatenate([part.points for part in self.parts])
        middle: Array = (points.min(axis=0) + points.max(axis=0)) / 2
        return middle

    def placed(self, x: float, y: float, heading: float) -> Solid:
        """Return the solid turned clockwise by `heading` radians from +y and moved to (x, y)."""
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
    """One flat shape in the frame: a polygon, or a line if `thickness` is positive."""

    points: Array
    """(k, 2), pixels of the frame."""
    colour: Colour
    thickness: float
    """Pixels."""
    emission: float
    """As in `Part`."""


def prism(profile: Array, half_width: Array, colour: Colour) -> tuple[Part, ...]:
    """Return the faces of a convex profile (k, 2) in (y, z), extended sideways by (k,) metres."""
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
    """Return the faces of an axis-aligned box, given its x, y and z intervals in metres."""
    (y0, y1), (z0, z1) = along, up
    profile = np.array([(y0, z0), (y1, z0), (y1, z1), (y0, z1)])
    half = np.full(4, (across[1] - across[0]) / 2)
    middle = np.array(((across[0] + across[1]) / 2, 0.0, 0.0))
    return tuple(Part(part.points + middle, colour) for part in prism(profile, half, colour))


def limb(start: Sequence[float], end: Sequence[float], radius: float, colour: Colour) -> Solid:
    """Return a round bar from `start` to `end`, metres."""
    return Solid((Part(np.array((start, end), dtype=np.float64), colour, radius),))


def strokes(solids: Iterable[Solid], camera: PinholeCamera, light: Light) -> tuple[Stroke, ...]:
    """Return the visible faces of solids in painting order: the farthest first in each tier."""
    eye = camera.position
    ordered = sorted(solids, key=lambda s: (s.tier, -float(np.sum((s.centre - eye) ** 2))))
    parts = [part for solid in ordered for part in solid.parts]
    centres = np.stack([solid.centre for solid in ordered for _ in solid.parts])
    corners = np.stack([part.points[[0, 1, -1]] for part in parts])
    normals, facing = _orient(corners, centres, eye)
    bars = np.array([part.radius > 0 for part in parts])
    # the camera sees the lit and the dark side of a round bar: shade it half way up
    normals[bars] = (0.0, -0.5, 0.75)
    colours = light.shade(
        np.array([part.colour for part in parts]),
        normals,
        np.array([part.emission for part in parts]),
    )
    ends = np.cumsum([len(part.points) for part in parts])
    points = np.split(camera.view(np.concatenate([part.points for part in parts])), ends[:-1])
    shapes = (
        _stroke(parts[i], points[i], colours[i], camera) for i in np.flatnonzero(facing | bars)
    )
    return tuple(shape for shape in shapes if shape is not None)


def _orient(corners: Array, centres: Array, eye: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return outward unit normals (n, 3) of faces (n, 3 corners, 3), and which the eye sees."""
    along, up = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normals = np.cross(along, up)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    inward = np.sum(normals * (corners.mean(axis=1) - centres), axis=1) < 0
    normals[inward] *= -1
    return normals, np.sum(normals * (eye - corners[:, 0]), axis=1) > 0


def _stroke(part: Part, points: Array, colour: Colour, camera: PinholeCamera) -> Stroke | None:
    """Return the shape of a part in the frame; None if it is not before the lens.

    `points` (k, 3) are the part's points in camera axes.
    """
    if part.radius > 0:
        if points[:, 2].min() <= NEAR:
            return None
        thickness = 2 * part.radius * camera.focal / float(points[:, 2].mean())
        return Stroke(camera.pixels(points), colour, thickness, part.emission)
    cut = _cut_near(points)
    return Stroke(camera.pixels(cut), colour, 0.0, part.emission) if len(cut) >= 3 else None


def _cut_near(polygon: Array) -> Array:
    """Return the part of a polygon (k, 3) beyond the near plane, as a polygon; it may be empty."""
    if polygon[:, 2].min() >= NEAR:
        return polygon
    corners: list[Array] = []
    for here, after in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if here[2] >= NEAR:
            corners.append(here)
        if (here[2] >= NEAR) != (after[2] >= NEAR):
            corners.append(here + (after - here) * (NEAR - here[2]) / (after[2] - here[2]))
    return np.array(corners).reshape(-1, 3)


def ground(points: Sequence[tuple[float, float]], camera: PinholeCamera) -> Array:
    """Return a polygon on the road surface, (x, y) metres, as pixels (k, 2); empty if unseen."""
    flat = np.array([(x, y, 0.0) for x, y in points])
    visible = _cut_near(camera.view(flat))
    return camera.pixels(visible) if len(visible) >= 3 else np.empty((0, 2))


def fill(
    draw: ImageDraw.ImageDraw,
    stroke: Stroke,
    colour: Colour | int,
    scale: float,
    offset: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Paint a stroke in `colour` on a canvas `scale` times as large as the frame, moved by
    `offset` pixels of the canvas."""
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
    """Paint a polygon (k, 2) in pixels of the canvas; fewer than 3 points paint nothing."""
    if len(points) >= 3:
        draw.polygon(points.ravel().tolist(), fill=colour)


def sky(camera: PinholeCamera, light: Light, rng: np.random.Generator) -> Image.Image:
    """Return a cloudy gradient on the supersampled canvas."""
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
    """Return the picture with the shadows of upright prisms, each a footprint (4, 2) and a
    height in metres."""
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
    """Return the frame (h, w, 3) with brighter pools of light and with the halo of the lamps."""
    rows, width = frame.shape[:2]
    pool = pools.filter(ImageFilter.GaussianBlur(5)).resize((width, rows))
    halo = lamps.filter(ImageFilter.GaussianBlur(5))
    lit = frame * (1 + strength * np.asarray(pool, dtype=np.float64)[..., None] / 90)
    return lit + strength * 1.6 * np.asarray(halo, dtype=np.float64)


def rain_streaks(frame: Array, strength: float, rng: np.random.Generator) -> Array:
    """Return the frame (h, w, 3) behind a grey veil and slanting drops."""
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
    """Return the frame (h, w, 3) as a sensor outputs it: with lens blur and grain, in 8 bits."""
    sharp = Image.fromarray(np.clip(frame, 0, 255).astype(np.uint8))
    blurred = np.asarray(sharp.filter(ImageFilter.GaussianBlur(0.5)), dtype=np.float32)
    grain = rng.standard_normal(blurred.shape[:2], dtype=np.float32)[..., None] * 3.5
    return np.clip(blurred + grain + 0.5, 0, 255).astype(np.uint8)
