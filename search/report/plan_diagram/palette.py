"""Colours of a plan's drawing: written into it, and by names that a page may give others to.

A picture that stands alone has the light colours; a page sets `--pd-NAME` where it is dark.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

_MODELS = (
    ("#dbe7fb", "#2457b8"), ("#cfeee6", "#0b6b5b"), ("#e8defa", "#6a3fb5"),
    ("#f9e3cf", "#9a4a0c"), ("#f8dbe6", "#a3265e"), ("#e3e7ec", "#465364"),
)  # fmt: skip
COLOURS = {
    "paper": "#ffffff",
    "ink": "#1b1f24",
    "quiet": "#59626d",
    "released": "#8a939e",
    "none": "none",
    **{f"fill-{k}": fill for k, (fill, _) in enumerate(_MODELS)},
    **{f"line-{k}": line for k, (_, line) in enumerate(_MODELS)},
}
"""Each name's colour on light paper."""


def fill_of(model: int) -> str:
    """The name of the colour that fills a model's stages; the seventh has the first's again."""
    return f"fill-{model % len(_MODELS)}"


def line_of(model: int) -> str:
    """The name of the colour of a model's lines and arrows."""
    return f"line-{model % len(_MODELS)}"


def paint(element: ET.Element, **colours: str) -> ET.Element:
    """Give `fill` and `stroke` colours by their names; returns the element."""
    for part, name in colours.items():
        element.set(part, COLOURS[name])
    names = " ".join(f"pd-{part}-{name}" for part, name in colours.items() if name != "none")
    element.set("class", f"{element.get('class', '')} {names}".strip())
    return element


def style() -> str:
    """The rules by which a page's own colours go before those that are written down."""
    rules = [".pd text{font-family:system-ui,-apple-system,'Segoe UI',sans-serif}"]
    for name, colour in COLOURS.items():
        for part in ("fill", "stroke"):
            rules.append(f".pd-{part}-{name}{{{part}:var(--pd-{name},{colour})}}")
    return "\n".join(rule for rule in rules if "none" not in rule)
