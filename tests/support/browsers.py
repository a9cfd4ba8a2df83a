"""Run Debian's chromium for tests: headless and without network access."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SCREENSHOTS = Path(__file__).parents[2] / "build" / "ui"
"""Git-ignored folder with screenshots of the tests."""


@contextmanager
def browser() -> Iterator[Browser]:
    """Start chromium and close it at the end; skip the test if it is not installed."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield started
        finally:
            started.close()


LEGIBLE = 4.5
"""Contrast that WCAG 2 AA requires for text of any size."""
CONTRASTS = """() => {
  const channels = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const visible = (text) => { const c = channels(text); return c.length === 3 || c[3] > 0; };
  const luminance = (text) => {
    const [r, g, b] = channels(text).slice(0, 3).map((c) => c / 255)
      .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (visible(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const below = (text) => {
    text.scrollIntoView({ block: "center", inline: "center" });
    const box = text.getBoundingClientRect();
    const parts = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    for (const part of parts) {
      const fill = getComputedStyle(part).fill;
      if (["rect", "circle"].includes(part.tagName) && fill !== "none") return fill;
    }
    return behind(text.ownerSVGElement);
  };
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.getClientRects().length) continue;
    const inSvg = element.ownerSVGElement;
    if (inSvg && !["text", "tspan"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const colour = inSvg ? style.fill : style.color;
    const ground = inSvg ? below(element.closest("text")) : behind(element);
    texts.push({ text: node.data.trim(), colour, ground, contrast: contrast(colour, ground) });
  }
  return texts;
}"""
