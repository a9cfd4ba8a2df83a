"""The page of a split agrees with split.json, says what is better, and needs no network."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from html_pages import Element, parse_page, read_page
from split_results import baseline, conditions, one_model_split, two_model_split

from search.report.split.headline import (
    compare_with_device,
    compare_with_pictures,
    split_comparisons,
    split_headline,
)
from search.report.split.marks import rate_legend
from search.report.split.page import render_split_page, write_split_page
from search.report.split.rate_chart import hidden_codings, rate_chart, rate_range
from search.report.split.series import picture_front, picture_lines, split_lines
from search.report.split.texts import sent_text, tick_text
from search.results.split_result import SplitBaselineRecord, SplitPointRecord, SplitResult

MODELS = ("classifier",)


def chosen(result: SplitResult) -> SplitPointRecord:
    assert result.chosen_point is not None
    return result.chosen_point


def against(result: SplitResult, *records: SplitBaselineRecord) -> SplitResult:
    return replace(result, baselines=[*records])


def picture(size: float, kept: float) -> SplitBaselineRecord:
    return baseline("picture", "AVIF q40", size, kept, MODELS, conditions())


def whole(result: SplitResult, kept: float, total_ms: float, size: int) -> SplitBaselineRecord:
    record = baseline("device", "whole networks on the device", 0.0, kept, MODELS, result.link)
    times = replace(record.times, device_ms=total_ms, total_ms=total_ms)
    return replace(record, times=times, device_bytes=size)


@pytest.fixture(scope="module")
def page() -> Element:
    return parse_page(render_split_page(two_model_split()))


def test_the_headline_says_what_is_sent_and_kept() -> None:
    result = one_model_split()
    assert split_headline(result) == (
        f"Split at classifier:blocks.4, classifier sends {sent_text(chosen(result).bytes)} per "
        f"frame and keeps {100 * (chosen(result).quality_kept or 0):.1f}% of its quality."
    )


def test_a_picture_is_better_if_it_keeps_as_much_in_no_more_bytes() -> None:
    """As much: at least the low end of the 95% interval of what the split keeps."""
    result = one_model_split()
    point = chosen(result)
    assert point.quality_interval is not None
    low = point.quality_interval[0]
    for size, kept, expected in (
        (point.bytes, low, "A picture codec is as good or better: AVIF q40"),
        (1.5 * point.bytes, low, f"AVIF q40 sends {sent_text(1.5 * point.bytes)}"),
        (3 * point.bytes, 1.0, "The split sends 3.0 times less."),
        (point.bytes / 2, low - 1e-6, "No picture that was measured keeps as much"),
    ):
        text = compare_with_pictures(against(result, picture(size, kept)), point)
        assert expected in text
    assert compare_with_pictures(against(result), point) == ""


def test_everything_on_the_device_is_better_if_it_is_as_quick_and_fits() -> None:
    result = one_model_split()
    point = chosen(result)
    time, size = point.times.total_ms, point.device_bytes
    for kept, total_ms, held, expected in (
        (1.0, time, 2 * size, "as good or better"),
        (1.0, time - 1, 2 * size, "What the split saves is memory"),
        (1.0, time - 1, size // 2, "The split saves nothing."),
        (1.0, time + 1, 2 * size, "takes longer"),
        (1.0, time - 1, 8_000_001, "does not fit"),
        (1.0, 200.5, 2 * size, "does not fit"),
        (0.5, time, size, "Everything on the device keeps less: 50.0%"),
    ):
        text = compare_with_device(against(result, whole(result, kept, total_ms, held)), point)
        assert expected in text, (kept, total_ms, held)


def test_a_plain_coding_is_named_only_if_it_is_as_good() -> None:
    result = one_model_split()
    point = chosen(result)
    for factor, said in ((1.0, True), (1.01, False)):
        plain = baseline("plain", "PCA", factor * point.bytes, 1.0, MODELS, result.link)
        text = " ".join(split_comparisons(against(result, plain)))
        assert ("A plain coding is as good or better: PCA" in text) == said


def test_without_a_chosen_point_the_page_says_so_and_draws_the_quickest() -> None:
    result = replace(two_model_split(), chosen=None)
    page = parse_page(render_split_page(result))
    (title,) = page.all("h1")
    assert title.text.startswith("No verified split of classifier and detector")
    assert "The quickest verified split" in page.text
    nothing = replace(result, points=[], front=[])
    assert "none was verified" in " ".join(split_comparisons(nothing))
    assert not parse_page(render_split_page(nothing)).all("section", id="network")


def test_without_labels_the_page_shows_fidelity() -> None:
    result = one_model_split()
    unsplit = replace(result.unsplit, accuracy={}, intervals={})
    text = parse_page(render_split_page(replace(result, unsplit=unsplit))).text
    assert "agree 98.0% with the unsplit models" in text
    assert "quality kept" not in text.replace("predicted distortion and quality kept", "")


def test_at_chance_no_percentage_of_quality_kept_is_shown() -> None:
    result = one_model_split()
    warning = "unsplit, classifier is at chance"
    unsplit = replace(result.unsplit, at_chance={"classifier": warning})
    page = parse_page(render_split_page(replace(result, unsplit=unsplit)))
    (shown,) = page.all("p", class_="warning")
    assert shown.text == f"Warning: {warning}"
    (value,) = [d for d in page.all("dd", class_="value") if "98.0%" in d.text]
    assert value.text == "98.0%"


def test_both_tables_have_the_same_columns_and_every_record(page: Element) -> None:
    result = two_model_split()
    points, baselines = (table.rows() for table in page.all("table", class_="sortable"))
    assert points[0][1:] == baselines[0][1:]
    assert len(points) == 1 + len(result.points)
    assert len(baselines) == 1 + len(result.baselines)
    for point, row in zip(result.points, points[1:], strict=True):
        assert point.hash in row[0] and row[1].startswith(sent_text(point.bytes))
        assert row[3] == f"{point.times.total_ms:.1f}"
        assert ("chosen" in row[0]) == (point.hash == result.chosen)


def test_settings_name_link_device_and_deadline(page: Element) -> None:
    names = [term.text for term in page.all("dt")]
    values = [value.text for value in page.all("dd")]
    facts = dict(zip(names, values[-len(names) :], strict=True))
    assert facts["link"] == "2 Mbit/s, 30 ms round trip, 0.0% loss"
    assert "0.2 times" in facts["device"] and "at most 8 MB" in facts["device"]
    assert facts["deadline"] == "200 ms"


def test_the_page_is_escaped_and_loads_nothing() -> None:
    result = two_model_split(name="<b>&")
    html = render_split_page(result)
    assert "<b>&" not in html and "&lt;b&gt;&amp;" in html
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_every_line_of_a_chart_has_a_letter_and_a_line_of_the_legend() -> None:
    result = two_model_split()
    lines = split_lines(result)
    assert [line.letter for line in lines] == ["A", "B", "C"]
    assert sorted(p.hash for line in lines for p in line.points) == sorted(
        p.hash for p in result.points
    )
    legend = [icon.text for icon in rate_legend(result, lines)]
    assert [text[:2] for text in legend[:3]] == ["A:", "B:", "C:"]
    letters = [
        t.text for t in rate_chart(result).iter("text") if t.get("class", "").startswith("s-")
    ]
    assert sorted(str(letter) for letter in letters) == ["A", "B", "C"]


def test_picture_lines_join_the_qualities_of_a_format_at_one_size() -> None:
    lines = {line.name: len(line.codings) for line in picture_lines(two_model_split())}
    assert lines == {
        f"{name}{side}": 5 for name in ("JPEG", "WebP", "AVIF") for side in ("", " at 160 px")
    }


def test_the_front_of_pictures_rises() -> None:
    front = picture_front(two_model_split())
    assert all(
        a.bytes < b.bytes and (a.quality or 0) < (b.quality or 0)
        for a, b in itertools.pairwise(front)
    )


def test_the_chart_leaves_out_only_what_keeps_too_little_and_counts_it() -> None:
    result = two_model_split()
    root, floor = rate_chart(result), rate_range(result).floor
    marks = [m for m in root.iter() if m is not root and m.find("title") is not None]
    shown = [r for r in result.baselines if (r.quality_kept or 0) >= floor]
    assert len(marks) == len(result.points) + len(shown)
    assert hidden_codings(result) == len(result.baselines) - len(shown) > 0
    description = root.findtext("desc") or ""
    assert all(record.name in description for record in result.baselines)


def test_marks_lie_in_the_picture() -> None:
    for size in ((860.0, 430.0), (368.0, 350.0)):
        for circle in rate_chart(two_model_split(), size).iter("circle"):
            assert 0 <= float(circle.get("cx", "-1")) <= size[0]
            assert 0 <= float(circle.get("cy", "-1")) <= size[1]


@pytest.mark.parametrize(
    ("count", "sent", "tick"),
    [
        (0.0, "0 bytes", "0 B"),
        (873.4, "873 bytes", "873.4 B"),
        (1346.0, "1.35 kB", "1.346 kB"),
        (15_600.0, "15.6 kB", "15.6 kB"),
        (2_000_000.0, "2.00 MB", "2 MB"),
    ],
)
def test_sizes_of_messages_are_in_bytes_then_kilobytes(count: float, sent: str, tick: str) -> None:
    assert sent_text(count) == sent and tick_text(count) == tick


def test_the_files_are_complete_pictures_and_a_page(tmp_path: Path) -> None:
    write_split_page(two_model_split(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"split.html", "rates.svg", "split.svg"}
    for name in ("rates.svg", "split.svg"):
        assert ET.parse(tmp_path / name).getroot().get("width")
    assert read_page(tmp_path / "split.html").all("h1")
