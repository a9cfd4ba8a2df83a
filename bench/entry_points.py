"""Compare graphs of entry points with the one graph: time at given rates, and resident memory.

    python bench/entry_points.py [OUT] [--rate MODEL=FPS]... [--old-python PYTHON]

OUT is the output folder of a finished run, by default that of the quickstart. Its chosen plan is
exported three times: as one graph for any batch (`--format onnx`), as entry points (`--split`),
and as entry points for onnxruntime (`--split --target onnxruntime`). Times are medians of rounds
in which every graph runs once, so that the load of the machine hits all alike. Memory is the
growth of the resident set of a fresh process that loads graphs and runs them. `--old-python` is
an interpreter with an older onnxruntime, which loads and runs the graphs for onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil

from search.api import export
from spaces.entry_graphs import ALONE, TRUNK, WHOLE

ROUNDS, WARM_UP, THREADS = 40, 5, 2
MEMORY_RUNS = 5
WIDENED = {"session.disable_quant_qdq": "1"}
"""Lets onnxruntime convert stored weights to float32 once, when it loads a graph."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", default="runs/out/quickstart", type=Path)
    parser.add_argument("--rate", action="append", default=[], metavar="MODEL=FPS")
    parser.add_argument("--old-python", default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        export(arguments.out, folder, formats=["onnx"], split=True)
        one_form = Path(temporary) / "runtime"
        export(arguments.out, one_form, split=True, targets=["onnxruntime"])
        models = json.loads((folder / "bundle.json").read_text())["inputs"]
        rates = dict.fromkeys(models, 1.0) | {"classifier": 1.0, "detector": 10.0}
        rates |= {name: float(fps) for name, _, fps in (r.partition("=") for r in arguments.rate)}
        rates = {name: rates[name] for name in models}
        result: dict[str, Any] = {"rates": rates, "threads": THREADS}
        for name, settings in (("weights_as_stored", {}), ("weights_widened_once", WIDENED)):
            result[name] = compare(folder, one_form / "onnxruntime", rates, settings)
        if arguments.old_python:
            result["old_runtime"] = run_in_old(arguments.old_python, one_form / "onnxruntime")
    print(json.dumps(result))


def compare(
    folder: Path, for_runtime: Path, rates: Mapping[str, float], settings: Mapping[str, str]
) -> dict[str, Any]:
    """Return times in milliseconds, and memory in bytes, of both kinds of entry points."""
    sets = {"one graph": {WHOLE: folder / f"{WHOLE}.onnx"}}
    for name, place in (("entry points", folder), ("entry points, onnxruntime", for_runtime)):
        parts = [part for part in (TRUNK, *rates) if (place / f"{part}.onnx").is_file()]
        sets[name] = {part: place / f"{part}.onnx" for part in parts}
    sets["one graph, onnxruntime"] = {WHOLE: for_runtime / f"{WHOLE}.onnx"}
    sets["alone, onnxruntime"] = {f"{m}{ALONE}": for_runtime / f"{m}{ALONE}.onnx" for m in rates}
    times = measure_times(sets, settings)
    fastest = max(rates.values())
    one = ("one graph", "one graph, onnxruntime")
    per_second = {name: fastest * times[name][WHOLE] for name in one}
    for name in ("entry points", "entry points, onnxruntime"):
        own = times[name]
        per_second[name] = fastest * own.get(TRUNK, 0) + sum(rates[m] * own[m] for m in rates)
    memory = {
        name: resident([str(path) for path in files.values()], settings)
        for name, files in sets.items()
        if name != "alone, onnxruntime"
    }
    return {
        "ms": times,
        "ms_per_second": per_second,
        "time_ratio": {n: ms / per_second["one graph"] for n, ms in per_second.items()},
        "resident_bytes": memory,
        "memory_ratio": {n: size / memory["one graph"] for n, size in memory.items()},
    }


def open_session(path: str, settings: Mapping[str, str]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feed_of(session: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        value.name: rng.standard_normal(
            [side if isinstance(side, int) else 1 for side in value.shape], np.float32
        )
        for value in session.get_inputs()
    }


def measure_times(
    sets: Mapping[str, Mapping[str, Path]], settings: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Return the median milliseconds of each graph."""
    sessions = {
        (kind, part): open_session(str(path), settings)
        for kind, files in sets.items()
        for part, path in files.items()
    }
    feeds = {key: feed_of(session) for key, session in sessions.items()}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in sessions}
    for _ in range(WARM_UP + ROUNDS):
        for key, session in sessions.items():
            start = time.perf_counter()
            session.run(None, feeds[key])
            seconds[key].append(time.perf_counter() - start)
    medians = {key: 1000 * statistics.median(taken[WARM_UP:]) for key, taken in seconds.items()}
    return {kind: {part: medians[kind, part] for part in files} for kind, files in sets.items()}


def resident(paths: Sequence[str], settings: Mapping[str, str]) -> int:
    """Return the growth of the resident set by loading graphs and running them, as a median."""
    command = [sys.executable, __file__, "--resident", json.dumps([paths, dict(settings)])]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
    return int(statistics.median(int(run.stdout.split()[-1]) for run in runs))


def measure_resident(paths: Sequence[str], settings: Mapping[str, str]) -> int:
    process = psutil.Process()
    before = process.memory_info().rss
    sessions = [open_session(path, settings) for path in paths]
    for session in sessions:
        for _ in range(MEMORY_RUNS):
            session.run(None, feed_of(session))
    return int(process.memory_info().rss - before)


OLD_RUNTIME = """
import json, sys
import numpy, onnxruntime
differences = {}
for path in sys.argv[1:]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    known = numpy.load(path + ".npz")
    outputs = session.run(None, {v.name: known["in " + v.name] for v in session.get_inputs()})
    expected = [known["out " + v.name] for v in session.get_outputs()]
    differences[path.rsplit("/", 1)[-1]] = max(
        float(abs(a - b).max() / abs(b).max()) for a, b in zip(outputs, expected))
print(json.dumps({"onnxruntime": onnxruntime.__version__, "differences": differences}))
"""


def run_in_old(python: str, folder: Path) -> Any:
    """Run every graph of a folder in another interpreter; compare the outputs with those here."""
    paths = sorted(map(str, folder.glob("*.onnx")))
    for path in paths:
        session = open_session(path, {})
        feed = feed_of(session)
        names = [value.name for value in session.get_outputs()]
        outputs = dict(zip(names, session.run(None, feed), strict=True))
        given = {f"in {name}": values for name, values in feed.items()}
        np.savez(f"{path}.npz", **given, **{f"out {n}": values for n, values in outputs.items()})
    command = [python, "-c", OLD_RUNTIME, *paths]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(run.stdout) if run.returncode == 0 else run.stderr


if __name__ == "__main__":
    if sys.argv[1:2] == ["--resident"]:
        print(measure_resident(*json.loads(sys.argv[2])))
    else:
        main()
