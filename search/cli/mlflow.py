"""MLflow and the plan in service: `sync`, `promote`, `rollback` and `ui`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from search.cli import app, deferred
from search.cli.config_command import PATH, config_command

if TYPE_CHECKING:
    from search.config.run import RunConfig
    from search.utils.reporter import Reporter

CHECK_MLFLOW = (
    "the champion may have changed already; check MLflow before you run this command again"
)


@click.command(
    cls=app.Command, when_stopped=f"what is not logged yet stays in OUT; {app.CONTINUE}"
)
@click.argument("out", type=PATH)
def sync(out: Path) -> None:
    """Log the results in OUT that MLflow does not have yet.

    If MLflow cannot be reached or fails halfway, run, verify and correlate keep their results in
    OUT/unlogged. This command logs these, oldest first, then OUT/result.json,
    OUT/verify/verified.json and OUT/correlate/league.json. Nothing is logged twice: complete runs
    stay as they are, and the remains of an interrupted logging are removed first.

    Runs go to the tracking server of their config, unless the environment variable
    MLFLOW_TRACKING_URI names another. Credentials are never saved: give them in
    MLFLOW_TRACKING_URI, or in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
    """
    logged = deferred.sync(out)
    while True:
        with app.reporter().working("MLflow"):
            message = next(logged, None)
        if message is None:
            return
        app.reporter().say(message)


@config_command(when_stopped=CHECK_MLFLOW)
def promote(config: RunConfig, reporter: Reporter) -> None:
    """Put the challenger in service if the rule allows it.

    Every run registers the bundle of its chosen plan in MLflow as a version of the model named by
    `name` in CONFIG, with the alias `challenger`. This command gives the version the alias
    `champion` if it fits the budget, was verified on the labels that the champion was verified on,
    and is not worse than the champion outside its interval (see `promotion` in the config). The
    reason for the decision is recorded as a tag of the version.

    \b
    Exit codes:
      0  promoted
      1  an error that you can fix; the message says how
      4  the promotion rule does not allow it
    """
    deferred.promote(config, reporter)


@config_command(when_stopped=CHECK_MLFLOW)
@click.option("--why", default="by hand", metavar="TEXT", help="Reason to record.")
def rollback(config: RunConfig, reporter: Reporter, why: str) -> None:
    """Put the previous champion of CONFIG back in service.

    Repeat the command to go back further.
    """
    deferred.rollback(config, why, reporter)


@config_command(when_stopped="logged runs are saved; run the same command again to see them")
@click.option("--port", default=5000, show_default=True, help="Port on this machine.")
def ui(config: RunConfig, reporter: Reporter, port: int) -> None:
    """Start the MLflow UI on the runs of CONFIG.

    Prints the address of the experiment, and of the page that compares the candidates of the last
    search of CONFIG. Stop the UI with Ctrl-C.
    """
    target = deferred.Target.of(config)
    for title, address in deferred.pages(target, config.name, port).items():
        reporter.say(f"{title}: {address}")
    sys.exit(deferred.serve(target, port))
