"""Complete runs on tiny networks and rendered frames: their files, determinism and errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from PIL import Image
from tiny import (
    CLASSES,
    DETECTOR,
    FinishedRun,
    Weights,
    capture_reporter,
    run_config,
    with_changes,
    write_config,
)

from search.config.budget import parse_budget
from search.config.loading import load_config
from search.data.ground_truth import BadTruth
from search.evaluation.evaluate import EvaluationSetup, compute_accuracy
from search.pipelines.deployment.load import NothingToShare
from search.pipelines.exact import find_exact_front
from search.pipelines.open_data import open_frame_set, open_ground_truth
from search.pipelines.run import print_summary, run
from search.pipelines.run_steps.search_front import BudgetTooSmall
from search.results.rank_agreement import describe_rank_agreement, rank_agreement
from search.results.search_result import Result
from search.utils.files import CannotWrite
from search.utils.records import dump_record
from spaces.errors import MergeSearchError
from spaces.liveness import liveness
from spaces.merged import MergedModel
from spaces.plan import SharePlan
from spaces.stages import Layout, total_bytes, unique_tensors


def deterministic_part(result: Result) -> dict[str, Any]:
    """Return a result without times, paths and the request."""
    record, omitted = dump_record(result), ("seconds", "latency_ms", "created", "config")
    return {k: v for k, v in record.items() if k not in omitted}


def test_plan_files_are_named_by_their_hashes(tiny_run: FinishedRun) -> None:
    files = {p.stem: p for p in (tiny_run.out / "plans").glob("*.json")}
    assert set(files) >= {record.hash for record in tiny_run.result.front}
    for name, path in files.items():
        assert SharePlan.from_json(path.read_text(encoding="utf-8")).hash == name


def test_pictures_are_complete_images(tiny_run: FinishedRun) -> None:
    for name in ("front.svg", "plan.svg"):
        root = ET.parse(tiny_run.out / name).getroot()
        assert min(float(root.get(side, "0")) for side in ("width", "height")) > 100
    for name in ("similarity.png", "same_stage.png"):
        with Image.open(tiny_run.out / name) as picture:
            picture.load()
            assert min(picture.size) > 200


def test_no_temporary_files_remain(tiny_run: FinishedRun) -> None:
    assert not [p for p in tiny_run.out.rglob("*") if ".part" in p.name]


def test_the_chosen_plan_and_the_whole_front_are_within_the_budget(tiny_run: FinishedRun) -> None:
    result = tiny_run.result
    assert result.budget_bytes == parse_budget("90%", result.unmerged_bytes)
    assert result.chosen in {c.hash for c in result.candidates}
    assert all(r.bytes <= result.budget_bytes for r in (*result.front, *result.candidates))
    assert 0 < result.smallest_bytes <= min(r.bytes for r in result.front)


def test_every_plan_holds_the_bytes_in_the_result(tiny_run: FinishedRun) -> None:
    from search.pipelines.deployment.load import load_deployment
    from search.pipelines.prepare import observe

    reporter = capture_reporter().reporter
    deployment = load_deployment(tiny_run.config, reporter)
    frames = open_frame_set(tiny_run.config)
    observed = observe(tiny_run.config, deployment, frames, reporter)
    assert "cached from an earlier run" not in tiny_run.output
    for record in tiny_run.result.candidates:
        plan = SharePlan.from_dict(record.plan)
        maps = observed.maps_for([plan])
        model = MergedModel(deployment.models, deployment.facts, plan, maps)
        assert total_bytes(unique_tensors(model)) == record.bytes
        setup = EvaluationSetup(deployment.models, deployment.facts, maps, 12)
        truth = {"a": open_ground_truth(tiny_run.config, "a", "classification")}
        assert compute_accuracy(setup, [plan], truth, lambda done: None) == [record.accuracy]


def test_stage_tables_and_verified_plans_are_printed(tiny_run: FinishedRun) -> None:
    for word in ("conv_head", "unmerged", tiny_run.result.chosen, "a top-1", "experiment"):
        assert word in tiny_run.output


def test_every_accuracy_and_every_difference_has_an_interval(
    tiny_run: FinishedRun,
) -> None:
    result = tiny_run.result
    accuracies = [(result.baseline, result.baseline_intervals)]
    accuracies += [(c.accuracy, c.intervals) for c in result.candidates]
    for scores, intervals in accuracies:
        assert set(scores) == set(intervals) == {"a"}
        assert set(scores["a"]) == set(intervals["a"]) == {"top1", "top5"}
        for score, (low, high) in intervals["a"].items():
            assert 0 <= low <= scores["a"][score] <= high <= 1
    for c in result.candidates:
        change, low, high = c.differences["a"]["top1"]
        assert change == c.accuracy["a"]["top1"] - result.baseline["a"]["top1"]
        assert low <= change <= high
        assert c.quality_interval[0] <= c.quality_kept <= c.quality_interval[1]
        assert (c.significance_by_model["a"] == "worse") == (high < 0)
        assert f"against unmerged: a {c.significance_by_model['a']}" in tiny_run.output
    assert any(low < high for low, high in result.baseline_intervals["a"].values())
    assert "95% intervals over the labelled frames" in " ".join(tiny_run.output.split())


def test_rank_agreement_is_computed_and_printed(
    tiny_run: FinishedRun,
) -> None:
    agreement = tiny_run.result.rank_agreement
    assert agreement == rank_agreement(tiny_run.result.candidates) | {
        "shortlist_proxy_fidelity": agreement["shortlist_proxy_fidelity"]
    }
    assert all(rho is None or -1 <= rho <= 1 for rho in agreement.values())
    assert describe_rank_agreement(agreement) in tiny_run.output


def test_without_labels_accuracy_is_absent(tmp_path: Path, data: dict[str, Any]) -> None:
    finished = run_config(write_config(tmp_path, with_changes(data, {"truth": {}})))
    assert finished.result.baseline == finished.result.baseline_intervals == {}
    for c in finished.result.candidates:
        assert c.accuracy == c.intervals == c.differences == c.significance_by_model == {}
        assert c.quality_kept is c.quality_interval is None
    assert "intervals" not in finished.output and "unmerged:" not in finished.output
    assert "proxy and ground truth -" in finished.output


def test_the_same_seed_gives_the_same_result_in_another_folder(
    tmp_path: Path, data: dict[str, Any], weights: Weights
) -> None:
    first, second = (run_config(write_config(tmp_path / name, data)) for name in ("one", "other"))
    assert deterministic_part(first.result) == deterministic_part(second.result)
    assert first.out != second.out


def test_a_second_run_continues_the_study_of_the_first(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    path = write_config(tmp_path, data)
    first, second = run_config(path), run_config(path)
    assert deterministic_part(first.result) == deterministic_part(second.result)
    assert "cached from an earlier run" in second.output
    more = run_config(path, ["search.trials=20"])
    assert more.result.study["trials"] == 20
    assert more.result.study["hypervolume"][:12] == first.result.study["hypervolume"]


def test_random_weights_are_reproducible(tmp_path: Path, data: dict[str, Any]) -> None:
    """Runs with `pretrained: false` must also be reproducible."""
    untrained = {"arch": "timm/test_efficientnet", "pretrained": False, "size": 64}
    data = with_changes(data, {"models": {"a": untrained, "b": dict(untrained)}, "truth": {},
                         "search.floor": 0.001})  # fmt: skip
    first, second = (run_config(write_config(tmp_path / name, data)) for name in ("one", "other"))
    assert deterministic_part(first.result) == deterministic_part(second.result)
    assert first.result.candidates[0].quality_kept is None


def test_a_classifier_and_a_detector_are_merged(
    tmp_path: Path, data: dict[str, Any], weights: Weights
) -> None:
    detector = {"arch": DETECTOR, "weights": str(weights(DETECTOR, 3)), "size": 128,
                "num_classes": CLASSES[DETECTOR], "fit": "squash"}  # fmt: skip
    models = {"cls": data["models"]["a"], "det": detector}
    truth = dict.fromkeys(models, data["truth"]["a"])
    config = with_changes(data, {"models": models, "truth": truth})
    result = run_config(write_config(tmp_path, config)).result
    assert set(result.baseline) == {"cls", "det"}
    assert "map" in result.baseline["det"] and "top1" in result.baseline["cls"]
    for record in result.candidates:
        assert set(record.accuracy) == set(record.fidelity) == {"cls", "det"}
        for model, scores in record.accuracy.items():
            assert set(scores) == set(record.intervals[model]) == set(record.differences[model])
        layouts = {
            name: Layout(name, tuple(s["name"] for s in m.stages),
                         tuple(s["name"] for s in m.stages if s["tap"]))
            for name, m in result.models.items()
        }  # fmt: skip
        liveness(SharePlan.from_dict(record.plan), layouts)


def test_a_budget_that_cannot_be_met_names_the_smallest_plan_and_exits_with_2(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    config = load_config(write_config(tmp_path, data), ["budget=1 kB"])
    with pytest.raises(BudgetTooSmall) as failure:
        run(config, capture_reporter().reporter)
    least = failure.value.least
    assert failure.value.exit_code == 2
    for message in (least.plan.hash, str(least.bytes), str(least.plan), "0.00 MB"):
        assert message in str(failure.value)
    plan_file = config.out_folder / "plans" / f"{least.plan.hash}.json"
    assert SharePlan.from_json(plan_file.read_text(encoding="utf-8")) == least.plan
    assert not (config.out_folder / "result.json").exists()
    # the budget in the message can be met, and one byte less cannot
    assert run_config(config.base / "config.yaml", [f"budget={least.bytes}"]).result.chosen
    with pytest.raises(BudgetTooSmall):
        run_config(config.base / "config.yaml", [f"budget={least.bytes - 1}"])


def test_without_useful_shares_the_unmerged_models_are_the_smallest(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    path = write_config(tmp_path, with_changes(data, {"search.floor": 2.0}))
    with pytest.raises(BudgetTooSmall, match="nothing shared"):
        run_config(path)
    result = run_config(path, ["budget=100%"]).result
    assert [SharePlan.from_dict(r.plan) for r in result.front] == [SharePlan()]


def test_with_a_quality_floor_the_smallest_plan_that_keeps_it_is_chosen(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    path = write_config(tmp_path, with_changes(data, {"budget": None, "quality_floor": 0.5}))
    finished = run_config(path, ["search.trials=40"])
    result = finished.result
    assert (result.budget_bytes, result.quality_floor) == (None, 0.5)
    assert all(min(r.kept.values()) >= 0 for r in result.candidates)
    keeping = [c for c in result.candidates if min(c.kept.values()) >= 0.5]
    assert keeping and result.chosen == min(keeping, key=lambda c: c.bytes).hash
    assert "50.0% of every model's quality" in finished.output


def test_if_no_verified_plan_keeps_the_floor_none_is_chosen(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "search.pipelines.candidates.quality_kept_by_model", lambda *scores: {"a": 0.25, "b": 0.5}
    )  # measured quality far below all predictions
    path = write_config(tmp_path, with_changes(data, {"budget": None, "quality_floor": 0.9}))
    finished = run_config(path)
    assert finished.result.chosen is None and (finished.out / "result.json").is_file()
    # The networks are untrained.
    assert "whether one keeps 90.0% on every model cannot be measured; no baseline: " in (
        finished.output
    )
    assert "25.0%" not in finished.output
    trained = replace(finished.result, truth={})
    captured = capture_reporter()
    print_summary(trained, captured.reporter)
    assert "None of them keeps 90.0%" in captured.text
    assert "keeps 25.0% on its worst" in captured.text


def test_all_objectives_are_measured_and_printed(tmp_path: Path, data: dict[str, Any]) -> None:
    objectives = ["macs", "latency", "activation"]
    path = write_config(tmp_path, with_changes(data, {"search.objectives": objectives}))
    finished = run_config(path, ["search.trials=4"])
    assert finished.result.study["objectives"] == objectives
    for record in (*finished.result.front, *finished.result.candidates):
        assert list(record.costs) == objectives and record.costs["latency"] > 0
        assert record.costs["macs"] == record.macs / 1e6
    assert "latency ms" in finished.output and "activation MB" in finished.output


def test_a_search_begins_with_the_plans_of_an_earlier_run_in_the_folder(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    path = write_config(tmp_path, data)
    first = run_config(path, ["search.trials=60"]).result
    earlier_plans = {r.hash for r in (*first.candidates, *first.front)}
    second = run_config(path, ["seed=4", f"search.trials={len(earlier_plans) + 2}"])
    assert second.result.study["trials"] == len(earlier_plans) + 2
    assert second.result.study["hypervolume"][-1] >= 0.999 * first.study["hypervolume"][-1]
    fresh = run_config(write_config(tmp_path / "new", data), ["seed=4", "search.trials=8"]).result
    assert fresh.study["hypervolume"][-1] < first.study["hypervolume"][-1]


def test_a_damaged_earlier_result_is_ignored(tmp_path: Path, data: dict[str, Any]) -> None:
    out = tmp_path / "out" / "tiny"
    out.mkdir(parents=True)
    for text in ("no json", "[]", '{"schema": 1}'):
        (out / "result.json").write_text(text)
        assert run_config(write_config(tmp_path, data)).result.study["trials"] == 12


def test_an_exhausted_search_space_is_reported(tmp_path: Path, data: dict[str, Any]) -> None:
    path = write_config(tmp_path, with_changes(data, {"search.floor": 2.0, "budget": "100%"}))
    finished = run_config(path)
    assert finished.result.study["exhausted"] and finished.result.study["trials"] == 1
    assert "which is the whole search space" in finished.output


def test_exact_prints_the_true_front_and_the_share_that_the_study_found(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    path = write_config(tmp_path, data)
    result = run_config(path, ["search.trials=120"]).result
    captured = capture_reporter()
    find_exact_front(load_config(path), captured.reporter)
    content = json.loads((tmp_path / "out" / "tiny" / "exact.json").read_text(encoding="utf-8"))
    assert content["problem"] == result.study["problem"]
    bytes_, proxies = ([f[key] for f in content["front"]] for key in ("bytes", "proxy"))
    assert bytes_ == sorted(bytes_) and proxies == sorted(proxies)
    for record in result.front:
        assert any(
            size <= record.bytes and proxy >= record.proxy - 1e-9
            for size, proxy in zip(bytes_, proxies, strict=True)
        )
    assert "The study in tiny has found" in captured.text
    other = capture_reporter()
    find_exact_front(load_config(path, ["budget=80%"]), other.reporter)
    assert "The study" not in other.text  # the study solved another problem


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models.b.fit": "crop"}, "no representation may replace another"),
        ({"frames.count": 18}, "12 of the 18 are held out for fidelity"),
        ({"frames": {"folder": "gone"}}, "no such folder"),
        ({"models.a.weights": "gone.pth"}, "no such file"),
        ({"models.a.num_classes": 5}, "has 7 classes, the network 5"),
        ({"truth.a": {"scenes": {"seed": 1}, "count": 5}}, "also among"),
        ({"truth.a": {"csv": "gone.csv"}}, "cannot be read"),
        ({"budget": "1 kB"}, "cannot be met"),
    ],
)
def test_an_error_leaves_the_old_result(
    tmp_path: Path, data: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    path = write_config(tmp_path, with_changes(data, changes))
    out = tmp_path / "out" / "tiny"
    out.mkdir(parents=True)
    (out / "result.json").write_text("the old one")
    with pytest.raises(MergeSearchError, match=message) as failure:
        run_config(path)
    assert "\n" not in str(failure.value)
    assert (out / "result.json").read_text() == "the old one"
    assert not [p for p in out.rglob("*") if ".part" in p.name]


def test_errors_of_the_study_name_their_cause(tmp_path: Path, data: dict[str, Any]) -> None:
    with pytest.raises(NothingToShare):
        run_config(write_config(tmp_path, with_changes(data, {"models.b.fit": "crop"})))
    with pytest.raises(BadTruth):
        run_config(write_config(tmp_path, with_changes(data, {"truth.a.scenes.seed": 1})))


@pytest.mark.parametrize("key", ["out", "cache"])
def test_a_read_only_folder_is_refused_before_any_work(
    tmp_path: Path, data: dict[str, Any], key: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    path = write_config(tmp_path, with_changes(data, {key: "file/below"}))
    with pytest.raises(CannotWrite, match="file/below") as failure:
        run_config(path)
    assert f"`{key}:`" in str(failure.value)


def test_a_damaged_study_is_refused_by_name(tmp_path: Path, data: dict[str, Any]) -> None:
    path = write_config(tmp_path, data)
    store = tmp_path / "out" / "tiny" / "study.log"
    store.parent.mkdir(parents=True)
    store.write_text("no journal\n{}\n")
    with pytest.raises(MergeSearchError, match=r"study\.log"):
        run_config(path)
