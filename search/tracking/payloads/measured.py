"""The numbers and texts that MLflow shows of a plan on a device."""

from __future__ import annotations

from search.results.measured import DeviceMeasurement
from search.utils.format import MEGABYTE


def device_metrics(measurement: DeviceMeasurement) -> dict[str, float]:
    """Return times per frame, of all models and of each by trunk and tail, and the memory.

    With rates, also the time for a second of camera time.
    """
    whole = measurement.whole
    metrics = {"measured_ms": whole.milliseconds}
    if whole.running_bytes is not None:
        metrics["measured_resident_mb"] = whole.running_bytes / MEGABYTE
    if measurement.milliseconds_per_second is not None:
        metrics["measured_ms_per_second"] = measurement.milliseconds_per_second
    for name, times in measurement.models.items():
        if "split" in times:
            metrics[f"measured_ms_{name}"] = times["split"]
    return metrics


def device_tags(measurement: DeviceMeasurement) -> dict[str, str]:
    return {
        "merge_search.measured_device": measurement.place,
        "merge_search.measured_runtime": measurement.circumstances,
    }
