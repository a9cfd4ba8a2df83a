"""Split networks between a device and a server: `split`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from search.cli import app, deferred
from search.cli.config_command import config_command

if TYPE_CHECKING:
    from search.config.run import RunConfig
    from search.utils.reporter import Reporter


@config_command(
    has_document=True,
    when_stopped="finished trials are saved, but codecs are fitted again; " + app.CONTINUE,
)
def split(config: RunConfig, reporter: Reporter) -> None:
    """Split the networks of CONFIG between a device and a server.

    The device computes the first stages and sends what the server needs for the rest, coded by a
    codec that is fitted to the unlabelled frames. Takes the unmerged models and, if OUT holds a
    finished run, the plans of its verified front; one model is enough. Enumerates their splits;
    fits a codec for each; explores splits, the precision of the device and codings with Optuna, by
    bytes per frame, MACs and memory of the device, and predicted change of the answers, within
    the limits of the section `split`; measures the best with real messages on ground truth, beside
    pictures, plain codings, and the whole networks on the device and on the server. Writes
    OUT/split/split.html and OUT/split/split.json. Logs one parent run and one run per verified
    split to MLflow.

    To continue an interrupted study, start it again.

    \b
    Exit codes:
      0         done
      1         an error that you can fix; the message says how
      2         the device can hold or compute no split; the message names the least
      3         done, but MLflow did not take the results: see merge-search sync
      70        an internal error: see --debug
      130, 143  interrupted
    """
    folder = config.out_folder / "split"
    with app.printing_document(folder / "split.json"):
        deferred.split_plans(config, reporter)
    reporter.say(f"Wrote {app.display_path(folder)}/split.html and split.json.")
    config_file = click.get_current_context().params["config"]
    reporter.say(f"Compare in MLflow:     merge-search ui {config_file}")
