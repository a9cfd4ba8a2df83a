"""Road users built from solids, and the street around them.

Road users are built around the origin, heading along +y, in metres; `placement` moves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from search.data.synthetic.rendering import (
    SUPERSAMPLING,
    Colour,
    Light,
    Part,
    PinholeCamera,
    Solid,
    block,
    fill,
    fill_polygon,
    ground,
    limb,
    prism,
    strokes,
)

CLASSES = ("car", "van", "truck", "bus", "cyclist", "pedestrian")
ROAD_HALF_WIDTH = 7.0
"""Metres: two lanes of 3.5 in each direction."""
PAVEMENT = 3.2
"""Width, metres."""
CROSSING_HALF_WIDTH = 4.5
"""Of the street that crosses the road, metres."""

GLASS: Colour = (44, 58, 72)
RUBBER: Colour = (24, 24, 26)
HEADLIGHT: Colour = (255, 246, 214)
TAIL_LIGHT: Colour = (214, 24, 20)
PAINTS: tuple[Colour, ...] = (
    (176, 30, 34), (28, 66, 140), (206, 208, 210), (58, 60, 64), (148, 152, 158),
    (226, 176, 40), (38, 104, 66), (112, 40, 60), (66, 134, 170), (214, 110, 40),
)  # fmt: skip
WORK_PAINTS: tuple[Colour, ...] = (
    (228, 228, 226), (204, 206, 204), (232, 190, 60), (74, 110, 156),
)  # fmt: skip
BUS_PAINTS: tuple[Colour, ...] = ((196, 44, 40), (46, 120, 84), (232, 178, 52), (52, 96, 170))
CLOTHES: tuple[Colour, ...] = (
    (178, 52, 48), (52, 84, 150), (40, 44, 52), (196, 190, 180), (90, 120, 74),
    (214, 160, 60), (110, 72, 120), (120, 92, 70), (80, 150, 160),
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((224, 184, 154), (190, 142, 108), (128, 88, 64))


@dataclass(frozen=True)
class RoadUser:
    """A road user at the origin; lengths in metres."""

    solids: tuple[Solid, ...]
    half_length: float
    """Of its footprint, along y."""
    half_width: float
    """Of its footprint, along x."""
    height: float


def _pick(rng: Generator, palette: tuple[Colour, ...]) -> Colour:
    """Draw a colour of the palette, a little lighter or darker."""
    red, green, blue = (
        int(np.clip(v * s, 0, 255))
        for s in [rng.uniform(0.85, 1.12)]
        for v in palette[rng.integers(len(palette))]
    )
    return red, green, blue


def _plate(across: tuple[float, float], y: float, up: tuple[float, float], colour: Colour,
           emission: float = 0.0, lean: float = 0.0) -> Part:  # fmt: skip
    """Return an upright rectangle facing along y, with its top moved by `lean` along y."""
    (x0, x1), (z0, z1) = across, up
    points = [(x0, y, z0), (x1, y, z0), (x1, y + lean, z1), (x0, y + lean, z1)]
    return Part(np.array(points), colour, emission=emission)


def _side_plates(x: float, along: tuple[float, float], up: tuple[float, float], colour: Colour,
                 top_x: float | None = None) -> tuple[Part, Part]:  # fmt: skip
    """Return the same rectangle on both sides of a body of half width `x`, at its top `top_x`."""
    (y0, y1), (z0, z1), top = along, up, x if top_x is None else top_x
    corners = np.array([(x, y0, z0), (x, y1, z0), (top, y1, z1), (top, y0, z1)])
    return Part(corners, colour), Part(corners * (-1, 1, 1), colour)


def _wheels(x: float, radius: float, axles: Iterable[float]) -> tuple[Part, ...]:
    """Return tyres and rims on both sides of a body of half width `x`."""
    angle = np.linspace(0, 2 * np.pi, 15)[:-1]
    parts: list[Part] = []
    for y in axles:
        for size, colour in ((radius, RUBBER), (0.55 * radius, (150, 152, 156))):
            rim = np.column_stack((np.full(14, x), y + size * np.cos(angle),
                                   radius + size * np.sin(angle)))  # fmt: skip
            parts += [Part(rim, colour), Part(rim * (-1, 1, 1), colour)]
    return tuple(parts)


def _lights(x: float, front: float, back: float, z: float) -> tuple[Part, ...]:
    """Return head and tail lights of a body of half width `x` between `back` and `front`."""
    spans = ((-x + 0.05, -x + 0.4), (x - 0.4, x - 0.05))
    heads = (_plate(span, front, (z, z + 0.2), HEADLIGHT, 1.0) for span in spans)
    tails = (_plate(span, back, (z + 0.05, z + 0.25), TAIL_LIGHT, 0.9) for span in spans)
    return (*heads, *tails)


def _chassis(x: float, half_length: float, top: float) -> Solid:
    """Return the dark underside that fills the gap between a body and the road."""
    along = (-0.9 * half_length, 0.9 * half_length)
    return Solid(block((-x + 0.08, x - 0.08), along, (0.06, top), (20, 20, 22)), tier=0)


def car(rng: Generator) -> RoadUser:
    """Build a saloon or hatchback: low body, tapered glass cabin."""
    paint, half, x = _pick(rng, PAINTS), rng.uniform(1.95, 2.3), rng.uniform(0.86, 0.94)
    belt, roof, tail = rng.uniform(0.84, 0.94), rng.uniform(1.4, 1.56), rng.uniform(0.55, 0.96)
    body = np.array([(-half, 0.28), (half, 0.28), (half, 0.68), (0.42 * half, belt),
                     (-0.85 * half, belt), (-half, belt - 0.08)])  # fmt: skip
    low = (*prism(body, np.full(6, x), paint), *_lights(x, half, -half, 0.52),
           _plate((-0.45, 0.45), half, (0.34, 0.5), (30, 30, 34)),
           _plate((-0.26, 0.26), -half, (0.5, 0.62), (226, 226, 214)),
           *_wheels(x, 0.32, (-0.62 * half, 0.64 * half)))  # fmt: skip
    back, top_x = -tail * half, x - 0.2
    cabin = np.array([(back, belt), (0.45 * half, belt), (0.08 * half, roof),
                      (back + 0.3 * half, roof)])  # fmt: skip
    glass = prism(cabin, np.array([x - 0.04, x - 0.04, top_x, top_x]), GLASS)
    pillar = -0.2 * half
    posts = _side_plates(x - 0.04, (pillar, pillar + 0.1), (belt, roof), paint, top_x)
    shell = prism(np.array([(back + 0.3 * half, roof), (0.08 * half, roof),
                            (0.06 * half, roof + 0.05), (back + 0.34 * half, roof + 0.05)]),
                  np.full(4, top_x), paint)  # fmt: skip
    solids = (_chassis(x, half, 0.3), Solid(low, 1), Solid((*glass, *posts), 2), Solid(shell, 3))
    return RoadUser(solids, half, x, roof)


def van(rng: Generator) -> RoadUser:
    """Build a panel van: one tall body with a short sloping nose and glass in front only."""
    paint, half, x = _pick(rng, WORK_PAINTS + PAINTS[:4]), rng.uniform(2.4, 2.75), 1.0
    roof = rng.uniform(2.05, 2.4)
    nose, brow = 0.72 * half, 0.42 * half
    body = np.array([(-half, 0.3), (half, 0.3), (half, 0.85), (nose, 1.12), (brow, roof),
                     (-half, roof)])  # fmt: skip
    lean = brow - nose
    windscreen = Part(np.array([(-0.85, nose, 1.14), (0.85, nose, 1.14),
                                (0.78, nose + 0.9 * lean, roof - 0.1),
                                (-0.78, nose + 0.9 * lean, roof - 0.1)]), GLASS)  # fmt: skip
    door = (brow - 0.75, brow + 0.12)
    parts = (*prism(body, np.full(6, x), paint), windscreen,
             *_side_plates(x, door, (1.16, roof - 0.32), GLASS),
             *_side_plates(x, (-0.95 * half, door[0] - 0.1), (0.5, 0.62), (90, 92, 96)),
             _plate((-0.85, -0.06), -half, (1.25, roof - 0.25), GLASS),
             _plate((0.06, 0.85), -half, (1.25, roof - 0.25), GLASS),
             _plate((-0.02, 0.02), -half, (0.4, roof), (60, 60, 62)),
             _plate((-0.6, 0.6), half, (0.4, 0.6), (36, 36, 40)),
             *_lights(x, half, -half, 0.62),
             *_wheels(x, 0.36, (-0.6 * half, 0.64 * half)))  # fmt: skip
    return RoadUser((_chassis(x, half, 0.32), Solid(parts, 1)), half, x, roof)


def truck(rng: Generator) -> RoadUser:
    """Build a lorry: a separate cab in front of a higher cargo box with a stripe."""
    paint, cargo = _pick(rng, PAINTS), _pick(rng, WORK_PAINTS)
    half, x, roof = rng.uniform(3.3, 4.1), 1.2, rng.uniform(3.0, 3.5)
    cab_back, cab_top = half - 1.75, rng.uniform(2.35, 2.6)
    cab = np.array([(cab_back, 0.5), (half, 0.5), (half, 1.45), (half - 0.25, cab_top),
                    (cab_back, cab_top)])  # fmt: skip
    front = (*prism(cab, np.full(5, x - 0.08), paint),
             _plate((-0.95, 0.95), half, (1.45, cab_top - 0.2), GLASS, lean=-0.2),
             _plate((-0.8, 0.8), half, (0.85, 1.25), (40, 40, 44)),
             *_side_plates(x - 0.08, (half - 1.3, half - 0.4), (1.45, cab_top - 0.25), GLASS),
             *_lights(x - 0.08, half, cab_back, 0.6)[:2])  # fmt: skip
    box = (*block((-x, x), (-half, cab_back - 0.25), (0.95, roof), cargo),
           *_side_plates(x, (-half + 0.3, cab_back - 0.5), (1.7, 2.15), paint),
           _plate((-0.02, 0.02), -half, (1.0, roof - 0.05), (90, 90, 92)),
           *_lights(x, half, -half, 0.97)[2:])  # fmt: skip
    wheels = _wheels(x - 0.02, 0.48, (-0.72 * half, -0.42 * half, half - 0.85))
    frame = block((-0.7, 0.7), (-half, half - 0.1), (0.35, 0.95), (38, 38, 40))
    solids = (_chassis(x - 0.1, half, 0.55), Solid((*frame, *wheels), 1), Solid(front, 2),
              Solid(box, 2))  # fmt: skip
    return RoadUser(solids, half, x, roof)


def bus(rng: Generator) -> RoadUser:
    """Build a city bus: one long box, a band of windows, a large windscreen, a route sign."""
    paint, half, x, roof = _pick(rng, BUS_PAINTS), rng.uniform(4.6, 5.4), 1.25, 3.0
    edges = np.linspace(-half + 0.3, half - 0.5, 7)
    panes = [(y0 + 0.07, y1 - 0.07) for y0, y1 in pairwise(edges.tolist())]
    windows = (part for pane in panes for part in _side_plates(x, pane, (1.3, 2.35), GLASS))
    parts = (*block((-x, x), (-half, half), (0.3, roof), paint), *windows,
             *_side_plates(x, (-half, half), (0.62, 0.78), (236, 236, 230)),
             _plate((-1.12, 1.12), half, (1.1, 2.4), GLASS),
             _plate((-0.8, 0.8), half, (2.5, 2.82), (250, 190, 60), 1.0),
             _plate((-1.0, 1.0), -half, (1.6, 2.4), GLASS), *_lights(x, half, -half, 0.6),
             *_wheels(x, 0.46, (-0.55 * half, 0.6 * half)))  # fmt: skip
    return RoadUser((_chassis(x, half, 0.32), Solid(parts, 1)), half, x, roof)


def cyclist(rng: Generator) -> RoadUser:
    """Build a rider leaning over the handlebar of a bicycle."""
    frame, shirt, trousers = _pick(rng, PAINTS), _pick(rng, CLOTHES), _pick(rng, CLOTHES)
    skin, helmet = _pick(rng, SKINS), _pick(rng, PAINTS)
    solids: list[Solid] = []
    angle = np.linspace(0, 2 * np.pi, 13)
    for hub in (-0.52, 0.52):
        rim = np.column_stack((np.zeros(13), hub + 0.34 * np.cos(angle),
                               0.36 + 0.34 * np.sin(angle)))  # fmt: skip
        tyre = (Part(np.stack(pair), RUBBER, 0.025) for pair in pairwise(rim))
        solids.append(Solid(tuple(tyre), 0))
    seat, bar, pedals = (0, -0.2, 0.9), (0, 0.42, 0.95), (0, 0, 0.32)
    tubes = (((0, -0.52, 0.36), pedals), (pedals, seat), (seat, bar), (pedals, bar),
             (bar, (0, 0.52, 0.36)), ((0, -0.52, 0.36), seat))  # fmt: skip
    solids += [Solid(limb(a, b, 0.03, frame).parts, 1) for a, b in tubes]
    solids.append(Solid(limb((-0.25, 0.45, 1.0), (0.25, 0.45, 1.0), 0.025, RUBBER).parts, 1))
    swing = rng.uniform(-0.15, 0.15)
    for side, lift in ((-1, swing), (1, -swing)):
        knee, foot = (side * 0.12, 0.16, 0.64 + lift / 2), (side * 0.1, 0.0, 0.3 + lift)
        legs = (limb((side * 0.1, -0.18, 0.94), knee, 0.085, trousers),
                limb(knee, foot, 0.06, trousers))  # fmt: skip
        arm = limb((side * 0.19, 0.14, 1.36), (side * 0.22, 0.43, 1.02), 0.05, shirt)
        solids += [Solid(part.parts, 2) for part in (*legs, arm)]
        solids.append(Solid(limb((side * 0.08, -0.16, 1.0), (side * 0.1, 0.12, 1.36), 0.14,
                                 shirt).parts, 2))  # fmt: skip
    solids.append(Solid(limb((0, 0.2, 1.5), (0, 0.26, 1.6), 0.1, skin).parts, 3))
    solids.append(Solid(limb((0, 0.18, 1.68), (0, 0.24, 1.69), 0.1, helmet).parts, 4))
    lamp = Part(block((-0.04, 0.04), (0.5, 0.55), (0.85, 0.93), HEADLIGHT)[3].points, HEADLIGHT,
                emission=1.0)  # fmt: skip
    return RoadUser((*solids, Solid((lamp,), 4)), 0.88, 0.3, 1.75)


def pedestrian(rng: Generator) -> RoadUser:
    """Build a walker: swinging legs and arms, torso, head, sometimes a bag."""
    coat, trousers = _pick(rng, CLOTHES), _pick(rng, CLOTHES)
    skin, hair = _pick(rng, SKINS), _pick(rng, ((40, 30, 26), (120, 86, 50), (150, 150, 150)))
    tall, stride = rng.uniform(1.55, 1.9), rng.uniform(-0.32, 0.32)
    hip, shoulder = 0.5 * tall, 0.8 * tall
    solids: list[Solid] = []
    for side in (-1, 1):
        x, step = side * 0.1, side * stride
        solids += [
            limb((x, 0, hip), (x, step * 0.6, 0.26 * tall), 0.085, trousers),
            limb((x, step * 0.6, 0.26 * tall), (x, step, 0.07), 0.065, trousers),
            limb((x, step, 0.05), (x, step + 0.13, 0.05), 0.05, RUBBER),
            limb((side * 0.24, 0, shoulder - 0.02), (side * 0.27, -step * 0.9, hip), 0.055, coat),
            limb((side * 0.09, 0, hip), (side * 0.11, 0, shoulder - 0.05), 0.14, coat),
        ]
    solids.append(Solid(limb((0, 0, 0.86 * tall), (0, 0.02, 0.92 * tall), 0.095, skin).parts, 1))
    solids.append(Solid(limb((0, -0.03, 0.93 * tall), (0, 0, 0.95 * tall), 0.1, hair).parts, 2))
    if rng.random() < 0.35:
        solids.append(Solid(limb((0, -0.2, hip + 0.1), (0, -0.2, shoulder - 0.1), 0.15,
                                 _pick(rng, PAINTS)).parts, 0))  # fmt: skip
    return RoadUser(tuple(solids), 0.36, 0.32, tall)


BUILDERS: dict[str, Callable[[Generator], RoadUser]] = {
    "car": car, "van": van, "truck": truck, "bus": bus, "cyclist": cyclist,
    "pedestrian": pedestrian,
}  # fmt: skip


def draw_street(
    picture: Image.Image, camera: PinholeCamera, light: Light, crossing: float, rng: Generator
) -> None:
    """Paint ground, markings, buildings, trees and lamps; `crossing` is the side street's y."""
    draw = ImageDraw.Draw(picture)
    _draw_ground(draw, camera, light, crossing, rng)
    scenery: list[Solid] = []
    for side in (-1, 1):
        start = -6.0
        while start < 90:
            end = start + rng.uniform(8, 16)
            if not (start < crossing + CROSSING_HALF_WIDTH and end > crossing - 5.5):
                scenery.append(_building(side, start, end, light, rng))
                scenery += _furniture(side, start, rng)
            start = end
    scenery.append(Solid(block((-30, 30), (95, 96), (0, rng.uniform(5, 11)), (128, 132, 140))))
    for stroke in strokes(scenery, camera, light):
        fill(draw, stroke, stroke.colour, SUPERSAMPLING)


