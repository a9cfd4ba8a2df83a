"""SVG built as elements: whatever is text is escaped by the writer, never by hand."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree as ET

NAMESPACE = "http://www.w3.org/2000/svg"
CHARACTER = 0.58
"""Mean width of a character, in font sizes; a little more than system fonts take."""


@dataclass(frozen=True)
class Words:
    """What a picture says to whoever cannot see it."""

    key: str
    """Names the picture within its page."""
    title: str
    description: str


def picture(width: float, height: float, words: Words) -> ET.Element:
    """An empty picture of that many units, which is as wide as its place allows."""
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
    add(root, "desc", words.description, id=description)
    return root


def add(parent: ET.Element, tag: str, text: str = "", **attributes: str | float) -> ET.Element:
    """A new child. In names of attributes _ stands for -, and `class_` for class."""
    named = {
        name.rstrip("_").replace("_", "-"): value if isinstance(value, str) else number(value)
        for name, value in attributes.items()
    }
    child = ET.SubElement(parent, tag, named)
    child.text = text or None
    return child


def number(value: float) -> str:
    """At most two decimals, and none where there are none."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def text_width(text: str, size: float) -> float:
    """About how wide a text of that font size is; rather more than less."""
    return len(text) * size * CHARACTER


def to_text(element: ET.Element) -> str:
    return ET.tostring(element, encoding="unicode")
