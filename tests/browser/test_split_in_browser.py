"""The page of a split in a browser: offline, on a phone, in dark mode, and legible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from browsers import CONTRASTS, LEGIBLE, SCREENSHOTS
from playwright.sync_api import Browser, Page
from split_results import one_model_split, two_model_split

from search.report.split.page import write_split_page

pytestmark = pytest.mark.ui
Scheme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages of two models, `two`, and of one, `one`."""
    folder = tmp_path_factory.mktemp("splits")
    write_split_page(two_model_split(), folder / "two")
    write_split_page(one_model_split(), folder / "one")
    return folder


@contextmanager
def open_split(
    chromium: Browser, page_folder: Path, width: int, scheme: Scheme = "light"
) -> Iterator[Page]:
    """Open a page; it must log no error and request nothing but itself."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    messages, urls = list[str](), list[str]()
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: urls.append(request.url))
    address = (page_folder / "split.html").resolve().as_uri()
    page.goto(address)
    yield page
    assert messages == []
    assert [url for url in urls if not url.startswith("data:")] == [address]
    context.close()


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_phone_needs_no_sideways_scrolling(chromium: Browser, folder: Path, name: str) -> None:
    with open_split(chromium, folder / name, 400) as page:
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        assert page.locator("#rates .narrow svg").is_visible()
        assert not page.locator("#rates .wide svg").is_visible()


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_of_a_split_is_legible(
    chromium: Browser, folder: Path, scheme: Scheme, width: int
) -> None:
    with open_split(chromium, folder / "two", width, scheme) as page:
        texts = page.evaluate(CONTRASTS)
        assert len(texts) > 200
        assert [entry for entry in texts if entry["contrast"] < LEGIBLE] == []


def test_no_label_of_the_charts_is_on_another_or_cut_off(chromium: Browser, folder: Path) -> None:
    boxes = """all => all.filter((text) => text.checkVisibility()).map((text) => {
      const box = text.getBoundingClientRect();
      const edge = text.ownerSVGElement.parentElement.getBoundingClientRect();
      return [text.textContent, box.left, box.right, box.top, box.bottom,
              box.left >= edge.left - 1 && box.right <= window.innerWidth]; })"""
    for width in (1280, 400):
        for part in ("#rates", "#device"):
            with open_split(chromium, folder / "two", width) as page:
                found = page.eval_on_selector_all(f"{part} .chart text", boxes)
            assert found and all(inside for *_, inside in found)
            for k, (text, left, right, top, bottom, _) in enumerate(found):
                for other, left_2, right_2, top_2, bottom_2, _ in found[:k]:
                    apart = right <= left_2 or right_2 <= left or bottom <= top_2 + 2
                    assert apart or bottom_2 <= top + 2, f"{text} on {other}, {width}"


def test_the_tables_of_a_split_sort(chromium: Browser, folder: Path) -> None:
    with open_split(chromium, folder / "two", 1280) as page:
        page.locator("#points").get_by_role("button", name="Quality kept").click()
        rows = "#points tbody tr"
        found = page.eval_on_selector_all(rows, "r => r.map((row) => row.cells[2].dataset.sort)")
        assert found == sorted(found, key=float) and len(set(found)) > 1


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 400, "light")],
)
def test_screenshots_of_a_split_are_saved(
    chromium: Browser, folder: Path, name: str, width: int, scheme: Scheme
) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with open_split(chromium, folder / "two", width, scheme) as page:
        picture = SCREENSHOTS / f"split-{name}.png"
        page.screenshot(path=picture, full_page=True)
        assert picture.stat().st_size > 10_000
