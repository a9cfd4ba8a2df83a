"""Measure the memory of the statistics of large networks, and the growth with their number.

    OMP_NUM_THREADS=1 python bench/scale_statistics.py [NAME ...]

Random weights on frames of noise of 224 x 224 pixels: only shapes matter here. Each deployment
runs in a process of its own. NAME is one of the deployments below; without any, all are measured,
which takes about an hour of one core. Prints a table and, as its last line, the same as one
JSON object, by deployment:

- stages, pairs: of the networks, and the legal ones
- cache_mb: the file of the statistics
- loaded_mb: resident memory with the models loaded and measured
- pass_mb, write_mb, solve_mb, maps_mb: peak resident memory of the pass, of writing the file, of
  R² of all pairs, and of all maps, some at a time
- fidelity_mb: the same of the fidelity of 64 of the shares between the first two models, on 16
  frames; their maps already need more memory than is held at a time
- predicted_mb: the largest peak that `memory_need` computes beforehand
- pass_s, solve_s, maps_s, fidelity_s: processor seconds
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
from rich.console import Console

from search.data.frames import FrameSet, Sampling, split_frames
from search.metrics.fidelity import agreement_sums
from search.pipelines.deployment.memory import memory_need
from search.statistics.observed import Observed
from search.statistics.similarity import Statistics
from search.statistics.storage import StoredMoments, write_moments
from search.statistics.streaming import ALL_BATCHES, PassSettings, accumulate_moments
from search.utils.console import ConsoleReporter
from search.utils.progress import silent
from spaces.deployment import Deployment
from spaces.inputs import Frame
from spaces.model_facts import collect_facts
from spaces.model_spec import Cut, ModelSpec
from spaces.plan import LINEAR, Share
from spaces.shares import find_pairs
from spaces.zoo import load_model

Result = TypeVar("Result")
MB = 1e6
SIZE = (224, 224)
HELD_OUT = 16
SHARES_MEASURED = 64


@dataclass(frozen=True)
class Case:
    """Copies of one network, each with other weights."""

    arch: str
    copies: int
    cut: Cut
    frames: int = 96

    def deployment(self) -> Deployment:
        specs = [
            ModelSpec(f"m{k}", f"timm/{self.arch}", "none", 1000, SIZE, "squash", self.cut)
            for k in range(self.copies)
        ]
        models = {spec.name: load_model(spec) for spec in specs}
        facts = collect_facts(models)
        return Deployment(models, facts, find_pairs(facts))


CASES = {
    "resnet50 x 2": Case("resnet50", 2, "stages"),
    "resnet50 x 2, blocks": Case("resnet50", 2, "blocks"),
    "resnet50 x 2, blocks, 512 frames": Case("resnet50", 2, "blocks", 512),
    "resnet101 x 2, blocks": Case("resnet101", 2, "blocks"),
    "resnet50 x 4": Case("resnet50", 4, "stages"),
    "resnet50 x 8": Case("resnet50", 8, "stages"),
}


class NoiseFrames(FrameSet):
    """Seeded noise."""

    def __init__(self, count: int) -> None:
        self.count = count

    @property
    def hash(self) -> str:
        return f"{self.count:016x}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Frame:
        generator = np.random.default_rng(index)
        return generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8)

    def identities(self) -> list[int]:
        return [*range(self.count)]

    def content_keys(self) -> list[int]:
        return [*range(self.count)]


def measured(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """Return the result of `work`, its peak resident memory in MB, and processor seconds."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = time.process_time()
    result = work()
    seconds = time.process_time() - start
    return result, peak_resident() / MB, seconds


def peak_resident() -> int:
    """Return the largest resident memory since the peak was reset, in bytes."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def measure_case(case: Case) -> dict[str, float]:
    """Measure one deployment; the process should have done nothing else before."""
    deployment = case.deployment()
    settings, frames = PassSettings(), NoiseFrames(case.frames + HELD_OUT)
    used, held_out = split_frames(frames, HELD_OUT)
    legal = deployment.pairs.legal
    loaded = psutil.Process().memory_info().rss
    need = memory_need(deployment, settings, [len(used)])
    models = deployment.fused_models
    moments, pass_mb, pass_s = measured(
        lambda: accumulate_moments(models, deployment.facts, legal, used, settings)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "moments.safetensors"
        _, write_mb, _ = measured(
            lambda: write_moments(path, StoredMoments(moments, "bench", ALL_BATCHES))
        )
        cache = path.stat().st_size
    statistics = Statistics(moments, deployment.facts)
    observed = Observed(deployment, statistics, frames, held_out)
    _, solve_mb, solve_s = measured(lambda: statistics.solve(legal))
    shares = deployment.shares((LINEAR,))
    _, maps_mb, maps_s = measured(lambda: sum(len(some) for some, _ in observed.with_maps(shares)))
    alone = [s for s in shares if {s.donor.model, s.recipient.model} == {"m0", "m1"}]
    _, fidelity_mb, fidelity_s = measured(
        lambda: agreement_sums(observed, evenly_spaced(alone), range(HELD_OUT), silent)
    )
    return {
        "stages": sum(len(facts.stages) for facts in deployment.facts.values()),
        "pairs": len(legal),
        "cache_mb": round(cache / MB),
        "loaded_mb": round(loaded / MB),
        "pass_mb": round(pass_mb),
        "write_mb": round(write_mb),
        "solve_mb": round(solve_mb),
        "maps_mb": round(maps_mb),
        "fidelity_mb": round(fidelity_mb),
        "predicted_mb": round((loaded + need.total) / MB),
        "pass_s": round(pass_s, 1),
        "solve_s": round(solve_s, 1),
        "maps_s": round(maps_s, 1),
        "fidelity_s": round(fidelity_s, 1),
    }


def evenly_spaced(shares: Sequence[Share]) -> Sequence[Share]:
    """Return at most `SHARES_MEASURED` of the shares, evenly spaced."""
    return [shares[index] for index in Sampling(SHARES_MEASURED).indices(len(shares))]


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["--here"]:
        print(json.dumps(measure_case(CASES[arguments[1]])))
        return
    names = arguments or [*CASES]
    report = {name: in_own_process(name) for name in names}
    header = ["networks", *next(iter(report.values()))]
    rows = [[name, *map(str, values.values())] for name, values in report.items()]
    reporter = ConsoleReporter(Console(width=160, highlight=False))
    reporter.table("Memory in MB, and processor seconds", header, rows)
    print(json.dumps(report))


def in_own_process(name: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--here", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    record: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {record}", flush=True)
    return record


if __name__ == "__main__":
    main(sys.argv[1:])
