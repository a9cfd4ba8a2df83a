"""The layout of a split network: a panel for the device, one for the server, the link between.

A stage has the same place from left to right as in the drawing of its plan, so what crosses the
link falls straight down into the stage that reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from search.report.plan_diagram.layout import (
    LABEL,
    LANE,
    NAME_BAND,
    TAP_BAND,
    Box,
    ModelRow,
    Sheet,
    lay_out,
)
from search.report.split.sides import SplitSides
from search.results.search_result import ModelRecord
from spaces.plan import HEAD, Ref, Share

PAD = 12.0
"""Distance of what is in a panel from its edge."""
TITLE = 40.0
"""Height of the two lines at the head of a panel."""
ROW_GAP = 6.0
LINK_TITLE = 38.0
"""Height of the lines in the link above the labels of what crosses it."""
LABEL_LINE = LABEL + 6
LANES_APART = 11.0
"""Least distance between two lines across the link."""


@dataclass(frozen=True)
class PartRow:
    """What one part computes of one model."""

    row: ModelRow
    """With the stages of this part only."""
    has_head: bool


@dataclass(frozen=True)
class Panel:
    """The device or the server."""

    rows: tuple[PartRow, ...]
    shares: tuple[Share, ...]
    """Between representations of this part."""
    y: float
    height: float

    @property
    def bottom(self) -> float:
        return self.y + self.height

    def row(self, model: str) -> ModelRow:
        return next(part.row for part in self.rows if part.row.model == model)


@dataclass(frozen=True)
class SplitSheet:
    """A complete drawing of a split network."""

    sides: SplitSides
    sheet: Sheet
    """The plan, whose rows have all stages; only their places from left to right count."""
    device: Panel
    server: Panel

    @cached_property
    def label_lines(self) -> dict[Ref, float]:
        """The middle of the label of each representation that crosses the link."""
        first = self.device.bottom + LINK_TITLE + LABEL_LINE / 2
        return {ref: first + k * LABEL_LINE for k, ref in enumerate(self.sides.crossing)}

    @cached_property
    def lanes(self) -> dict[Ref, float]:
        """Where each representation crosses the link, from left to right: not on one another.

        Of several at one place, those of the rows next to the link go straight.
        """
        rows = [row.model for row in reversed(self.sheet.rows)]
        lanes: dict[Ref, float] = {}
        for ref in sorted(
            self.sides.crossing,
            key=lambda ref: (self.outlet(ref), rows.index(ref.model)),
        ):
            lanes[ref] = max([self.outlet(ref), *(x + LANES_APART for x in lanes.values())])
        return lanes

    @property
    def words_at_end(self) -> bool:
        """Whether the right half of the link has more room for words than the left one."""
        return sum(self.lanes.values()) < len(self.lanes) * self.sheet.width / 2

    def outlet(self, ref: Ref) -> float:
        """Return the place of a representation from left to right."""
        row = next(row for row in self.sheet.rows if row.model == ref.model)
        return row.outlet(ref.stage)


def lay_out_split(
    models: Mapping[str, ModelRecord], sides: SplitSides, width: float
) -> SplitSheet:
    """Lay a split out on a sheet of that width, or a wider one if the stages need it.

    Raises:
        BadPlan: the plan is not a plan of these models.
    """
    sheet = lay_out(models, sides.plan, {}, width - 2 * PAD)
    device = _panel(sheet, sides, sides.device, 1.0)
    link = LINK_TITLE + LABEL_LINE * len(sides.crossing) + 12
    # The same row is next to the link on both sides, so that its lines cross no other row.
    mirrored = replace(sheet, rows=sheet.rows[::-1])
    server = _panel(mirrored, sides, sides.server, device.bottom + link)
    return SplitSheet(sides, sheet, device, server)


def _panel(sheet: Sheet, sides: SplitSides, part: Collection[Ref], top: float) -> Panel:
    live = {arrow.share for arrow in sheet.arrows}
    shares = tuple(s for s in sorted(live) if s.recipient in part and s.donor in part)
    rows, y = [], top + TITLE + NAME_BAND
    for row in sheet.rows:
        if any(ref.model == row.model for ref in part):
            rows.append(_part_row(row, sides, part, y))
            gap = LANE if shares else ROW_GAP
            y += sheet.box_height + TAP_BAND + gap + NAME_BAND
    last = rows[-1].row.y if rows else top + TITLE
    height = last + sheet.box_height + TAP_BAND + PAD - top
    return Panel(tuple(rows), shares, top, height)


def _part_row(row: ModelRow, sides: SplitSides, part: Collection[Ref], y: float) -> PartRow:
    """Return the row of a part: its own stages, and the released ones in front of them."""
    everything = sides.device | sides.server
    own: list[Box] = []
    waiting: list[Box] = []
    for box in row.stages:
        ref = Ref(row.model, box.name)
        waiting.append(box)
        if ref in everything:
            own += waiting if ref in part else []
            waiting = []
    has_head = Ref(row.model, HEAD) in part
    own += waiting if has_head else []
    taps = tuple(tap for tap in row.taps if Ref(row.model, tap) in part) if has_head else ()
    return PartRow(replace(row, stages=tuple(own), taps=taps, y=y), has_head)
