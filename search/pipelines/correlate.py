"""`merge-search correlate`: which metric predicts the accuracy of merged models best?

Every legal share is merged and measured on its own, so the answer rests on all of them and not on
a selection.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from search.config.run import RunConfig
from search.data.frames import summarise_frames
from search.data.ground_truth import Truth
from search.evaluation.bootstrap import CONFIDENCE_LEVEL
from search.evaluation.correlation import RESAMPLES
from search.metrics.registry import METRICS
from search.pipelines.deployment.load import load_deployment
from search.pipelines.prepare import observe, open_frames, open_truth
from search.pipelines.share_accuracy import (
    DECIDES,
    NothingToCorrelate,
    ShareAccuracy,
    measurable_models,
    measure_parts,
    split_truth,
)
from search.report.charts.metric_comparison import write_pictures
from search.report.console_tables import print_metric_comparison
from search.results.documents import DOCUMENT_FOLDERS
from search.results.metric_comparison import (
    LABEL_PARTS,
    LabelPart,
    MetricComparison,
    MetricTable,
    MetricTables,
    correlate_groups,
    cross_stage,
    same_stage,
)
from search.statistics.observed import Observed
from search.statistics.similarity import Statistics
from search.tracking.outbox import log_or_queue
from search.tracking.target import Target, write_target
from search.utils.files import make_folder, write_text
from search.utils.records import write_record
from search.utils.reporter import Reporter
from search.utils.timing import StepTimings, utc_now
from spaces.plan import Share
from spaces.shares import enumerate_shares

COMPARISON_FOLDER = DOCUMENT_FOLDERS[MetricComparison]


@dataclass(frozen=True)
class MetricValues:
    """The value of every metric for every share, and the seconds that each metric took."""

    values: dict[str, dict[Share, float]]
    seconds: dict[str, float]


@dataclass(frozen=True)
class ShareMeasurement:
    """The metrics and the measured accuracy of the same shares."""

    observed: Observed
    metrics: MetricValues
    accuracy: Mapping[LabelPart, ShareAccuracy]
    tables: MetricTables


def correlate(config: RunConfig, reporter: Reporter) -> MetricComparison:
    """Compare all metrics on the config's models and frames, write the files, and log to MLflow.

    Raises:
        NothingToCorrelate: no model has ground truth, or none scores above 0 on it.
        NotLogged: MLflow did not take the comparison; everything else is done, and `sync` can
            log it.
        MergeSearchError: anything else that the user can correct.
    """
    if not config.truth:
        raise NothingToCorrelate(
            "correlate measures accuracy: the config needs `truth:` for at least one model"
        )
    make_folder(config.out_folder)
    target = Target.of(config)
    write_target(target, config.out_folder)
    timings = StepTimings()
    measurement = measure_metrics(config, timings, reporter)
    comparison = build_comparison(config, measurement, timings.seconds)
    write_comparison(comparison, measurement, config.out_folder / COMPARISON_FOLDER, reporter)
    print_metric_comparison(comparison, reporter)
    reporter.step("Logging to MLflow")
    with reporter.working("MLflow"):
        logged = log_or_queue(comparison, config.out_folder, target)
    reporter.say(f"  {logged}")
    return comparison


def measure_metrics(
    config: RunConfig, timings: StepTimings, reporter: Reporter
) -> ShareMeasurement:
    """Compute every metric and measure the accuracy of every legal share.

    Shares between equal representations change nothing, so they are left out.

    Raises:
        NothingToCorrelate: no model scores above 0, or no share is legal into one that does.
    """
    batch = config.verify.batch
    with timings.timing("models"):
        deployment = load_deployment(config, reporter)
        frames = open_frames(config, reporter)
        truth = split_truth(open_truth(config, deployment, frames, reporter))
    with timings.timing("unmerged"):
        recipients = measurable_models(deployment, truth, batch, reporter)
    if equal := len(deployment.identical_pairs):
        reporter.say(f"  {equal} pairs of stages with the same weights are left out: no loss")
    distinct = enumerate_shares(
        deployment.distinct_pairs, deployment.facts, config.search.adapter_specs
    )
    shares = [share for share in distinct if share.recipient.model in recipients]
    if not shares:
        raise NothingToCorrelate(
            f"no share with adapters {config.search.adapters} is legal into a model that scores "
            f"above 0 ({', '.join(sorted(recipients))}) and changes its answers"
        )
    with timings.timing("statistics"):
        observed = observe(config, deployment, frames, reporter)
    with timings.timing("guides"):
        metrics = compute_metrics(observed, shares, reporter)
    with timings.timing("accuracy"):
        accuracy = measure_parts(observed, shares, truth, batch, reporter)
    with timings.timing("correlations"):
        reporter.step(f"Correlations of {len(metrics.values)} metrics with accuracy")
        with reporter.working("intervals"):
            tables = {
                part: build_table(metrics, accuracy[part], truth[part], config.seed)
                for part in LABEL_PARTS
            }
    return ShareMeasurement(observed, metrics, accuracy, tables)


def compute_metrics(
    observed: Observed, shares: Sequence[Share], reporter: Reporter
) -> MetricValues:
    """Compute each metric that values shares one by one, and time each from the moments on.

    Cached values of earlier runs are not read, so that the time is that of the metric.
    """
    values, seconds = {}, {}
    for name, metric in METRICS.items():
        if not metric.stands_alone:
            continue
        reporter.step(f"{metric.label} of {len(shares)} shares")
        uncached = Statistics(observed.statistics.moments, observed.statistics.facts)
        with reporter.progress("shares", len(shares)) as progress:
            start = time.perf_counter()
            values[name] = metric.similarities(
                replace(observed, statistics=uncached, parts=()), shares, progress
            )
            seconds[name] = round(time.perf_counter() - start, 3)
    return MetricValues(values, seconds)


def build_table(
    metrics: MetricValues, accuracy: ShareAccuracy, truth: Mapping[str, Truth], seed: int
) -> MetricTable:
    """Correlate all metrics with the accuracy kept on one part of the labelled frames."""
    kept = accuracy.kept
    return MetricTable(
        frames={name: len(labelled.frames) for name, labelled in truth.items()},
        unmerged=accuracy.unmerged,
        left_out=accuracy.left_out,
        metrics={
            name: correlate_groups(by_share, kept, seed)
            for name, by_share in metrics.values.items()
        },
    )


def build_comparison(
    config: RunConfig, measurement: ShareMeasurement, seconds: Mapping[str, float]
) -> MetricComparison:
    """Return the comparison as plain data: the content of league.json."""
    metrics, tables = measurement.metrics, measurement.tables
    shares = list(measurement.accuracy["reporting"].scores)
    return MetricComparison(
        name=config.name,
        seed=config.seed,
        adapters=config.search.adapters,
        frames=summarise_frames(measurement.observed.frames),
        models={name: model.arch for name, model in config.models.items()},
        shares={
            "all": len(shares),
            "same": len(same_stage(shares)),
            "cross": len(cross_stage(shares)),
        },
        metrics={name: METRICS[name].label for name in metrics.values},
        metric_seconds=metrics.seconds,
        winner=tables["deciding"].winner,
        deciding=tables["deciding"],
        reporting=tables["reporting"],
        settings={"decides": DECIDES, "resamples": RESAMPLES, "level": CONFIDENCE_LEVEL},
        config=config.as_written(),
        seconds=dict(seconds),
        created=utc_now(),
    )


def write_comparison(
    comparison: MetricComparison, measurement: ShareMeasurement, out: Path, reporter: Reporter
) -> None:
    """Write guides.csv, then league.json, then the pictures; each file is replaced atomically."""
    write_text(out / "guides.csv", guides_csv(measurement.metrics, measurement.accuracy))
    write_record(out / "league.json", comparison)
    facts = measurement.observed.deployment.facts
    stages = {name: fact.layout.stages for name, fact in facts.items()}
    kept = measurement.accuracy["reporting"].kept
    with reporter.working("pictures"):
        write_pictures(measurement.tables, measurement.metrics.values, kept, stages, out)


def guides_csv(metrics: MetricValues, accuracy: Mapping[LabelPart, ShareAccuracy]) -> str:
    """Return one row per share: the recipient's accuracy, the part kept, every metric's value.

    The columns `accuracy` and `kept` are measured on the reporting part. `kept` is empty where the
    unmerged score is 0.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    reporting, deciding = accuracy["reporting"], accuracy["deciding"]
    writer.writerow(
        ["donor", "recipient", "adapter", "accuracy", "kept", "accuracy_deciding",
         "kept_deciding", *metrics.values]
    )  # fmt: skip
    for share in reporting.scores:
        numbers = [
            reporting.scores[share], reporting.kept.get(share), deciding.scores[share],
            deciding.kept.get(share), *(by_share[share] for by_share in metrics.values.values()),
        ]  # fmt: skip
        cells = ["" if number is None else repr(float(number)) for number in numbers]
        writer.writerow([share.donor, share.recipient, share.adapter, *cells])
    return text.getvalue()