def _draw_ground(
    draw: ImageDraw.ImageDraw, camera: PinholeCamera, light: Light, crossing: float, rng: Generator
) -> None:
    wet = 1 - 0.25 * light.rain
    asphalt = int(rng.uniform(78, 104) * wet)
    road, edge = ROAD_HALF_WIDTH, ROAD_HALF_WIDTH + PAVEMENT

    def paint(x0: float, x1: float, y0: float, y1: float, grey: int, warm: int = 0) -> None:
        tone = np.array([(grey + warm, grey, grey - warm)])
        colour = light.shade(tone, np.array([(0.0, 0.0, 1.0)]), np.zeros(1))[0]
        outline = ground(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), camera)
        fill_polygon(draw, outline * SUPERSAMPLING, colour)

    paint(-150, 150, -20, 400, 112, 8)
    for side in (-1, 1):
        paint(side * road, side * edge, -20, 150, int(rng.uniform(138, 162) * wet), 4)
        paint(side * road, side * (road + 0.2), -20, 150, 186)
    paint(-150, 150, crossing - 4, crossing + 4, asphalt)
    paint(-road, road, -20, 150, asphalt)
    for _ in range(rng.integers(4, 10)):
        x, y = rng.uniform(-road, road - 2), rng.uniform(3, 35)
        wide, long = rng.uniform(0.5, 2), rng.uniform(0.6, 5)
        paint(x, x + wide, y, y + long, asphalt + int(rng.integers(-9, 8)))
    for x in (-3.5, 3.5):
        for y in np.arange(rng.uniform(-6, 0), 80, 6.0):
            if abs(y + 1.5 - crossing) > 7:
                paint(x - 0.07, x + 0.07, y, y + 3, 204)
    for x in (-0.18, 0.18):
        paint(x - 0.06, x + 0.06, -20, crossing - 6, 210)
        paint(x - 0.06, x + 0.06, crossing + 6, 150, 210)
    for x in np.arange(-road + 0.4, road - 0.4, 1.1):
        paint(x, x + 0.55, crossing - 8.2, crossing - 5.6, 214)


