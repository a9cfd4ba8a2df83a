"""The last step of a run: the files under OUT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from search.data.class_names import names_in_truth
from search.deploy.export import BundleSource, ExportRequest, export_bundle, remove_bundle
from search.pipelines.run_steps.records import FrontSearch, FrontVerification, RunInputs
from search.report.charts.front import FRONT_PICTURE, front_svg
from search.report.charts.heat_maps import write_heat_maps
from search.report.charts.interactive import save_explorer
from search.report.html import write_report
from search.report.html_tables import result_stages
from search.report.next_steps import RunPaths
from search.report.rejected import SearchTrace
from search.results.search_result import BUNDLE_FOLDER, Result
from search.study.trials_table import write_trials
from search.utils.files import write_json, write_text
from search.utils.records import write_record
from search.utils.reporter import Reporter
from spaces.bundle_files import bundle_id

OLD_FRONT_PICTURE = "front.png"
"""Written by earlier versions; left in OUT it would be logged as a picture of this run."""


def write_outputs(
    result: Result,
    inputs: RunInputs,
    front_search: FrontSearch,
    verification: FrontVerification,
    reporter: Reporter,
) -> Result:
    """Write everything that a run leaves under OUT; return the result with its bundle's id."""
    config = inputs.config
    out = config.out_folder
    with reporter.working("pictures"):
        write_text(out / FRONT_PICTURE, front_svg(result))
        (out / OLD_FRONT_PICTURE).unlink(missing_ok=True)
        write_heat_maps(front_search.similarity, result_stages(result), result.metric, out)
        write_trials(front_search.explored, front_search.evaluator, out)
        save_explorer(result, front_search.explored, out)
    write_result(result, out)
    names = {
        name: names_in_truth(truth, inputs.deployment.models[name].num_classes)
        for name, truth in inputs.truth.items()
    }
    source = BundleSource(config, result, front_search.observed, names)
    result = write_chosen_bundle(source, out, reporter)
    paths = RunPaths.find(result.name, out, config.base)
    write_report(result, search_trace(front_search, verification), paths, out)
    return result


def write_result(result: Result, out: Path) -> None:
    """Write OUT/plans/*.json, then OUT/result.json; each file is replaced atomically."""
    for record in result.front:
        write_json(out / "plans" / f"{record.hash}.json", record.plan)
    _write_result_file(result, out)


def write_chosen_bundle(source: BundleSource, out: Path, reporter: Reporter) -> Result:
    """Write the chosen plan to OUT/bundle, and its id to OUT/result.json; return the new result.

    If no plan was chosen, remove the bundle of an earlier run.
    """
    result, folder = source.result, out / BUNDLE_FOLDER
    chosen = result.chosen_candidate
    if chosen is None:
        remove_bundle(folder)
        return result
    reporter.step(f"Bundle of the chosen plan {chosen.hash}")
    with reporter.working("bundle"):
        checks = export_bundle(source, [chosen], folder, ExportRequest())
    for check in checks:
        reporter.say(f"  {check}")
    result = replace(result, bundle=bundle_id(folder))
    _write_result_file(result, out)
    return result


def search_trace(front_search: FrontSearch, verification: FrontVerification) -> SearchTrace:
    """Return the facts about the search that the report shows beyond the result."""
    pairs = front_search.observed.deployment.pairs
    return SearchTrace(
        similarity=front_search.similarity,
        rejected=pairs.rejected,
        legal=len(pairs.legal),
        feasible=len(front_search.explored.feasible),
        shortlist=verification.shortlist,
    )


def _write_result_file(result: Result, out: Path) -> None:
    write_record(out / "result.json", result)
