"""Measure the gain of repairs of the linear maps: the same single shares with and without each.

    MERGE_SEARCH_DATA=/path/to/data python bench/adapters.py

The models are lite0 and lite1; `--shares` of the shares with a fidelity between `WORST` and `BEST`
are measured. Variants: the plain ridge map; the ridge map stretched to the recipient's
variance; either one with the BatchNorms after it re-estimated on unlabelled photos; the stretched
map at lower ranks; and a ridge map from two donor stages. None uses a label. The last line is one
JSON object with the mean gain in top-1 over the plain ridge map, and the number of shares for
which a variant is worse, over all shares and by the top-1 of the plain map.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from metrics import DATA, SEED, build_config, split_photos
from torch import Tensor, nn

from search.data.frames import FrameSet, Subset, batches, split_frames
from search.data.ground_truth import ClassTruth
from search.data.label_table import csv_truth
from search.metrics.registry import METRICS
from search.pipelines.deployment.load import load_deployment
from search.pipelines.open_data import sampling_of
from search.pipelines.prepare import observe
from search.statistics.observed import Observed
from search.statistics.similarity import RIDGE_STRENGTHS
from search.utils.console import ConsoleReporter
from search.utils.files import write_text
from search.utils.reporter import Reporter
from spaces.adapters import LinearMap, resize
from spaces.deployment import Deployment
from spaces.liveness import previous_stage
from spaces.model_facts import layouts_by_model
from spaces.plan import LINEAR, AdapterSpec, Ref, Share
from spaces.shares import enumerate_shares
from spaces.stages import Grid

MODELS = ("lite0", "lite1")
OUT = Path(__file__).parent.parent / "runs" / "out" / "adapters.csv"
WORST, BEST = 0.25, 0.97
BATCH = 25
POSITIONS = 24
RE_ESTIMATE = 160
"""Number of unlabelled photos for re-estimating BatchNorm statistics."""
PLAIN = "ridge"
RANKS = (8, 32, 128)
BANDS = {"all": (0.0, 1.0), "below 50%": (0.0, 0.5), "to 75%": (0.5, 0.75), "above": (0.75, 1.0)}
"""Ranges of the plain map's top-1."""
Representations = Mapping[Ref, Tensor]


@dataclass
class Variant:
    """A variant of one share: a map from one or two donor stages, and the recipient's tail."""

    share: Share
    donors: tuple[Ref, ...]
    adapter: nn.Module
    tail: nn.Sequential
    re_estimated: bool = False

    def answer(self, representations: Representations, grid: Grid) -> Tensor:
        stacked = torch.cat([resize(representations[ref], grid) for ref in self.donors], dim=1)
        logits: Tensor = self.tail(self.adapter(stacked))
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--shares", type=int, default=36)
    parser.add_argument(
        "--photos", type=int, default=200, help="number of labelled photos for top-1"
    )
    arguments = parser.parse_args()
    reporter = ConsoleReporter()
    config = build_config(MODELS)
    deployment = load_deployment(config, reporter)
    ground_truth = csv_truth(DATA / "labels.csv", sampling_of(config.frames))
    unlabelled, parts = split_photos(ground_truth, MODELS)
    truth = parts["reporting"][MODELS[0]]
    assert isinstance(truth, ClassTruth)
    observed = observe(config, deployment, unlabelled, reporter)
    shares = _select_shares(observed, arguments.shares)
    reporter.step(f"Variants of {len(shares)} shares")
    variants = _variants(observed, shares)
    _re_estimate(deployment, variants, observed.frames)
    reporter.step(f"Top-1 of each on {arguments.photos} photos")
    top1 = _accuracy(deployment, variants, truth, arguments.photos)
    _print_report(top1, shares, reporter)


def _select_shares(observed: Observed, count: int) -> list[Share]:
    deployment = observed.deployment
    shares = enumerate_shares(deployment.pairs.legal, deployment.facts, (LINEAR,))
    fidelity = METRICS["fidelity"].similarities(observed, shares)
    candidates = [share for share in shares if WORST < fidelity[share] < BEST]
    random.Random(SEED).shuffle(candidates)
    return sorted(candidates[:count])


