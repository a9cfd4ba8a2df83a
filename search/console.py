"""What a person sees in the terminal while a run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from spaces.facts import ModelFacts

MEGABYTE = 1e6


class Reporter:
    """Steps, progress bars and tables on one rich console."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)

    def step(self, text: str) -> None:
        self.console.print(f"[bold]{escape(text)}[/bold]")

    def say(self, text: str) -> None:
        self.console.print(escape(text), soft_wrap=True)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar with the time left; the yielded function takes how much more is done."""
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        quiet = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=quiet) as bars:
            task = bars.add_task(what, total=total)
            yield lambda done: bars.advance(task, done)

    def stage_table(self, facts: Mapping[str, ModelFacts]) -> None:
        for name, fact in facts.items():
            table = _table(f"{name} ({fact.task})", "stage", "shape", "bytes", "MACs (M)", "tap")
            for stage in fact.stages:
                shape = " x ".join(str(side) for side in stage.shape)
                table.add_row(
                    stage.name, shape, f"{stage.bytes:,}", f"{stage.macs / 1e6:,.1f}",
                    "tap" if stage.tap else "",
                )  # fmt: skip
            table.add_row("head", "", f"{fact.head_bytes:,}", f"{fact.head_macs / 1e6:,.1f}", "")
            self.console.print(table)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = _table(title, *header)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.console.print(table)


def megabytes(count: float) -> str:
    return f"{count / MEGABYTE:.2f} MB"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def percents(interval: Sequence[float]) -> str:
    """Of [low, high]."""
    low, high = interval
    return f"{100 * low:.1f}…{100 * high:.1f}%"


def _table(title: str, *header: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="", box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0), show_edge=False,
    )  # fmt: skip
    for index, name in enumerate(header):
        words = index == 0 or name in ("shape", "tap", "donor", "recipient", "adapter")
        table.add_column(name, justify="left" if words else "right", no_wrap=index == 0)
    return table
