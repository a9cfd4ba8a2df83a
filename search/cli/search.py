"""Search and verify: `check`, `run`, `verify`, `worker` and `exact`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from search.cli import app, deferred
from search.cli.config_command import PATH, config_command

if TYPE_CHECKING:
    from search.config.run import RunConfig
    from search.pipelines.verify_inputs import VerificationInputs
    from search.utils.reporter import Reporter

STATISTICS_SAVED = f"statistics are saved once they are complete; {app.CONTINUE}"


@config_command(has_document=True)
def check(config: RunConfig, reporter: Reporter) -> None:
    """Check CONFIG and everything that it names, without running the search.

    Loads every model and cuts it; opens the frames and decodes some of them; matches the labels
    with the classes; measures the search space, the fewest bytes that it reaches and the budget;
    checks disk space, the store of the trials and MLflow. Prints one line per check.

    \b
    Exit codes:
      0         a run has everything that it needs
      1         a check failed; its line names the problem and the remedy
    """
    report = deferred.check_config(config, reporter)
    app.print_document(deferred.json_bytes(report.to_dict()))
    if not report.passed:
        raise click.exceptions.Exit(1)


@config_command(
    has_document=True,
    when_stopped="finished trials are saved, and so are statistics once they are complete; "
    + app.CONTINUE,
)
def run(config: RunConfig, reporter: Reporter) -> None:
    """Search for the best plan of CONFIG, and verify it.

    Loads the models and cuts them into stages; measures the similarity of every pair of stages on
    the unlabelled frames, in one pass; explores the plans within the budget with Optuna; measures
    the fidelity of the front and the ground-truth accuracy of its best plans. Writes
    OUT/report.html, OUT/result.json, plans, figures and OUT/bundle, which holds the chosen plan
    ready to deploy. Logs one parent run and one run per verified candidate to MLflow, and
    registers the bundle there as the challenger.

    To continue an interrupted run, start it again.

    \b
    Exit codes:
      0         done
      1         an error that you can fix; the message says how
      2         no plan fits the budget; the message names the smallest reachable one
      3         done, but MLflow did not take the results: see merge-search sync
      70        an internal error: see --debug
      130, 143  interrupted
    """
    with app.printing_document(config.out_folder / "result.json"):
        result = deferred.run(config, reporter)
    out = app.display_path(config.out_folder)
    config_file = click.get_current_context().params["config"]
    reporter.say(f"Wrote {out}/report.html and the other results.")
    if result.chosen:
        reporter.say(f"Show the chosen plan:  merge-search plan show {out}/plans/"
                     f"{result.chosen}.json")  # fmt: skip
    reporter.say(f"Compare in MLflow:     merge-search ui {config_file}")


@click.command(cls=app.Command, has_document=True, when_stopped=STATISTICS_SAVED)
@click.argument("out", type=PATH)
@click.option("--labels", multiple=True, metavar="MODEL=PATH",
              help="Ground truth of a model: a .csv file, a .json file, or a folder with one "
              "sub-folder of images per class. Repeatable.")  # fmt: skip
@click.option("--images", multiple=True, metavar="MODEL=FOLDER",
              help="Folder of the images that a .json file names; by default the folder of that "
              "file.")  # fmt: skip
@click.option("--classes", multiple=True, metavar="MODEL=CATEGORIES",
              help="Name of each class of a classifier, or COCO category of each class of a "
              "detector, as `classes` in a config: [person, car], {1: person, 3: car} or a text "
              "file. By default as in the run.")  # fmt: skip
@click.option(
    "--outside", is_flag=True, help="Accept labelled images outside the folder of their labels."
)
@click.option("--frames", type=PATH, default=None, metavar="FOLDER",
              help="Unlabelled frames for fidelity; by default the labelled frames.")  # fmt: skip
@click.option("--plan", "plans", multiple=True, metavar="HASH",
              help="Plan of the front to verify, by the first digits of its hash; by default the "
              "candidates of the run. Repeatable.")  # fmt: skip
@click.option("--shard", default=None, metavar="K/N",
              help="Run the networks on one shard of the frames only, for example 3/8, into "
              "OUT/verify/shards.")  # fmt: skip
@click.option("--merge", is_flag=True,
              help="Take the networks' answers from all shards in OUT/verify/shards instead of "
              "running them.")  # fmt: skip
@click.option("--measured", multiple=True, type=PATH, metavar="FILE",
              help="Measurement on a device, printed by bench_onnx.py: added to the run, without "
              "verifying again. Repeatable.")  # fmt: skip
def verify(
    out: Path,
    labels: tuple[str, ...],
    images: tuple[str, ...],
    classes: tuple[str, ...],
    outside: bool,
    frames: Path | None,
    plans: tuple[str, ...],
    shard: str | None,
    merge: bool,
    measured: tuple[Path, ...],
) -> None:
    """Verify plans of a finished run on new data.

    OUT is the output folder of the run. With --labels, measures accuracy and fidelity on the
    labelled frames; frames that the search has used are refused. With --frames alone, measures
    fidelity but no accuracy. With neither, uses the frames and labels that the run itself held
    out.

    Prints the candidates as run does, writes OUT/verify/verified.json and logs one run to MLflow.
    The exit codes are those of run.

    With --shard, runs the networks on some of the frames only, and stores their answers; needs
    the statistics of the search in the cache. Once all shards are in OUT/verify/shards, the same
    command with --merge in place of --shard finishes the verification.

    With --measured, which goes alone, puts times and memory on a device beside the candidates: in
    OUT/result.json, OUT/report.html and the run's candidates in MLflow. A measurement of the same
    plan on the same device is replaced.

    \b
    Example:
      merge-search verify OUT --labels classifier=val.csv --labels detector=instances.json
      merge-search verify OUT --shard 2/3
      merge-search verify OUT --merge
      merge-search verify OUT --measured box.json
    """
    if measured:
        if labels or images or classes or outside or frames or plans or shard or merge:
            raise click.UsageError("--measured goes alone: it verifies nothing again")
        _add_measurements(out, measured)
        return
    data = deferred.VerificationInputs.parse(labels, images, classes, frames, outside)
    if shard and merge:
        raise click.UsageError("--shard and --merge exclude each other")
    if shard:
        _verify_shard(out, plans, data, shard)
        return
    document = out / "verify" / "verified.json"
    finish = deferred.merge_verification_shards if merge else deferred.verify
    with app.printing_document(document):
        finish(out, plans, data, app.reporter())
    app.reporter().say(f"Wrote {app.display_path(document)}")


def _verify_shard(out: Path, plans: tuple[str, ...], data: VerificationInputs, shard: str) -> None:
    app.refuse_document("verify --shard")
    path = deferred.measure_verification_shard(
        out, plans, data, deferred.Shard.parse(shard), app.reporter()
    )
    app.reporter().say(f"Wrote {app.display_path(path)}")


def _add_measurements(out: Path, measured: tuple[Path, ...]) -> None:
    document = out / "result.json"
    with app.printing_document(document):
        deferred.add_measurements(out, measured, app.reporter())
    written = " and ".join(app.display_path(out / name) for name in ("result.json", "report.html"))
    app.reporter().say(f"Wrote {written}")


@click.command(
    cls=app.Command,
    when_stopped="trials finished here are saved, and other processes take over the current one; "
    "run the same command again to rejoin",
)
@click.argument("storage")
@click.argument("study")
def worker(storage: str, study: str) -> None:
    """Evaluate plans for a running search.

    STORAGE is a file or a postgresql:// URL and STUDY a name; `run` prints both. Any number of
    processes, on any machine that reaches the storage, may join at any time and be killed at any
    time: no plan is evaluated twice and none is lost. The study holds all that a worker needs, so
    the config, the models and the frames need not be on this machine. A worker ends when the
    search has finished its trials.
    """
    reporter = app.reporter()
    join_study = deferred.join_study
    reporter.step(f"Exploring with {study}")
    trials = join_study(storage, study, lambda total: reporter.progress("trials", total))
    reporter.say(f"{trials} plans evaluated by this worker")


@config_command(has_document=True, when_stopped=STATISTICS_SAVED)
def exact(config: RunConfig, reporter: Reporter) -> None:
    """Compute the exact front of CONFIG by proxy and bytes.

    Enumerates all plans with branch and bound. If OUT holds a result of the same problem, reports
    which part of the exact front's hypervolume its study has found. Writes OUT/exact.json.
    Refuses a space that is too large to enumerate.
    """
    document = config.out_folder / "exact.json"
    with app.printing_document(document):
        deferred.find_exact_front(config, reporter)
    reporter.say(f"Wrote {app.display_path(document)}")
