"""Reporters that print steps, progress and tables on a rich console."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Timer

from rich import progress as bars
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from search.utils.progress import Progress

DELAY = 0.3
"""Seconds before a progress display appears, so that short tasks do not flicker."""
SLOW = 1.0
"""Seconds from which a finished task leaves a line with its duration on a terminal."""
SPEED_PERIOD = 120.0
"""Seconds of history from which the time left is estimated."""
TEXT_COLUMNS = ("shape", "tap", "donor", "recipient", "adapter")
"""Headers of left-aligned columns. The first column holds text as well; others hold numbers."""


class ConsoleReporter:
    """Prints everything on one rich console.

    Colours and moving displays appear on a terminal only; other outputs get plain lines.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.current_step = ""
        """The step announced last, for error messages."""

    def step(self, text: str) -> None:
        self.current_step = text
        self.console.print(f"[bold]{escape(text)}[/bold]", soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(escape(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        self.say(text)

    @contextmanager
    def progress(self, task: str, total: int) -> Iterator[Progress]:
        """Show a bar with the time left."""
        columns = (
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("left"),
        )
        with self._display(task, *columns) as display:
            bar = display.add_task(task, total=total)
            display.advance(bar, 0)  # a first point: the second one gives a speed
            yield lambda done: display.advance(bar, done)

    @contextmanager
    def working(self, task: str) -> Iterator[None]:
        """Show a spinner and the elapsed time."""
        with self._display(task, bars.SpinnerColumn(), bars.TimeElapsedColumn()) as display:
            display.add_task(task, total=None)
            yield

    @contextmanager
    def _display(self, task: str, *columns: bars.ProgressColumn) -> Iterator[bars.Progress]:
        """Show a display during the block, then the duration if the block was slow."""
        interactive, start = self.console.is_interactive, time.perf_counter()
        display = bars.Progress(
            bars.TextColumn("  {task.description}"), *columns,
            console=self.console, transient=True, disable=not interactive,
            speed_estimate_period=SPEED_PERIOD,
        )  # fmt: skip
        with _delayed(display):
            yield display
        seconds = time.perf_counter() - start
        if interactive and seconds >= SLOW:
            self.console.print(f"[dim]  {escape(task)}: {seconds:.1f} s[/dim]")

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table without cutting words: on a narrow console, lines exceed its width."""
        table = _table(title, header, rows)
        if (least := _least_width(table)) > self.console.width:
            table.width = least
        self.console.print(table, crop=False)

    def details(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.table(title, header, rows)


class QuietReporter(ConsoleReporter):
    """Prints the tables of the result only; warnings go to the console `warnings`."""

    def __init__(self, console: Console, warnings: Console) -> None:
        super().__init__(console)
        self.warnings = ConsoleReporter(warnings)

    def step(self, text: str) -> None:
        self.current_step = text

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None:
        self.warnings.say(f"merge-search: {text}")

    def details(
        self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None: ...

    @contextmanager
    def _display(self, task: str, *columns: bars.ProgressColumn) -> Iterator[bars.Progress]:
        yield bars.Progress(disable=True)


@contextmanager
def _delayed(display: bars.Progress) -> Iterator[None]:
    """Start the display once the block has taken `DELAY` seconds; stop it after the block."""
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
    whole_line = Text(title, no_wrap=True, overflow="ignore")  # also above a narrower table
    table = Table(
        title=whole_line, title_justify="left", title_style="bold", header_style="",
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False,
    )  # fmt: skip
    for index, column in enumerate(zip(header, *rows, strict=True)):
        words = [word for cell in column for word in cell.split()]
        unbreakable = index == 0 or not any(" " in cell for cell in column)
        table.add_column(
            escape(header[index]),
            justify="left" if index == 0 or header[index] in TEXT_COLUMNS else "right",
            no_wrap=unbreakable,
            min_width=max(map(cell_len, column if unbreakable else words), default=1),
        )
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def _least_width(table: Table) -> int:
    """Return the width at which every word is whole, with two spaces between columns."""
    return sum((column.min_width or 0) + 2 for column in table.columns) - 1
