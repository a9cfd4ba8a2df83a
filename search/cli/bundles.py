"""Plans and bundles: `export`, `bench-bundle` and `plan`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from search.cli import app, deferred
from search.cli.config_command import PATH
from search.cli.search import STATISTICS_SAVED


@click.command(cls=app.Command, when_stopped=f"DIR is unchanged; {STATISTICS_SAVED}")
@click.argument("out", type=PATH)
@click.option("--plan", default=None, metavar="HASH",
              help="Plan to export, by the first digits of its hash; by default the chosen "
              "plan.")  # fmt: skip
@click.option("--to", "folder", required=True, type=PATH, metavar="DIR",
              help="Folder to write: new, empty, or a bundle to replace.")  # fmt: skip
@click.option("--format", "formats", multiple=True,
              type=click.Choice(["onnx", "program", "triton"]),
              help="Also write model.onnx; a torch.export program, model.pt2; or model.onnx and a "
              "model repository for Triton Inference Server, triton/. Repeatable.")  # fmt: skip
@click.option("--int8", is_flag=True,
              help="Also write model_int8.onnx, whose layers compute in int8, and measure the "
              "quality that it keeps.")  # fmt: skip
@click.option("--keep-float", multiple=True, metavar="STAGE",
              help="With --int8: a stage that stays in float, as MODEL:STAGE. "
              "Repeatable.")  # fmt: skip
def export(
    out: Path,
    plan: str | None,
    folder: Path,
    formats: tuple[str, ...],
    int8: bool,
    keep_float: tuple[str, ...],
) -> None:
    """Export a plan of a run as a bundle, ready to deploy.

    OUT is the output folder of the run. DIR gets a merged model: every tensor once
    (weights.safetensors), the plan, the description of the networks (bundle.json), a card
    (CARD.md) and an example. spaces.load_bundle(DIR) returns one module that takes camera frames
    and returns the answers of all models; it needs nothing else of the run. The bundle is checked
    on real frames before DIR appears.
    """
    chosen_formats = [name for name in deferred.FORMATS if name in formats]
    if keep_float and not int8:
        raise click.UsageError("--keep-float needs --int8")
    request = deferred.Int8Request(keep_float) if int8 else None
    deferred.export(out, plan, folder, chosen_formats, app.reporter(), request)
    app.reporter().say(f"Wrote {app.display_path(folder)}: see its CARD.md and example.py")


@click.command("bench-bundle", cls=app.Command, has_document=True)
@click.argument("folder", type=PATH, metavar="DIR")
def bench_bundle(folder: Path) -> None:
    """Measure the memory and latency of a bundle.

    Loads the bundle in DIR and the unmerged models, each in a fresh process and several
    times in turn. Measures the bytes of its
    tensors, the growth of the resident set, and the milliseconds from a frame's pixels to all
    answers. The unmerged models are loaded from their original weights, if these still exist. The
    last line is one JSON object.
    """
    app.print_json_line(json.dumps(deferred.benchmark_bundle(folder, app.reporter())))


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
