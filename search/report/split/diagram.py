"""Draw a split network: the device above, the server below, and what crosses the link."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

from search.report.plan_diagram.drawing import draw_arrow, draw_box, draw_taps
from search.report.plan_diagram.layout import FONT, LABEL, MARGIN, Arrow
from search.report.plan_diagram.legend import DASHES, LINE, draw_legend, legend_of
from search.report.plan_diagram.palette import line_of, paint
from search.report.split.panels import PAD, Panel, PartRow, SplitSheet, lay_out_split
from search.report.split.sides import CrossingReader, SplitSides, crossing_shape
from search.report.split.texts import sent_text
from search.report.svg import PictureText, add, new_picture, number, standalone_text, text_width
from search.results.split_result import SplitPointRecord, SplitResult
from search.utils.format import megabytes, percent
from spaces.plan import HEAD, Ref
from spaces.split.split import Split

WIDE_DRAWING, NARROW_DRAWING = 820.0, 344.0


def split_diagram(
    result: SplitResult, point: SplitPointRecord, width: float = WIDE_DRAWING
) -> ET.Element:
    """Draw the network of a verified point, on a sheet of that width or wider.

    Raises:
        BadPlan: the plan is not a plan of the result's models.
    """
    sides = SplitSides.of(result.models, Split.from_dict(point.split))
    drawn = lay_out_split(result.models, sides, width)
    legend = legend_of(replace(drawn.sheet, arrows=(), bottom=drawn.server.bottom))
    total, height = drawn.sheet.width + 2 * PAD, legend[-1].y + LINE / 2
    root = new_picture(total, height, _description(result, point, sides, width))
    root.set("class", "pd")
    if total > width:  # keep the size and scroll sideways: it would be illegible smaller
        root.set("class", "pd pd-broad")
        root.set("width", number(total))
    group = add(root, "g", transform=f"translate({number(PAD)} 0)")
    for panel in (drawn.device, drawn.server):
        _draw_panel_box(group, panel, drawn.sheet.width)
    _draw_crossings(group, drawn)
    _write_lines(group, _device_lines(result, point), drawn.device.y, "start", drawn)
    side = "end" if drawn.words_at_end else "start"
    _write_lines(group, _server_lines(point), drawn.server.y, side, drawn)
    _write_lines(group, _link_lines(result, point), drawn.device.bottom, side, drawn)
    for panel in (drawn.device, drawn.server):
        _draw_panel(group, panel, drawn)
    _draw_labels(group, result, drawn)
    draw_legend(group, legend)
    return root


def split_diagram_svg(result: SplitResult, point: SplitPointRecord) -> str:
    """Return the drawing as the content of an SVG file, on a light background."""
    root = split_diagram(result, point)
    _, _, width, height = root.get("viewBox", "").split()
    root.set("width", width)
    root.set("height", height)
    root.set("font-family", "system-ui, sans-serif")
    paper = ET.Element("rect", {"width": "100%", "height": "100%"})
    root.insert(2, paint(paper, fill="paper"))  # behind everything, after title and description
    return standalone_text(root)


def describe_crossing(result: SplitResult, sides: SplitSides) -> list[str]:
    """Return what crosses the link, with its shape."""
    return [f"{ref} ({crossing_shape(result.models, ref)})" for ref in sides.crossing]


def _device_lines(result: SplitResult, point: SplitPointRecord) -> tuple[str, str]:
    return (
        f"Device: {percent(point.device_share)} of the MACs",
        f"{megabytes(point.device_bytes)} with its codec, weights in {point.precision}",
    )


def _server_lines(point: SplitPointRecord) -> tuple[str, str]:
    return (
        f"Server: {percent(1 - point.device_share)} of the MACs",
        "decodes what arrives, and answers",
    )


def _link_lines(result: SplitResult, point: SplitPointRecord) -> tuple[str, str]:
    link = result.link
    return (
        f"Link: {sent_text(point.bytes)} per frame",
        f"{link.mbit:g} Mbit/s, {link.rtt_ms:g} ms round trip, {point.times.link_ms:.0f} ms",
    )


def _draw_panel_box(group: ET.Element, panel: Panel, width: float) -> None:
    box = add(group, "rect", x=-PAD + 1, y=panel.y, width=width + 2 * PAD - 2,
              height=panel.height, rx=6, stroke_width=1)  # fmt: skip
    paint(box, fill="wash", stroke="edge")


def _write_lines(
    group: ET.Element, lines: tuple[str, str], top: float, anchor: str, drawn: SplitSheet
) -> None:
    """Write a title and a line below it, with an outline, because lines may pass behind them."""
    x = MARGIN if anchor == "start" else drawn.sheet.width - MARGIN
    title, below = (
        add(group, "text", text, x=x, y=top + y, font_size=size, text_anchor=anchor,
            paint_order="stroke", stroke_width=5, stroke_linejoin="round")
        for text, y, size in zip(lines, (19.0, 35.0), (FONT + 3, FONT), strict=True)
    )  # fmt: skip
    title.set("font-weight", "600")
    ground = "paper" if top == drawn.device.bottom else "wash"
    paint(title, fill="ink", stroke=ground)
    paint(below, fill="quiet", stroke=ground)


def _draw_panel(group: ET.Element, panel: Panel, drawn: SplitSheet) -> None:
    height = drawn.sheet.box_height
    for part in panel.rows:
        _draw_part_row(group, part, drawn)
    for share in panel.shares:
        donor, recipient = panel.row(share.donor.model), panel.row(share.recipient.model)
        down = recipient.y > donor.y
        points = (
            (drawn.outlet(share.donor), donor.y + (height if down else 0.0)),
            (drawn.outlet(share.recipient), recipient.y + (0.0 if down else height)),
        )
        draw_arrow(group, Arrow(share, None, points, points[0]), drawn.sheet)
    for part in panel.rows:
        name = add(group, "text", part.row.model, x=MARGIN, y=part.row.y - 7,
                   font_size=FONT + 1, font_weight="600", paint_order="stroke",
                   stroke_width=4, stroke_linejoin="round")  # fmt: skip
        paint(name, fill="ink", stroke="wash")


def _draw_part_row(group: ET.Element, part: PartRow, drawn: SplitSheet) -> None:
    row = part.row
    inside = add(group, "g", class_=f"pd-model pd-model-{row.index}")
    if row.taps:
        draw_taps(inside, row, drawn.sheet)
    for box in row.stages:
        shape = draw_box(inside, box, row, drawn.sheet, "live" if box.live else "released")
        if not box.live:
            shape.set("stroke-dasharray", DASHES)
    if part.has_head:
        draw_box(inside, row.head, row, drawn.sheet, "head")


def _draw_crossings(group: ET.Element, drawn: SplitSheet) -> None:
    """Draw the way of each representation from the device, through its label, to its readers."""
    hues = {row.model: line_of(row.index) for row in drawn.sheet.rows}
    ways = [(_way(reader, drawn), hues[reader.ref.model]) for reader in drawn.sides.readers]
    for ground, thickness in (("wash", 6.0), ("", 2.0)):
        for way, hue in ways:
            line = add(group, "path", d=way, stroke_width=thickness, class_="pd-crossing")
            paint(line, fill="none", stroke=ground or hue)
    for reader in drawn.sides.readers:
        hue, height = hues[reader.ref.model], drawn.sheet.box_height
        start = drawn.device.row(reader.ref.model).y + height
        paint(add(group, "circle", cx=drawn.outlet(reader.ref), cy=start, r=3.5), fill=hue)
        if reader.head is None:
            _draw_entry(group, _entry(reader, drawn), hue, height)


def _entry(reader: CrossingReader, drawn: SplitSheet) -> tuple[float, float]:
    """Return where an arrow enters the row of the stage that reads a representation."""
    to = reader.share.recipient if reader.share else reader.ref
    return drawn.outlet(to), drawn.server.row(to.model).y


def _way(reader: CrossingReader, drawn: SplitSheet) -> str:
    """Return the path of a representation to a stage, or below its row to a head."""
    height, lane = drawn.sheet.box_height, drawn.lanes[reader.ref]
    start = (drawn.outlet(reader.ref), drawn.device.row(reader.ref.model).y + height)
    label = drawn.label_lines[reader.ref]
    path = f"{_bend(start, (lane, start[1] + 22))}V{number(label)}"
    if reader.head is None:
        entry = _entry(reader, drawn)
        top = max(label, entry[1] - 30)
        return f"{path}V{number(top)}{_bend((lane, top), entry, '')}"
    row = drawn.server.row(reader.head)
    level, head = number(row.y + height + 7), number(row.head.x + row.head.width / 2)
    return f"{path}V{level}H{head}V{number(row.y + height)}"


def _bend(start: tuple[float, float], end: tuple[float, float], move: str = "M") -> str:
    """Return a curve that leaves and arrives upright; it begins with `move` to its start."""
    (x, y), (to_x, to_y) = start, end
    middle = number((y + to_y) / 2)
    begin = f"{move}{number(x)} {number(y)}" if move else ""
    return f"{begin}C{number(x)} {middle} {number(to_x)} {middle} {number(to_x)} {number(to_y)}"


def _draw_entry(group: ET.Element, at: tuple[float, float], hue: str, height: float) -> None:
    """Draw the tip of an arrow into a row, and a bar along the edge of the stage."""
    x, y = map(number, at)
    paint(add(group, "path", d=f"M{x} {y}l-4.5 -8h9z"), fill=hue)
    paint(add(group, "path", d=f"M{x} {y}v{number(height)}", stroke_width=2.5), stroke=hue)


def _draw_labels(group: ET.Element, result: SplitResult, drawn: SplitSheet) -> None:
    """Label what crosses the link."""
    for ref, y in drawn.label_lines.items():
        text = f"{ref}  {crossing_shape(result.models, ref)}"
        width = text_width(text, FONT) + 12
        x = min(max(drawn.lanes[ref], width / 2), drawn.sheet.width - width / 2)
        box = add(group, "rect", x=x - width / 2, y=y - LABEL / 2, width=width, height=LABEL, rx=9)
        paint(box, fill="paper", stroke="released")
        label = add(group, "text", text, x=x, y=y, dy="0.35em", font_size=FONT,
                    font_weight="600", text_anchor="middle")  # fmt: skip
        paint(label, fill="ink")


def _description(
    result: SplitResult, point: SplitPointRecord, sides: SplitSides, width: float
) -> PictureText:
    """Say what the device and the server compute of each model, and what crosses the link."""
    sentences = []
    for name, part in (("device", sides.device), ("server", sides.server)):
        for model, record in result.models.items():
            order = [*(stage["name"] for stage in record.stages), HEAD]
            own = [stage for stage in order if Ref(model, stage) in part]
            if own:
                words = ", ".join("the head" if stage == HEAD else stage for stage in own)
                sentences.append(f"Of {model}, the {name} computes {words}.")
    crossing = "; ".join(describe_crossing(result, sides))
    sentences.append(f"{crossing} crosses the link in {sent_text(point.bytes)} per frame.")
    title = f"The split at {point.label}"
    return PictureText(f"split-{point.hash}-{width:.0f}", title, " ".join(sentences))
