"""`merge-search verify --measured`: measurements of a box, put beside the candidates of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from search.pipelines.finished_run import LoadedRun
from search.report.candidate_table import print_candidates
from search.report.measured_page import update_candidates
from search.results.measured import DeviceMeasurement, add_measurement, describe_measurement
from search.results.search_result import Result, VerifiedCandidates
from search.tracking.outbox import log_or_queue
from search.tracking.target import Target
from search.utils.records import BadRecord, read_record, write_record
from search.utils.reporter import Reporter
from spaces.errors import MergeSearchError


class BadMeasurement(MergeSearchError):
    """A file holds no measurement, or one of a plan that the run does not have."""


def add_measurements(out: Path, measured_files: Sequence[Path], reporter: Reporter) -> Result:
    """Add the measurements in files of `bench_onnx.py` to the run in OUT; return its new result.

    Nothing is verified again. Writes OUT/result.json and the table in OUT/report.html, and logs
    to MLflow.

    Raises:
        BadMeasurement: a file holds no measurement, or one of another run's plan.
        NotLogged: MLflow did not take the measurements; everything else is done, and `sync` can
            log them.
        MergeSearchError: anything else that the user can correct.
    """
    finished = LoadedRun.from_folder(out)
    measured: list[DeviceMeasurement] = finished.result.measured
    for file in measured_files:
        measurement = read_measurement(file, finished)
        reporter.say(f"{file}: {describe_measurement(measurement)}")
        measured = add_measurement(measured, measurement)
    result = replace(finished.result, measured=measured)
    write_record(finished.document, result)
    if not update_candidates(result, out):
        reporter.warn(f"{out} holds no report.html of this version: it was not updated")
    print_candidates(
        VerifiedCandidates.of(result), result.unmerged_bytes, result.chosen, "Measured", reporter
    )
    reporter.step("Logging to MLflow")
    with reporter.working("MLflow"):
        logged = log_or_queue(result, out, Target.of(finished.config))
    reporter.say(f"  {logged}")
    return result


def read_measurement(file: Path, finished: LoadedRun) -> DeviceMeasurement:
    """Read what `bench_onnx.py` printed about a plan of the run.

    Raises:
        BadMeasurement: the file holds no measurement, or the run does not have the plan.
    """
    try:
        measurement = read_record(DeviceMeasurement, file)
    except BadRecord as error:
        raise BadMeasurement(f"{error}; give the output of bench_onnx.py") from error
    plans = {record.hash for record in finished.plans}
    if measurement.plan not in plans:
        raise BadMeasurement(
            f"{file}: measures plan {measurement.plan}, which the run in {finished.out} does not "
            "have; give the OUT folder that the bundle was exported from"
        )
    return measurement
