"""The report page in a browser: offline, sortable, on a phone, in dark mode, and legible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest
from browsers import CONTRASTS, LEGIBLE, SCREENSHOTS
from playwright.sync_api import Browser, Page
from tiny import FinishedRun, Weights, run_config, three_model_config, with_changes, write_config

pytestmark = pytest.mark.ui

Scheme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def three_run(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Three models, two of them with ground truth, with several shares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        data = three_model_config(weights)
        truth = dict.fromkeys("ac", data["truth"]["a"])
        config = with_changes(data, {"truth": truth, "budget": "60%"})
        return run_config(write_config(tmp_path_factory.mktemp("three"), config))


@contextmanager
def open_report(
    chromium: Browser,
    finished: FinishedRun,
    width: int = 1280,
    height: int = 900,
    scheme: Scheme = "light",
) -> Iterator[Page]:
    """Open the report; it must log no error and request nothing but itself."""
    context = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme
    )
    page = context.new_page()
    messages, urls = list[str](), list[str]()
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: urls.append(request.url))
    address = (finished.out / "report.html").resolve().as_uri()
    page.goto(address)
    yield page
    assert messages == []
    assert [url for url in urls if not url.startswith("data:")] == [address]
    context.close()


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def open_all_details(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")


def sort_keys(page: Page, index: int) -> list[str]:
    """Return the sort keys of a column of the candidates, from the top row down."""
    rows = "table.sortable tbody tr:not(.pinned)"
    values = page.eval_on_selector_all(
        rows, f"rows => rows.map((row) => row.cells[{index}].dataset.sort)"
    )
    return [str(value) for value in values]


def column_head(page: Page, name: str) -> Any:
    return page.locator("table.sortable thead th", has=page.get_by_role("button", name=name))


def test_pictures_are_visible_and_no_request_is_sent(
    chromium: Browser, tiny_run: FinishedRun, three_run: FinishedRun
) -> None:
    for finished, width in ((tiny_run, 1280), (three_run, 1280), (three_run, 360)):
        with open_report(chromium, finished, width) as page:
            open_all_details(page)
            boxes = page.eval_on_selector_all(
                "svg",
                "all => all.filter((svg) => svg.checkVisibility()).map((svg) => {"
                "const box = svg.getBoundingClientRect(); return [box.width, box.height]; })",
            )
            assert len(boxes) >= 4
            assert all(width > 100 and height > 50 for width, height in boxes)


def test_the_first_screen_shows_headline_numbers_front_and_plan(
    chromium: Browser, tiny_run: FinishedRun
) -> None:
    with open_report(chromium, tiny_run) as page:
        for part in ("h1", ".numbers", ".first figure:first-child svg", ".first .wide svg"):
            box = page.locator(part).bounding_box()
            assert box is not None and box["y"] + box["height"] <= 900, part


def test_columns_sort_by_mouse_and_by_keyboard(chromium: Browser, tiny_run: FinishedRun) -> None:
    records = tiny_run.result.candidates
    with open_report(chromium, tiny_run) as page:
        sizes = sorted(c.bytes for c in records)
        assert column_head(page, "MB").get_attribute("aria-sort") == "ascending"
        assert [int(value) for value in sort_keys(page, 1)] == sizes
        page.get_by_role("button", name="Proxy").click()
        proxies = sorted(c.proxy for c in records)
        assert len(set(proxies)) > 1
        assert [float(value) for value in sort_keys(page, 5)] == proxies
        assert column_head(page, "Proxy").get_attribute("aria-sort") == "ascending"
        assert column_head(page, "MB").get_attribute("aria-sort") is None
        for key, expected in (("Enter", sizes), ("Space", sizes[::-1])):
            page.get_by_role("button", name="MB").press(key)
            assert [int(value) for value in sort_keys(page, 1)] == expected
        assert column_head(page, "MB").get_attribute("aria-sort") == "descending"
        page.get_by_role("button", name="Plan").click()
        assert sort_keys(page, 0) == sorted(c.hash for c in records)
        first = page.locator("table.sortable tbody tr").first
        assert "unmerged" in (first.text_content() or "")  # stays on top


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(
    chromium: Browser, tiny_run: FinishedRun, three_run: FinishedRun, scheme: Scheme
) -> None:
    for finished in (tiny_run, three_run):
        with open_report(chromium, finished, 360, 740, scheme) as page:
            open_all_details(page)
            assert page.evaluate("document.documentElement.scrollWidth") == 360
            assert page.locator(".first .narrow svg").is_visible()
            assert not page.locator(".first .wide svg").is_visible()


def test_the_dark_scheme_is_dark(chromium: Browser, tiny_run: FinishedRun) -> None:
    with open_report(chromium, tiny_run) as page:
        light = background(page)
    with open_report(chromium, tiny_run, scheme="dark") as page:
        dark = background(page)
        stage = page.locator(".first .wide .pd-live rect").first
        fill = stage.evaluate("(rect) => getComputedStyle(rect).fill")
    assert light == "rgb(255, 255, 255)"
    assert all(int(part) < 40 for part in dark[4:-1].split(","))
    assert fill not in (light, "rgb(219, 231, 251)")  # the light colour in the file


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_is_legible(
    chromium: Browser, three_run: FinishedRun, scheme: Scheme, width: int
) -> None:
    with open_report(chromium, three_run, width, 900, scheme) as page:
        open_all_details(page)
        texts = page.evaluate(CONTRASTS)
        assert len(texts) > 200
        faint = [entry for entry in texts if entry["contrast"] < LEGIBLE]
        assert faint == []
        assert len({entry["ground"] for entry in texts}) > 8  # stages and heat maps included


def test_stage_names_stay_inside_their_boxes(chromium: Browser, three_run: FinishedRun) -> None:
    outside = """all => all.filter((part) => part.checkVisibility()).flatMap((part) => {
      const outline = part.querySelector("rect").getBoundingClientRect();
      return [...part.querySelectorAll("text")].filter((text) => {
        const box = text.getBoundingClientRect();
        return box.left < outline.left - 0.5 || box.right > outline.right + 0.5
          || box.top < outline.top - 0.5 || box.bottom > outline.bottom + 0.5;
      }).map((text) => text.textContent); })"""
    for width in (1280, 360):
        with open_report(chromium, three_run, width) as page:
            assert page.eval_on_selector_all(".first .pd-stage", outside) == []


@pytest.mark.parametrize(
    ("name", "width", "height", "scheme"),
    [("light", 1280, 900, "light"), ("dark", 1280, 900, "dark"), ("phone", 360, 740, "light")],
)
def test_screenshots_are_saved(
    chromium: Browser, three_run: FinishedRun, name: str, width: int, height: int, scheme: Scheme
) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with open_report(chromium, three_run, width, height, scheme) as page:
        for suffix, full_page in (("", False), ("-whole", True)):
            picture = SCREENSHOTS / f"report-{name}{suffix}.png"
            page.screenshot(path=picture, full_page=full_page)
            assert picture.stat().st_size > 10_000
