"""Draw a plan: live stages solid, released stages dashed, shares as arrows."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as ET

from search.report.plan_diagram.layout import (
    BITS_BAND,
    FONT,
    LABEL,
    MARGIN,
    Arrow,
    Box,
    ModelRow,
    Sheet,
    Storage,
    lay_out,
)
from search.report.plan_diagram.legend import DASHES, LINE, draw_legend, legend_of
from search.report.plan_diagram.palette import fill_of, line_of, paint
from search.report.svg import (
    PictureText,
    add,
    level_path,
    new_picture,
    number,
    standalone_text,
    text_width,
)
from search.results.precisions import BITS
from search.results.search_result import PlanRecord, Result
from search.utils.format import as_sentence, megabytes
from spaces.plan import Share, SharePlan

PLAN_PICTURE = "plan.svg"
WIDE, NARROW = 720.0, 340.0
"""Widths in pixels for a screen and for a phone, at which the text has its intended size."""


def draw_plan(
    result: Result,
    record: PlanRecord | None,
    similarity: Mapping[Share, float],
    width: float = WIDE,
) -> ET.Element:
    """Draw a plan of the result; without a plan, draw the unmerged models.

    Each arrow is labelled with the similarity of its share, or, if that is unknown, its adapter.
    """
    plan = SharePlan() if record is None else SharePlan.from_dict(record.plan)
    storage = Storage(record.stored, result.dtype) if record and record.stored else None
    sheet = lay_out(result.models, plan, similarity, width, storage)
    legend = legend_of(sheet)
    root = new_picture(sheet.width, legend[-1].y + LINE / 2, _description(result, record, sheet))
    root.set("class", "pd")
    if sheet.width > width:  # keep the size and scroll sideways: it would be illegible smaller
        root.set("class", "pd pd-broad")
        root.set("width", number(sheet.width))
    for row in sheet.rows:
        _draw_row(root, row, sheet)
    for arrow in sheet.arrows:
        draw_arrow(root, arrow, sheet)
    for row in sheet.rows:
        _draw_name(root, row, result.models[row.model].arch)
    for arrow in sheet.arrows:
        _draw_label(root, arrow, sheet)
    draw_legend(root, legend)
    return root


def plan_svg(result: Result, record: PlanRecord | None, similarity: Mapping[Share, float]) -> str:
    """Return the diagram as the content of an SVG file, on a light background."""
    root = draw_plan(result, record, similarity)
    _, _, width, height = root.get("viewBox", "").split()
    root.set("width", width)
    root.set("height", height)
    root.set("font-family", "system-ui, sans-serif")
    paper = ET.Element("rect", {"width": "100%", "height": "100%"})
    root.insert(2, paint(paper, fill="paper"))  # behind everything, after title and description
    return standalone_text(root)


def describe_share(share: Share, similarity: float | None) -> str:
    """Return a share as a sentence."""
    value = "" if similarity is None else f", similarity {similarity:z.2f}"
    return (
        f"{share.recipient.model} takes {share.recipient.stage} from {share.donor} "
        f"({share.adapter}{value})"
    )


def _description(result: Result, record: PlanRecord | None, sheet: Sheet) -> PictureText:
    """Describe the diagram: the live and released stages of each model, and every share."""
    sentences = []
    for row in sorted(sheet.rows, key=lambda row: row.index):
        live = ", ".join(box.name for box in row.stages if box.live)
        released = ", ".join(box.name for box in row.stages if not box.live)
        live_text = f"live {live}" if live else "no live stage"
        released_text = f"released {released}" if released else "nothing released"
        sentences.append(f"{row.model} holds {megabytes(row.held)}: {live_text}; {released_text}.")
    sentences += [f"{describe_share(arrow.share, arrow.similarity)}." for arrow in sheet.arrows]
    if record is not None:
        texts = (record.precision_text, record.refinement_text)
        sentences += [as_sentence(text) for text in texts if text]
    key, title = "unmerged", f"The unmerged models, {megabytes(result.unmerged_bytes)}"
    if record is not None:
        key, title = record.hash, f"Plan {record.hash}, {megabytes(record.bytes)}"
    return PictureText(f"plan-{key}-{number(sheet.width)}", title, " ".join(sentences))


def _draw_row(root: ET.Element, row: ModelRow, sheet: Sheet) -> None:
    group = add(root, "g", class_=f"pd-model pd-model-{row.index}")
    draw_taps(group, row, sheet)
    for box in row.stages:
        kind = "live" if box.live else "released"
        part = draw_box(group, box, row, sheet, kind)
        if not box.live:
            part.set("stroke-dasharray", DASHES)
    draw_box(group, row.head, row, sheet, "head")


def draw_box(group: ET.Element, box: Box, row: ModelRow, sheet: Sheet, kind: str) -> ET.Element:
    """Draw a stage or a head with its name; return its outline."""
    part = add(group, "g", class_=f"pd-stage pd-{kind}")
    stored = f", weights in {box.precision}" if box.precision else ""
    add(part, "title", f"{row.model}:{box.name}, {megabytes(box.bytes)}, {kind}{stored}")
    radius: float = min(box.width / 2, 12.0) if kind == "head" else 3
    fill, line = (fill_of(row.index), line_of(row.index)) if box.live else ("paper", "released")
    if box.live and sheet.storage:
        _draw_level(part, box, row, sheet, radius)
        fill = "none"
    shape = add(part, "rect", x=box.x, y=row.y, width=box.width, height=sheet.box_height,
                rx=radius, stroke_width=1.25)  # fmt: skip
    _write_name(part, box, row, sheet)
    return paint(shape, fill=fill, stroke=line)


def _draw_level(part: ET.Element, box: Box, row: ModelRow, sheet: Sheet, radius: float) -> None:
    """Fill a box from below as far as its precision needs, and write the precision there."""
    height, bottom = sheet.box_height, row.y + sheet.box_height
    paper = add(part, "rect", x=box.x, y=row.y, width=box.width, height=height, rx=radius)
    paint(paper, fill="paper")
    if sheet.storage is None or box.precision is None:
        return
    level = sheet.storage.level(box.precision)
    if level == 1:
        paint(paper, fill=fill_of(row.index))
    else:
        path = level_path(box.x, bottom, box.width, level * height, radius)
        paint(add(part, "path", d=path), fill=fill_of(row.index))
    fits = box.width >= text_width(box.precision, FONT - 1) + 6
    bits = add(part, "text", box.precision if fits else str(BITS[box.precision]),
               x=box.x + box.width / 2, y=bottom - BITS_BAND / 2 - 2, dy="0.35em",
               font_size=FONT - 1, font_weight="600", text_anchor="middle")  # fmt: skip
    paint(bits, fill=line_of(row.index))


def _write_name(part: ET.Element, box: Box, row: ModelRow, sheet: Sheet) -> None:
    """Write the name horizontally with the bytes below it, as far as they fit; else vertically."""
    x, y = box.x + box.width / 2, row.y + sheet.name_height / 2
    size = megabytes(box.bytes)
    name = add(part, "text", box.name, x=x, y=y, dy="0.35em", font_size=FONT,
               text_anchor="middle")  # fmt: skip
    paint(name, fill="ink" if box.live else "quiet")
    if box.width < text_width(box.name, FONT) + 6:
        name.set("transform", f"rotate(-90 {number(x)} {number(y)})")
    elif box.width >= text_width(size, FONT - 1) + 6:
        name.set("y", number(y - 7))
        below = add(part, "text", size, x=x, y=y + 8, dy="0.35em", font_size=FONT - 1,
                    text_anchor="middle")  # fmt: skip
        paint(below, fill="ink" if box.live else "quiet")


def draw_taps(group: ET.Element, row: ModelRow, sheet: Sheet) -> None:
    """Draw a line to the head from each tap; from taps before the last stage, below the boxes."""
    if row.taps == (row.stages[-1].name,):
        level = number(row.y + sheet.box_height / 2)
        path = f"M{number(row.stages[-1].end)} {level}H{number(row.head.x)}"
    else:
        bottom = row.y + sheet.box_height
        outlets = [row.outlet(tap) for tap in row.taps]
        level, middle = number(bottom + 7), number(row.head.x + row.head.width / 2)
        path = "".join(f"M{number(x)} {number(bottom - 3)}V{level}" for x in outlets)
        path += f"M{number(min(outlets))} {level}H{middle}V{number(bottom)}"
    line = add(group, "path", d=path, stroke_width=1.25, class_="pd-taps")
    paint(line, fill="none", stroke=line_of(row.index))


def _draw_name(root: ET.Element, row: ModelRow, arch: str) -> None:
    """Write the model's name above its row, with an outline, because arrows may pass behind it."""
    text = add(root, "text", row.model, x=MARGIN, y=row.y - 7, font_size=FONT + 2,
               font_weight="600", paint_order="stroke", stroke_width=4,
               stroke_linejoin="round")  # fmt: skip
    paint(text, fill="ink", stroke="paper")
    more = f"{arch.rpartition('/')[2]}, {megabytes(row.held)}"
    paint(add(text, "tspan", more, dx=8, font_size=FONT, font_weight="400"), fill="quiet")


