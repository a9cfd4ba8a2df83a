"""Scheduled monitoring: `watch` and `history`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

import click

from search.cli import app, deferred
from search.cli.config_command import config_arguments, config_command

if TYPE_CHECKING:
    from search.config.run import RunConfig
    from search.results.rounds import RoundHistory
    from search.utils.reporter import Reporter
    from search.utils.schedule import Due

ISO_TIME = "%Y-%m-%dT%H:%M:%S%z"


@config_command(
    has_document=True,
    when_stopped="the plan in service is unchanged; new frames and finished trials are saved; "
    + app.CONTINUE,
)
@click.option("--once", is_flag=True, help="Do one round now and exit.")
@click.option("--due", hidden=True, type=click.DateTime([ISO_TIME]), help="When it was due.")
@click.option("--missed", hidden=True, type=int, default=0, help="Missed rounds before it.")
def watch(
    config: RunConfig, reporter: Reporter, once: bool, due: datetime | None, missed: int
) -> None:
    """Check cameras on a schedule, and search again on drift.

    Each round polls every camera of CONFIG and keeps its distinct new frames. Once a
    camera has a window of frames, the round compares them, without labels, with the frames of the
    last search: have the representations drifted, and does the plan in service still agree with
    the unmerged models? If something has changed, the round searches again, starting from the
    earlier results. It then measures the new plan and the plan in service on the same frames and
    labels, and replaces the plan in service if the promotion rule allows it (`watch` and
    `promotion` in the config). OUT/service/current is the bundle in service; `merge-search history
    CONFIG` lists what happened.

    With `watch.fleet`, the cameras are grouped by the features of their frames, and each group has
    a search and a plan of its own. A camera that changes moves to the group that it resembles
    then, or founds one. OUT/fleet/CAMERA is the bundle in service of a camera.

    Without --once, the command runs until you stop it and makes up for missed rounds. With --once,
    it does one round; use that from cron or another scheduler.

    \b
    Exit codes of --once:
      0   nothing to do
      1   an error that you can fix; the message says how
      5   another process is watching this CONFIG
      10  searched again; the plan in service stays
      11  searched again; the new plan is in service
    """
    from search.utils.schedule import Due, SystemClock

    schedule = deferred.watch_config(config).due_times()
    workspace = deferred.Workspace(config.out_folder)
    history = deferred.RoundHistory(workspace.folder)
    if due is not None:  # started by another process of `watch`, which holds the lock
        _do_round(config, history, Due(due.astimezone(UTC), missed), reporter)
    with deferred.watcher_lock(workspace.folder):
        if once:
            _do_round(config, history, Due(datetime.now(UTC), 0), reporter)
        start = deferred.RoundProcess([*config_arguments(), *app.given_flags()])
        deferred.watch(schedule, history, SystemClock(), start, reporter)


def _do_round(config: RunConfig, history: RoundHistory, due: Due, reporter: Reporter) -> NoReturn:
    is_fleet = deferred.watch_config(config).fleet is not None
    do_round = deferred.do_fleet_round if is_fleet else deferred.do_round
    ended = do_round(config, due, reporter)
    app.print_document(history.file(ended.number).read_bytes())
    sys.exit(deferred.EXIT_CODES[ended.decision])


@config_command(has_document=True)
@click.option("--last", default=20, show_default=True, type=click.IntRange(1),
              help="Number of rounds.")  # fmt: skip
def history(config: RunConfig, reporter: Reporter, last: int) -> None:
    """List the rounds of `merge-search watch CONFIG`.

    Prints the time, drift and decision of each round, and the plan in service; with `watch.fleet`,
    also the group and the plan of each camera, and why it is in that group.
    With --json, prints all records of these rounds as a list.
    """
    workspace = deferred.Workspace(config.out_folder)
    rounds = deferred.RoundHistory(workspace.folder).latest(last)
    if config.watch is not None and config.watch.fleet is not None:
        deferred.show_fleet(config, rounds, reporter)
    else:
        deferred.show_history(rounds, workspace, reporter)
    app.print_document(deferred.json_bytes([deferred.dump_record(ended) for ended in rounds]))
