"""`merge-search correlate`: which guide predicts the accuracy of merged models best?

Every single share is merged and measured, so the answer rests on all of them, not on a choice.
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
from search.data.ground_truth import BadTruth, BoxTruth, Truth, truth_subset
from search.evaluation.bootstrap import LEVEL
from search.evaluation.correlation import RESAMPLES
from search.evaluation.evaluate import (
    BASELINE,
    EvaluationSetup,
    accuracy,
    steps_to_verify,
)
from search.evaluation.per_frame import Scores, main_score
from search.metrics.registry import METRICS
from search.pipelines.prepare import load_deployment, observe, open_frames, open_truth
from search.report import metric_comparison_figures as figures
from search.report.console_tables import show_league
from search.results.documents import PLACES
from search.results.metric_comparison import (
    PARTS,
    MetricComparison,
    Part,
    Table,
    correlations,
    cross_stage,
    same_stage,
)
from search.statistics.observed import Observed
from search.statistics.similarity import Statistics
from search.tracking.outbox import record_or_keep
from search.tracking.target import Target, remember
from search.utils.files import make_folder, write_text
from search.utils.progress import Progress
from search.utils.records import write_record
from search.utils.reporter import Reporter
from search.utils.timing import StepTimings, this_moment
from spaces.deployment import Deployment
from spaces.errors import MergeSearchError
from spaces.plan import Share, SharePlan
from spaces.shares import shares_of

DECIDES = 5
"""Every fifth labelled frame decides which guide wins; every number told is of the other four.

A guide picked for its luck on some frames would look better on those than it is.
"""
FOLDER = PLACES[MetricComparison]


class NothingToCorrelate(MergeSearchError):
    """No model has an accuracy that a share could change."""


@dataclass(frozen=True)
class Guides:
    """Every guide's number for every share, and the seconds that each guide took."""

    values: dict[str, dict[Share, float]]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Measured:
    """Accuracy of every share alone, on one part of the labelled frames."""

    unmerged: dict[str, Scores]
    scores: dict[Share, float]
    """The recipient's main score."""

    @property
    def left_out(self) -> dict[str, str]:
        """Models that nothing can be relative to, with the reason."""
        return {
            name: "its unmerged score is 0"
            for name, scores in self.unmerged.items()
            if not main_score(scores) > 0
        }

    @property
    def kept(self) -> dict[Share, float]:
        """Merged / unmerged main score, so that classifiers and detectors can be pooled."""
        return {
            share: score / main_score(self.unmerged[share.recipient.model])
            for share, score in self.scores.items()
            if share.recipient.model not in self.left_out
        }


