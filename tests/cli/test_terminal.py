"""Output on a terminal and in scripts, with real terminals and real signals."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from commands import StartCommand, start_forked, wait_until
from labelled import Labelled, write_labels
from rich.console import Console
from terminals import (
    COLOUR,
    CONTROL_C,
    HIDDEN,
    SHOWN,
    Terminal,
    attach_terminal,
    redirect_stderr,
    set_plain_environment,
)
from tiny import FinishedRun, run_config, with_changes, write_config

from search.cli import app
from search.cli.main import main
from search.pipelines import statistics_cache
from search.utils.console import ConsoleReporter

OUT_OF_MEMORY = "CPU allocator: you tried to allocate\n  1 TB"


@pytest.fixture
def config(tmp_path: Path, data: dict[str, Any]) -> Path:
    return write_config(tmp_path, data)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    window = Terminal()
    yield window
    window.close()


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def run_on_terminal(
    start: StartCommand, *arguments: str | Path, columns: int = 100, **settings: str
) -> Terminal:
    """Run a command that must succeed; return its terminal."""
    window = Terminal(columns)
    command = start(*arguments, prepare=partial(attach_terminal, window.name, settings))
    code = command.exit_code()
    window.close()
    assert code == 0, window.text
    return window


# Terminals and other outputs.


def test_a_terminal_shows_time_left_in_colour(start: StartCommand, config: Path) -> None:
    window = run_on_terminal(start, "run", config, "--set", "frames.count=80")
    bars = re.findall(r"  (\w+) [━╸╺ ]+ *\d+/\d+ [-\d:]+ left", window.text)
    assert "frames" in bars
    assert re.search(r"  MLflow \S \d:\d\d:\d\d", window.text)  # has no known end
    assert COLOUR.search(window.output) and "artifacts" not in window.text
    assert window.output.rindex(SHOWN) > window.output.rindex(HIDDEN)


def test_another_output_gets_the_same_lines_without_control_sequences(
    start: StartCommand, config: Path, tmp_path: Path
) -> None:
    terminal_text = run_on_terminal(start, "run", config, columns=80).text
    command = start("run", config, prepare=partial(set_plain_environment, {}))
    assert command.exit_code() == 0, command.output
    raw = (tmp_path / "output-1").read_bytes()
    assert b"\x1b" not in raw and b"\r" not in raw and b"\n  trials" not in raw
    table = [
        line for line in command.output.splitlines() if re.match(r"unmerged|[0-9a-f]{12}", line)
    ]
    assert len(table) > 5 and set(table) <= set(terminal_text.splitlines())


def test_no_color_turns_colours_off(start: StartCommand, config: Path) -> None:
    window = run_on_terminal(start, "run", config, "--set", "frames.count=80", NO_COLOR="1")
    assert not COLOUR.search(window.output) and " left" in window.text


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize("models", [2, 3, 6])
def test_words_in_tables_are_whole_on_narrow_terminals(width: int, models: int) -> None:
    message = io.StringIO()
    reporter = ConsoleReporter(Console(file=message, width=width, highlight=False))
    header = ["plan", "MB", "saved", "fidelity", *(f"lite{k} top-1" for k in range(models))]
    reporter.table("Verified", header, [["bd5ca8d9ee32 *+", "17.31", "35.6%", "96.9%"]
                                        + models * ["100.0%"]])  # fmt: skip
    words = message.getvalue().split()
    assert "…" not in message.getvalue()
    assert {*" ".join(header).split(), "bd5ca8d9ee32", "*+", "35.6%", "100.0%"} <= set(words)
    widest = max(len(line.rstrip()) for line in message.getvalue().splitlines())
    assert widest <= max(width, 40 + 8 * models)


# Scripts.


def test_json_is_the_result_byte_for_byte(
    start: StartCommand, config: Path, tmp_path: Path
) -> None:
    errors = tmp_path / "errors"
    command = start("run", config, "--json", prepare=partial(redirect_stderr, str(errors)))
    assert command.exit_code() == 0, errors.read_text()
    document = (tmp_path / "out" / "tiny" / "result.json").read_bytes()
    assert (tmp_path / "output-0").read_bytes() == document
    assert json.loads(document)["name"] == "tiny"
    assert "Exploring" in errors.read_text() and "\x1b" not in errors.read_text()


def other_warnings(errors: str) -> list[str]:
    """Return all lines but the warning that the networks, which are untrained, score at chance."""
    return [line for line in errors.splitlines() if "not significantly above" not in line]


def test_json_is_printed_when_only_mlflow_fails(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    result = call("run", config, "--json", "--quiet")
    assert result.exit_code == 3
    assert result.stdout_bytes == (tmp_path / "out" / "tiny" / "result.json").read_bytes()
    (line,) = other_warnings(result.stderr)
    assert line.startswith("merge-search: ") and "merge-search sync" in line


def test_a_run_that_fails_prints_no_json(config: Path) -> None:
    result = call("run", config, "--json", "--quiet", "--set", "budget=1 kB")
    assert result.exit_code == 2 and result.stdout_bytes == b""
    assert "the smallest reachable is" in result.stderr


def test_exact_and_verify_print_their_json_documents(
    tiny_run: FinishedRun, tmp_path: Path
) -> None:
    out = shutil.copytree(tiny_run.out, tmp_path / "here" / "out" / "tiny")
    base = ("--set", f"out={out}")
    exact = call("exact", tiny_run.path, *base, "--json")
    assert exact.stdout_bytes == (out / "exact.json").read_bytes() and exact.exit_code == 0
    verified = call("--quiet", "--json", "verify", tiny_run.out)
    document = tiny_run.out / "verify" / "verified.json"
    assert verified.stdout_bytes == document.read_bytes()
    assert other_warnings(verified.stderr) == []


def test_correlate_prints_its_json_document(labelled: Labelled, tmp_path: Path) -> None:
    write_labels(labelled.folder, labelled.labels)
    data = with_changes(labelled.data, {
        "truth": {"a": {"csv": str(labelled.folder / "a.csv")}},
        "cache": str(labelled.folder / "cache"),
    })  # fmt: skip
    result = call("correlate", write_config(tmp_path, data), "--json", "--quiet")
    document = tmp_path / "out" / "tiny" / "correlate" / "league.json"
    assert result.exit_code == 0 and result.stdout_bytes == document.read_bytes()
    assert json.loads(result.stdout)["winner"]


WITHOUT_DOCUMENT = [["similarity", "c"], ["export", "o", "--to", "b"], ["sync", "o"],
               ["worker", "s", "n"], ["ui", "c"], ["plan", "show", "p"], ["promote", "c"],
               ["stats", "merge", "c"], ["stats", "measure", "c", "--shard", "1/2"]]  # fmt: skip


@pytest.mark.parametrize("command", WITHOUT_DOCUMENT, ids=" ".join)
def test_a_command_without_a_document_refuses_json(command: list[str]) -> None:
    flag_first = call("--json", *command)
    name = "show" if "plan" in command else command["stats" in command]
    assert flag_first.exit_code == 2
    assert f"Error: {name} writes no JSON document: run it without --json" in flag_first.stderr
    flag_last = call(*command, "--json")
    assert flag_last.exit_code == 2 and "No such option" in flag_last.stderr
    assert flag_first.stdout == flag_last.stdout == ""


def test_quiet_prints_only_the_tables(config: Path) -> None:
    result = call("run", config, "--quiet")
    assert result.exit_code == 0 and other_warnings(result.stderr) == []
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Verified within")
    starts = ("Verified", "plan ", "unmerged ", "─", "95% intervals", " ")
    assert all(line.startswith(starts) or re.match(r"[0-9a-f]{12} ", line) for line in lines)


def test_quiet_prints_warnings(
    tiny_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of the unmerged models are missing."""
    monkeypatch.setattr("search.deploy.benchmark.ROUNDS", 1)
    bundle = shutil.copytree(tiny_run.out / "bundle", tmp_path / "bundle")
    contents = (bundle / "bundle.json").read_text()
    (bundle / "bundle.json").write_text(contents.replace(".safetensors", "-gone.safetensors"))
    result = call("bench-bundle", bundle, "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["plan"] == tiny_run.result.chosen
    (line,) = result.stderr.splitlines()
    assert line.startswith("merge-search: The unmerged models were not measured: ")


def test_a_closed_output_is_no_error(start: StartCommand, config: Path, tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    command = start("run", config, prepare=partial(_close_output, str(errors)))
    assert command.exit_code() == 1
    assert errors.read_text() == ""
    assert not (tmp_path / "out" / "tiny" / "result.json").exists()


def _close_output(errors: str) -> None:
    """Make standard output a pipe without a reader."""
    redirect_stderr(errors)
    end, into = os.pipe()
    os.dup2(into, 1)
    os.close(into)
    os.close(end)


# Errors.


def test_debug_prints_the_traceback(tiny_run: FinishedRun, tmp_path: Path) -> None:
    """A damaged cache is an error that the user can fix."""
    cache = tmp_path / "cache"
    shutil.copytree(tiny_run.config.cache_folder, cache)
    (file,) = cache.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    arguments = ("similarity", tiny_run.path, "--set", f"cache={cache}", "--metric", "r2")
    plain, debugged = call(*arguments), call(*arguments, "--debug")
    (line,) = plain.stderr.splitlines()
    assert str(file) in line and "Traceback" not in plain.output
    assert "Traceback" in debugged.stderr and debugged.stderr.splitlines()[-1] == line
    assert plain.exit_code == debugged.exit_code == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (RuntimeError(OUT_OF_MEMORY), "RuntimeError (CPU allocator: you tried to allocate 1 TB)"),
        (MemoryError(), "MemoryError"),
        (ZeroDivisionError("by 0"), "ZeroDivisionError (by 0)"),
    ],
)
def test_an_internal_error_is_one_paragraph(
    config: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, message: str
) -> None:
    def fails(*arguments: object) -> None:
        raise fault

    monkeypatch.setattr(statistics_cache, "accumulate_moments", fails)
    plain, debugged = call("run", config), call("--debug", "run", config)
    (line,) = plain.stderr.splitlines()
    assert line.startswith(f"merge-search: unexpected {message} in the step 'Statistics of every")
    assert "run again with --debug" in line and "Traceback" not in plain.output
    assert ("statistics.batch" in line) == ("0" not in message.partition("(")[2][:5])
    assert "Traceback" in debugged.stderr and "in fails" in debugged.stderr
    assert plain.exit_code == debugged.exit_code == 70


