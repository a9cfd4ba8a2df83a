"""`merge-search export`: a plan of a finished run, written as a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from search.deploy.export import Format, Source, write
from search.pipelines.finished_run import Finished
from search.utils.reporter import Reporter


def export(
    out: Path, plan: str | None, folder: Path, formats: Sequence[Format], reporter: Reporter
) -> None:
    """Write a plan that the run in OUT has found, by default the chosen one, to a folder.

    Raises:
        NoSuchRun, NoSuchPlan: there is none of that name.
        CannotWrite: the folder is somebody else's, or cannot be written.
        MergeSearchError: anything else the user can put right.
    """
    finished = Finished.at(out)
    record = finished.plan(plan)
    source = Source(finished.config, finished.result, finished.observe(reporter))
    reporter.step(f"Bundle of plan {record.hash}")
    with reporter.working("bundle"):
        checks = write(source, record, folder, formats)
    for check in checks:
        reporter.say(f"  {check}")
