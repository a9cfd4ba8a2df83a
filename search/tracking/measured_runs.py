"""Measurements on devices, logged to the runs of a search that is logged already."""

from __future__ import annotations

from pathlib import Path

from mlflow.entities import Metric

from search.results.search_result import Result
from search.tracking.payloads.measured import device_metrics, device_tags
from search.tracking.run_writer import ResultRuns
from search.utils.timing import epoch_milliseconds


def log_measurements(writer: ResultRuns, result: Result, parent: str, folder: Path) -> None:
    """Log each measurement to the run of its candidate, dated as it was made.

    MLflow shows the latest of several values, so the tags are those of the latest measurement. The
    parent gets the result and the report as they are now. Logging again changes nothing.
    """
    candidates = writer.candidate_runs(parent)
    for measurement in sorted(result.measured, key=lambda m: epoch_milliseconds(m.created)):
        run = candidates.get(measurement.plan)
        if run is None:  # a plan of the front that was not verified
            continue
        moment = epoch_milliseconds(measurement.created)
        metrics = [
            Metric(name, value, moment, 0) for name, value in device_metrics(measurement).items()
        ]
        writer.client.log_batch(run, metrics=metrics)
        for name, text in device_tags(measurement).items():
            writer.client.set_tag(run, name, text)
    writer.log_files(parent, folder)
