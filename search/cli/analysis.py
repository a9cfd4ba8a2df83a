"""Measure models and metrics without a search: `similarity`, `correlate`, `stats`, `fidelity`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from search.cli import app, deferred
from search.cli.config_command import PATH, config_command
from search.cli.search import STATISTICS_SAVED

if TYPE_CHECKING:
    from search.config.run import RunConfig
    from search.utils.reporter import Reporter


@config_command(keys={"metric": "search.metric"}, when_stopped=STATISTICS_SAVED)
@click.option("--metric", default=None, help="Metric to use instead of the config's.")
def similarity(config: RunConfig, reporter: Reporter) -> None:
    """Measure the similarity of every legal pair of stages.

    Needs no labels. Prints one table per donor and recipient model, with donor stages down and
    recipient stages across. Writes OUT/similarity_METRIC.csv and OUT/similarity_METRIC.png.
    """
    paths = deferred.measure_similarity(config, reporter)
    reporter.say("Wrote " + " and ".join(app.display_path(path) for path in paths))


@config_command(has_document=True, when_stopped=STATISTICS_SAVED)
def correlate(config: RunConfig, reporter: Reporter) -> None:
    """Compare how well metrics predict merged accuracy.

    Merges every legal single share of CONFIG, measures each on its ground truth, in one pass, and
    correlates every metric with the accuracies. Every fifth labelled frame decides which metric
    wins; the reported numbers come from the others. Writes OUT/correlate/guides.csv (one row per
    share), OUT/correlate/league.json and figures, and logs one run to MLflow. The exit codes are
    those of run.
    """
    document = config.out_folder / "correlate" / "league.json"
    with app.printing_document(document):
        deferred.correlate(config, reporter)
    reporter.say(f"Wrote {app.display_path(document)}, guides.csv and figures.")


class _ShardGroup(app.Group):
    """Reads `stats CONFIG` as `stats measure CONFIG`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["measure", *args]
        return super().parse_args(ctx, args)


shard_option = click.option(
    "--shard", required=True, metavar="K/N", help="Shard to measure, for example 3/8."
)
SHARDS_STAY = "the shards are unchanged; run the same command again to start over"


@click.group(cls=_ShardGroup)
def stats() -> None:
    """Measure the statistics in shards.

    The shards may be measured on several machines or at different times.

    \b
    Example:
      merge-search stats CONFIG --shard 3/8    measure the third of eight shards, into OUT/stats
      merge-search stats merge CONFIG          sum all shards into the cache, for `run`
    """


@config_command("measure")
@shard_option
def measure_stats(config: RunConfig, reporter: Reporter, shard: str) -> None:
    """Measure one shard of the statistics of CONFIG: every N-th batch, starting at the K-th.

    Writes OUT/stats/K-of-N.safetensors; of frames in parts, one file for each part. The word
    `measure` may be omitted.
    """
    paths = deferred.measure_statistics_shard(config, deferred.Shard.parse(shard), reporter)
    _say_written(paths, reporter)


@config_command("merge", when_stopped=SHARDS_STAY)
@click.argument("files", nargs=-1, type=PATH)
def merge_stats(config: RunConfig, reporter: Reporter, files: tuple[Path, ...]) -> None:
    """Sum the shards in FILES, by default all in OUT/stats, for the other commands.

    Every shard must be given exactly once and must come from the models, frames and settings of
    CONFIG.
    """
    paths = deferred.merge_statistics_shards(config, files, reporter)
    _say_written(paths, reporter, "; run, similarity and the others will use it.")


@click.group(cls=_ShardGroup)
def fidelity() -> None:
    """Measure the fidelity of each share in shards.

    This is what takes longest in a run with `search.metric: fidelity`. The shards may be measured
    on several machines or at different times, once the statistics are in the cache of each.

    \b
    Example:
      merge-search fidelity CONFIG --shard 3/8    measure the third of eight shards, into
                                                  OUT/fidelity
      merge-search fidelity merge CONFIG          put all shards into the cache, for `run`
    """


@config_command("measure")
@shard_option
def measure_fidelity(config: RunConfig, reporter: Reporter, shard: str) -> None:
    """Measure one shard of the shares of CONFIG: those of every N-th donor, from the K-th.

    Needs the statistics in the cache: see `merge-search stats`. Writes OUT/fidelity/K-of-N.json.
    The word `measure` may be omitted.
    """
    path = deferred.measure_fidelity_shard(config, deferred.Shard.parse(shard), reporter)
    _say_written([path], reporter)


@config_command("merge", when_stopped=SHARDS_STAY)
@click.argument("files", nargs=-1, type=PATH)
def merge_fidelity(config: RunConfig, reporter: Reporter, files: tuple[Path, ...]) -> None:
    """Put the shards in FILES, by default all in OUT/fidelity, together for the other commands.

    Every shard must be given exactly once and must come from the models, frames and settings of
    CONFIG.
    """
    paths = deferred.merge_fidelity_shards(config, files, reporter)
    _say_written(paths, reporter, "; run, similarity and the others will use it.")


def _say_written(paths: Sequence[Path], reporter: Reporter, ending: str = "") -> None:
    reporter.say(f"Wrote {' and '.join(map(app.display_path, paths))}{ending}")


for command in (measure_stats, merge_stats):
    stats.add_command(command)
for command in (measure_fidelity, merge_fidelity):
    fidelity.add_command(command)
