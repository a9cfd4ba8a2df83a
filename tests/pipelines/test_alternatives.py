"""What a run says of the unmerged models with all weights in fewer bytes."""

from __future__ import annotations

from dataclasses import replace

from tiny import FinishedRun, capture_reporter

from search.pipelines.deployment.load import load_deployment
from search.pipelines.run_steps.alternatives import plans_without_merging
from search.report.charts.front import front_svg
from search.results.alternative import describe_alternative
from spaces.merged import MergedModel
from spaces.plan import SharePlan
from spaces.stages import total_bytes, unique_tensors
from spaces.stored_modules import stored_copy


def test_bytes_are_those_of_all_weights_in_that_precision(tiny_run: FinishedRun) -> None:
    deployment = load_deployment(tiny_run.config, capture_reporter().reporter)
    records = plans_without_merging(deployment)
    assert [r.bytes for r in records] == [a.bytes for a in tiny_run.result.alternatives]
    for record in records:
        plan = SharePlan.from_dict(record.plan)
        merged = MergedModel(deployment.models, deployment.facts, plan, {})
        assert total_bytes(unique_tensors(stored_copy(merged))) == record.bytes


def test_half_precision_and_int8_are_measured_as_candidates_are(tiny_run: FinishedRun) -> None:
    result = tiny_run.result
    half, int8 = result.alternatives
    assert (half.precision, int8.precision) == ("float16", "int8")
    assert int8.bytes < half.bytes < result.unmerged_bytes
    for record in (half, int8):
        assert record.fidelity is not None and 0.5 < record.fidelity <= 1
        assert (record.quality_kept is None) == (result.candidates[0].quality_kept is None)
        assert record.saved_pct == round(100 * (1 - record.bytes / result.unmerged_bytes), 3)


def test_models_in_half_precision_have_int8_as_the_only_alternative(tiny_run: FinishedRun) -> None:
    config = tiny_run.config.model_copy(update={"dtype": "float16"})
    deployment = load_deployment(config, capture_reporter().reporter)
    (record,) = plans_without_merging(deployment)
    assert {p for _, p in SharePlan.from_dict(record.plan).precisions} == {"int8"}


def test_the_chart_and_the_console_show_them(tiny_run: FinishedRun) -> None:
    result = tiny_run.result
    texts = [describe_alternative(a, result.at_chance) for a in result.alternatives]
    assert f"Without merging: {'; '.join(texts)}" in tiny_run.output
    assert front_svg(result).count('class="c-alternative"') == 3  # two points, and the legend
    older = replace(result, alternatives=[])
    assert "c-alternative" not in front_svg(older).partition("</style>")[2]