def draw_arrow(root: ET.Element, arrow: Arrow, sheet: Sheet) -> None:
    """Draw an arrow from a dot at the donor to the recipient's first live stage."""
    donor = next(row for row in sheet.rows if row.model == arrow.share.donor.model)
    hue = line_of(donor.index)
    group = add(root, "g", class_="pd-share")
    stored = f", map in {arrow.precision}" if arrow.precision else ""
    add(group, "title", describe_share(arrow.share, arrow.similarity) + stored)
    for rim, thickness in (("paper", 5.0), (hue, 2.0)):
        line = add(group, "path", d=_curve(arrow), stroke_width=thickness)
        paint(line, fill="none", stroke=rim)
    (x, y), (to_x, to_y) = arrow.points[0], arrow.points[-1]
    paint(add(group, "circle", cx=x, cy=y, r=3.5), fill=hue)
    down = to_y > arrow.points[-2][1]
    tip = f"M{number(to_x)} {number(to_y)}l-4.5 {-8 if down else 8}h9z"
    paint(add(group, "path", d=tip), fill=hue)
    top = to_y if down else to_y - sheet.box_height
    bar = f"M{number(to_x)} {number(top)}v{number(sheet.box_height)}"
    paint(add(group, "path", d=bar, stroke_width=2.5), stroke=hue)


