"""Plans and bundles: `export`, `serve`, `bench-bundle` and `plan`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from search.cli import app, deferred
from search.cli.config_command import PATH
from search.cli.search import STATISTICS_SAVED

RUNTIMES = ("onnxruntime", "openvino", "tensorrt", "litert", "hailo", "rknn")


@click.command(cls=app.Command, when_stopped=f"DIR is unchanged; {STATISTICS_SAVED}")
@click.argument("out", type=PATH)
@click.option("--plan", default=None, metavar="HASH",
              help="Plan to export, by the first digits of its hash; by default the chosen "
              "plan.")  # fmt: skip
@click.option("--points", default=1, show_default=True, type=click.IntRange(min=1), metavar="N",
              help="Plans in the bundle: besides this one, others that were verified, spread "
              "evenly over their bytes.")  # fmt: skip
@click.option("--to", "folder", required=True, type=PATH, metavar="DIR",
              help="Folder to write: new, empty, or a bundle to replace.")  # fmt: skip
@click.option("--format", "formats", multiple=True,
              type=click.Choice(["onnx", "program", "triton"]),
              help="Also write model.onnx; a torch.export program, model.pt2; or model.onnx and a "
              "model repository for Triton Inference Server, triton/. Repeatable.")  # fmt: skip
@click.option("--split", is_flag=True,
              help="Write a graph for each part that can run at its own rate: trunk.onnx, "
              "MODEL.onnx and MODEL_alone.onnx, with their weights in weights.data.")  # fmt: skip
@click.option("--target", "targets", multiple=True, type=click.Choice(RUNTIMES),
              help="Also write graphs for this runtime, into DIR/RUNTIME. "
              "Repeatable.")  # fmt: skip
@click.option("--int8", is_flag=True,
              help="Also write model_int8.onnx, whose layers compute in int8, and measure the "
              "quality that it keeps.")  # fmt: skip
@click.option("--keep-float", multiple=True, metavar="STAGE",
              help="With --int8: a stage that stays in float, as MODEL:STAGE. "
              "Repeatable.")  # fmt: skip
def export(
    out: Path,
    plan: str | None,
    points: int,
    folder: Path,
    formats: tuple[str, ...],
    split: bool,
    targets: tuple[str, ...],
    int8: bool,
    keep_float: tuple[str, ...],
) -> None:
    """Export a plan of a run as a bundle, ready to deploy.

    OUT is the output folder of the run. DIR gets a merged model: every tensor once
    (weights.safetensors), the plan, the description of the networks (bundle.json), a card
    (CARD.md) and an example. spaces.load_bundle(DIR) returns one module that takes camera frames
    and returns the answers of all models; it needs nothing else of the run. The bundle is checked
    on real frames before DIR appears.

    With --points, the bundle holds several plans and every tensor once: bundle.use(HASH) changes
    from one plan to another while it runs, e.g. to a cheaper one at night. The graphs of --format
    and --int8 are those of the first plan.

    If OUT is the folder OUT/split that `split` wrote, DIR gets a folder `device` and a folder
    `server` instead: each loads alone, and holds the stages and the codecs of its side. --plan is
    then the hash of a verified point, and --points the number of them.
    """
    if deferred.holds_split(out):
        _export_split(out, plan, points, folder, (*formats, *targets, *keep_float), split or int8)
        return
    graphs = deferred.request_graphs(split, targets)
    request = deferred.ExportRequest(
        [name for name in deferred.FORMATS if name in formats], graphs, points
    )
    if keep_float and not int8:
        raise click.UsageError("--keep-float needs --int8")
    in_int8 = deferred.Int8Request(keep_float) if int8 else None
    deferred.export(out, plan, folder, request, app.reporter(), in_int8)
    app.reporter().say(f"Wrote {app.display_path(folder)}: see its CARD.md and example.py")


def _export_split(
    out: Path, point: str | None, count: int, folder: Path, values: tuple[str, ...], flag: bool
) -> None:
    if values or flag:
        raise click.UsageError(
            f"{out} holds a split: --format, --split, --target, --int8 and --keep-float are for "
            "runs"
        )
    deferred.export_split(out, point, count, folder, app.reporter())
    shown = app.display_path(folder)
    app.reporter().say(f"Wrote {shown}/device and {shown}/server: see CARD.md in each")
    app.reporter().say(f"Start the server:  merge-search serve {shown}/server")


@click.command(
    cls=app.Command,
    when_stopped="the frames that waited were answered; run the command again to go on serving",
)
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Address to listen on; 0.0.0.0 for all of this machine.")  # fmt: skip
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535),
              help="Port; 0 for any free one.")  # fmt: skip
@click.option("--batch", default=8, show_default=True, type=click.IntRange(min=1), metavar="N",
              help="Frames that run through the network together, at most.")  # fmt: skip
@click.option("--queue", default=64, show_default=True, type=click.IntRange(min=1), metavar="N",
              help="Frames that may wait; further ones get status 503.")  # fmt: skip
def serve(folder: Path, host: str, port: int, batch: int, queue: int) -> None:
    """Serve the server's part of a split model over HTTP.

    DIR is the folder that `export` wrote of a split, or its folder `server`. A device posts its
    messages to /v1/answers and gets the answers of all models as JSON. Frames that wait while the
    network runs are answered together. A damaged message, or one of another bundle, gets status
    400 and a sentence. Stop the server with Ctrl-C: it answers first what it has taken.
    """
    settings = deferred.ServeSettings(host, port, batch, queue)
    deferred.serve_split(folder, settings, app.reporter())


@click.command("bench-bundle", cls=app.Command, has_document=True)
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--run", "run", default=None, type=PATH, metavar="OUT",
              help="Output folder of the run that the bundle comes from: its config says where "
              "the weights of the unmerged models are.")  # fmt: skip
def bench_bundle(folder: Path, run: Path | None) -> None:
    """Measure the memory and latency of a bundle.

    Loads the bundle in DIR and the unmerged models, each in a fresh process and several times in
    turn. Measures the bytes of its tensors, the growth of the resident set, and the milliseconds
    from a frame's pixels to all answers. The unmerged models are loaded from their original
    weights, if these still exist: their files are as in the run in OUT, by default that in the
    folder above DIR, or else beside DIR. The last line is one JSON object.
    """
    app.print_json_line(json.dumps(deferred.benchmark_bundle(folder, app.reporter(), run)))


@click.group(cls=app.Group)
def plan() -> None:
    """Inspect plans."""


@plan.command()
@click.argument("file", type=PATH)
def show(file: Path) -> None:
    """Print the shares and the hash of the plan in FILE.

    If the folder above holds the result.json of the run, also prints the cost of the plan and how
    it was verified.
    """
    deferred.print_plan(file, app.reporter())
