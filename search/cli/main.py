"""The `merge-search` command."""

from __future__ import annotations

import click

from search.cli import app
from search.cli.analysis import correlate, fidelity, similarity, stats
from search.cli.bundles import bench_bundle, export, plan, serve
from search.cli.mlflow import promote, rollback, sync, ui
from search.cli.search import check, exact, run, verify, worker
from search.cli.split import split
from search.cli.watch import history, watch


@click.group(cls=app.Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="merge-search")
def main() -> None:
    """Find the stages of several deep networks that can share one copy, within a memory budget.

    \b
    Start here:
      merge-search check runs/quickstart.yaml   find what would end a run
      merge-search run runs/quickstart.yaml     search, verify, log
      merge-search ui runs/quickstart.yaml      compare the results in MLflow
    """


for command in (
    bench_bundle, check, correlate, exact, export, fidelity, history, plan, promote, rollback, run,
    serve, similarity, split, stats, sync, ui, verify, watch, worker,
):  # fmt: skip
    main.add_command(command)
