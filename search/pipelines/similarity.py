"""`merge-search similarity`: the similarity of every legal pair of stages."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from search.config.run import RunConfig
from search.pipelines.deployment.load import load_deployment
from search.pipelines.prepare import compute_similarities, observe, open_frames
from search.report.charts.heat_maps import save_heatmap
from search.report.console_tables import print_similarity
from search.report.similarity_matrix import Stages
from search.utils.files import make_folder, write_text
from search.utils.reporter import Reporter
from spaces.plan import Share


def measure_similarity(config: RunConfig, reporter: Reporter) -> tuple[Path, Path]:
    """Measure, print and write the similarities; return the CSV file and the heat map.

    Raises:
        MergeSearchError: an error that the user can correct.
    """
    deployment = load_deployment(config, reporter)
    observed = observe(config, deployment, open_frames(config, reporter), reporter)
    similarity = compute_similarities(config, observed, config.search.adapter_specs, reporter)
    stages = {name: fact.layout.stages for name, fact in deployment.facts.items()}
    print_similarity(similarity, stages, config.search.metric, reporter)
    with reporter.working("heat map"):
        paths = write_similarity(similarity, stages, config.search.metric, config.out_folder)
    rejected = len(deployment.pairs.rejected)
    reporter.say(f"{len(similarity)} legal shares, {rejected} pairs not legal")
    return paths


def write_similarity(
    similarity: Mapping[Share, float], stages: Stages, metric: str, folder: Path
) -> tuple[Path, Path]:
    """Write similarity_METRIC.csv and similarity_METRIC.png into the folder."""
    out = make_folder(folder)
    table, picture = out / f"similarity_{metric}.csv", out / f"similarity_{metric}.png"
    write_text(table, similarity_csv(similarity, metric))
    save_heatmap(similarity, stages, metric, picture)
    return table, picture


def similarity_csv(similarity: Mapping[Share, float], metric: str) -> str:
    """Return one row per share."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["donor", "recipient", "adapter", metric])
    for share, value in sorted(similarity.items()):
        writer.writerow([share.donor, share.recipient, share.adapter, repr(value)])
    return text.getvalue()