# Stopping.


def start_installed(terminal: Terminal, *arguments: str | Path) -> subprocess.Popen[bytes]:
    """Start the installed command on a terminal."""
    script = shutil.which("merge-search", path=str(Path(sys.executable).parent))
    assert script
    return subprocess.Popen(
        [script, *map(str, arguments)], preexec_fn=partial(attach_terminal, terminal.name, {})
    )


def test_the_command_printed_after_control_c_ends_at_the_same_front(
    tmp_path: Path, data: dict[str, Any], terminal: Terminal
) -> None:
    many = ("--set", "search.trials=150")
    uninterrupted = run_config(write_config(tmp_path / "not stopped", data), many[1:])
    path = write_config(tmp_path / "in two parts", data)
    journal = path.parent / "out" / "tiny" / "study.log"
    process = start_installed(terminal, "run", path, *many)
    terminal.wait_for(lambda: journal.exists() and journal.stat().st_size > 20_000)
    terminal.type(CONTROL_C)
    assert process.wait(600) == 130
    terminal.wait_for(lambda: "merge-search: interrupted; " in terminal.text)
    message = terminal.text.splitlines()[-1]
    assert "finished trials are saved" in message and "Traceback" not in terminal.text
    assert terminal.output.rindex(SHOWN) > terminal.output.rindex(HIDDEN)
    assert not (journal.parent / "result.json").exists()
    command = message.rpartition("to continue: ")[2]
    arguments = shlex.split(command)[1:]
    assert arguments == ["run", str(path), *many]
    continued = json.loads(call(*arguments, "--json").stdout)
    front = [record["hash"] for record in continued["front"]]
    assert front == [record.hash for record in uninterrupted.result.front]
    assert continued["study"]["trials"] == 150


