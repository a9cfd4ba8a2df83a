"""A page as whoever reads it: its text, its tags, its tables and its links; no browser."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "br", "img"}
HIDDEN = {"style", "script", "title", "desc"}


@dataclass
class Tag:
    """An element with its attributes, the text in it, and the elements in it."""

    name: str
    attributes: dict[str, str]
    inside: list[Tag | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What is seen: without the words of pictures, styles and scripts."""
        parts = (
            part if isinstance(part, str) else "" if part.name in HIDDEN else part.text
            for part in self.inside
        )
        return " ".join(" ".join(parts).split())

    @property
    def raw(self) -> str:
        return "".join(part if isinstance(part, str) else part.raw for part in self.inside)

    def all(self, name: str, **attributes: str) -> list[Tag]:
        """Every element of that name below it; `class_` is one of its classes."""
        found = []
        for part in self.inside:
            if isinstance(part, Tag):
                if part.name == name and all(part.has(k, v) for k, v in attributes.items()):
                    found.append(part)
                found += part.all(name, **attributes)
        return found

    def has(self, name: str, value: str) -> bool:
        known = self.attributes.get(name.rstrip("_"), "")
        return value in known.split() if name == "class_" else known == value

    def rows(self) -> list[list[str]]:
        """Of a table."""
        cells = ("th", "td")
        return [
            [part.text for part in row.inside if isinstance(part, Tag) and part.name in cells]
            for row in self.all("tr")
        ]

    def everything(self) -> list[Tag]:
        below = [part for part in self.inside if isinstance(part, Tag)]
        return [self, *(one for part in below for one in part.everything())]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Tag("page", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        new = Tag(tag, {name: value or "" for name, value in attrs})
        self.open[-1].inside.append(new)
        if tag not in VOID:
            self.open.append(new)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.open[-1].inside.append(Tag(tag, known))

    def handle_endtag(self, tag: str) -> None:
        closed = self.open.pop()
        assert closed.name == tag, f"<{closed.name}> is closed as </{tag}>"

    def handle_data(self, data: str) -> None:
        self.open[-1].inside.append(data)


def parse(text: str) -> Tag:
    """The page; every element in it is closed, in its order."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    (page,) = reader.open
    return page


def read_page(path: Path) -> Tag:
    return parse(path.read_text(encoding="utf-8"))
