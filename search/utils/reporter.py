"""The interface through which a pipeline reports to the person or program that started it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from search.utils.progress import Progress, silent


class Reporter(Protocol):
    """Receives the steps, messages, progress and tables of a pipeline.

    `search.utils.console` prints them on a terminal; `SILENT` drops them.
    """

    def step(self, text: str) -> None:
        """Announce the step that begins now."""

    def say(self, text: str) -> None:
        """Report a detail of the current step."""

    def warn(self, text: str) -> None:
        """Report something that matters even to a user who asked for less output."""

    def progress(self, task: str, total: int) -> AbstractContextManager[Progress]:
        """Show how much of a task of `total` units is done.

        Call the function that the context manager yields with the number of units just finished.
        """

    def working(self, task: str) -> AbstractContextManager[None]:
        """Show that a task of unknown length is running."""

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table that is part of the result."""

    def details(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table of background information, such as the stages of a model."""


class SilentReporter:
    """Drops everything."""

    def step(self, text: str) -> None: ...

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def progress(self, task: str, total: int) -> AbstractContextManager[Progress]:
        return nullcontext(silent)

    def working(self, task: str) -> AbstractContextManager[None]:
        return nullcontext()

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None: ...

    def details(
        self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None: ...


SILENT: Reporter = SilentReporter()
