"""The `merge-search` command."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from search.cli import app

if TYPE_CHECKING:  # imported where they are wanted: help is there at once
    from search.utils.reporter import Reporter
    from search.utils.schedule import Due
    from search.watch.workspace import Workspace

CONFIG = click.argument("config", type=click.Path(path_type=Path))
SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Override a key of the config, e.g. --set budget='24 MB' --set search.trials=200. "
    "May be given more than once.",
)  # fmt: skip
STATISTICS = "the statistics are kept once they are whole"
UNSURE = "the champion may be another already: look in MLflow before you run it again"
CUT_SHORT = f"the plan in service stays, and what was seen and valued is kept: {app.GO_ON}"
ISO = "%Y-%m-%dT%H:%M:%S%z"
IN_PART = f"{STATISTICS}, nothing else; run the same command again to start from there"


@click.group(cls=app.Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="merge-search")
def main() -> None:
    """Find which stages of several deep networks can share one copy, under a memory budget.

    \b
    Start here:
      merge-search run runs/quickstart.yaml     search, verify, log
      merge-search ui runs/quickstart.yaml      look at it in MLflow
    """


@main.command(
    answers=True, kept=f"every plan valued so far is kept, and {STATISTICS}: {app.GO_ON}"
)
@CONFIG
@SET
def run(config: Path, overrides: tuple[str, ...]) -> None:
    """Search the plans of CONFIG within its budget and verify the best.

    Loads the models and cuts them into stages; measures the similarity of every pair of stages on
    the unlabelled frames, in one pass; explores the plans with Optuna; measures fidelity of the
    front and ground-truth accuracy of its best; writes OUT/report.html and OUT/result.json, plans
    and pictures, and OUT/bundle, the chosen plan to deploy; logs one parent run and one run per
    verified candidate to MLflow, and registers the bundle there as the challenger.

    An interrupted run goes on where it stood when it is started again.

    \b
    Exit codes: 0 done; 1 something to put right (the message says what);
    2 no plan fits the budget (the message names the smallest reachable one);
    3 done, but MLflow did not take it (see merge-search sync); 70 a fault that nobody
    foresaw (see --debug); 130 or 143 interrupted.
    """
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.config.loading import load_config
        from search.pipelines.run import run as run_search

        loaded = load_config(config, overrides)
    with app.leaving(loaded.out_folder / "result.json"):
        result = run_search(loaded, reporter)
    reporter.say(f"Wrote {_shown(loaded.out_folder)}/report.html, and the rest of it beside.")
    if result.chosen:
        reporter.say(f"Look at the chosen plan:  merge-search plan show "
                     f"{_shown(loaded.out_folder)}/plans/{result.chosen}.json")  # fmt: skip
    reporter.say(f"Compare in MLflow:        merge-search ui {config}")


@main.command(answers=True, kept=IN_PART)
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
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.pipelines.verify import verify_again
        from search.pipelines.verify_inputs import FreshData

        data = FreshData.parse(labels, images, classes, frames)
    with app.leaving(out / "verify" / "verified.json"):
        verify_again(out, plans, data, reporter)
    reporter.say(f"Wrote {_shown(out)}/verify/verified.json")


@main.command(
    kept="every plan valued here is kept, and the one under way is left to others; to join again"
)
@click.argument("storage")
@click.argument("study")
def worker(storage: str, study: str) -> None:
    """Help a running search: value plans of STUDY, kept in STORAGE, from another process.

    STORAGE is a file or a postgresql:// URL, STUDY a name; `run` prints both. Any number of
    processes, on any machine that reaches the storage, may join at any time and be killed at any
    time: no plan is valued twice, none is lost. The study itself says all that is needed, so
    neither config nor networks nor frames have to be here. Ends when the search has its trials.
    """
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.study.optimize import join

    reporter.step(f"Exploring with {study}")
    valued = join(storage, study, lambda trials: reporter.progress("trials", trials))
    reporter.say(f"{valued} plans valued here")


@main.command(answers=True, kept=IN_PART)
@CONFIG
@SET
def exact(config: Path, overrides: tuple[str, ...]) -> None:
    """The true front of CONFIG by proxy and bytes, by enumeration with pruning.

    A yardstick for the study: if OUT holds a result of the same problem, it says how much of the
    true front's hypervolume that has found. Writes OUT/exact.json. Refuses a space that is too
    large to be looked through.
    """
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.config.loading import load_config
        from search.pipelines.exact import FILE, measure_exactly

        loaded = load_config(config, overrides)
    with app.leaving(loaded.out_folder / FILE):
        path = measure_exactly(loaded, reporter)
    reporter.say(f"Wrote {_shown(path)}")


@main.command(kept=IN_PART)
@CONFIG
@SET
@click.option("--metric", default=None, help="Metric to use instead of the config's.")
def similarity(config: Path, overrides: tuple[str, ...], metric: str | None) -> None:
    """Similarity of every legal pair of stages, as tables, a CSV file and a heatmap.

    Needs no labels. One table per donor and recipient model: donor stages down, recipient stages
    across. Writes OUT/similarity_METRIC.csv and OUT/similarity_METRIC.png.
    """
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.config.loading import load_config
        from search.pipelines.prepare import load_deployment, observe, open_frames, similarities
        from search.report.console_tables import show_similarity

        if metric:
            overrides = (*overrides, f"search.metric={metric}")
        loaded = load_config(config, overrides)
    deployment = load_deployment(loaded, reporter)
    observed = observe(loaded, deployment, open_frames(loaded, reporter), reporter)
    values = similarities(loaded, observed, loaded.search.adapter_specs, reporter)
    written = show_similarity(values, deployment, loaded, reporter)
    rejected = len(deployment.pairs.rejected)
    reporter.say(f"{len(values)} legal shares, {rejected} pairs not legal")
    reporter.say("Wrote " + " and ".join(_shown(path) for path in written))


@main.command(answers=True, kept=IN_PART)
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
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.config.loading import load_config
        from search.pipelines.correlate import FOLDER
        from search.pipelines.correlate import correlate as compare_guides

        loaded = load_config(config, overrides)
    out = loaded.out_folder / FOLDER
    with app.leaving(out / "league.json"):
        compare_guides(loaded, reporter)
    reporter.say(f"Wrote {_shown(out)}/league.json, guides.csv and pictures.")


class _Measuring(app.Group):
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
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.config.loading import load_config
        from search.pipelines.shards import measure_shard
        from search.statistics.streaming import Shard

        part = Shard.parse(shard)
        loaded = load_config(config, overrides)
    path = measure_shard(loaded, part, reporter)
    reporter.say(f"Wrote {_shown(path)}")


@stats.command(kept="the parts stay as they are; run the same command again to start anew")
@CONFIG
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@SET
def merge(config: Path, files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Sum the parts in FILES, by default all in OUT/stats, for the other commands.

    All parts must be there, each once, and of these very models, frames and settings.
    """
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.config.loading import load_config
        from search.pipelines.shards import merge_shards

        loaded = load_config(config, overrides)
    path = merge_shards(loaded, files, reporter)
    reporter.say(f"Wrote {_shown(path)}; run, similarity and the others take it from there.")


