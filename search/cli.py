"""The `merge-search` command."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from spaces.errors import MergeSearchError

CONFIG = click.argument("config", type=click.Path(path_type=Path))
SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Override a key of the config, e.g. --set budget='24 MB' --set search.trials=200. "
    "May be given more than once.",
)  # fmt: skip
INTERRUPTED = (
    "interrupted; whatever was finished is kept: run the same command again to go on from there"
)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, with which services are stopped: as gentle as Ctrl-C."""


class _Group(click.Group):
    """What the user can put right is told in one paragraph, without a traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            with _terminable():
                return super().invoke(context)
        except MergeSearchError as error:
            click.echo(f"merge-search: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt as stopped:
            click.echo(f"\nmerge-search: {INTERRUPTED}", err=True)
            sys.exit(128 + (signal.SIGTERM if isinstance(stopped, _Terminated) else signal.SIGINT))


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="merge-search")
def main() -> None:
    """Find which stages of several deep networks can share one copy, under a memory budget.

    \b
    Start here:
      merge-search run runs/quickstart.yaml     search, verify, log
      merge-search ui runs/quickstart.yaml      look at it in MLflow
    """


@main.command()
@CONFIG
@SET
def run(config: Path, overrides: tuple[str, ...]) -> None:
    """Search the plans of CONFIG within its budget and verify the best.

    Loads the models and cuts them into stages; measures the similarity of every pair of stages on
    the unlabelled frames, in one pass; explores the plans with Optuna; measures fidelity of the
    front and ground-truth accuracy of its best; writes OUT/result.json, OUT/plans/*.json, pictures
    and OUT/bundle, the chosen plan to deploy; and logs one parent run and one run per verified
    candidate to MLflow, with the bundle as a model.

    An interrupted run goes on where it stood when it is started again.

    \b
    Exit codes: 0 done; 1 something to put right (the message says what);
    2 no plan fits the budget (the message names the smallest reachable one);
    3 done, but MLflow did not take it (see merge-search sync); 130 or 143 interrupted.
    """
    from search.config import load_config
    from search.console import Reporter
    from search.run import run as run_search

    loaded = load_config(config, overrides)
    reporter = Reporter()
    result = run_search(loaded, reporter)
    reporter.say(f"Wrote {_shown(loaded.out_folder)}/result.json, plans/, pictures and bundle/.")
    if result.chosen:
        reporter.say(f"Look at the chosen plan:  merge-search plan show "
                     f"{_shown(loaded.out_folder)}/plans/{result.chosen}.json")  # fmt: skip
    reporter.say(f"Compare in MLflow:        merge-search ui {config}")


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--labels",
    multiple=True,
    metavar="MODEL=PATH",
    help="Ground truth of a model: a .csv file, a folder of class folders, or a .json file. "
    "May be given more than once.",
)
@click.option(
    "--images",
    multiple=True,
    metavar="MODEL=FOLDER",
    help="Where the images of a .json file lie; by default beside it.",
)
@click.option(
    "--classes",
    multiple=True,
    metavar="MODEL=CATEGORIES",
    help="Which category of a COCO file each of a detector's classes is, as `classes` in a "
    "config: [person, car] or {1: person, 3: car}. By default as the run had it.",
)
@click.option(
    "--frames",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FOLDER",
    help="Unlabelled frames for fidelity; by default the labelled ones.",
)
@click.option(
    "--plan",
    "plans",
    multiple=True,
    metavar="HASH",
    help="A plan of the front, by the beginning of its hash, instead of the candidates that the "
    "run has verified. May be given more than once.",
)
def verify(
    out: Path,
    labels: tuple[str, ...],
    images: tuple[str, ...],
    classes: tuple[str, ...],
    frames: Path | None,
    plans: tuple[str, ...],
) -> None:
    """Verify plans of the finished run in OUT again, on data that its search has not seen.

    With --labels, accuracy and fidelity on those frames; labelled frames that the search has seen
    are refused. With --frames alone, fidelity: then nothing is said about accuracy. With neither,
    on the frames and labels that the run itself has kept for it.

    Prints the candidates as run does, writes OUT/verify/verified.json, and logs one run to MLflow.
    The exit codes are those of run.

    \b
    merge-search verify OUT --labels classifier=val.csv --labels detector=instances.json
    """
    from search.console import Reporter
    from search.fresh_data import FreshData
    from search.verify_again import verify_again

    reporter = Reporter()
    data = FreshData.parse(labels, images, classes, frames)
    verify_again(out, plans, data, reporter)
    reporter.say(f"Wrote {_shown(out)}/verify/verified.json")


@main.command()
@click.argument("storage")
@click.argument("study")
def worker(storage: str, study: str) -> None:
    """Help a running search: value plans of STUDY, kept in STORAGE, from another process.

    STORAGE is a file or a postgresql:// URL, STUDY a name; `run` prints both. Any number of
    processes, on any machine that reaches the storage, may join at any time and be killed at any
    time: no plan is valued twice, none is lost. The study itself says all that is needed, so
    neither config nor networks nor frames have to be here. Ends when the search has its trials.
    """
    from search.console import Reporter
    from search.study import join

    reporter = Reporter()
    valued = join(storage, study)
    reporter.say(f"{valued} plans valued here")


@main.command()
@CONFIG
@SET
def exact(config: Path, overrides: tuple[str, ...]) -> None:
    """The true front of CONFIG by proxy and bytes, by enumeration with pruning.

    A yardstick for the study: if OUT holds a result of the same problem, it says how much of the
    true front's hypervolume that has found. Writes OUT/exact.json. Refuses a space that is too
    large to be looked through.
    """
    from search.config import load_config
    from search.console import Reporter
    from search.yardstick import measure_exactly

    reporter = Reporter()
    path = measure_exactly(load_config(config, overrides), reporter)
    reporter.say(f"Wrote {_shown(path)}")


@main.command()
@CONFIG
@SET
@click.option("--metric", default=None, help="Metric to use instead of the config's.")
def similarity(config: Path, overrides: tuple[str, ...], metric: str | None) -> None:
    """Similarity of every legal pair of stages, as tables, a CSV file and a heatmap.

    Needs no labels. One table per donor and recipient model: donor stages down, recipient stages
    across. Writes OUT/similarity_METRIC.csv and OUT/similarity_METRIC.png.
    """
    from search.config import load_config
    from search.console import Reporter
    from search.prepare import load_deployment, observe, similarities
    from search.show import show_similarity

    if metric:
        overrides = (*overrides, f"search.metric={metric}")
    loaded = load_config(config, overrides)
    reporter = Reporter()
    deployment = load_deployment(loaded, reporter)
    observed = observe(loaded, deployment, loaded.frames.open(loaded.base), reporter)
    values = similarities(loaded, observed, loaded.search.adapter_specs, reporter)
    written = show_similarity(values, deployment, loaded, reporter)
    rejected = len(deployment.pairs.rejected)
    reporter.say(f"{len(values)} legal shares, {rejected} pairs not legal")
    reporter.say("Wrote " + " and ".join(_shown(path) for path in written))


@main.command()
@CONFIG
@SET
def correlate(config: Path, overrides: tuple[str, ...]) -> None:
    """Which metric predicts the accuracy of merged models best?

    Merges every legal single share of CONFIG, measures each on its ground truth, in one pass, and
    correlates every metric with what was measured. Every fifth labelled frame decides which
    metric wins; the numbers told are of the others. Writes OUT/correlate/guides.csv (one row per
    share), OUT/correlate/league.json and pictures; and logs one run to MLflow. The exit codes are
    those of run.
    """
    from search.config import load_config
    from search.console import Reporter
    from search.correlate import FOLDER
    from search.correlate import correlate as compare_guides

    loaded = load_config(config, overrides)
    reporter = Reporter()
    compare_guides(loaded, reporter)
    out = _shown(loaded.out_folder / FOLDER)
    reporter.say(f"Wrote {out}/league.json, guides.csv and pictures.")


class _Measuring(click.Group):
    """`stats CONFIG` is `stats measure CONFIG`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["measure", *args]
        return super().parse_args(ctx, args)


@main.group(cls=_Measuring)
def stats() -> None:
    """Take the statistics in parts, on several machines or at several times.

    \b
    merge-search stats CONFIG --shard 3/8    the third of eight parts, into OUT/stats
    merge-search stats merge CONFIG          the sum of all parts, where `run` finds it
    """


@stats.command()
@CONFIG
@SET
@click.option("--shard", required=True, metavar="K/N", help="Which part, e.g. 3/8.")
def measure(config: Path, overrides: tuple[str, ...], shard: str) -> None:
    """Measure one part of the statistics of CONFIG: every N-th batch, from the K-th.

    Writes OUT/stats/K-of-N.safetensors. The word `measure` may be left out.
    """
    from search.config import load_config
    from search.console import Reporter
    from search.moments import Shard
    from search.shards import measure_shard

    reporter = Reporter()
    part = Shard.parse(shard)
    path = measure_shard(load_config(config, overrides), part, reporter)
    reporter.say(f"Wrote {_shown(path)}")


@stats.command()
@CONFIG
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@SET
def merge(config: Path, files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Sum the parts in FILES, by default all in OUT/stats, for the other commands.

    All parts must be there, each once, and of these very models, frames and settings.
    """
    from search.config import load_config
    from search.console import Reporter
    from search.shards import merge_shards

    reporter = Reporter()
    path = merge_shards(load_config(config, overrides), files, reporter)
    reporter.say(f"Wrote {_shown(path)}; run, similarity and the others take it from there.")


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--plan", default=None, metavar="HASH",
              help="Which plan, by how its hash begins; by default the chosen one.")  # fmt: skip
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR",
              help="The folder to write: new, empty, or a bundle to be replaced.")  # fmt: skip
@click.option("--format", "formats", multiple=True, type=click.Choice(["onnx", "program"]),
              help="Also as model.onnx, or as a torch.export program, model.pt2. May be given "
              "more than once.")  # fmt: skip
def export(out: Path, plan: str | None, folder: Path, formats: tuple[str, ...]) -> None:
    """Write a plan that the run in OUT has found as a bundle: a merged model to be deployed.

    DIR gets every tensor once (weights.safetensors), the plan, what is needed to build the
    networks (bundle.json), a card (CARD.md) and an example of use. spaces.load_bundle(DIR) gives
    one module that takes camera frames and returns every model's answer; nothing of the search is
    needed for that. All of it is checked on real frames before DIR is there.
    """
    from search.console import Reporter
    from search.export import FORMATS
    from search.export import export as export_plan

    reporter = Reporter()
    wanted = [known for known in FORMATS if known in formats]
    export_plan(out, plan, folder, wanted, reporter)
    reporter.say(f"Wrote {_shown(folder)}: see its CARD.md and example.py")


@main.command("bench-bundle")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
def bench_bundle(folder: Path) -> None:
    """Measure the bundle in DIR: memory and time per frame, beside the unmerged models.

    Both are loaded in fresh processes, several times in turn: the bytes of the tensors, how far
    the resident set grows, and the milliseconds from a frame's pixels to all answers. The unmerged
    models are loaded from their own weights, if those are still where they were. The last line is
    one JSON object.
    """
    import json

    from search.console import Reporter
    from search.footprint import bench_bundle as measure_bundle

    click.echo(json.dumps(measure_bundle(folder, Reporter())))


@main.group()
def plan() -> None:
    """Look at plans."""


@plan.command()
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Print the plan in FILE: its shares and its hash.

    With a result.json in the folder above, also what the plan costs and how it was verified.
    """
    from search.console import Reporter
    from search.show import show_plan

    show_plan(file, Reporter())


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
def sync(out: Path) -> None:
    """Log to MLflow what it has not taken yet of the runs in OUT.

    When MLflow is away or dies half way, run, verify and correlate keep what they found in
    OUT/unlogged. This logs it, oldest first, then OUT/result.json, OUT/verify/verified.json and
    OUT/correlate/league.json. Nothing is logged twice: what is there already stays as it is, and
    what an interrupted logging has left there is removed first.

    Runs go where they were meant to go; the environment variable MLFLOW_TRACKING_URI goes before.
    Credentials are never written down, so a server that wants some gets them from there, or from
    MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
    """
    from search.outbox import sync as replay

    for said in replay(out):
        click.echo(said)


@main.command()
@CONFIG
@SET
@click.option("--port", default=5000, show_default=True, help="Port on this machine.")
def ui(config: Path, overrides: tuple[str, ...], port: int) -> None:
    """Start the MLflow UI on the store that runs of CONFIG are logged to.

    Select the children of a search and press Compare. Stop it with Ctrl-C.
    """
    from search import tracking
    from search.config import load_config

    target = tracking.Target.of(load_config(config, overrides))
    click.echo(f"MLflow UI: {tracking.page(target, port)}")
    sys.exit(tracking.serve(target, port))


def _shown(path: Path) -> str:
    """A path relative to where the user stands, where it lies below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
