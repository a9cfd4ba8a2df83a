"""Measure the ONNX graphs beside this file on this device: python bench_onnx.py > device.json

Needs onnxruntime and numpy, and neither torch nor merge-search. Standard output gets one JSON
object, which `merge-search verify OUT --measured device.json` reads; standard error gets the same
in words. The graphs that run together are measured together, each set in a fresh process:

    merged       model.onnx: all models at once
    merged_int8  model_int8.onnx
    split        trunk.onnx, if there is one, then NAME.onnx of every model
    NAME_alone   NAME_alone.onnx: one model by itself

Frames are seeded random numbers: how long a network computes does not depend on its frames.
"""

import argparse
import contextlib
import ctypes
import gc
import hashlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

try:
    import numpy as np
    import onnxruntime
except ImportError as error:
    sys.exit(f"{error}: pip install onnxruntime numpy")

HERE = Path(__file__).resolve().parent
VERSION = 1
WARM_UP = 3
CPU = "CPUExecutionProvider"
MEGABYTE = 1e6
HOW = {"merged": "in model.onnx", "split": "by trunk and tail", "alone": "alone"}


def main():
    options = parse_options()
    bundle = read_bundle()
    folder = HERE / options.folder
    sets = find_sets(folder, list(bundle["inputs"]))
    measured = {}
    for name, graphs in sets.items():
        print(f"{name}: {', '.join(f'{graph}.onnx' for graph in graphs)}", file=sys.stderr)
        measured[name] = measure_in_fresh_process(folder, graphs, options)
    report = build_report(bundle, sets, measured, options)
    print_in_words(report)
    print(json.dumps(report), flush=True)