def _curve(arrow: Arrow) -> str:
    """It leaves and arrives upright in every lane, and crosses rows straight."""
    path = ""
    for start, end in zip(arrow.points[::2], arrow.points[1::2], strict=True):
        middle = number((start[1] + end[1]) / 2)
        (x, y), (to_x, to_y) = ((number(a), number(b)) for a, b in (start, end))
        path += f"{'L' if path else 'M'}{x} {y}C{x} {middle} {to_x} {middle} {to_x} {to_y}"
    return path


def _draw_label(root: ET.Element, arrow: Arrow, sheet: Sheet) -> None:
    """Draw the similarity on a background of its own."""
    x, y = arrow.label
    width = text_width(arrow.label_text, FONT) + 10
    if arrow.precision:  # a label this long may reach beyond the edge
        x = min(max(x, width / 2 + 1), sheet.width - width / 2 - 1)
    group = add(root, "g", class_="pd-similarity")
    shape = add(group, "rect", x=x - width / 2, y=y - LABEL / 2, width=width, height=LABEL, rx=9)
    paint(shape, fill="paper", stroke="released")
    label = add(group, "text", arrow.label_text, x=x, y=y, dy="0.35em", font_size=FONT,
               font_weight="600", text_anchor="middle")  # fmt: skip
    paint(label, fill="ink")