def _building(side: int, start: float, end: float, light: Light, rng: Generator) -> Solid:
    """Build a house with rows of windows that face the road, some of them lit at night."""
    wall: Colour = _pick(rng, ((164, 120, 96), (188, 176, 152), (150, 154, 160), (176, 148, 120),
                               (128, 92, 80), (198, 194, 186)))  # fmt: skip
    floors = int(rng.integers(2, 5))
    near, far = ROAD_HALF_WIDTH + PAVEMENT, ROAD_HALF_WIDTH + PAVEMENT + 12
    across = (near, far) if side > 0 else (-far, -near)
    parts = list(block(across, (start, end), (0, 3.3 * floors + 0.8), wall))
    columns = int((end - start) // 2.6)
    step = (end - start) / columns
    for floor in range(floors):
        low, high = (0.2, 2.7) if floor == 0 else (3.3 * floor + 0.9, 3.3 * floor + 2.5)
        for column in range(columns):
            y = start + (column + 0.25) * step
            lit = bool(rng.random() < 0.3)
            glass: Colour = (232, 200, 130) if lit and light.lamps else (72, 86, 100)
            outline = [(y, low), (y + step / 2, low), (y + step / 2, high), (y, high)]
            corners = np.array([(side * near, along, up) for along, up in outline])
            parts.append(Part(corners, glass, emission=0.75 * lit))
    return Solid(tuple(parts), 0)


def _furniture(side: int, y: float, rng: Generator) -> list[Solid]:
    """Build a tree or a street lamp at the back of the pavement."""
    x = side * (ROAD_HALF_WIDTH + PAVEMENT - 0.5)
    if rng.random() < 0.5:
        head = (x - side * 1.6, y, 6.1)
        lamp = Part(np.array((head, (head[0] + 0.4 * side, y, 6.1))), HEADLIGHT, 0.12, 1.0)
        poles = (limb((x, y, 0), (x, y, 6.2), 0.07, (88, 92, 96)),
                 limb((x, y, 6.2), head, 0.05, (88, 92, 96)))  # fmt: skip
        return [Solid(pole.parts, 1) for pole in poles] + [Solid((lamp,), 2)]
    green = _pick(rng, ((58, 96, 48), (84, 112, 52), (46, 82, 56), (130, 104, 44)))
    crown = rng.uniform((x - 0.7, y - 0.7, 2.8), (x + 0.7, y + 0.7, 4.6), (5, 3))
    trunk = Solid(limb((x, y, 0), (x, y, 3), 0.14, (82, 64, 50)).parts, 1)
    return [trunk, *(Solid(limb(at, at, rng.uniform(0.7, 1.1), green).parts, 2) for at in crown)]
