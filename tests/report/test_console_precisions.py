"""The console says how the weights of plans are stored, if a plan has precisions."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_precisions import with_precision_profiles
from tiny import FinishedRun, MadeUpDeployment, capture_reporter

from search.deploy.benchmark import benchmark_bundle
from search.pipelines.exact import print_front
from search.report.candidate_table import print_candidates
from search.report.console_tables import print_plan
from search.results.precisions import parts_text, stored_bytes_by_precision
from search.results.search_result import Result, VerifiedCandidates
from search.study.exact.branch_and_bound import exact_front
from search.utils.files import write_json
from search.utils.records import write_record
from spaces.cost import CostModel
from spaces.plan import SharePlan

WORLD = MadeUpDeployment({"a": 3, "b": 3})


def flat(text: str) -> str:
    """Return a text without the line breaks of the console."""
    return " ".join(text.split())


def test_the_precisions_of_a_candidate_stand_beneath_its_shares(mixed_result: Result) -> None:
    captured = capture_reporter()
    verified = VerifiedCandidates({}, {}, mixed_result.candidates)
    print_candidates(verified, mixed_result.unmerged_bytes, None, "Verified", captured.reporter)
    texts = [candidate.precision_text for candidate in mixed_result.candidates]
    assert any(texts) and not all(texts)
    for text in filter(None, texts):
        assert flat(text) in flat(captured.text)
    assert captured.text.count("weights in") == len([*filter(None, texts)])


def test_a_run_without_precisions_prints_none(tiny_run: FinishedRun) -> None:
    (line,) = [line for line in tiny_run.output.splitlines() if "int8" in line]
    assert line.startswith("Without merging: all weights in float16: ")
    assert tiny_run.output.count("weights in") == line.count("weights in") == 2


def test_plan_show_lists_the_bytes_of_each_precision(mixed_result: Result, tmp_path: Path) -> None:
    record = mixed_result.candidates[0]
    file = tmp_path / "plans" / "plan.json"
    write_json(file, record.plan)
    captured = capture_reporter()
    print_plan(file, captured.reporter)
    assert "all others in the dtype of the models" in flat(captured.text)
    write_record(tmp_path / "result.json", mixed_result)
    captured = capture_reporter()
    print_plan(file, captured.reporter)
    numbers = [
        int(line.split()[-1].replace(",", ""))
        for line in captured.text.partition("How the weights are stored")[2].splitlines()
        if line.startswith(tuple(record.stored))
    ]
    assert sum(numbers) == record.bytes


def test_the_exact_front_has_a_column_of_precisions_only_if_a_plan_has_some() -> None:
    plain = WORLD.problem(0.8)
    captured = capture_reporter()
    print_front(exact_front(plain), CostModel(plain.facts), captured.reporter)
    assert "precision" not in captured.text
    problem = with_precision_profiles(plain, 1)
    front, costs = exact_front(problem), CostModel(problem.facts)
    captured = capture_reporter()
    print_front(front, costs, captured.reporter)
    assert "bytes by precision" in flat(captured.text)
    texts = [parts_text(stored_bytes_by_precision(p.plan, costs)) for p in front.front]
    assert any(texts)
    for text in texts:
        assert not text or text.split(",")[0] in flat(captured.text)


def test_bench_bundle_says_how_weights_are_stored(
    precise_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.deploy.benchmark.ROUNDS", 1)
    captured = capture_reporter()
    answer = benchmark_bundle(precise_run.out / "bundle", captured.reporter)
    chosen = precise_run.result.chosen_candidate
    assert answer["stored"] == chosen.stored
    assert f"The bundle holds {chosen.precision_text}" in flat(captured.text)
    assert SharePlan.from_dict(chosen.plan).precisions
