"""The command line program: common options, JSON output, error messages and exit codes."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from search.cli.output import accept_all_characters
from search.cli.signals import stoppable
from search.utils.redact import without_credentials
from spaces.errors import MergeSearchError

if TYPE_CHECKING:
    from search.utils.console import ConsoleReporter

PROGRAM = "merge-search"
NOT_LOGGED = 3
"""Exit code: the command succeeded and its results are saved, but MLflow did not take them."""
UNEXPECTED = 70
"""Exit code of an internal error; EX_SOFTWARE in sysexits.h."""
CONTINUE = "run the same command again to continue"
NOTHING_SAVED = "nothing is saved; run the same command again to start over"

_QUIET, _DEBUG, _DOCUMENT, _ARGUMENTS, _COMMAND, _REPORTER = (
    f"{__name__}.{name}"
    for name in ("quiet", "debug", "document", "arguments", "command", "reporter")
)  # keys of click's `Context.meta`, which a command shares with its groups


class Command(click.Command):
    """A command that prints what is saved when the user stops it.

    `when_stopped` ends the sentence "interrupted; ...: COMMAND LINE". A command that writes a
    JSON document sets `has_document` and gets the option --json.
    """

    def __init__(
        self,
        *arguments: Any,
        when_stopped: str = NOTHING_SAVED,
        has_document: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self.when_stopped = when_stopped
        self.has_document = has_document
        self.params += [*_common_options(), *(_json_option() if has_document else [])]

    def invoke(self, context: click.Context) -> Any:
        context.meta[_COMMAND] = self
        if not self.has_document:
            refuse_document(str(context.info_name))
        return super().invoke(context)


class Group(click.Group):
    """A group of commands."""

    command_class = Command


class Program(Group):
    """The whole program; an error that the user can fix is one paragraph, without a traceback."""

    group_class = Group

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params += [*_common_options(), *_json_option()]

    def main(self, *arguments: Any, **settings: Any) -> Any:
        accept_all_characters()
        return super().main(*arguments, **settings)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        context.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:
        try:
            with stoppable():
                return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click reports these; a closed pipe ends the command silently
        except (KeyboardInterrupt, Exception) as error:
            _exit_with_message(context, error)


def reporter() -> ConsoleReporter:
    """Return the reporter of the running command, as --quiet and --json demand it."""
    meta = click.get_current_context().meta
    if _REPORTER not in meta:
        meta[_REPORTER] = _build_reporter(quiet=_QUIET in meta, json=_DOCUMENT in meta)
    console_reporter: ConsoleReporter = meta[_REPORTER]
    return console_reporter


def given_flags() -> list[str]:
    """Return the common options of this command line, to pass on to a child process."""
    meta = click.get_current_context().meta
    keys = {"--quiet": _QUIET, "--debug": _DEBUG, "--json": _DOCUMENT}
    return [flag for flag, key in keys.items() if key in meta]


@contextlib.contextmanager
def printing_document(path: Path) -> Iterator[None]:
    """With --json, print the document that the block writes, even if only MLflow failed."""
    try:
        yield
    except MergeSearchError as error:
        if error.exit_code == NOT_LOGGED:
            print_document(path.read_bytes())
        raise
    print_document(path.read_bytes())


def print_document(document: bytes) -> None:
    """With --json, print the document byte for byte."""
    meta = click.get_current_context().meta
    if _DOCUMENT in meta:
        click.echo(document, nl=False, file=meta[_DOCUMENT])


def refuse_document(command: str) -> None:
    """Refuse --json for a command that writes no JSON document.

    Raises:
        click.UsageError: the option was given.
    """
    context = click.get_current_context()
    if _DOCUMENT in context.meta:
        raise click.UsageError(
            f"{command} writes no JSON document: run it without --json", context
        )


def print_json_line(line: str) -> None:
    """Print a one-line JSON document, with or without --json."""
    click.echo(line, file=click.get_current_context().meta.get(_DOCUMENT))


def display_path(path: Path) -> str:
    """Return a path relative to the current folder if it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _build_reporter(quiet: bool, json: bool) -> ConsoleReporter:
    from rich.console import Console

    from search.utils.console import ConsoleReporter, QuietReporter

    errors = Console(stderr=True, highlight=False)
    output = errors if json else Console(highlight=False)
    if quiet:
        return QuietReporter(Console(quiet=True) if json else output, warnings=errors)
    return ConsoleReporter(output)


def _common_options() -> list[click.Parameter]:
    return [
        _flag("--quiet", _remember_flag, "Print only the tables of the result."),
        _flag("--debug", _remember_flag, "Print the traceback of an error."),
    ]


def _json_option() -> list[click.Parameter]:
    return [_flag("--json", _redirect_output, "Print only the JSON document of the result.")]


def _flag(name: str, callback: Callable[..., None], text: str) -> click.Option:
    return click.Option([name], is_flag=True, expose_value=False, callback=callback, help=text)


def _remember_flag(context: click.Context, option: click.Parameter, is_set: bool) -> None:
    if is_set:
        context.meta[f"{__name__}.{option.name}"] = True


def _redirect_output(context: click.Context, option: click.Parameter, is_set: bool) -> None:
    """Reserve standard output for the document; everything else goes to standard error."""
    if is_set and _DOCUMENT not in context.meta:
        context.meta[_DOCUMENT] = sys.stdout
        context.find_root().with_resource(contextlib.redirect_stdout(sys.stderr))


def _exit_with_message(context: click.Context, error: BaseException) -> NoReturn:
    if _DEBUG in context.meta:
        traceback.print_exception(error)
    if isinstance(error, MergeSearchError):
        text, code = str(error), error.exit_code
    elif isinstance(error, KeyboardInterrupt):
        click.echo(err=True)  # ends the line on which the terminal shows ^C
        text, code = _interruption(context), getattr(error, "exit_code", 128 + signal.SIGINT)
    elif isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding():
        text, code = _unwritable_path(error), 1
    else:
        text, code = _unexpected_error(context, error), UNEXPECTED
    click.echo(f"{PROGRAM}: {text}", err=True)
    sys.exit(code)


def _interruption(context: click.Context) -> str:
    command = context.meta.get(_COMMAND)
    when_stopped = command.when_stopped if isinstance(command, Command) else NOTHING_SAVED
    return f"interrupted; {when_stopped}: {_command_line(context)}"


def _unwritable_path(error: UnicodeEncodeError) -> str:
    return (
        f"the path {error.object!r} has characters that the locale of this process "
        f"({error.encoding}) cannot write: run the command with PYTHONUTF8=1"
    )


def _unexpected_error(context: click.Context, error: BaseException) -> str:
    reporter = context.meta.get(_REPORTER)
    step = (reporter.current_step if reporter is not None else "") or "Starting"
    message = without_credentials(" ".join(str(error).split())[:500])
    name = type(error).__name__ + (f" ({message})" if message else "")
    memory = isinstance(error, MemoryError) or "out of memory" in message or "allocate" in message
    advice = "lower statistics.batch and verify.batch to use less memory; " if memory else ""
    return (
        f"unexpected {name} in the step {step!r}; {advice}run again with --debug for the "
        "traceback, and report the error if it persists"
    )


def _command_line(context: click.Context) -> str:
    """Return the command line as typed into a shell, without passwords."""
    started = sys.argv[0]
    if Path(started).name != PROGRAM or shutil.which(PROGRAM) == started:
        started = PROGRAM
    return without_credentials(shlex.join([started, *context.meta[_ARGUMENTS]]))
