"""Compare verifying ten candidates together with one by one: time, numbers, memory.

    MERGE_SEARCH_DATA=/path/to/data python bench/verify.py

There are two spaces: lite0 and lite1 with their ImageNet weights, on photos of imagenet1k_1000
that the statistics have not used; and the quickstart's classifier and detector on its rendered
scenes. The candidates are chosen as `run` does it: of twenty plans spread over the exact front,
those with the best fidelity; the unmerged models are verified with them. Both ways run in one
process and take turns; ratios are of the medians of the rounds. The last line is one JSON object:

- speedup_10: time for ten candidates and the unmerged models one by one, over the time for all of
  them together, for lite0 and lite1
- max_abs_difference: the largest difference of any score between the two ways, in both spaces
- max_abs_logit_difference: the same for logits; merged_logit_difference: the difference from the
  logits of each candidate's merged module, relative to the largest absolute logit
- outputs: distinct outputs, and all outputs; macs: multiply-accumulates one by one over together
- quickstart: the same numbers for the quickstart
- peak_mb: peak resident memory of a process that verifies the ten together, by batch size, for the
  frames and for twice as many; models: before the first frame
"""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from samplers import DATA, LITE, ROOT
from torch import Tensor

from search.config.loading import load_config
from search.config.run import RunConfig
from search.data.frames import Sampling, Subset
from search.data.ground_truth import ClassTruth, Truth
from search.data.label_table import csv_truth
from search.evaluation.evaluate import (
    UNMERGED_PLAN,
    EvaluationSetup,
    compute_accuracy,
    compute_fidelity,
)
from search.evaluation.per_frame import Scores, mean_of_available
from search.pipelines.deployment.load import load_deployment
from search.pipelines.open_data import open_frame_set
from search.pipelines.prepare import (
    build_problem,
    compute_similarities,
    observe,
    open_truth,
)
from search.study.exact.branch_and_bound import exact_front
from search.study.pareto import evenly_spaced
from search.utils.console import ConsoleReporter
from search.utils.progress import silent
from search.utils.reporter import Reporter
from spaces.adapters import LinearMap
from spaces.deployment import Deployment
from spaces.merged import LinearMaps, MergedModel
from spaces.node import upstream_nodes
from spaces.plan import SharePlan
from spaces.plan_set import PlanSet

SHORTLIST, CANDIDATES, FRAMES, ROUNDS = 20, 10, 200, 3
BATCH, BATCHES = 16, (8, 32)
"""Batch size for timing, and batch sizes for measuring memory."""
LOGIT_FRAMES = 32
"""Frames for comparing logits."""
QUICKSTART = ROOT / "runs" / "quickstart.yaml"


@dataclass(frozen=True)
class Case:
    """The unmerged models and the candidates of one space, with the setup and the ground truth."""

    deployment: Deployment
    setup: EvaluationSetup
    plans: Sequence[SharePlan]
    truth: Mapping[str, Truth]

    def together(self) -> list[dict[str, Scores]]:
        return compute_accuracy(self.setup, self.plans, self.truth, silent)

    def one_by_one(self) -> list[dict[str, Scores]]:
        return [compute_accuracy(self.setup, [p], self.truth, silent)[0] for p in self.plans]

    def plan_set(self, plans: Sequence[SharePlan]) -> PlanSet:
        return PlanSet(self.setup.models, self.setup.facts, plans, self.setup.maps)

    def macs(self, plans: Sequence[SharePlan]) -> int:
        """Return the multiply-accumulates of a frame for all outputs, without the linear maps."""
        distinct, facts = self.plan_set(plans).distinct, self.setup.facts
        nodes = upstream_nodes(tuple(node for output in distinct for node in output.taps))
        stages = [facts[n.ref.model].stage(n.ref.stage).macs for n in nodes if not n.share]
        return sum(stages) + sum(facts[output.model].head_macs for output in distinct)