def _variants(observed: Observed, shares: Sequence[Share]) -> dict[tuple[Share, str], Variant]:
    deployment, statistics = observed.deployment, observed.statistics
    samples = _samples(observed, shares)
    variants = {}
    for share in shares:
        grid = _grid(deployment, share.recipient)
        plain = _ridge([samples[grid][share.donor]], samples[grid][share.recipient])
        stretched = statistics.linear_map(share)
        for name, linear in ((PLAIN, plain), ("stretched", stretched)):
            for suffix, re_estimated in (("", False), (" + batchnorm", True)):
                variants[share, name + suffix] = Variant(
                    share, (share.donor,), _Map(linear), _tail(deployment, share), re_estimated
                )
        for rank in RANKS:
            if rank < min(stretched.weight.shape):
                low_rank = statistics.linear_map(
                    replace(share, adapter=AdapterSpec("linear", rank))
                )
                up, down = stretched.low_rank(rank)
                truncated = LinearMap(up @ down, stretched.bias)
                for name, linear in (
                    (f"rank {rank}", low_rank),
                    (f"rank {rank} by SVD", truncated),
                ):
                    variants[share, name] = Variant(
                        share, (share.donor,), _Map(linear), _tail(deployment, share)
                    )
        before = previous_stage(share.donor, layouts_by_model(deployment.facts))
        if before is not None:
            both = [samples[grid][share.donor], samples[grid][before]]
            variants[share, "two donors"] = Variant(
                share, (share.donor, before),
                _Map(_ridge(both, samples[grid][share.recipient])), _tail(deployment, share),
            )  # fmt: skip
    return variants


def _samples(observed: Observed, shares: Sequence[Share]) -> dict[Grid, dict[Ref, Tensor]]:
    """Return (photos, positions, channels) of every needed representation, by recipient grid."""
    deployment = observed.deployment
    needed: dict[Grid, set[Ref]] = defaultdict(set)
    for share in shares:
        before = previous_stage(share.donor, layouts_by_model(deployment.facts))
        refs = {share.recipient, share.donor} | ({before} if before else set())
        needed[_grid(deployment, share.recipient)] |= refs
    statistics_frames, _ = split_frames(observed.frames, len(observed.held_out))
    samples: dict[Grid, dict[Ref, list[Tensor]]] = {
        grid: {ref: [] for ref in refs} for grid, refs in needed.items()
    }
    for _, representations in _representations(deployment, statistics_frames):
        for grid, refs in needed.items():
            places = torch.randperm(grid[0] * grid[1])[:POSITIONS] if grid else None
            for ref in refs:
                value = resize(representations[ref], grid)
                rows = value[:, :, None] if places is None else value.flatten(2)[:, :, places]
                samples[grid][ref].append(rows.transpose(1, 2))
    return {
        grid: {ref: torch.cat(parts) for ref, parts in refs.items()}
        for grid, refs in samples.items()
    }


def _ridge(donors: Sequence[Tensor], recipient: Tensor) -> LinearMap:
    """Fit the ridge map on all photos, with the strength that is best on every fourth photo."""
    donor = torch.cat(list(donors), dim=2)
    held_out = torch.arange(len(donor)) % 4 == 3
    fit_x, fit_y = _rows(donor[~held_out]), _rows(recipient[~held_out])
    held_out_x, held_out_y = _rows(donor[held_out]), _rows(recipient[held_out])
    errors = {}
    for strength in RIDGE_STRENGTHS:
        weight, bias = _solve_ridge(fit_x, fit_y, strength)
        errors[strength] = float((held_out_y - held_out_x @ weight - bias).square().sum())
    weight, bias = _solve_ridge(
        _rows(donor), _rows(recipient), min(errors, key=lambda s: errors[s])
    )
    return LinearMap(weight.T.float(), bias.float())


def _solve_ridge(x: Tensor, y: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    mean_x, mean_y = x.mean(0), y.mean(0)
    covariance = (x - mean_x).T @ (x - mean_x) / len(x)
    cross_covariance = (x - mean_x).T @ (y - mean_y) / len(x)
    penalty = strength * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=x.dtype)
    weight = torch.linalg.solve(covariance + penalty, cross_covariance)
    return weight, mean_y - mean_x @ weight


def _rows(samples: Tensor) -> Tensor:
    return samples.flatten(0, 1).double()


