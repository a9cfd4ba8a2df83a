"""Commands that take a config: one decorator loads it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from search.cli import app, deferred

PATH = click.Path(path_type=Path)


def config_command(
    name: str | None = None, keys: Mapping[str, str] = {}, **settings: Any
) -> Callable[[Callable[..., None]], app.Command]:
    """Make a command out of a function of (RunConfig, Reporter, **options).

    The command takes the argument CONFIG and the option --set. `keys` maps options of the command
    to the config keys that they override. `settings` go to `app.Command`.
    """

    def decorate(function: Callable[..., None]) -> app.Command:
        @functools.wraps(function)
        def command(config: Path, overrides: tuple[str, ...], **options: Any) -> None:
            values = {key: options.pop(option) for option, key in keys.items()}
            shortcuts = (f"{key}={value}" for key, value in values.items() if value is not None)
            loaded_config = deferred.load_config(config, (*overrides, *shortcuts))
            function(loaded_config, app.reporter(), **options)

        command = click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE",
            help="Override a key of the config, for example --set budget='24 MB' or "
            "--set search.trials=200. Repeatable.",
        )(command)  # fmt: skip
        command = click.argument("config", type=PATH)(command)
        return click.command(name, cls=app.Command, **settings)(command)

    return decorate


def config_arguments() -> list[str]:
    """Return CONFIG and its overrides as on the command line of the running command."""
    parameters = click.get_current_context().params
    overrides = (text for pair in parameters["overrides"] for text in ("--set", pair))
    return [str(parameters["config"]), *overrides]