def main() -> None:
    reporter = ConsoleReporter()
    case = lite_case(reporter)
    peaks = measure_memory(case, reporter)
    report: dict[str, Any] = {
        **measure_case(case, reporter, "lite0 and lite1"),
        **logit_differences(case),
        "quickstart": measure_case(quickstart_case(reporter), reporter, "the quickstart"),
        "peak_mb": peaks,
        "frames": FRAMES,
        "batch": BATCH,
        "threads": torch.get_num_threads(),
    }
    report["max_abs_difference"] = max(
        report["max_abs_difference"], report["quickstart"]["max_abs_difference"]
    )
    rows = [[name, str(value)] for name, value in report.items()]
    reporter.table("Ten candidates together, against one by one", ["what", "value"], rows)
    print(json.dumps(report))


# The spaces.


def lite_case(reporter: Reporter) -> Case:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        frames = {"folder": str(DATA.resolve()), "stride": 2}
        yaml.safe_dump({**yaml.safe_load(LITE), "frames": frames}, file)
        file.flush()
        config = _load_config(Path(file.name))
    truth = photos(FRAMES)
    return _build_case(config, dict.fromkeys(config.models, truth), reporter)


def photos(count: int) -> ClassTruth:
    """Return photos that the statistics have not used, repeated if there are too few."""
    truth = csv_truth(DATA / "labels.csv", Sampling(stride=2, offset=1))
    indices = tuple(k % len(truth.frames) for k in range(count))
    return ClassTruth(Subset(truth.frames, indices), tuple(truth.labels[k] for k in indices))


def quickstart_case(reporter: Reporter) -> Case:
    return _build_case(
        _load_config(QUICKSTART, "budget=65%", "search.precision=[]"), None, reporter
    )


def _load_config(path: Path, *changes: str) -> RunConfig:
    return load_config(path, [f"cache={ROOT / 'runs' / 'cache'}", *changes])


def _build_case(config: RunConfig, truth: Mapping[str, Truth] | None, reporter: Reporter) -> Case:
    """Build the problem and choose the candidates as `merge-search run` does."""
    deployment = load_deployment(config, reporter)
    frames = open_frame_set(config)
    observed = observe(config, deployment, frames, reporter)
    similarity = compute_similarities(config, observed, config.search.adapter_specs, reporter)
    front = exact_front(build_problem(config, deployment, similarity, {})).front
    shortlist = [front[k].plan for k in evenly_spaced(len(front), SHORTLIST)]
    setup = EvaluationSetup(
        deployment.fused_models, deployment.facts, observed.maps_for(shortlist), BATCH
    )
    means = [
        mean_of_available(by_model) or 0.0
        for by_model in compute_fidelity(setup, shortlist, observed.held_out, silent)
    ]
    best = sorted(range(len(shortlist)), key=lambda k: -means[k])[:CANDIDATES]
    if truth is None:
        truth = open_truth(config, deployment, frames, reporter)
    plans = [UNMERGED_PLAN, *(shortlist[k] for k in sorted(best))]
    return Case(deployment, setup, plans, truth)


# Time and numbers.


def measure_case(case: Case, reporter: Reporter, name: str) -> dict[str, Any]:
    reporter.step(f"{len(case.plans) - 1} candidates of {name}, {ROUNDS} rounds")
    together, one_by_one = case.together(), case.one_by_one()
    seconds: dict[str, list[float]] = {"together": [], "one by one": []}
    for _ in range(ROUNDS):
        seconds["together"].append(_seconds(case.together))
        seconds["one by one"].append(_seconds(case.one_by_one))
    medians = {way: median(values) for way, values in seconds.items()}
    return {
        "speedup_10": round(medians["one by one"] / medians["together"], 2),
        "max_abs_difference": _max_score_difference(together, one_by_one),
        "candidates": len(case.plans) - 1,
        "outputs": f"{len(case.plan_set(case.plans).distinct)} of "
        f"{len(case.plans) * len(case.setup.models)}",
        "macs": round(sum(case.macs([p]) for p in case.plans) / case.macs(case.plans), 2),
        "seconds": {way: round(value, 2) for way, value in medians.items()},
    }