def parse_options():
    parser = argparse.ArgumentParser(description="Measure the ONNX graphs on this device.")
    parser.add_argument("--frames", type=positive, default=30, metavar="N",
                        help="frames to measure; default 30")  # fmt: skip
    parser.add_argument("--threads", type=positive, default=count_cores(), metavar="N",
                        help="threads of the runtime; by default as many as cores")  # fmt: skip
    parser.add_argument("--provider", default=CPU, metavar="NAME",
                        help=f"execution provider of onnxruntime; default {CPU}")  # fmt: skip
    parser.add_argument("--folder", default="", metavar="T",
                        help="measure the graphs in this folder of the bundle")  # fmt: skip
    options = parser.parse_args()
    available = onnxruntime.get_available_providers()
    if options.provider not in available:
        sys.exit(f"--provider {options.provider}: onnxruntime here has {', '.join(available)}")
    return options


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def read_bundle():
    path = HERE / "bundle.json"
    try:
        content = path.read_bytes()
        bundle = json.loads(content)
        return {
            "plan": bundle["plan"],
            "inputs": bundle["inputs"],
            "rates": bundle.get("rates", {}),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    except OSError as error:
        sys.exit(f"{path}: cannot be read ({error.strerror}): copy it together with the graphs")
    except (ValueError, KeyError, AttributeError, TypeError):
        sys.exit(f"{path}: is not the description of a bundle: export the bundle again")


def find_sets(folder, models):
    """Return the names of the graphs that run together, by the name of the set."""
    if not folder.is_dir():
        sys.exit(f"{folder}: there is no such folder")
    there = {path.stem for path in folder.glob("*.onnx")}
    sets = {
        name: [graph]
        for name, graph in (("merged", "model"), ("merged_int8", "model_int8"))
        if graph in there
    }
    tails = [name for name in models if name in there]
    if tails or "trunk" in there:
        missing = [f"{name}.onnx" for name in models if name not in there]
        if missing:
            sys.exit(f"{folder}: {', '.join(missing)} missing: copy all graphs of the bundle")
        sets["split"] = [*(["trunk"] if "trunk" in there else []), *tails]
    sets |= {f"{name}_alone": [f"{name}_alone"] for name in models if f"{name}_alone" in there}
    if not sets:
        sys.exit(f"{folder}: holds no ONNX graph of the bundle{suggest_folder(folder)}")
    return sets


def suggest_folder(folder):
    folders = sorted({path.parent.name for path in folder.glob("*/*.onnx")})
    if folders:
        return f": name one of its folders with --folder: {', '.join(folders)}"
    return ": export it with --format onnx"


def measure_in_fresh_process(folder, graphs, options):
    request = {
        "graphs": {name: str(folder / f"{name}.onnx") for name in graphs},
        "frames": options.frames,
        "threads": options.threads,
        "provider": options.provider,
    }
    child = subprocess.run(
        [sys.executable, __file__, "--measure", json.dumps(request)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        sys.exit(f"{', '.join(graphs)} cannot be measured: {reason}")
    return json.loads(child.stdout.splitlines()[-1])


def build_report(bundle, sets, measured, options):
    milliseconds = {
        graph: value for numbers in measured.values() for graph, value in numbers["ms"].items()
    }
    reads_trunk = set(measured.get("split", {}).get("reads_trunk", []))
    return {
        "version": VERSION,
        "plan": bundle["plan"],
        "bundle": bundle["sha256"],
        "folder": options.folder,
        "device": name_device(),
        "cores": count_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "provider": options.provider,
        "threads": options.threads,
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "opset": max(numbers["opset"] for numbers in measured.values()),
        "frames": options.frames,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "graphs": milliseconds,
        "sets": {
            name: {
                "milliseconds": round(sum(milliseconds[graph] for graph in sets[name]), 4),
                "loaded_bytes": numbers["loaded"],
                "running_bytes": numbers["running"],
            }
            for name, numbers in measured.items()
        },
        "models": {
            name: model_times(name, milliseconds, name in reads_trunk)
            for name in bundle["inputs"]
            if {name, f"{name}_alone"} & set(milliseconds)
        },
        "rates": bundle["rates"],
        "per_second": times_per_second(bundle, milliseconds, reads_trunk),
    }


def model_times(name, milliseconds, reads_trunk):
    """Return the milliseconds per frame of one model: by trunk and tail, and alone."""
    times = {}
    if name in milliseconds:
        trunk = milliseconds["trunk"] if reads_trunk else 0
        times["split"] = round(trunk + milliseconds[name], 4)
    if f"{name}_alone" in milliseconds:
        times["alone"] = milliseconds[f"{name}_alone"]
    return times


def times_per_second(bundle, milliseconds, reads_trunk):
    """Return the milliseconds for a second of camera time, at the rates of the bundle.

    The trunk runs as often as the fastest model that reads it, and model.onnx as often as the
    fastest model.
    """
    rates = {name: bundle["rates"].get(name) for name in bundle["inputs"]}
    if not all(rates.values()):
        return {}
    times = {}
    if "model" in milliseconds:
        times["merged"] = milliseconds["model"] * max(rates.values())
    if set(rates) <= set(milliseconds):
        trunk_rate = max((rates[name] for name in reads_trunk), default=0)
        times["split"] = milliseconds.get("trunk", 0) * trunk_rate + sum(
            milliseconds[name] * rate for name, rate in rates.items()
        )
    if {f"{name}_alone" for name in rates} <= set(milliseconds):
        times["alone"] = sum(milliseconds[f"{name}_alone"] * r for name, r in rates.items())
    return {how: round(value, 4) for how, value in times.items()}


def print_in_words(report):
    def say(text):
        print(text, file=sys.stderr)

    say(
        f"{report['device']}, cores: {report['cores']}, threads: {report['threads']}; "
        f"{report['runtime']}, {report['provider']}, opset {report['opset']}; "
        f"plan {report['plan']}, medians of {report['frames']} frames"
    )
    say(f"{'':24}{'ms per frame':>14}{'MB, loaded':>14}{'MB, running':>14}")
    for name, numbers in report["sets"].items():
        sizes = [numbers["loaded_bytes"], numbers["running_bytes"]]
        cells = ["-" if size is None else f"{size / MEGABYTE:.1f}" for size in sizes]
        say(f"{name:24}{numbers['milliseconds']:14.2f}{cells[0]:>14}{cells[1]:>14}")
    for name, value in report["graphs"].items():
        say(f"{name}.onnx: {value:.2f} ms")
    for name, times in report["models"].items():
        say(f"{name}: {', '.join(f'{value:.2f} ms {HOW[how]}' for how, value in times.items())}")
    for how, value in report["per_second"].items():
        say(f"{value:.1f} ms per second of camera time {HOW[how]}")


def count_cores():
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def name_device():
    """Return the name of the board, else that of the processor."""
    with contextlib.suppress(OSError):
        return Path("/proc/device-tree/model").read_text().strip("\0 \n")
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown device"


# Code that runs in the fresh process.


def measure(request):
    """Load the graphs, run them one after another on random frames, and print the numbers."""
    before = resident_bytes()
    sessions = {name: open_session(path, request) for name, path in request["graphs"].items()}
    loaded = resident_bytes()
    generator = np.random.default_rng(0)
    times = {name: [] for name in sessions}
    for number in range(WARM_UP + request["frames"]):
        spent = run_frame(sessions, generator)
        if number >= WARM_UP:
            for name, seconds in spent.items():
                times[name].append(seconds)
    running = resident_bytes()
    trunk = sessions.get("trunk")
    given = {value.name for value in trunk.get_outputs()} if trunk else set()
    numbers = {
        "ms": {name: round(1000 * statistics.median(t), 4) for name, t in times.items()},
        "loaded": None if before is None else loaded - before,
        "running": None if before is None else running - before,
        "opset": max(read_opset(path) for path in request["graphs"].values()),
        "reads_trunk": [
            name
            for name, session in sessions.items()
            if given & {value.name for value in session.get_inputs()}
        ],
    }
    print(json.dumps(numbers))


def open_session(path, request):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=[request["provider"]])
    if session.get_providers()[0] != request["provider"]:
        sys.exit(f"{request['provider']} is installed but does not start on this device")
    return session


def run_frame(sessions, generator):
    """Run every graph once; return the seconds of each. Frames of one name are the same."""
    values, seconds = {}, {}
    for name, session in sessions.items():
        for value in session.get_inputs():
            if value.name not in values:
                values[value.name] = random_frame(name, value, generator)
        feed = {value.name: values[value.name] for value in session.get_inputs()}
        start = time.perf_counter()
        answers = session.run(None, feed)
        seconds[name] = time.perf_counter() - start
        if name == "trunk":
            values |= {v.name: a for v, a in zip(session.get_outputs(), answers, strict=True)}
    return seconds


def random_frame(graph, value, generator):
    """Return a normalised frame of the input's shape; a free batch dimension becomes 1."""
    if not value.name.endswith("_input"):
        sys.exit(f"{graph}.onnx reads {value.name}, an output of trunk.onnx, which is missing")
    batch, *sides = value.shape
    if not all(isinstance(side, int) for side in sides):
        sys.exit(f"{graph}.onnx: the shape of its input {value.name} is not fixed: {value.shape}")
    shape = (batch if isinstance(batch, int) else 1, *sides)
    return generator.standard_normal(shape, np.float32)


def resident_bytes():
    """Return the bytes of this process in memory, without the allocator's free memory.

    Where the system does not say, return the highest number so far; None if it keeps none.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc's
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    try:
        import resource
    except ImportError:
        return None
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if platform.system() == "Darwin" else 1024 * highest


def read_opset(path):
    """Return the version of the standard operators, which onnxruntime does not say.

    It is in field 8 of the file's protobuf message: field 1 names the set of operators and is
    empty for the standard ones, field 2 is the version.
    """
    with open(path, "rb") as file:
        for content in read_fields(file, 8):
            if not any(read_fields(io.BytesIO(content), 1)):
                return next(read_fields(io.BytesIO(content), 2))
    return 0


def read_fields(file, wanted):
    """Yield the values of one field of a protobuf message: bytes, or an integer."""
    while (key := read_integer(file)) is not None:
        field, kind = key >> 3, key & 7
        if kind == 0:
            value = read_integer(file)
            if field == wanted:
                yield value
            continue
        size = read_integer(file) if kind == 2 else {1: 8, 5: 4}[kind]
        if field == wanted:
            yield file.read(size)
        else:
            file.seek(size, os.SEEK_CUR)


def read_integer(file):
    """Read an integer of seven bits per byte; return None at the end of the file."""
    number = shift = 0
    while byte := file.read(1):
        number |= (byte[0] & 127) << shift
        shift += 7
        if byte[0] < 128:
            return number
    return None


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(json.loads(sys.argv[2]))
    else:
        main()
