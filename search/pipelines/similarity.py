"""`merge-search similarity`: the similarity of every legal pair of stages."""

from __future__ import annotations

from pathlib import Path

from search.config.run import RunConfig
from search.pipelines.prepare import compute_similarities, load_deployment, observe, open_frames
from search.report.console_tables import show_similarity
from search.utils.reporter import Reporter


def measure_similarity(config: RunConfig, reporter: Reporter) -> tuple[Path, Path]:
    """Measure, show and write the compute_similarities; return the CSV file and the heatmap.

    Raises:
        MergeSearchError: an error that the user can fix.
    """
    deployment = load_deployment(config, reporter)
    observed = observe(config, deployment, open_frames(config, reporter), reporter)
    values = compute_similarities(config, observed, config.search.adapter_specs, reporter)
    written = show_similarity(values, deployment, config, reporter)
    rejected = len(deployment.pairs.rejected)
    reporter.say(f"{len(values)} legal shares, {rejected} pairs not legal")
    return written
