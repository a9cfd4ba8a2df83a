"""The list of checks and their outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from spaces.errors import MergeSearchError

Loaded = TypeVar("Loaded")
Status = Literal["ok", "problem", "skipped"]


@dataclass(frozen=True)
class CheckedItem:
    """One check and its outcome."""

    subject: str
    """The section or key of the config, such as `models.person`, or what the run needs."""
    status: Status
    text: str
    """A description of the checked item, or a sentence on the problem and its remedy."""


@dataclass
class Checklist:
    """The items in the order of the checks."""

    items: list[CheckedItem] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(item.status == "ok" for item in self.items)

    def check(
        self, subject: str, load: Callable[[], Loaded], describe: Callable[[Loaded], str]
    ) -> Loaded | None:
        """Load an item and add its description; on an error, add the error and return None."""
        try:
            loaded = load()
            self.items.append(CheckedItem(subject, "ok", describe(loaded)))
            return loaded
        except MergeSearchError as error:
            self.items.append(CheckedItem(subject, "problem", str(error)))
            return None

    def skip(self, subject: str, needs: str) -> None:
        """Add an item that cannot be checked without `needs`."""
        self.items.append(CheckedItem(subject, "skipped", f"not checked: needs {needs}"))