def correlate(config: RunConfig, reporter: Reporter) -> MetricComparison:
    """Compare all guides on the config's models and frames, write the files, and log the league.

    Raises:
        NothingToCorrelate: no model has ground truth, or none scores above 0 on it.
        NotLogged: MLflow did not take the league; it is kept for `sync`.
        MergeSearchError: anything else the user can put right.
    """
    if not config.truth:
        raise NothingToCorrelate(
            "correlate measures accuracy: the config needs `truth:` for at least one model"
        )
    out, target = make_folder(config.out_folder) / FOLDER, Target.of(config)
    remember(target, config.out_folder)
    clock = StepTimings()
    with clock.timing("models"):
        deployment = load_deployment(config, reporter)
        frames = open_frames(config, reporter)
        truth = split_truth(open_truth(config, deployment, frames, reporter))
    with clock.timing("unmerged"):
        recipients = worth_measuring(deployment, truth, config.verify.batch, reporter)
    legal = shares_of(deployment.pairs.legal, deployment.facts, config.search.adapter_specs)
    shares = [share for share in legal if share.recipient.model in recipients]
    if not shares:
        raise NothingToCorrelate(
            f"no share with adapters {config.search.adapters} is legal into a model that scores "
            f"above 0: {', '.join(sorted(recipients))}"
        )
    with clock.timing("statistics"):
        observed = observe(config, deployment, frames, reporter)
    with clock.timing("guides"):
        guides = value_shares(observed, shares, reporter)
    with clock.timing("accuracy"):
        measured = measure_parts(observed, shares, truth, config.verify.batch, reporter)
    with clock.timing("correlations"):
        reporter.step(f"Correlations of {len(guides.values)} guides with accuracy")
        with reporter.working("intervals"):
            tables = {
                part: compare(guides, measured[part], truth[part], config.seed) for part in PARTS
            }
    league = MetricComparison(
        name=config.name,
        seed=config.seed,
        adapters=config.search.adapters,
        frames=summarise_frames(observed.frames),
        models={name: model.arch for name, model in config.models.items()},
        shares={
            "all": len(shares),
            "same": len(same_stage(shares)),
            "cross": len(cross_stage(shares)),
        },
        guides={name: METRICS[name].label for name in guides.values},
        guide_seconds=guides.seconds,
        winner=tables["deciding"].winner,
        deciding=tables["deciding"],
        reporting=tables["reporting"],
        settings={"decides": DECIDES, "resamples": RESAMPLES, "level": LEVEL},
        config=config.as_written(),
        seconds=clock.seconds,
        created=this_moment(),
    )
    save(league, guides, measured, out)
    stages = {name: fact.layout.stages for name, fact in deployment.facts.items()}
    with reporter.working("pictures"):
        figures.draw(tables, guides.values, measured["reporting"].kept, stages, out)
    show_league(league, reporter)
    reporter.step("Logging to MLflow")
    with reporter.working("MLflow"):
        logged = record_or_keep(league, config.out_folder, target)
    reporter.say(f"  {logged}")
    return league


def split_truth(truth: Mapping[str, Truth]) -> dict[Part, dict[str, Truth]]:
    """Each model's labelled frames in two: every `DECIDES`-th decides, the others report.

    Raises:
        BadTruth: a part would have no frames, or no boxes.
    """
    parts: dict[Part, dict[str, Truth]] = {part: {} for part in PARTS}
    for name, known in truth.items():
        indices = range(len(known.frames))
        parts["deciding"][name] = truth_subset(known, indices[::DECIDES])
        parts["reporting"][name] = truth_subset(known, [i for i in indices if i % DECIDES])
        for part in PARTS:
            _check_part(name, part, parts[part][name])
    return parts


def worth_measuring(
    deployment: Deployment,
    truth: Mapping[Part, Mapping[str, Truth]],
    batch: int,
    reporter: Reporter,
) -> frozenset[str]:
    """The models that score above 0 unmerged; told before the long work, with those that do not.

    Raises:
        NothingToCorrelate: none does on the frames that report.
    """
    bench = EvaluationSetup(deployment.running, deployment.facts, {}, batch)
    names: set[str] = set()
    for part in PARTS:
        reporter.step(f"Accuracy of the unmerged models on the {part} frames")
        with reporter.progress("steps", steps_to_verify(1, truth[part])) as progress:
            unmerged = measure(bench, [], truth[part], progress)
        for name, reason in unmerged.left_out.items():
            reporter.say(f"  {name} is left out on the {part} frames: {reason}")
        names |= set(unmerged.unmerged) - set(unmerged.left_out)
        if part == "reporting" and set(unmerged.unmerged) == set(unmerged.left_out):
            raise NothingToCorrelate(
                "no model with ground truth scores above 0 unmerged, so no share can be said to "
                f"keep anything of it: {', '.join(unmerged.left_out)}"
            )
    return frozenset(names)


