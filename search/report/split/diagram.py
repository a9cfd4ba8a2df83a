"""Draw a split network: the device above, the server below, and what crosses the link."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

from search.report.plan_diagram.drawing import draw_arrow, draw_box, draw_taps
from search.report.plan_diagram.layout import FONT, LABEL, MARGIN, Arrow, ModelRow
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

WIDE, NARROW = 820.0, 344.0


def split_diagram(result: SplitResult, point: SplitPointRecord, width: float = WIDE) -> ET.Element:
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
    _draw_panel_box(group, drawn.device, drawn.sheet.width, _device_lines(result, point))
    _draw_panel_box(group, drawn.server, drawn.sheet.width, _server_lines(point))
    for reader in sides.readers:
        _draw_crossing(group, reader, drawn)
    for panel in (drawn.device, drawn.server):
        _draw_panel(group, panel, drawn)
    _draw_link(group, result, point, drawn)
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


def _draw_panel_box(group: ET.Element, panel: Panel, width: float, lines: tuple[str, str]) -> None:
    box = add(group, "rect", x=-PAD + 1, y=panel.y, width=width + 2 * PAD - 2,
              height=panel.height, rx=6, stroke_width=1)  # fmt: skip
    paint(box, fill="wash", stroke="edge")
    title = add(group, "text", lines[0], x=MARGIN, y=panel.y + 19, font_size=FONT + 3,
                font_weight="600")  # fmt: skip
    paint(title, fill="ink")
    below = add(group, "text", lines[1], x=MARGIN, y=panel.y + 35, font_size=FONT)
    paint(below, fill="quiet")


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


def _draw_crossing(group: ET.Element, reader: CrossingReader, drawn: SplitSheet) -> None:
    """Draw the way of a representation from the device, through its label, to what reads it."""
    height, x = drawn.sheet.box_height, drawn.outlet(reader.ref)
    source = drawn.device.row(reader.ref.model)
    label = drawn.label_lines[reader.ref]
    start, middle = number(source.y + height), number(label)
    path, end = f"M{number(x)} {start}V{middle}", drawn.server.bottom
    if reader.head is not None:
        row = drawn.server.row(reader.head)
        level, head = number(row.y + height + 7), number(row.head.x + row.head.width / 2)
        path += f"V{level}H{head}V{number(row.y + height)}"
    else:
        to = reader.share.recipient if reader.share else reader.ref
        row, end_x = drawn.server.row(to.model), drawn.outlet(to)
        end = row.y
        half = number((label + end) / 2)
        path += f"C{number(x)} {half} {number(end_x)} {half} {number(end_x)} {number(end)}"
        _draw_entry(group, row, end_x, drawn)
    hue = line_of(source.index)
    for rim, thickness in (("wash", 5.0), (hue, 2.0)):
        line = add(group, "path", d=path, stroke_width=thickness, class_="pd-crossing")
        paint(line, fill="none", stroke=rim)
    paint(add(group, "circle", cx=x, cy=source.y + height, r=3.5), fill=hue)


def _draw_entry(group: ET.Element, row: ModelRow, x: float, drawn: SplitSheet) -> None:
    """Draw the tip of an arrow into a row, and a bar along the edge of the stage."""
    tip = f"M{number(x)} {number(row.y)}l-4.5 -8h9z"
    bar = f"M{number(x)} {number(row.y)}v{number(drawn.sheet.box_height)}"
    paint(add(group, "path", d=tip), fill=line_of(row.index))
    paint(add(group, "path", d=bar, stroke_width=2.5), stroke=line_of(row.index))


def _draw_link(
    group: ET.Element, result: SplitResult, point: SplitPointRecord, drawn: SplitSheet
) -> None:
    """Write the rate of the link and the size of a message, and label what crosses."""
    link, top = result.link, drawn.device.bottom
    lines = (
        f"Link: {sent_text(point.bytes)} per frame",
        f"{link.mbit:g} Mbit/s, {link.rtt_ms:g} ms round trip, {point.times.link_ms:.0f} ms",
    )
    for text, y, weight, ink in zip(
        lines, (17.0, 32.0), ("600", "400"), ("ink", "quiet"), strict=True
    ):
        written = add(group, "text", text, x=MARGIN, y=top + y, font_size=FONT + (weight == "600"),
                      font_weight=weight, paint_order="stroke", stroke_width=4)  # fmt: skip
        paint(written, fill=ink, stroke="paper")
    for ref, y in drawn.label_lines.items():
        text = f"{ref}  {crossing_shape(result.models, ref)}"
        width = text_width(text, FONT) + 12
        x = min(max(drawn.outlet(ref), width / 2), drawn.sheet.width - width / 2)
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