def _max_score_difference(
    plans: Sequence[Mapping[str, Scores]], others: Sequence[Mapping[str, Scores]]
) -> float:
    return max(
        abs(value - other[name][score])
        for plan, other in zip(plans, others, strict=True)
        for name, scores in plan.items()
        for score, value in scores.items()
    )


@torch.no_grad()
def logit_differences(case: Case) -> dict[str, float]:
    """Return the largest differences between the classifiers' logits on one batch."""
    frames = next(iter(case.truth.values())).frames
    pictures = [frames[k] for k in range(LOGIT_FRAMES)]
    inputs = {name: m.prepare_frames(pictures) for name, m in case.setup.models.items()}
    together = case.plan_set(case.plans)
    answers = dict(together.answers(inputs))
    largest, relative = 0.0, 0.0
    for plan, outputs in zip(case.plans, together.outputs, strict=True):
        alone = case.plan_set([plan])
        module = MergedModel(case.deployment.models, case.setup.facts, plan, case.setup.maps)
        merged = module(inputs)
        for output, answer in alone.answers(inputs):
            largest = max(largest, _max_difference(answer, answers[outputs[output[0]]]))
            relative = max(
                relative, _max_difference(answer, merged[output[0]]) / float(answer.abs().max())
            )
    return {"max_abs_logit_difference": largest, "merged_logit_difference": relative}


def _max_difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# Memory.


def measure_memory(case: Case, reporter: Reporter) -> dict[str, dict[str, float]]:
    """Return the peaks of processes that hold only the models, the plans and their maps."""
    reporter.step(f"Memory in batches of {' and '.join(map(str, BATCHES))}")
    with tempfile.TemporaryDirectory() as folder:
        _write(case.plans, case.setup.maps, Path(folder))
        peaks = {}
        for batch in BATCHES:
            few, many = (_measure_peak(folder, batch, count) for count in (FRAMES, 2 * FRAMES))
            peaks[str(batch)] = {"models": few[0], str(FRAMES): few[1], str(2 * FRAMES): many[1]}
        return peaks


def _measure_peak(folder: str, batch: int, frames: int) -> tuple[float, float]:
    command = [sys.executable, __file__, "--peak", folder, str(batch), str(frames)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(output[-2]), float(output[-1])


def print_peak(folder: Path, batch: int, frames: int) -> None:
    """Verify the candidates once; print the peak resident memory in MB before and after."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({**yaml.safe_load(LITE), "frames": {"folder": str(DATA)}}, file)
        file.flush()
        deployment = load_deployment(_load_config(Path(file.name)), ConsoleReporter())
    plans, maps = _read(folder)
    setup = EvaluationSetup(deployment.fused_models, deployment.facts, maps, batch)
    truth = photos(frames)
    before = _resident()
    compute_accuracy(setup, plans, dict.fromkeys(setup.models, truth), silent)
    print(before, _resident())


def _resident() -> float:
    """Return the peak of this process in MB; that of getrusage starts at the parent's peak."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(r"(?m)^VmHWM:\s*(\d+) kB$", status)
    return round(int(kilobytes) / 1024, 1)


def _write(plans: Sequence[SharePlan], maps: LinearMaps, folder: Path) -> None:
    (folder / "plans.json").write_text(json.dumps([plan.to_dict() for plan in plans]))
    tensors: dict[str, Tensor] = {}
    for share, linear in maps.items():
        tensors |= {f"{share} weight": linear.weight, f"{share} bias": linear.bias}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "maps")


def _read(folder: Path) -> tuple[list[SharePlan], LinearMaps]:
    plans = [SharePlan.from_dict(p) for p in json.loads((folder / "plans.json").read_text())]
    tensors = load_file(folder / "maps")
    shares = {share for plan in plans for share in plan.shares}
    return plans, {s: LinearMap(tensors[f"{s} weight"], tensors[f"{s} bias"]) for s in shares}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print_peak(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
