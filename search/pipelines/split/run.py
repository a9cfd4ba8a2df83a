"""`merge-search split`: from a config to verified splits of its plans."""

from __future__ import annotations

from collections.abc import Sequence

from search.config.run import RunConfig
from search.pipelines.split.baselines import Baselines
from search.pipelines.split.build import build_split_result
from search.pipelines.split.coded import fit_options
from search.pipelines.split.explore import explore_splits
from search.pipelines.split.inputs import SplitInputs, load_split_inputs
from search.pipelines.split.lookup import SplitLookup, SplitPoint
from search.pipelines.split.options import split_options
from search.pipelines.split.stage_times import StageTimes
from search.pipelines.split.verify import VerifiedPoints, choose_point, verify_points
from search.report.split.console import print_split
from search.report.split.page import write_split_page
from search.results.split_result import SPLIT_DOCUMENT, SPLIT_FOLDER, SplitResult
from search.tracking.outbox import log_or_queue
from search.tracking.target import Target
from search.utils.files import make_folder
from search.utils.records import write_record
from search.utils.reporter import Reporter
from search.utils.timing import StepTimings


def split_plans(config: RunConfig, reporter: Reporter) -> SplitResult:
    """Split the plans of the config, verify the best splits, write OUT/split, and log it.

    An interrupted study is continued.

    Raises:
        NoSplitSection: the config has no section `split`.
        NoSplitFits: the device can hold or compute no split.
        NotLogged: MLflow did not take the outcome; everything else is done, and `sync` can log it.
        MergeSearchError: anything else that the user can correct.
    """
    result = split_without_logging(config, reporter)
    reporter.step("Logging to MLflow")
    with reporter.working("MLflow"):
        logged = log_or_queue(result, config.out_folder, Target.of(config))
    reporter.say(f"  {logged}")
    return result


def split_without_logging(config: RunConfig, reporter: Reporter) -> SplitResult:
    """Split, verify, and write the files under OUT/split.

    Raises:
        NoSplitSection, NoSplitFits: as `split_plans`.
        MergeSearchError: anything else that the user can correct.
    """
    folder = make_folder(config.out_folder / SPLIT_FOLDER)
    timings = StepTimings()
    with timings.timing("models"):
        inputs = load_split_inputs(config, reporter)
    with timings.timing("codecs"):
        coded = fit_options(inputs, split_options(inputs), reporter)
    with timings.timing("times"), reporter.working("times of stages"):
        times = _stage_times(inputs)
    lookup = SplitLookup(coded, inputs.settings.device.precision, times, inputs.conditions)
    with timings.timing("search"):
        explored = explore_splits(inputs, coded, lookup, reporter)
    with timings.timing("verification"):
        verified = verify_points(inputs, lookup, explored.shortlist, reporter)
    with timings.timing("baselines"):
        compared = [_to_compare(explored.shortlist, verified, inputs.settings.keep)]
        baselines = Baselines(inputs, times, lookup, verified.scorer).measure(compared, reporter)
    result = build_split_result(
        inputs, coded, lookup, explored, verified, baselines, timings.seconds
    )
    write_record(folder / SPLIT_DOCUMENT, result)
    write_split_page(result, folder)
    print_split(result, reporter)
    return result


def _stage_times(inputs: SplitInputs) -> StageTimes:
    times = StageTimes(inputs.deployment, inputs.maps, inputs.fitted_on)
    for plan in inputs.plans:
        times.measure(plan)
    return times


def _to_compare(points: Sequence[SplitPoint], verified: VerifiedPoints, keep: float) -> SplitPoint:
    """Return the point whose crossing representations plain codings send, too: the chosen one."""
    chosen = choose_point(verified.points, keep)
    return next((p for p in points if chosen and p.hash == chosen.hash), points[0])
