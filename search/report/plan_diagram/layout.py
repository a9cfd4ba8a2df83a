"""The layout of a plan's diagram: a row of stages per model, arrows between the rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations

from search.report.svg import text_width
from search.results.precisions import BITS, StoredBytes
from search.results.search_result import ModelRecord
from spaces.liveness import liveness
from spaces.plan import HEAD, Precision, Ref, Share, SharePlan
from spaces.stages import Layout

HEAD_LABEL = "head"
FONT = 11.0
LEAST_WIDTH = 17.0
"""Least width of a stage: its name still fits vertically."""
GAP, HEAD_GAP = 4.0, 12.0
MARGIN = 2.0
NAME_BAND, TAP_BAND = 22.0, 14.0
"""Height above a row for its model's name, and below it for the line from its taps to its head."""
LANE, EMPTY_LANE, LABEL = 40.0, 8.0, 18.0
"""Height between two rows with an arrow and without one, and height of an arrow's label."""
ROOM = 1.35
"""Least width of a row relative to its stages at their least width, so that bytes still show."""
MOST_ORDERED = 6
"""With more models, not every order of rows is tried."""
LABELS_APART = 4.4 * FONT
"""Distance of labels on one height; twice this where they also name a precision."""
BITS_BAND = 12.0
"""Height at the bottom of a box for its precision, if the plan has precisions."""
LABEL_POSITIONS = (0.5, 0.3, 0.7, 0.16, 0.84)
"""Positions of a label on its arrow, from donor (0) to recipient (1), best first."""


@dataclass(frozen=True)
class Storage:
    """How the weights of a plan with precisions are held."""

    stored: StoredBytes
    dtype: Precision
    """The precision of the stages whose bytes are the widths of the boxes."""

    @property
    def precisions(self) -> list[Precision]:
        """The precisions of the plan, from the most bits to the fewest."""
        return sorted(self.stored, key=lambda precision: (-BITS[precision], precision))

    def level(self, precision: Precision) -> float:
        """Return how much of a box is filled, 0 to 1: the area is proportional to the bytes."""
        return BITS[precision] / max(BITS[p] for p in (self.dtype, *self.stored))

    @cached_property
    def by_owner(self) -> dict[Ref, tuple[Precision, int]]:
        """The precision and bytes of each stage, head and map that is held."""
        return {
            Ref.parse(owner): (precision, size)
            for precision, owners in self.stored.items()
            for owner, size in owners.items()
        }


@dataclass(frozen=True)
class Box:
    """A stage, or a head."""

    name: str
    bytes: int
    """Bytes as held; of a released stage, those that are not loaded."""
    live: bool
    x: float
    width: float
    precision: Precision | None = None
    """How its weights are held, if the plan has precisions."""

    @property
    def end(self) -> float:
        return self.x + self.width


@dataclass(frozen=True)
class ModelRow:
    """One model: its stages in order, its head, and the stages that the head reads."""

    model: str
    index: int
    """Index of the model in the deployment."""
    stages: tuple[Box, ...]
    head: Box
    taps: tuple[str, ...]
    y: float
    """Upper edge of the boxes."""
    map_bytes: int = 0
    """Bytes of the maps into its stages, if the plan has precisions."""

    def box(self, stage: str) -> Box:
        return next(box for box in self.stages if box.name == stage)

    def outlet(self, stage: str) -> float:
        """Return the x position of the stage's representation, in the gap behind the stage."""
        return self.box(stage).end + GAP / 2

    @property
    def held(self) -> int:
        """Bytes of the live stages and the head, and of the maps if the plan has precisions."""
        live = sum(box.bytes for box in self.stages if box.live)
        return self.head.bytes + live + self.map_bytes


@dataclass(frozen=True)
class Arrow:
    """A share as a path with a label."""

    share: Share
    similarity: float | None
    points: tuple[tuple[float, float], ...]
    """Two points for each lane that it crosses, from donor to recipient."""
    label: tuple[float, float]
    """Centre of the label."""
    precision: Precision | None = None
    """How its map is held, if it is not folded and the plan has precisions."""

    @property
    def label_text(self) -> str:
        """The similarity of the share, or its adapter; then the precision of its map."""
        known = self.similarity is not None
        text = f"{self.similarity:z.2f}" if known else str(self.share.adapter)
        return f"{text}, {self.precision}" if self.precision else text