def test_a_command_that_saves_nothing_reports_that(start: StartCommand, config: Path) -> None:
    arguments = ("stats", config, "--shard", "1/1", "--set", "frames.count=400")
    command = start(*arguments)
    wait_until(lambda: "Statistics of every stage" in command.output)
    command.send(signal.SIGTERM)
    assert command.exit_code() == 143
    last = command.output.splitlines()[-1]
    command_line = shlex.join(["merge-search", *map(str, arguments)])
    assert last.startswith("merge-search: interrupted; nothing is saved; ")
    assert last.endswith(f": {command_line}")
    assert not (config.parent / "out" / "tiny" / "stats").exists()


def test_every_command_says_what_is_saved_when_it_is_stopped() -> None:
    commands: dict[str, click.Command] = {}
    for name, command in main.commands.items():
        subcommands = command.commands if isinstance(command, click.Group) else {name: command}
        commands |= subcommands
    for name, command in commands.items():
        assert isinstance(command, app.Command), name
        assert "run" in command.when_stopped and "command again" in command.when_stopped, name


def test_a_second_control_c_ends_immediately(terminal: Terminal) -> None:
    process = start_forked(_clean_up_forever, terminal.name)
    terminal.wait_for(lambda: "at work" in terminal.text)
    terminal.type(CONTROL_C)
    terminal.wait_for(lambda: "cleaning up" in terminal.text)
    start_time = time.monotonic()
    terminal.type(CONTROL_C)
    process.join(600)
    assert process.exitcode == 130 and time.monotonic() - start_time < 10
    assert terminal.output.rindex(SHOWN) > terminal.output.rindex(HIDDEN)


def _clean_up_forever(terminal: str) -> None:
    """Run a command whose cleanup takes forever."""
    attach_terminal(terminal, {})

    @click.group(cls=app.Program)
    def program() -> None:
        """A program needs a help text."""

    @program.command()
    def work() -> None:
        try:
            os.write(1, b"\x1b[?25lat work")
            time.sleep(60)
        finally:
            os.write(1, b"cleaning up")
            time.sleep(60)

    program(["work"])
