"""What a person sees in the terminal while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:  # which makes a command wait for torch before it can show that it waits
    from spaces.model_facts import ModelFacts

DELAY = 0.3
"""Seconds after which a display appears, so that what is quick does not flicker."""
TOLD = 1.0
"""What took so many seconds is told, on a terminal."""
PERIOD = 120.0
"""The time left is told from the speed in the last so many seconds."""
STAGE_HEADER = ("stage", "shape", "bytes", "MACs (M)", "tap")
LEFT = ("shape", "tap", "donor", "recipient", "adapter")
"""Columns of words; but for the first one, the others hold numbers."""


class Reporter:
    """Steps, progress and tables on one rich console.

    Only a terminal gets colours, and displays that move: elsewhere there are plain lines.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.at = ""
        """The step that is under way, for who has to tell where something failed."""

    def step(self, text: str) -> None:
        self.at = text
        self.console.print(f"[bold]{escape(text)}[/bold]", soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(escape(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Say what matters also to those who want to hear no more than that."""
        self.say(text)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar with the time left; the yielded function takes how much more is done."""
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        with self._moving(what, *columns) as display:
            task = display.add_task(what, total=total)
            display.advance(task, 0)  # a first point, from which speed can be told at the second
            yield lambda done: display.advance(task, done)

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Something that moves, and the time so far, while it is not known how much is left."""
        with self._moving(what, SpinnerColumn(), TimeElapsedColumn()) as display:
            display.add_task(what, total=None)
            yield

    @contextmanager
    def _moving(self, what: str, *columns: ProgressColumn) -> Iterator[Progress]:
        """A display until the end of the block; then, if that was long, how long it took."""
        moves, start = self.console.is_interactive, time.perf_counter()
        display = Progress(
            TextColumn("  {task.description}"), *columns,
            console=self.console, transient=True, disable=not moves,
            speed_estimate_period=PERIOD,
        )  # fmt: skip
        with _late(display):
            yield display
        seconds = time.perf_counter() - start
        if moves and seconds >= TOLD:
            self.console.print(f"[dim]  {escape(what)}: {seconds:.1f} s[/dim]")

    def stage_table(self, facts: Mapping[str, ModelFacts]) -> None:
        for name, fact in facts.items():
            rows = [
                [stage.name, " x ".join(str(side) for side in stage.shape), f"{stage.bytes:,}",
                 f"{stage.macs / 1e6:,.1f}", "tap" if stage.tap else ""]
                for stage in fact.stages
            ]  # fmt: skip
            rows.append(["head", "", f"{fact.head_bytes:,}", f"{fact.head_macs / 1e6:,.1f}", ""])
            self._print(f"{name} ({fact.task})", STAGE_HEADER, rows)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._print(title, header, rows)

    def _print(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Words are never cut: where lines could be no shorter, they go on beyond the edge."""
        table = _table(title, header, rows)
        if (least := _least_width(table)) > self.console.width:
            table.width = least
        self.console.print(table, crop=False)


class Quiet(Reporter):
    """The tables of a result and nothing else; what matters besides goes to `warnings`."""

    def __init__(self, console: Console, warnings: Console) -> None:
        super().__init__(console)
        self.warnings = Reporter(warnings)

    def step(self, text: str) -> None:
        self.at = text

    def say(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        self.warnings.say(f"merge-search: {text}")

    def stage_table(self, facts: Mapping[str, ModelFacts]) -> None:
        """Nothing: it is no result."""

    @contextmanager
    def _moving(self, what: str, *columns: ProgressColumn) -> Iterator[Progress]:
        yield Progress(disable=True)


@contextmanager
def _late(display: Progress) -> Iterator[None]:
    """The display is there once the block has taken `DELAY`, and is gone after it."""
    timer = Timer(DELAY, display.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        try:
            timer.cancel()
            timer.join()
        finally:
            display.stop()


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(
        title=escape(title), title_justify="left", title_style="bold", header_style="",
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False,
    )  # fmt: skip
    for index, column in enumerate(zip(header, *rows, strict=True)):
        words = [word for cell in column for word in cell.split()]
        whole = index == 0 or not any(" " in cell for cell in column)
        table.add_column(
            escape(header[index]),
            justify="left" if index == 0 or header[index] in LEFT else "right",
            no_wrap=whole,
            min_width=max(map(cell_len, column if whole else words), default=1),
        )
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def _least_width(table: Table) -> int:
    """With every word whole, and two spaces between columns."""
    return sum((column.min_width or 0) + 2 for column in table.columns) - 1