@dataclass(frozen=True)
class Sheet:
    """A complete diagram."""

    rows: tuple[ModelRow, ...]
    arrows: tuple[Arrow, ...]
    width: float
    bottom: float
    """Lower edge of the lowest row."""
    box_height: float
    scale: float
    """Units per byte, for boxes wider than LEAST_WIDTH."""
    storage: Storage | None = None
    """How the plan's weights are held, if it has precisions."""

    @property
    def name_height(self) -> float:
        """Height of the part of a box that holds its name and bytes."""
        return self.box_height - (BITS_BAND if self.storage else 0.0)


def layouts_of(models: Mapping[str, ModelRecord]) -> dict[str, Layout]:
    """Return the layouts of the models of a result."""
    return {
        name: Layout(
            name,
            tuple(stage["name"] for stage in model.stages),
            tuple(stage["name"] for stage in model.stages if stage["tap"]),
        )
        for name, model in models.items()
    }


def lay_out(
    models: Mapping[str, ModelRecord],
    plan: SharePlan,
    similarity: Mapping[Share, float],
    width: float,
    storage: Storage | None = None,
) -> Sheet:
    """Lay a plan out on a sheet of that width, or a wider one if the stages need it.

    `similarity` labels the arrows; `storage` is that of a plan with precisions.

    Raises:
        BadPlan: the plan is not a plan of these models.
    """
    layouts = layouts_of(models)
    alive = liveness(plan, layouts).stages
    width, scale = _scaled(models.values(), width)
    longest = max(len(stage["name"]) for model in models.values() for stage in model.stages)
    height = max(56.0, text_width("n" * longest, FONT) + 12) + (BITS_BAND if storage else 0.0)
    order = row_order(list(models), plan)
    rows: list[ModelRow] = []
    y = MARGIN + NAME_BAND
    for position, name in enumerate(order):
        if position:
            y += height + TAP_BAND + _lane(order, position, plan) + NAME_BAND
        index = list(models).index(name)
        boxes = _boxes(name, models[name], alive, scale)
        rows.append(ModelRow(name, index, *boxes, layouts[name].taps, y))
    if storage:
        rows = [_with_precisions(row, storage) for row in rows]
    arrows = _arrows(rows, plan, similarity, height, storage)
    bottom = y + height + TAP_BAND
    return Sheet(tuple(rows), arrows, width, bottom, height, scale, storage)


def _with_precisions(row: ModelRow, storage: Storage) -> ModelRow:
    """Return a row with the bytes and precisions of what it holds."""

    def held(stage: str, box: Box) -> Box:
        owner = Ref(row.model, stage)
        if not box.live or owner not in storage.by_owner:
            return box
        precision, size = storage.by_owner[owner]
        return replace(box, precision=precision, bytes=size)

    maps = (Ref(row.model, box.name) for box in row.stages if not box.live)
    return replace(
        row,
        stages=tuple(held(box.name, box) for box in row.stages),
        head=held(HEAD, row.head),
        map_bytes=sum(storage.by_owner[ref][1] for ref in maps if ref in storage.by_owner),
    )


def row_order(models: Sequence[str], plan: SharePlan) -> tuple[str, ...]:
    """Return the order of models in which arrows cross the fewest rows."""
    if len(models) > MOST_ORDERED:
        return tuple(models)

    def rows_crossed(order: Sequence[str]) -> int:
        at = {name: k for k, name in enumerate(order)}
        return sum(abs(at[s.donor.model] - at[s.recipient.model]) for s in plan.shares)

    return min(permutations(models), key=rows_crossed)


def _scaled(models: Collection[ModelRecord], width: float) -> tuple[float, float]:
    """Return the width needed, and the units per byte at which the longest row just fits."""
    rows: list[list[int]] = [[*(s["bytes"] for s in m.stages), m.head_bytes] for m in models]

    def longest(scale: float) -> float:
        gaps = HEAD_GAP - 2 * GAP + 2 * MARGIN
        return gaps + max(sum(max(LEAST_WIDTH, scale * b) + GAP for b in sizes) for sizes in rows)

    width = max(width, ROOM * longest(0.0))
    low, high = 0.0, width / max(1, *(max(sizes) for sizes in rows))
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if longest(middle) <= width else (low, middle)
    return width, low


