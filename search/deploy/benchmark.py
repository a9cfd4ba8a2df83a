"""`merge-search bench-bundle`: memory and time of a bundle and of its unmerged models.

The unmerged models are measured twice: as a bundle that shares nothing, which shows the effect of
merging alone, and loaded by their libraries, as without merge-search. Each measurement runs in a
fresh process, and the kinds take turns. The memory of a bundle is the growth of the resident set
when it is loaded, after the allocator has returned its free memory.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from search.deploy.unmerged import (
    Specs,
    find_specs,
    load_unmerged,
    specs_of_run,
    write_unmerged,
)
from search.results.precisions import describe_stored, stored_bytes_by_precision
from search.utils.format import MEGABYTE
from search.utils.reporter import Reporter
from spaces.bundle import BundleContents, load_bundle, read_bundle_contents
from spaces.bundle_files import BUNDLE, WEIGHTS
from spaces.cost import CostModel
from spaces.errors import MergeSearchError
from spaces.inputs import Frame, prepare_batch
from spaces.stages import total_bytes, unique_tensors

ROUNDS, FRAMES = 3, 15
WARM_UP = 2
FRAME_SIZE = (480, 640)
KINDS = {
    "merged": "the bundle",
    "unmerged": "unmerged, as a bundle",
    "libraries": "unmerged, by their libraries",
}


@dataclass(frozen=True)
class BundleMeasurement:
    """Memory and time of one kind in `KINDS`."""

    tensor_bytes: int
    """Of all tensors."""
    grown_bytes: int
    """Growth of the resident set by loading."""
    running_bytes: int
    """Growth of the resident set after running frames."""
    milliseconds: float
    """Median per frame, from pixels to answers."""


class CannotMeasure(MergeSearchError):
    """A measuring process failed."""


def benchmark_bundle(folder: Path, reporter: Reporter, run: Path | None = None) -> dict[str, Any]:
    """Measure a bundle and, if their weights are available, its unmerged models.

    `run` is the output folder of the run that the bundle comes from, whose config says where the
    weights are. Returns the numbers as plain data for JSON.

    Raises:
        BadBundle: The folder holds no bundle.
        NoSuchRun, OtherRun: The folder `run` does not hold the run of the bundle.
        CannotMeasure: The bundle cannot be loaded in a fresh process.
    """
    contents = read_bundle_contents(folder)
    specs = None if run is None else specs_of_run(contents, run)
    with tempfile.TemporaryDirectory() as unmerged:
        folders = {"merged": folder}
        with reporter.working("unmerged models"):
            missing = _write_unmerged(contents, folder, specs, Path(unmerged))
        if not missing:
            folders |= {"unmerged": Path(unmerged), "libraries": Path(unmerged)}
        measurements = _measure_in_turns(folders, reporter)
    costs = CostModel(contents.facts)
    stored = stored_bytes_by_precision(contents.plan, costs)
    bytes_by_point = {plan.hash: costs.bytes(plan) for plan in contents.plans}
    answer = {
        "plan": contents.plan.hash,
        "dtype": contents.dtype,
        **({"stored": stored} if stored else {}),
        "predicted_bytes": costs.bytes(contents.plan),
        **({"points": bytes_by_point} if contents.points else {}),
        "in_file_bytes": _bytes_in_file(folder),
        **{kind: asdict(measurement) for kind, measurement in measurements.items()},
    }
    _print(measurements, answer, reporter)
    if stored:
        reporter.say(f"The bundle holds {describe_stored(contents.plan, stored)}")
    if missing:
        reporter.warn(f"The unmerged models were not measured: {missing}")
    return answer


def _write_unmerged(
    contents: BundleContents, bundle: Path, specs: Specs | None, folder: Path
) -> str:
    """Write the unmerged models into a folder; return why not, or an empty text."""
    try:
        write_unmerged(contents, specs or find_specs(contents, bundle), folder)
    except MergeSearchError as error:
        return str(error)
    return ""


def _measure_in_turns(
    folders: Mapping[str, Path], reporter: Reporter
) -> dict[str, BundleMeasurement]:
    runs_by_kind: dict[str, list[BundleMeasurement]] = {kind: [] for kind in folders}
    reporter.step(f"Loading and running each {ROUNDS} times in fresh processes")
    with reporter.progress("processes", ROUNDS * len(folders)) as progress:
        for _ in range(ROUNDS):
            for kind, folder in folders.items():
                runs_by_kind[kind].append(_measure_in_fresh_process(kind, folder))
                progress(1)
    return {kind: _medians(runs) for kind, runs in runs_by_kind.items()}


def _bytes_in_file(folder: Path) -> int:
    """Return the bytes of the tensors in the weights file, by its own table of contents."""
    with (folder / WEIGHTS).open("rb") as file:
        table = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    spans = [entry["data_offsets"] for key, entry in table.items() if key != "__metadata__"]
    return sum(end - start for start, end in spans)


def _measure_in_fresh_process(kind: str, folder: Path) -> BundleMeasurement:
    command = [sys.executable, "-W", "ignore", "-m", "search.deploy.benchmark", kind, str(folder)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode:
        reason = (completed.stderr.strip().splitlines() or ["it printed no error"])[-1]
        raise CannotMeasure(f"{folder / BUNDLE}: {kind} cannot be measured: {reason}")
    return BundleMeasurement(**json.loads(completed.stdout.splitlines()[-1]))


def _medians(runs: list[BundleMeasurement]) -> BundleMeasurement:
    values = [asdict(run) for run in runs]
    medians = {key: statistics.median(value[key] for value in values) for key in values[0]}
    return BundleMeasurement(**{**medians, "tensor_bytes": runs[0].tensor_bytes})


def _print(
    measurements: Mapping[str, BundleMeasurement], answer: Mapping[str, Any], reporter: Reporter
) -> None:
    rows = []
    for kind, measurement in measurements.items():
        sizes = (
            measurement.tensor_bytes, measurement.grown_bytes, measurement.running_bytes
        )  # fmt: skip
        rows.append(
            [KINDS[kind], *(f"{size / MEGABYTE:.2f}" for size in sizes),
             f"{measurement.milliseconds:.1f}"]
        )  # fmt: skip
    header = ["", "tensors MB", "resident, loaded MB", "resident, running MB", "ms per frame"]
    reporter.table("In a fresh process, medians", header, rows)
    predicted, in_file = answer["predicted_bytes"], answer["in_file_bytes"]
    resident = measurements["merged"].tensor_bytes
    if "points" in answer:
        listed = ", ".join(f"{size:,}" for size in answer["points"].values())
        expected, is_equal = f"Operating points of {listed} bytes", in_file == resident
    else:
        expected, is_equal = f"{predicted:,} bytes predicted", predicted == in_file == resident
    equality = "equal" if is_equal else "NOT EQUAL"
    reporter.say(f"{expected}, {in_file:,} in the file, {resident:,} resident: {equality}")


# Code that runs in the fresh process.


def _measure(kind: str, folder: Path) -> BundleMeasurement:
    load = _load_models if kind == "libraries" else _load_bundle
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (*FRAME_SIZE, 3), np.uint8)
    before = _resident()
    run, tensor_bytes = load(folder)
    grown = _resident() - before
    times = []
    for number in range(WARM_UP + FRAMES):
        start = time.perf_counter()
        run(frame)
        if number >= WARM_UP:
            times.append(time.perf_counter() - start)
    running = _resident() - before
    return BundleMeasurement(tensor_bytes, grown, running, 1000 * statistics.median(times))


def _load_bundle(folder: Path) -> tuple[Callable[[Frame], object], int]:
    bundle = load_bundle(folder)
    return bundle, _read_tensors(bundle)


def _load_models(folder: Path) -> tuple[Callable[[Frame], object], int]:
    models = load_unmerged(folder)

    @torch.inference_mode()
    def run(frame: Frame) -> object:
        return [model(prepare_batch([frame], model.input)) for model in models]

    return run, sum(_read_tensors(model) for model in models)


def _read_tensors(module: nn.Module) -> int:
    """Read all tensors, so that mapped files are in memory; return their bytes."""
    tensors = unique_tensors(module)
    for tensor in tensors:
        tensor.sum()
    return total_bytes(tensors)


def _resident() -> int:
    """Return the bytes of this process in memory, without the allocator's free memory."""
    import gc

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(_measure(sys.argv[1], Path(sys.argv[2])))))
    except MergeSearchError as problem:
        sys.exit(str(problem))
