"""How commands meet a shell: options for scripts, errors, and the end of one that is stopped."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from search.utils.redact import without_credentials
from spaces.errors import MergeSearchError

if TYPE_CHECKING:  # imported where it is wanted: help is there at once
    from search.utils.reporter import Reporter

PROGRAM = "merge-search"
NOT_LOGGED = 3
"""The exit code of what is done and kept, and only MLflow does not have."""
UNEXPECTED = 70
"""The exit code of a fault of ours; sysexits.h calls it EX_SOFTWARE."""
STOPPING = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = b"\x1b[?25h"
GO_ON = "run the same command again to go on from there"
ANEW = "nothing of it is kept; run the same command again to start anew"

_QUIET, _DEBUG, _ANSWER, _TYPED, _COMMAND, _REPORTER = (
    f"{__name__}.{name}" for name in ("quiet", "debug", "answer", "typed", "command", "reporter")
)  # keys of click's `Context.meta`, which a command shares with the groups above it


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, with which services are stopped: both are as gentle."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _noted(context: click.Context, option: click.Parameter, chosen: bool) -> None:
    if chosen:
        context.meta[f"{__name__}.{option.name}"] = True


def _answering(context: click.Context, option: click.Parameter, chosen: bool) -> None:
    """From here on standard output is the document's alone; all else goes to standard error."""
    if chosen and _ANSWER not in context.meta:
        context.meta[_ANSWER] = sys.stdout
        context.find_root().with_resource(contextlib.redirect_stdout(sys.stderr))


def _flag(name: str, callback: Any, text: str) -> click.Option:
    return click.Option([name], is_flag=True, expose_value=False, callback=callback, help=text)


def _for_all() -> list[click.Parameter]:
    return [
        _flag("--quiet", _noted, "Print the tables of the result and nothing else."),
        _flag("--debug", _noted, "Show the traceback of an error."),
    ]


def _for_answers() -> list[click.Parameter]:
    text = "Print the JSON document that was written and nothing else."
    return [_flag("--json", _answering, text)]


class Command(click.Command):
    """A command that says what is kept when it is stopped."""

    def __init__(
        self, *arguments: Any, kept: str = ANEW, answers: bool = False, **settings: Any
    ) -> None:
        """`kept` is what the user is told then; one that `answers` leaves a JSON document."""
        super().__init__(*arguments, **settings)
        self.kept = kept
        self.answers = answers
        self.params += [*_for_all(), *(_for_answers() if answers else [])]

    def invoke(self, context: click.Context) -> Any:
        context.meta[_COMMAND] = self
        if _ANSWER in context.meta and not self.answers:
            raise click.UsageError(
                f"{context.info_name} leaves no JSON document: run it without --json", context
            )
        return super().invoke(context)


class Group(click.Group):
    """Commands that belong together."""

    command_class = Command


class Program(Group):
    """All commands. What the user can put right is told in one paragraph, without a traceback."""

    group_class = Group

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params += [*_for_all(), *_for_answers()]

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        context.meta[_TYPED] = tuple(args)
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:
        try:
            with _stoppable():
                return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click says it, and is silent where nobody listens any more
        except (KeyboardInterrupt, Exception) as error:
            _end(context, error)


def reporter() -> Reporter:
    """Says what the options allow; the command's only one."""
    from rich.console import Console

    from search.utils.console import ConsoleReporter, QuietReporter

    meta = click.get_current_context().meta
    errors = Console(stderr=True, highlight=False)
    output = errors if _ANSWER in meta else Console(highlight=False)
    if _QUIET in meta:
        output = Console(quiet=True) if _ANSWER in meta else output
        meta[_REPORTER] = QuietReporter(output, warnings=errors)
    else:
        meta[_REPORTER] = ConsoleReporter(output)
    reporter: Reporter = meta[_REPORTER]
    return reporter


def flags() -> list[str]:
    """The options for all commands that were given, for a process that does part of this one."""
    meta = click.get_current_context().meta
    given = {"--quiet": _QUIET, "--debug": _DEBUG, "--json": _ANSWER}
    return [flag for flag, key in given.items() if key in meta]


@contextlib.contextmanager
def leaving(document: Path) -> Iterator[None]:
    """The block writes the document: with --json it is printed, also where only MLflow is away."""
    try:
        yield
    except MergeSearchError as error:
        if error.exit_code == NOT_LOGGED:
            answer(document.read_bytes())
        raise
    answer(document.read_bytes())


def answer(document: bytes) -> None:
    """With --json, print the document, byte for byte."""
    meta = click.get_current_context().meta
    if _ANSWER in meta:
        click.echo(document, nl=False, file=meta[_ANSWER])


def conclude(line: str) -> None:
    """The last line of a command that answers in one: a JSON document, with --json or without."""
    click.echo(line, file=click.get_current_context().meta.get(_ANSWER))


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """The first Ctrl-C or SIGTERM unwinds what is under way, the second ends it at once."""
    before = {number: signal.getsignal(number) for number in STOPPING}

    def stop(number: int, frame: object) -> NoReturn:
        for each in STOPPING:
            signal.signal(each, _end_at_once)
        raise Stopped(number)

    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as a shell leaves it for what runs in its background
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is stop:  # else another may still come
                signal.signal(number, handler)


def _end_at_once(number: int, frame: object) -> NoReturn:
    for stream in (1, 2):
        if os.isatty(stream):
            os.write(stream, SHOW_CURSOR)
    os._exit(128 + number)


def _end(context: click.Context, error: BaseException) -> NoReturn:
    """Say what went wrong in one paragraph, and exit."""
    if _DEBUG in context.meta:
        traceback.print_exception(error)
    if isinstance(error, MergeSearchError):
        text, code = str(error), error.exit_code
    elif isinstance(error, KeyboardInterrupt):
        click.echo(err=True)  # the terminal has put ^C there
        text, code = _stopped(context), getattr(error, "exit_code", 128 + signal.SIGINT)
    else:
        text, code = _unexpected(context, error), UNEXPECTED
    click.echo(f"{PROGRAM}: {text}", err=True)
    sys.exit(code)


def _stopped(context: click.Context) -> str:
    command = context.meta.get(_COMMAND)
    kept = command.kept if isinstance(command, Command) else ANEW
    return f"interrupted; {kept}: {_typed(context)}"


def _unexpected(context: click.Context, error: BaseException) -> str:
    told = context.meta.get(_REPORTER)
    step = told.current_step if told is not None and told.current_step else "Starting"
    said = without_credentials(" ".join(str(error).split())[:500])
    what = type(error).__name__ + (f" ({said})" if said else "")
    memory = isinstance(error, MemoryError) or "out of memory" in said or "allocate" in said
    smaller = "a smaller statistics.batch and verify.batch need less memory; " if memory else ""
    return (
        f"unexpected {what}, in the step {step!r}: {smaller}run again with --debug for the "
        "traceback, and report it if it stays"
    )


def _typed(context: click.Context) -> str:
    """The command line, as the shell would have to get it again; but for passwords."""
    started = sys.argv[0]
    if Path(started).name != PROGRAM or shutil.which(PROGRAM) == started:
        started = PROGRAM
    return without_credentials(shlex.join([started, *context.meta[_TYPED]]))
