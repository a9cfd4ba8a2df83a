"""The list of what was checked, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from spaces.errors import MergeSearchError

Loaded = TypeVar("Loaded")
Status = Literal["ok", "problem", "skipped"]


@dataclass(frozen=True)
class CheckedItem:
    """One thing that was checked."""

    subject: str
    """The section or key of the config, such as `models.person`, or what the run needs."""
    status: Status
    text: str
    """What was read, or the sentence that says what is wrong and what would be right."""


@dataclass
class Checklist:
    """The items in the order of the checks."""

    items: list[CheckedItem] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing stands in the way of a run."""
        return all(item.status == "ok" for item in self.items)

    def check(
        self, subject: str, load: Callable[[], Loaded], describe: Callable[[Loaded], str]
    ) -> Loaded | None:
        """Load something and note its description; note the error and return None if it fails."""
        try:
            loaded = load()
            self.items.append(CheckedItem(subject, "ok", describe(loaded)))
            return loaded
        except MergeSearchError as error:
            self.items.append(CheckedItem(subject, "problem", str(error)))
            return None

    def skip(self, subject: str, needs: str) -> None:
        """Note that something could not be checked without `needs`."""
        self.items.append(CheckedItem(subject, "skipped", f"not checked: needs {needs}"))