@main.command(kept=f"DIR is as it was; {IN_PART}")
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
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.deploy.export import FORMATS
        from search.pipelines.export import export as export_plan

    wanted = [known for known in FORMATS if known in formats]
    export_plan(out, plan, folder, wanted, reporter)
    reporter.say(f"Wrote {_shown(folder)}: see its CARD.md and example.py")


@main.command("bench-bundle", answers=True)
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
def bench_bundle(folder: Path) -> None:
    """Measure the bundle in DIR: memory and time per frame, beside the unmerged models.

    Both are loaded in fresh processes, several times in turn: the bytes of the tensors, how far
    the resident set grows, and the milliseconds from a frame's pixels to all answers. The unmerged
    models are loaded from their own weights, if those are still where they were. The last line is
    one JSON object.
    """
    import json

    reporter = app.reporter()
    with reporter.working("starting"):
        from search.deploy.benchmark import bench_bundle as measure_bundle

    app.conclude(json.dumps(measure_bundle(folder, reporter)))


@main.group()
def plan() -> None:
    """Look at plans."""


@plan.command()
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Print the plan in FILE: its shares and its hash.

    With a result.json in the folder above, also what the plan costs and how it was verified.
    """
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.report.console_tables import show_plan

    show_plan(file, reporter)


@main.command(kept=f"what is not logged yet stays kept: {app.GO_ON}")
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
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.tracking.outbox import sync as replay

    logged = replay(out)
    while True:
        with reporter.working("MLflow"):
            said = next(logged, None)
        if said is None:
            return
        reporter.say(said)


@main.command(answers=True, kept=CUT_SHORT)
@CONFIG
@SET
@click.option("--once", is_flag=True, help="Do one round now, and end.")
@click.option("--due", hidden=True, type=click.DateTime([ISO]), help="When that round was due.")
@click.option("--missed", hidden=True, type=int, default=0, help="How many before were missed.")
def watch(
    config: Path, overrides: tuple[str, ...], once: bool, due: datetime | None, missed: int
) -> None:
    """Look at new frames of the cameras of CONFIG on a schedule, and search again if need be.

    Each round asks every camera for new frames, and keeps those that are distinct. Once a camera
    has a window of them, they are compared with the frames of the last search, without labels: are
    the representations drawn from the same, and does the plan in service still agree with its
    models? If not, the search is done again, starting from what is known; its plan is measured
    beside the one in service on the same frames and labels, and takes its place if the config's
    rule lets it (`watch` and `promotion` in the config). OUT/service/current is the bundle in
    service; `merge-search history CONFIG` tells what happened.

    Without --once it goes on until it is stopped; a round that was missed is made up for. With
    --once, for cron and its kin, it does one round.

    \b
    Exit codes of --once: 0 nothing to do; 10 searched again, the plan in service stays;
    11 promoted; 1 something to put right; 5 another process watches this CONFIG.
    """
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.config.loading import load_config
        from search.utils.schedule import Due, SystemClock
        from search.watch.daemon import RoundProcess, only_one
        from search.watch.daemon import watch as keep_watch
        from search.watch.workspace import Workspace

        post = Workspace(load_config(config, overrides))
        schedule = post.asked.due_times()
    if due is not None:  # started by a watcher, which holds the lock
        _round(post, Due(due.astimezone(UTC), missed), reporter)
    with only_one(post.folder):
        if once:
            _round(post, Due(datetime.now(UTC), 0), reporter)
        typed = [str(config), *(text for pair in overrides for text in ("--set", pair))]
        keep_watch(
            schedule, post.history, SystemClock(), RoundProcess([*typed, *app.flags()]), reporter
        )


def _round(post: Workspace, due: Due, reporter: Reporter) -> NoReturn:
    from search.results.rounds import EXIT_CODES
    from search.watch.round import do_round

    ended = do_round(post.config, due, reporter)
    app.answer(post.history.file(ended.number).read_bytes())
    sys.exit(EXIT_CODES[ended.decision])


@main.command(answers=True)
@CONFIG
@SET
@click.option("--last", default=20, show_default=True, type=click.IntRange(1),
              help="How many rounds.")  # fmt: skip
def history(config: Path, overrides: tuple[str, ...], last: int) -> None:
    """The rounds of `merge-search watch CONFIG`: when, drift, decisions, and who was in service.

    With --json all that is known of them, as a list.
    """
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.config.loading import load_config
        from search.utils.files import json_bytes
        from search.watch.history_table import show_history
        from search.watch.workspace import Workspace

        post = Workspace(load_config(config, overrides))
    rounds = post.history.latest(last)
    show_history(rounds, post, reporter)
    app.answer(json_bytes([known.to_dict() for known in rounds]))


@main.command(kept=UNSURE)
@CONFIG
@SET
def promote(config: Path, overrides: tuple[str, ...]) -> None:
    """Put the plan that the last run of CONFIG proposed in service, if the config's rule lets it.

    Every run registers the bundle of its chosen plan in MLflow as a version of the model CONFIG's
    `name`, with the alias `challenger`. This gives it the alias `champion` if it is within the
    budget, was verified on the labels that the champion was verified on, and is not worse than the
    champion outside its interval (`promotion` in the config). The reason is recorded as a tag of
    the version, whichever way it goes.

    \b
    Exit codes: 0 promoted; 4 the rule does not let it; 1 something to put right.
    """
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.config.loading import load_config
        from search.deploy.promotion import promote as promote_challenger

        loaded = load_config(config, overrides)
    promote_challenger(loaded, reporter)


@main.command(kept=UNSURE)
@CONFIG
@SET
@click.option("--why", default="by hand", metavar="TEXT", help="The reason, which is recorded.")
def rollback(config: Path, overrides: tuple[str, ...], why: str) -> None:
    """Put the champion before this one back in service.

    May be given again, to go back further.
    """
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.config.loading import load_config
        from search.deploy.promotion import rollback as roll_back

        loaded = load_config(config, overrides)
    roll_back(loaded, why, reporter)


@main.command(kept="what was logged is kept; to look at it again")
@CONFIG
@SET
@click.option("--port", default=5000, show_default=True, help="Port on this machine.")
def ui(config: Path, overrides: tuple[str, ...], port: int) -> None:
    """Start the MLflow UI on the store that runs of CONFIG are logged to.

    Prints the address of the experiment, and of the page that compares the candidates of the last
    search of CONFIG. Stop it with Ctrl-C.
    """
    reporter = app.reporter()
    with reporter.working("starting"):
        from search.config.loading import load_config
        from search.tracking import client
        from search.tracking.target import Target

        loaded = load_config(config, overrides)
        target = Target.of(loaded)
        pages = client.pages(target, loaded.name, port)
    for shown, address in pages.items():
        reporter.say(f"{shown}: {address}")
    sys.exit(client.serve(target, port))


def _shown(path: Path) -> str:
    """A path relative to where the user stands, where it lies below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
