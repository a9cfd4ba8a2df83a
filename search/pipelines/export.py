"""`merge-search export`: write a plan of a finished run as a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.deploy.export import BundleSource, ExportFormat, export_bundle
from search.pipelines.finished_run import LoadedRun
from search.utils.reporter import Reporter


@dataclass(frozen=True)
class ExportedBundle:
    """A bundle that was written and checked."""

    folder: Path
    plan: str
    """Hash of the plan."""
    checks: tuple[str, ...]
    """One sentence for each check."""


def export(
    out: Path, plan: str | None, folder: Path, formats: Sequence[ExportFormat], reporter: Reporter
) -> ExportedBundle:
    """Write a plan of the run in OUT, by default the chosen plan, to a folder.

    Raises:
        NoSuchRun, NoSuchPlan: OUT holds no finished run, or the run no such plan.
        CannotWrite: the folder holds other files, or cannot be written to.
        MergeSearchError: anything else that the user can correct.
    """
    finished = LoadedRun.from_folder(out)
    record = finished.plan(plan)
    source = BundleSource(finished.config, finished.result, finished.observe(reporter))
    reporter.step(f"Bundle of plan {record.hash}")
    with reporter.working("bundle"):
        checks = export_bundle(source, record, folder, formats)
    for check in checks:
        reporter.say(f"  {check}")
    return ExportedBundle(folder, record.hash, tuple(checks))
