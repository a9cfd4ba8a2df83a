"""`merge-search bench-bundle`: what a bundle takes to hold and to run, beside the unmerged models.

The unmerged models are measured twice: loaded as a bundle that shares nothing, which says what
merging alone saves, and loaded by their libraries, as a user would without merge-search. Each is
loaded in a fresh process of its own, in rounds that take turns. What the process holds more once
it is loaded is the growth of its resident set, after the allocator has given back what it can.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from search.utils.format import MEGABYTE
from search.utils.reporter import Reporter
from spaces.bundle import (
    BUNDLE,
    WEIGHTS,
    BundleContents,
    load_bundle,
    read_bundle_contents,
    write_bundle,
)
from spaces.cost import CostModel
from spaces.errors import MergeSearchError
from spaces.inputs import Frame, prepare_batch
from spaces.merged import MergedModel
from spaces.plan import SharePlan
from spaces.stages import total_bytes, unique_tensors
from spaces.zoo import load_model

ROUNDS, FRAMES = 3, 15
WARM_UP = 2
FRAME_SIZE = (480, 640)
KINDS = {
    "merged": "the bundle",
    "unmerged": "unmerged, as a bundle",
    "libraries": "unmerged, by their libraries",
}


@dataclass(frozen=True)
class Footprint:
    """What one of the two takes."""

    tensor_bytes: int
    grown_bytes: int
    """Of the resident set, by loading."""
    running_bytes: int
    """The same after frames have run through."""
    milliseconds: float
    """Per frame, from pixels to answers."""


class CannotMeasure(MergeSearchError):
    """A process that measures has failed."""


def bench_bundle(folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Measure the bundle and, if their weights are at hand, the models it was made of.

    Returns what is told, as JSON can hold it.

    Raises:
        BadBundle: the folder holds none.
        CannotMeasure: the bundle cannot be loaded in a fresh process.
    """
    contents = read_bundle_contents(folder)
    with tempfile.TemporaryDirectory() as unmerged:
        folders = {"merged": folder}
        with reporter.working("unmerged models"):
            missing = _write_unmerged(contents, Path(unmerged))
        if not missing:
            folders |= {"unmerged": Path(unmerged), "libraries": folder}
        found = _in_turns(folders, reporter)
    answer = {
        "plan": contents.plan.hash,
        "dtype": contents.dtype,
        "predicted_bytes": CostModel(contents.facts).bytes(contents.plan),
        "in_file_bytes": _in_file(folder),
        **{kind: asdict(one) for kind, one in found.items()},
    }
    _tell(found, answer, reporter)
    if missing:
        reporter.warn(f"The unmerged models were not measured: {missing}")
    return answer


def _write_unmerged(contents: BundleContents, folder: Path) -> str:
    """The models as they are, float32, as a bundle; or why they cannot be had."""
    try:
        models = {name: load_model(spec) for name, spec in contents.specs.items()}
    except MergeSearchError as error:
        return str(error)
    nothing = SharePlan()
    merged = MergedModel(models, contents.facts, nothing, {})
    write_bundle(folder, replace(contents, plan=nothing, dtype="float32"), merged)
    return ""


def _in_turns(folders: Mapping[str, Path], reporter: Reporter) -> dict[str, Footprint]:
    measured: dict[str, list[Footprint]] = {kind: [] for kind in folders}
    reporter.step(f"Loading and running each {ROUNDS} times in fresh processes")
    with reporter.progress("processes", ROUNDS * len(folders)) as progress:
        for _ in range(ROUNDS):
            for kind, folder in folders.items():
                measured[kind].append(_in_a_fresh_process(kind, folder))
                progress(1)
    return {kind: _medians(runs) for kind, runs in measured.items()}


def _in_file(folder: Path) -> int:
    """Bytes of the tensors in the file, by its own table."""
    with (folder / WEIGHTS).open("rb") as file:
        table = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    spans = [entry["data_offsets"] for key, entry in table.items() if key != "__metadata__"]
    return sum(end - start for start, end in spans)


def _in_a_fresh_process(kind: str, folder: Path) -> Footprint:
    command = [sys.executable, "-W", "ignore", "-m", "search.deploy.benchmark", kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CannotMeasure(f"{folder / BUNDLE}: {kind} cannot be measured: {said}")
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


def _medians(runs: list[Footprint]) -> Footprint:
    values = [asdict(run) for run in runs]
    middle = {key: statistics.median(value[key] for value in values) for key in values[0]}
    return Footprint(**{**middle, "tensor_bytes": runs[0].tensor_bytes})


def _tell(found: Mapping[str, Footprint], answer: Mapping[str, Any], reporter: Reporter) -> None:
    rows = [
        [KINDS[kind], *(f"{held / MEGABYTE:.2f}" for held in
                 (one.tensor_bytes, one.grown_bytes, one.running_bytes)),
         f"{one.milliseconds:.1f}"]
        for kind, one in found.items()
    ]  # fmt: skip
    header = ["", "tensors MB", "resident, loaded MB", "resident, running MB", "ms per frame"]
    reporter.table("In a fresh process, medians", header, rows)
    same = answer["predicted_bytes"] == answer["in_file_bytes"] == found["merged"].tensor_bytes
    reporter.say(
        f"{answer['predicted_bytes']:,} bytes predicted, {answer['in_file_bytes']:,} in the file, "
        f"{found['merged'].tensor_bytes:,} resident: {'equal' if same else 'NOT EQUAL'}"
    )


# What runs in the fresh process.


def _measure(kind: str, folder: Path) -> Footprint:
    load = _loaded_models if kind == "libraries" else _loaded_bundle
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (*FRAME_SIZE, 3), np.uint8)
    before = _resident()
    run, held = load(folder)
    grown = _resident() - before
    times = []
    for number in range(WARM_UP + FRAMES):
        start = time.perf_counter()
        run(frame)
        if number >= WARM_UP:
            times.append(time.perf_counter() - start)
    running = _resident() - before
    return Footprint(held, grown, running, 1000 * statistics.median(times))


def _loaded_bundle(folder: Path) -> tuple[Callable[[Frame], object], int]:
    bundle = load_bundle(folder)
    return bundle, _touched(bundle)


def _loaded_models(folder: Path) -> tuple[Callable[[Frame], object], int]:
    models = [load_model(spec) for spec in read_bundle_contents(folder).specs.values()]

    @torch.inference_mode()
    def run(frame: Frame) -> object:
        return [model(prepare_batch([frame], model.input)) for model in models]

    return run, sum(_touched(model) for model in models)


def _touched(module: nn.Module) -> int:
    """Bytes of all tensors; what lay in a mapped file is in memory now."""
    tensors = unique_tensors(module)
    for tensor in tensors:
        tensor.sum()
    return total_bytes(tensors)


def _resident() -> int:
    """Bytes of this process that are in memory, without what its allocator only keeps ready."""
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