@torch.no_grad()
def _re_estimate(
    deployment: Deployment, variants: Mapping[tuple[Share, str], Variant], frames: FrameSet
) -> None:
    """Re-estimate the BatchNorm statistics of the tails as cumulative means over batches."""
    re_estimated = [variant for variant in variants.values() if variant.re_estimated]
    norms = [
        part for v in re_estimated for part in v.tail.modules() if isinstance(part, nn.BatchNorm2d)
    ]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    sample = Subset(frames, tuple(range(0, len(frames), len(frames) // RE_ESTIMATE))[:RE_ESTIMATE])
    for _, representations in _representations(deployment, sample):
        for variant in re_estimated:
            variant.answer(representations, _grid(deployment, variant.share.recipient))
    for norm in norms:
        norm.eval()


@torch.no_grad()
def _accuracy(
    deployment: Deployment,
    variants: Mapping[tuple[Share, str], Variant],
    truth: ClassTruth,
    photos: int,
) -> dict[tuple[Share, str], float]:
    sample = Subset(truth.frames, tuple(range(0, len(truth.frames), 2))[:photos])
    labels = torch.tensor([only for i in sample.indices for only in truth.labels[i]])
    hits: dict[tuple[Share, str], int] = defaultdict(int)
    for indices, representations in _representations(deployment, sample):
        for key, variant in variants.items():
            logits = variant.answer(representations, _grid(deployment, variant.share.recipient))
            hits[key] += int((logits.argmax(1) == labels[indices.start : indices.stop]).sum())
    return {key: count / len(sample) for key, count in hits.items()}


def _representations(
    deployment: Deployment, frames: FrameSet
) -> Iterator[tuple[range, Representations]]:
    with torch.no_grad():
        for indices, pictures in batches(frames, BATCH):
            yield (
                indices,
                {
                    Ref(name, stage): value
                    for name, model in deployment.fused_models.items()
                    for stage, value in model.walk(model.prepare_frames(pictures))
                },
            )


def _tail(deployment: Deployment, share: Share) -> nn.Sequential:
    """Return a copy of the stages after the recipient, with the head."""
    model = deployment.models[share.recipient.model]
    start = model.layout.index(share.recipient.stage) + 1
    return copy.deepcopy(nn.Sequential(*list(model.stages)[start:], _Last(model.head)))


class _Last(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, tap: Tensor) -> Tensor:
        logits: Tensor = self.head([tap])
        return logits


class _Map(nn.Module):
    """Applies a linear map to a representation that is on the recipient's grid already."""

    def __init__(self, linear: LinearMap) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, values: Tensor) -> Tensor:
        mapped = torch.einsum("oc,bc...->bo...", self.linear.weight, values)
        return mapped + self.linear.bias.view(1, -1, *[1] * (values.dim() - 2))


def _grid(deployment: Deployment, ref: Ref) -> Grid:
    return deployment.facts[ref.model].stage(ref.stage).grid


def _print_report(
    top1: Mapping[tuple[Share, str], float], shares: Sequence[Share], reporter: Reporter
) -> None:
    names = list(dict.fromkeys(name for _, name in top1))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["share", *names])
    writer.writerows([share, *(top1.get((share, name)) for name in names)] for share in shares)
    write_text(OUT, text.getvalue())
    reporter.say(f"Top-1 of every share and variant: {OUT}")
    summary = {
        name: {
            band: _summarise([top1[s, name] - top1[s, PLAIN] for s in shares if (s, name) in top1
                           and low <= top1[s, PLAIN] < high])
            for band, (low, high) in BANDS.items()
        }
        for name in names
    }  # fmt: skip
    reporter.table(
        "Points of top-1 gained over the plain map (shares that are worse / shares)",
        ["variant", *BANDS],
        [
            [
                name,
                *(
                    f"{g['gain']:+.1f} ({g['worse']:.0f}/{g['shares']:.0f})"
                    for g in bands.values()
                ),
            ]
            for name, bands in summary.items()
        ],
    )
    print(json.dumps(summary))


def _summarise(gains: Sequence[float]) -> dict[str, float]:
    """Return the mean gain in points, and the number of shares that lose."""
    return {
        "shares": len(gains),
        "gain": round(100 * float(np.mean(gains)), 2) if gains else 0.0,
        "worse": sum(gain < 0 for gain in gains),
    }


if __name__ == "__main__":
    main()
