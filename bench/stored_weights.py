"""Compare the quickstart's merged model in float32, float16 and int8: time and memory.

    python bench/stored_weights.py

The plan takes all of the classifier's trunk that the detector's can replace. Each precision is
written as a bundle. A fresh process loads it and reports by how much its resident set has grown.
Then all bundles run frames in one process with one thread, in turns; ratios are of the fastest
frame of each. Weights are converted to float32 whenever their layer runs. The last line is one
JSON object, by precision:

- tensor_bytes: bytes of all tensors
- resident_mb: growth of the resident set by loading the bundle, in MB
- ms: fastest frame, from prepared input to answers; ratio: against float32
- widening_ms: the time that reading every stored weight once takes
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from samplers import ROOT
from torch.nn.utils import parametrize

from search.config.loading import load_config
from search.pipelines.deployment.load import survey_models
from search.utils.console import ConsoleReporter
from search.utils.format import MEGABYTE
from spaces.adapters import LinearMap
from spaces.bundle import Bundle, BundleContents, load_bundle, write_bundle
from spaces.deployment import Deployment
from spaces.merged import MergedModel
from spaces.plan import HEAD, Precision, Ref, Share, SharePlan
from spaces.stages import total_bytes, unique_tensors

SHARE = Share.between("detector:blocks.6", "classifier:blocks.6")
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
ROUNDS, WARM_UP = 30, 3


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure_loading(Path(sys.argv[1]))))
        return
    torch.set_num_threads(1)
    reporter = ConsoleReporter()
    deployment = survey_models(load_config(ROOT / "runs" / "quickstart.yaml"), reporter)
    with tempfile.TemporaryDirectory() as folder:
        paths = {p: write_in(p, deployment, Path(folder) / p) for p in PRECISIONS}
        report = {p: measure_in_process(path) for p, path in paths.items()}
        bundles = {p: load_bundle(path) for p, path in paths.items()}
    times = measure_frames(bundles)
    for precision, bundle in bundles.items():
        report[precision] |= {
            "tensor_bytes": total_bytes(unique_tensors(bundle)),
            "ms": round(times[precision], 2),
            "ratio": round(times[precision] / times["float32"], 3),
            "widening_ms": round(measure_widening(bundle), 2),
        }
    columns = ["tensor_bytes", "resident_mb", "ms", "ratio", "widening_ms"]
    rows = [[p, *(str(numbers[c]) for c in columns)] for p, numbers in report.items()]
    reporter.table("Weights stored in fewer bytes", ["precision", *columns], rows)
    print(json.dumps(report))


def write_in(precision: Precision, deployment: Deployment, folder: Path) -> Path:
    """Write the bundle with all weights in a precision, and return its folder.

    Neither time nor bytes depend on the values of the map, so they are random.
    """
    facts = deployment.facts
    donor, recipient = (facts[r.model].stage(r.stage) for r in (SHARE.donor, SHARE.recipient))
    weight = torch.randn(recipient.channels, donor.channels)
    maps = {SHARE: LinearMap(weight / donor.channels**0.5, torch.zeros(recipient.channels))}
    owners = [Ref(n, s) for n, f in facts.items() for s in (*f.layout.stages, HEAD)]
    plan = SharePlan((SHARE,))
    if precision != "float32":
        plan = plan.with_precisions(dict.fromkeys(owners, precision))
    merged = MergedModel(deployment.models, facts, plan, maps)
    specs = load_config(ROOT / "runs" / "quickstart.yaml").model_specs()
    inputs = {name: model.input for name, model in deployment.models.items()}
    folder.mkdir()
    write_bundle(folder, BundleContents(specs, inputs, facts, merged.plan, "float32"), merged)
    return folder


def measure_in_process(folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, str(folder)]
    numbers: dict[str, Any] = json.loads(subprocess.check_output(command, text=True))
    return numbers


def measure_loading(folder: Path) -> dict[str, float]:
    """Return the growth of the resident set, in MB, by the second load: the first loads code."""
    first = load_bundle(folder)
    gc.collect()
    before = psutil.Process().memory_info().rss
    second = load_bundle(folder)
    gc.collect()
    grown = psutil.Process().memory_info().rss - before
    assert first is not second
    return {"resident_mb": round(grown / MEGABYTE, 2)}


@torch.inference_mode()
def measure_frames(bundles: Mapping[Precision, Bundle]) -> dict[Precision, float]:
    """Return the fastest frame of each bundle in milliseconds; the bundles take turns."""
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    inputs = {p: bundle.prepare_frames([frame]) for p, bundle in bundles.items()}
    best = dict.fromkeys(bundles, float("inf"))
    for turn in range(WARM_UP + ROUNDS):
        for precision, bundle in bundles.items():
            spent = milliseconds(partial(bundle.merged, inputs[precision]))
            if turn >= WARM_UP:
                best[precision] = min(best[precision], spent)
    return best


@torch.inference_mode()
def measure_widening(bundle: Bundle) -> float:
    """Return the milliseconds that reading every stored weight once takes."""
    stored = [
        (module, name)
        for module in bundle.modules()
        if parametrize.is_parametrized(module)
        for name in module.parametrizations  # type: ignore[union-attr]
    ]
    return min(
        milliseconds(lambda: [getattr(module, name) for module, name in stored])
        for _ in range(ROUNDS)
    )


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
