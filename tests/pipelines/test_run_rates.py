"""A run of models with rates: costs per second of camera time, wherever they show."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from tiny import (
    FinishedRun,
    Weights,
    capture_reporter,
    config_data,
    run_config,
    with_changes,
    write_config,
)

from search.deploy.rated_cost import trunk_rate
from search.report.charts.interactive import candidate_columns
from search.report.console_tables import print_plan
from search.report.html_tables import candidate_table
from search.results.search_result import PlanRecord, Result
from search.tracking.payloads.search_run import (
    measured_metrics,
    search_parameters,
    unmerged_metrics,
)
from search.utils.records import read_record
from spaces.bundle import load_bundle, read_bundle_contents
from spaces.bundle_files import BadBundle
from spaces.cost import CostModel
from spaces.plan import SharePlan

RATES = {"a": 0.5, "b": 5.0}
ONLY_WITH_RATES = ("macs_per_second", "unmerged_macs_per_second", "rates")


@pytest.fixture(scope="module")
def rated(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    changes = {
        **{f"models.{name}.rate": rate for name, rate in RATES.items()},
        "search.objectives": ["bytes", "macs", "latency"],
        "search.trials": 20,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        data = with_changes(config_data(weights), changes)
        return run_config(write_config(tmp_path_factory.mktemp("rated"), data))


@pytest.fixture(scope="module")
def costs(rated: FinishedRun) -> CostModel:
    return CostModel(read_bundle_contents(rated.out / "bundle").facts)


def records_of(result: Result) -> list[PlanRecord]:
    return [*result.candidates, *result.front]


def test_the_minimised_macs_are_those_of_a_second(rated: FinishedRun, costs: CostModel) -> None:
    assert rated.result.rates == RATES
    for record in records_of(rated.result):
        plan = SharePlan.from_dict(record.plan)
        assert record.macs == costs.macs(plan)
        assert record.macs_per_second == costs.macs_per_second(plan, RATES)
        assert record.costs["macs"] == record.macs_per_second / 1e6
        assert record.costs["latency"] > 0
    assert rated.result.unmerged_macs_per_second == costs.macs_per_second(SharePlan(), RATES)


def test_result_json_has_rates_only_if_the_config_gives_them(
    rated: FinishedRun, tiny_run: FinishedRun
) -> None:
    assert read_record(Result, rated.out / "result.json") == rated.result
    for run, expected in ((rated, True), (tiny_run, False)):
        text = (run.out / "result.json").read_text()
        assert [f'"{key}"' in text for key in ONLY_WITH_RATES] == [expected] * 3


def test_units_are_per_second_wherever_costs_show(
    rated: FinishedRun, tiny_run: FinishedRun
) -> None:
    assert "macs M/s" in rated.output and "latency ms/s" in rated.output
    assert {"Macs, M/s", "Latency, ms/s"} < set(candidate_table(rated.result).header)
    assert {"MACs (M)", "MACs (M/s)", "latency (ms/s)"} < candidate_columns(rated.result).keys()
    header, *_ = csv.reader((rated.out / "trials.csv").read_text().splitlines())
    assert header[4:6] == ["macs_m_per_second", "latency_ms_per_second"]
    report = (rated.out / "report.html").read_text()
    assert "Macs, M/s" in report and "a 0.5, b 5" in report
    assert "M/s" not in tiny_run.output and "MACs (M/s)" not in candidate_columns(tiny_run.result)


def test_the_report_compares_with_the_unmerged_macs(rated: FinishedRun) -> None:
    table = candidate_table(rated.result)
    column = table.header.index("Macs, M/s") - 1
    unmerged, *merged = (float(row.cells[column].text) for row in table.rows)
    assert unmerged == pytest.approx(rated.result.unmerged_macs_per_second / 1e6, abs=0.01)
    assert min(merged) < unmerged


def test_plan_show_prints_the_macs_of_a_second(rated: FinishedRun, tiny_run: FinishedRun) -> None:
    for run, clause in (
        (rated, " M per second of camera time at the rates a 0.5, b 5; proxy"),
        (tiny_run, ""),
    ):
        record, captured = run.result.front[0], capture_reporter()
        print_plan(run.out / "plans" / f"{record.hash}.json", captured.reporter)
        assert (clause or f"{record.macs / 1e6:,.0f} M multiply-accumulates per frame; proxy") in (
            captured.text
        )


def test_mlflow_gets_the_costs_of_a_second(rated: FinishedRun) -> None:
    result = rated.result
    assert search_parameters(result)["rates"] == "a 0.5, b 5"
    unmerged = unmerged_metrics(result)
    for candidate in result.candidates:
        metrics = measured_metrics(result, candidate)
        assert metrics["macs_per_second_m"] == candidate.macs_per_second / 1e6
        assert metrics["macs_m"] == candidate.macs / 1e6
        assert metrics["latency_ms_per_second"] == candidate.costs["latency"]
        assert metrics["latency_ms"] == result.latency_ms[candidate.hash]
        assert metrics["macs_per_second_m"] <= unmerged["macs_per_second_m"]


def test_the_bundle_holds_the_rates(rated: FinishedRun, tiny_run: FinishedRun) -> None:
    assert read_bundle_contents(rated.out / "bundle").rates == RATES
    assert read_bundle_contents(tiny_run.out / "bundle").rates == {}
    written = json.loads((tiny_run.out / "bundle" / "bundle.json").read_text())
    assert "rates" not in written


@pytest.mark.parametrize("rates", [{"a": "fast"}, ["a"], 3])
def test_a_bundle_with_damaged_rates_is_refused(
    tiny_run: FinishedRun, tmp_path: Path, rates: object
) -> None:
    shutil.copytree(tiny_run.out / "bundle", tmp_path / "bundle")
    file = tmp_path / "bundle" / "bundle.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "rates": rates}))
    with pytest.raises(BadBundle, match="is not a complete bundle"):
        read_bundle_contents(tmp_path / "bundle")


def card_rows(folder: Path) -> dict[str, list[str]]:
    """Return the rows of the table of costs by their first cell."""
    section = (folder / "CARD.md").read_text().partition("## Cost at the given rates\n\n")[2]
    lines = section.partition("## ")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line[:1] == "|"][2:]
    return {name: cells for name, *cells in rows}


def test_the_card_sums_the_cost_of_each_part_at_its_rate(
    rated: FinishedRun, costs: CostModel
) -> None:
    folder = rated.out / "bundle"
    rows, merged = card_rows(folder), load_bundle(folder).merged
    total = rows.pop("sum of the parts")
    whole = rows.pop("everything at the highest rate")
    assert set(rows) == {"trunk", "tail of a", "tail of b"}
    assert {name: float(row[0]) for name, row in rows.items()} == {
        "trunk": 5.0, "tail of a": 0.5, "tail of b": 5.0,
    }  # fmt: skip
    assert float(whole[0]) == trunk_rate(merged, RATES) == 5.0
    for rate, per_run, per_second in (*rows.values(), whole):
        assert float(per_second) == pytest.approx(float(rate) * float(per_run), abs=0.01)
    sum_of_parts = sum(float(row[2]) for row in rows.values())
    assert float(total[-1]) == pytest.approx(sum_of_parts, abs=0.02)
    millions = costs.macs_per_second(merged.plan, RATES) / 1e6
    assert (
        f"the parts take {millions:,.2f} M multiply-accumulates"
        in (folder / "CARD.md").read_text()
    )


def test_a_card_without_rates_has_no_cost(tiny_run: FinishedRun) -> None:
    assert card_rows(tiny_run.out / "bundle") == {}
    assert "given rates" not in (tiny_run.out / "bundle" / "CARD.md").read_text()
