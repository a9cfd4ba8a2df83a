"""`merge-search export`: write a plan of a finished run as a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.deploy.export import BundleExtra, BundleSource, ExportRequest, export_bundle
from search.deploy.int8.int8_export import Int8Export
from search.deploy.operating_points import further_points
from search.pipelines.finished_run import LoadedRun
from search.pipelines.open_data import class_names_in_labels
from search.pipelines.prepare import open_truth
from search.utils.reporter import Reporter


@dataclass(frozen=True)
class ExportedBundle:
    """A bundle that was written and checked."""

    folder: Path
    plan: str
    """Hash of the plan."""
    checks: tuple[str, ...]
    """One sentence for each check."""


@dataclass(frozen=True)
class Int8Request:
    """That a bundle is also to be written as a graph in int8."""

    keep_float: Sequence[str] = ()
    """Stages and heads that stay in float, besides the heads of detectors, as `model:stage`."""


def export(
    out: Path,
    plan: str | None,
    folder: Path,
    request: ExportRequest,
    reporter: Reporter,
    int8: Int8Request | None = None,
) -> ExportedBundle:
    """Write a plan of the run in OUT, by default the chosen plan, to a folder.

    `points` is the number of operating points: with more than one, other verified plans are
    written into the same bundle.

    Raises:
        NoSuchRun, NoSuchPlan: OUT holds no finished run, or the run no such plan.
        TooFewPlans: the run verified fewer plans than `points`.
        NoSuchStage: the merged model has no such stage to keep in float.
        CannotWrite: the folder holds other files, or cannot be written to.
        MergeSearchError: anything else that the user can correct.
    """
    finished = LoadedRun.from_folder(out)
    record = finished.plan(plan)
    records = [record, *further_points(finished.result, record, request.points)]
    observed = finished.observe(reporter)
    names = class_names_in_labels(finished.config, observed.deployment.models)
    source = BundleSource(finished.config, finished.result, observed, names)
    extras = [] if int8 is None else [_int8_export(source, int8, reporter)]
    reporter.step(f"Bundle of plan {', '.join(r.hash for r in records)}")
    with reporter.working("bundle"):
        checks = export_bundle(source, records, folder, request, extras)
    for check in checks:
        reporter.say(f"  {check}")
    return ExportedBundle(folder, record.hash, tuple(checks))


def _int8_export(source: BundleSource, request: Int8Request, reporter: Reporter) -> BundleExtra:
    """Return what writes the graph in int8, and measures it on the ground truth of the run."""
    config, observed = source.config, source.observed
    truth = open_truth(config, observed.deployment, observed.frames, reporter)
    return Int8Export(
        observed, truth, config.export, config.verify.batch, reporter, request.keep_float
    )