def value_shares(observed: Observed, shares: Sequence[Share], reporter: Reporter) -> Guides:
    """Every metric of the registry for the shares, each timed from nothing but the moments.

    What is noted of parts of the frames is not read: it would be timed, not the metric.
    """
    values, seconds = {}, {}
    for name, metric in METRICS.items():
        reporter.step(f"{metric.label} of {len(shares)} shares")
        untouched = Statistics(observed.statistics.moments, observed.statistics.facts)
        with reporter.progress("shares", len(shares)) as progress:
            start = time.perf_counter()
            values[name] = metric.similarities(
                replace(observed, statistics=untouched, parts=()), shares, progress
            )
            seconds[name] = round(time.perf_counter() - start, 3)
    return Guides(values, seconds)


def measure_parts(
    observed: Observed,
    shares: Sequence[Share],
    truth: Mapping[Part, Mapping[str, Truth]],
    batch: int,
    reporter: Reporter,
) -> dict[Part, Measured]:
    """Accuracy of every share alone on both parts; no frame is in both."""
    deployment = observed.deployment
    with reporter.working("linear maps"):
        maps = observed.maps_for([SharePlan((share,)) for share in shares])
    bench = EvaluationSetup(deployment.running, deployment.facts, maps, batch)
    measured = {}
    for part in PARTS:
        reporter.step(f"Accuracy of {len(shares)} shares on the {part} frames")
        with reporter.progress("steps", steps_to_verify(1 + len(shares), truth[part])) as progress:
            measured[part] = measure(bench, shares, truth[part], progress)
    return measured


def measure(
    bench: EvaluationSetup, shares: Sequence[Share], truth: Mapping[str, Truth], progress: Progress
) -> Measured:
    """Accuracy of every share alone, all in one pass over the frames.

    The shares' recipients must have ground truth.
    """
    plans = [SharePlan((share,)) for share in shares]
    unmerged, *scores = accuracy(bench, [BASELINE, *plans], truth, progress)
    return Measured(
        unmerged,
        {
            share: main_score(found[share.recipient.model])
            for share, found in zip(shares, scores, strict=True)
        },
    )


def compare(guides: Guides, measured: Measured, truth: Mapping[str, Truth], seed: int) -> Table:
    """All guides against the accuracy measured on one part."""
    kept = measured.kept
    return Table(
        frames={name: len(known.frames) for name, known in truth.items()},
        unmerged=measured.unmerged,
        left_out=measured.left_out,
        guides={name: correlations(guide, kept, seed) for name, guide in guides.values.items()},
    )


def save(
    league: MetricComparison, guides: Guides, measured: Mapping[Part, Measured], out: Path
) -> None:
    """guides.csv, then league.json, each wholly or not at all."""
    write_text(out / "guides.csv", guides_csv(guides, measured))
    write_record(out / "league.json", league)


def guides_csv(guides: Guides, measured: Mapping[Part, Measured]) -> str:
    """One row per share: accuracy and part kept of the recipient's, and each guide's number.

    `accuracy` and `kept` are of the reporting part; `kept` is empty where the unmerged score is 0.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    reporting, deciding = measured["reporting"], measured["deciding"]
    writer.writerow(
        ["donor", "recipient", "adapter", "accuracy", "kept", "accuracy_deciding",
         "kept_deciding", *guides.values]
    )  # fmt: skip
    for share in reporting.scores:
        numbers = [
            reporting.scores[share], reporting.kept.get(share), deciding.scores[share],
            deciding.kept.get(share), *(guide[share] for guide in guides.values.values()),
        ]  # fmt: skip
        cells = ["" if number is None else repr(float(number)) for number in numbers]
        writer.writerow([share.donor, share.recipient, share.adapter, *cells])
    return text.getvalue()


def _check_part(name: str, part: Part, known: Truth) -> None:
    what = "boxes" if isinstance(known, BoxTruth) else "frames"
    held = sum(map(len, known.annotations)) if isinstance(known, BoxTruth) else len(known.frames)
    if not held:
        raise BadTruth(
            f"truth.{name}: no {what} among its {part} frames: every {DECIDES}th labelled frame "
            "decides which guide wins, the others report; give more labelled frames"
        )