def _boxes(
    name: str, model: ModelRecord, alive: Collection[Ref], scale: float
) -> tuple[tuple[Box, ...], Box]:
    """Return the stages from left to right, and the head behind them."""
    stages, x = [], MARGIN
    for stage in model.stages:
        held = max(LEAST_WIDTH, scale * stage["bytes"])
        live = Ref(name, stage["name"]) in alive
        stages.append(Box(stage["name"], stage["bytes"], live, x, held))
        x += held + GAP
    held = max(LEAST_WIDTH, scale * model.head_bytes)
    return tuple(stages), Box(HEAD_LABEL, model.head_bytes, True, x - GAP + HEAD_GAP, held)


def _lane(order: Sequence[str], position: int, plan: SharePlan) -> float:
    """Return the height of the lane above a row, which grows with the number of arrows in it."""
    above = set(order[:position])
    passing = sum((s.donor.model in above) != (s.recipient.model in above) for s in plan.shares)
    return LANE + LABEL * min(3, passing - 1) if passing else EMPTY_LANE


def _arrows(
    rows: Sequence[ModelRow],
    plan: SharePlan,
    similarity: Mapping[Share, float],
    height: float,
    storage: Storage | None,
) -> tuple[Arrow, ...]:
    maps = storage.by_owner if storage else {}
    at = {row.model: k for k, row in enumerate(rows)}
    busy = {ref for share in plan.shares for ref in (share.donor, share.recipient)}
    arrows, taken = [], list[tuple[float, float]]()
    for share in plan.shares:
        start, end = at[share.donor.model], at[share.recipient.model]
        passed = rows[start : end + 1] if end > start else rows[end : start + 1][::-1]
        points = _path(passed, share, busy, height)
        label = _label(points[-2:], taken, LABELS_APART * (2 if storage else 1))
        taken.append(label)
        precision, _ = maps.get(share.recipient, (None, 0))
        arrows.append(Arrow(share, similarity.get(share), points, label, precision))
    return tuple(arrows)


def _path(
    rows: Sequence[ModelRow], share: Share, busy: Collection[Ref], height: float
) -> tuple[tuple[float, float], ...]:
    """Return the path from the donor's outlet to the recipient's.

    It crosses the rows between in gaps that no share uses, if there are any: otherwise the arrow
    would seem to start there.
    """
    first, *between, last = rows
    down = last.y > first.y
    x, to = first.outlet(share.donor.stage), last.outlet(share.recipient.stage)
    points = [(x, first.y + (height if down else 0.0))]
    for k, row in enumerate(between, start=1):
        wanted = x + (to - x) * k / (len(between) + 1)
        free = [box.name for box in row.stages if Ref(row.model, box.name) not in busy]
        gaps = [row.outlet(name) for name in free or [box.name for box in row.stages]]
        gap = min(gaps, key=lambda g: abs(g - wanted))
        edges = (row.y, row.y + height)
        points += [(gap, edge) for edge in (edges if down else edges[::-1])]
    points.append((to, last.y + (0.0 if down else height)))
    return tuple(points)


def _label(
    lane: Sequence[tuple[float, float]], taken: Sequence[tuple[float, float]], apart: float
) -> tuple[float, float]:
    """Return the first free position on the arrow's last stretch; if none is free, the first."""
    places = [_on_curve(lane[0], lane[1], part) for part in LABEL_POSITIONS]

    def free(place: tuple[float, float]) -> bool:
        return all(abs(place[0] - x) > apart or abs(place[1] - y) > LABEL + 1 for x, y in taken)

    return next((place for place in places if free(place)), places[0])


def _on_curve(
    start: tuple[float, float], end: tuple[float, float], part: float
) -> tuple[float, float]:
    """Return a point of the curve, which starts (`part` 0) and ends (1) vertically."""
    (x, y), (to_x, to_y) = start, end
    middle, rest = (y + to_y) / 2, 1 - part
    return (
        x + (to_x - x) * (3 * part**2 - 2 * part**3),
        rest**3 * y + 3 * rest * part * middle + part**3 * to_y,
    )
