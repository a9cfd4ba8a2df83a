"""Parse HTML and SVG pages for tests: text, elements and tables, without a browser."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "br", "img"}
HIDDEN = {"style", "script", "title", "desc"}


@dataclass
class Element:
    """An element: its attributes, and the texts and elements inside it in order."""

    name: str
    attributes: dict[str, str]
    inside: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The visible text, without that of styles, scripts and the titles of pictures."""
        parts = (
            part if isinstance(part, str) else "" if part.name in HIDDEN else part.text
            for part in self.inside
        )
        return " ".join(" ".join(parts).split())

    @property
    def raw(self) -> str:
        """All text, hidden text included."""
        return "".join(part if isinstance(part, str) else part.raw for part in self.inside)

    def all(self, name: str, **attributes: str) -> list[Element]:
        """Return descendants by name and attributes; `class_` matches any one of the classes."""
        elements = []
        for part in self.inside:
            if isinstance(part, Element):
                if part.name == name and all(part.has(k, v) for k, v in attributes.items()):
                    elements.append(part)
                elements += part.all(name, **attributes)
        return elements

    def has(self, name: str, value: str) -> bool:
        actual = self.attributes.get(name.rstrip("_"), "")
        return value in actual.split() if name == "class_" else actual == value

    def rows(self) -> list[list[str]]:
        """Return the texts of the cells of each row below this element."""
        cells = ("th", "td")
        return [
            [part.text for part in row.inside if isinstance(part, Element) and part.name in cells]
            for row in self.all("tr")
        ]

    def tree(self) -> list[Element]:
        """Return this element and all its descendants in document order."""
        children = [part for part in self.inside if isinstance(part, Element)]
        return [self, *(element for child in children for element in child.tree())]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("page", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        new = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].inside.append(new)
        if tag not in VOID:
            self.open.append(new)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.open[-1].inside.append(Element(tag, attributes))

    def handle_endtag(self, tag: str) -> None:
        closed = self.open.pop()
        assert closed.name == tag, f"<{closed.name}> is closed as </{tag}>"

    def handle_data(self, data: str) -> None:
        self.open[-1].inside.append(data)


def parse_page(text: str) -> Element:
    """Return the root of the page; assert that every element is closed in the right order."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    (page,) = reader.open
    return page


def read_page(path: Path) -> Element:
    return parse_page(path.read_text(encoding="utf-8"))
