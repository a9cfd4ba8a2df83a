"""SVG built as elements, so that the XML writer escapes all text."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree as ET

NAMESPACE = "http://www.w3.org/2000/svg"
CHARACTER = 0.58
"""Mean width of a character in font sizes, a little more than system fonts need."""


@dataclass(frozen=True)
class PictureText:
    """The accessible name and description of a picture."""

    key: str
    """Prefix of the ids, unique within the page."""
    title: str
    text: str


def new_picture(width: float, height: float, words: PictureText) -> ET.Element:
    """Return an empty picture of that size in user units, which scales to its container."""
    title, description = f"{words.key}-title", f"{words.key}-description"
    root = ET.Element(
        "svg",
        {
            "xmlns": NAMESPACE,
            "viewBox": f"0 0 {number(width)} {number(height)}",
            "role": "img",
            "aria-labelledby": f"{title} {description}",
        },
    )
    add(root, "title", words.title, id=title)
    add(root, "desc", words.text, id=description)
    return root


def add(parent: ET.Element, tag: str, text: str = "", **attributes: str | float) -> ET.Element:
    """Append a child. In attribute names `_` becomes `-`, and `class_` becomes `class`."""
    named = {
        name.rstrip("_").replace("_", "-"): value if isinstance(value, str) else number(value)
        for name, value in attributes.items()
    }
    child = ET.SubElement(parent, tag, named)
    child.text = text or None
    return child


def level_path(x: float, bottom: float, width: float, height: float, radius: float) -> str:
    """Return the outline of the lower part of a rectangle with rounded corners."""
    left, right, corner = number(x), number(x + width), number(radius)
    top, edge = number(bottom - height), number(bottom - radius)
    return (
        f"M{left} {top}H{right}V{edge}a{corner} {corner} 0 0 1 -{corner} {corner}"
        f"H{number(x + radius)}a{corner} {corner} 0 0 1 -{corner} -{corner}z"
    )


def number(value: float) -> str:
    """Format a number with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def text_width(text: str, size: float) -> float:
    """Estimate the width of a text of that font size, rather too wide than too narrow."""
    return len(text) * size * CHARACTER


def standalone_text(root: ET.Element) -> str:
    """Return the picture as the content of an SVG file."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{to_text(root)}\n'


def to_text(element: ET.Element) -> str:
    return ET.tostring(element, encoding="unicode")
