"""A metric comparison on tiny networks, its numbers recomputed from the files that it wrote."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled import PICTURES, FinishedComparison, Labelled, run_comparison
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import STREET, Weights, capture_reporter, config_data, with_changes, write_config

import search.statistics.observed
from search.config.loading import load_config
from search.data.frames import RenderedScenes, Subset
from search.data.ground_truth import BadTruth, BoxTruth, ClassTruth, Truth, scenes_truth
from search.evaluation.evaluate import EvaluationSetup, compute_accuracy
from search.metrics.registry import METRICS
from search.pipelines.correlate import MetricValues, correlate, guides_csv
from search.pipelines.deployment.load import load_deployment
from search.pipelines.open_data import open_frame_set, open_ground_truth
from search.pipelines.prepare import observe
from search.pipelines.share_accuracy import (
    DECIDES,
    NothingToCorrelate,
    ShareAccuracy,
    measure_parts,
    measure_shares,
    split_truth,
)
from search.results.metric_comparison import LABEL_PARTS, LabelPart, MetricComparison
from search.statistics.observed import Observed
from search.utils.records import read_record
from search.utils.reporter import SILENT
from spaces.errors import MergeSearchError
from spaces.plan import LINEAR, AdapterSpec, Ref, Share, SharePlan
from spaces.shares import enumerate_shares

Row = dict[str, str]
COLUMN = {"reporting": "kept", "deciding": "kept_deciding"}

COMPARED = {name: metric for name, metric in METRICS.items() if metric.stands_alone}


def read_rows(finished: FinishedComparison) -> list[Row]:
    with (finished.out / "guides.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def rows(tiny_comparison: FinishedComparison) -> list[Row]:
    return read_rows(tiny_comparison)


@pytest.fixture(scope="module")
def observed(tiny_comparison: FinishedComparison) -> Observed:
    """Return the statistics of the comparison from its cache."""
    config, reporter = tiny_comparison.config, capture_reporter().reporter
    deployment = load_deployment(config, reporter)
    return observe(config, deployment, open_frame_set(config), reporter)


def share_of(row: Row) -> Share:
    adapter = AdapterSpec.parse(row["adapter"])
    return Share(Ref.parse(row["recipient"]), Ref.parse(row["donor"]), adapter)


def r(rows: Sequence[Row], metric: str, accuracy: str) -> float | None:
    """Compute Pearson's r with the standard library."""
    x, y = ([float(row[column]) for row in rows] for column in (metric, accuracy))
    return statistics.correlation(x, y) if len({*x}) > 1 < len({*y}) else None


def r_within(rows: Sequence[Row], metric: str, accuracy: str) -> float | None:
    into: dict[str, list[Row]] = {}
    for row in rows:
        into.setdefault(row["recipient"], []).append(row)
    values = [r(members, metric, accuracy) for members in into.values() if len(members) >= 3]
    defined = [value for value in values if value is not None]
    return statistics.fmean(defined) if defined else None


GROUPS: Mapping[str, Callable[[Sequence[Row], str, str], float | None]] = {
    "all": r,
    "same": lambda rows, *names: r([row for row in rows if same(row)], *names),
    "cross": lambda rows, *names: r([row for row in rows if not same(row)], *names),
    "within": r_within,
}


def same(row: Row) -> bool:
    return row["donor"].partition(":")[2] == row["recipient"].partition(":")[2]


def test_every_legal_share_has_a_row_with_every_metric(
    tiny_comparison: FinishedComparison, rows: list[Row], observed: Observed
) -> None:
    deployment = observed.deployment
    legal = enumerate_shares(
        deployment.pairs.legal, deployment.facts, tiny_comparison.config.search.adapter_specs
    )
    assert [share_of(row) for row in rows] == list(legal)
    assert tiny_comparison.comparison.shares["all"] == len(rows)
    assert list(rows[0])[7:] == list(COMPARED)
    assert {row["recipient"].partition(":")[0] for row in rows} == {"a", "b"}


@pytest.mark.parametrize("part", LABEL_PARTS)
def test_the_correlations_agree_with_the_rows(
    tiny_comparison: FinishedComparison, rows: list[Row], part: LabelPart
) -> None:
    content = json.loads((tiny_comparison.out / "league.json").read_text(encoding="utf-8"))
    assert list(content[part]["guides"]) == list(COMPARED)
    for metric, groups in content[part]["guides"].items():
        assert list(groups) == list(GROUPS)
        for group, recomputed in GROUPS.items():
            expected = recomputed(rows, metric, COLUMN[part])
            correlation = groups[group]["pearson"]
            if expected is None:
                assert correlation["value"] is correlation["low"] is correlation["high"] is None
            else:
                assert correlation["value"] == pytest.approx(expected, abs=1e-9)
                assert correlation["low"] <= correlation["value"] <= correlation["high"]


def test_the_winner_is_the_best_on_the_deciding_frames(
    tiny_comparison: FinishedComparison, rows: list[Row]
) -> None:
    sizes = {metric: abs(r(rows, metric, "kept_deciding") or 0) for metric in COMPARED}
    assert tiny_comparison.comparison.winner == max(sizes, key=lambda metric: sizes[metric])


def test_the_columns_are_the_values_of_the_metrics(rows: list[Row], observed: Observed) -> None:
    sample = rows[::9]
    shares = [share_of(row) for row in sample]
    for name, metric in COMPARED.items():
        values = metric.similarities(observed, shares)
        for row, share in zip(sample, shares, strict=True):
            assert float(row[name]) == pytest.approx(values[share], abs=1e-5)


def test_accuracies_are_those_of_each_share_alone(
    labelled: Labelled, tiny_comparison: FinishedComparison, rows: list[Row], observed: Observed
) -> None:
    config = tiny_comparison.config
    for row in rows[::11]:
        plan = SharePlan((share_of(row),))
        name = plan.shares[0].recipient.model
        truth = open_ground_truth(config, name, "classification")
        assert isinstance(truth, ClassTruth)
        deployment = observed.deployment
        setup = EvaluationSetup(deployment.models, deployment.facts, observed.maps_for([plan]), 5)
        hits = []
        for k in range(PICTURES):
            single = ClassTruth.single(Subset(truth.frames, (k,)), [labelled.labels[name][k]])
            (scores,) = compute_accuracy(setup, [plan], {name: single}, lambda done: None)
            hits.append(scores[name]["top1"])
        assert float(row["accuracy_deciding"]) == statistics.fmean(hits[::DECIDES])
        rest = [hit for k, hit in enumerate(hits) if k % DECIDES]
        assert float(row["accuracy"]) == pytest.approx(statistics.fmean(rest))
        assert row["kept"] == row["accuracy"]  # the unmerged accuracy is 1


def test_the_comparison_records_its_inputs(tiny_comparison: FinishedComparison) -> None:
    comparison, config = tiny_comparison.comparison, tiny_comparison.config
    assert read_record(MetricComparison, tiny_comparison.out / "league.json") == comparison
    assert (comparison.schema, comparison.seed, comparison.name) == (1, config.seed, "tiny")
    assert comparison.config == config.as_written()
    assert comparison.deciding.frames == {"a": 4, "b": 4}
    assert comparison.reporting.frames == {"a": 16, "b": 16}
    assert comparison.frames["hash"] == open_frame_set(config).hash
    assert (
        set(comparison.metric_seconds) == set(COMPARED) and comparison.seconds["statistics"] >= 0
    )
    assert comparison.shares["same"] + comparison.shares["cross"] == comparison.shares["all"]


def test_files_are_complete_and_finite(tiny_comparison: FinishedComparison) -> None:
    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    json.loads((tiny_comparison.out / "league.json").read_text(), parse_constant=refuse)
    assert not [p for p in tiny_comparison.out.iterdir() if ".part" in p.name]
    for name in ("points.png", "maps.png", "bars.png"):
        with Image.open(tiny_comparison.out / name) as picture:
            picture.load()
            assert min(picture.size) > 300


def test_the_table_lists_the_winner_first(tiny_comparison: FinishedComparison) -> None:
    text, comparison = tiny_comparison.captured.text, tiny_comparison.comparison
    assert f"{comparison.winner} *" in text and "nan" not in text.lower().split()
    assert "88 shares (16 same, 72 cross stage)" in text
    first = text.index("Pearson")
    places = [text.index(f"\n{metric} ", first) for metric in comparison.deciding.ranking]
    assert places == sorted(places)


# The deciding part and the reporting part are separate.


@given(st.integers(DECIDES, 60), st.randoms())
def test_labels_of_reporting_frames_never_reach_the_deciding_part(count: int, chance: Any) -> None:
    frames = RenderedScenes(STREET, count)
    labels = tuple(chance.randrange(9) for _ in range(count))
    changed_labels = tuple(
        label if k % DECIDES == 0 else 8 - label for k, label in enumerate(labels)
    )
    original, relabelled = (
        split_truth({"a": ClassTruth.single(frames, values)})
        for values in (labels, changed_labels)
    )
    assert original["deciding"] == relabelled["deciding"]
    decides, reports = original["deciding"]["a"], original["reporting"]["a"]
    assert isinstance(decides, ClassTruth) and isinstance(reports, ClassTruth)
    assert isinstance(decides.frames, Subset) and isinstance(reports.frames, Subset)
    indices = {*decides.frames.indices, *reports.frames.indices}
    assert indices == set(range(count))
    assert len(decides.labels) + len(reports.labels) == count
    assert len(decides.labels) == math.ceil(count / DECIDES)


def test_labels_of_the_reporting_part_cannot_change_the_winner(
    labelled: Labelled, tiny_comparison: FinishedComparison
) -> None:
    relabelled = {
        name: [
            label if k % DECIDES == 0 or k % 3 == 0 else (label + 1) % 7
            for k, label in enumerate(labels)
        ]
        for name, labels in labelled.labels.items()
    }
    comparison = run_comparison(labelled, relabelled, ["name=relabelled"]).comparison
    assert comparison.deciding == tiny_comparison.comparison.deciding
    assert comparison.winner == tiny_comparison.comparison.winner
    assert comparison.reporting != tiny_comparison.comparison.reporting


def test_a_model_that_scores_zero_is_left_out_and_named(
    labelled: Labelled, tiny_comparison: FinishedComparison
) -> None:
    wrong = [(label + 1) % 7 for label in labelled.labels["b"]]
    finished = run_comparison(labelled, {**labelled.labels, "b": wrong}, ["name=hopeless"])
    rows = read_rows(finished)
    assert {row["recipient"].partition(":")[0] for row in rows} == {"a"}
    assert finished.comparison.reporting.left_out == {"b": "its unmerged score is 0"}
    assert (
        "b is left out on the reporting frames: its unmerged score is 0" in finished.captured.text
    )
    complete = [row for row in read_rows(tiny_comparison) if row["recipient"].startswith("a:")]
    assert [row["kept"] for row in rows] == [row["kept"] for row in complete]


def test_a_model_that_scores_zero_on_one_part_is_left_out_of_that_part(
    labelled: Labelled,
) -> None:
    labels = [
        (label + 1) % 7 if k % DECIDES == 0 else label
        for k, label in enumerate(labelled.labels["b"])
    ]
    finished = run_comparison(labelled, {**labelled.labels, "b": labels}, ["name=unlucky"])
    assert finished.comparison.deciding.left_out == {"b": "its unmerged score is 0"}
    assert finished.comparison.reporting.left_out == {}
    for row in read_rows(finished):
        assert bool(row["kept_deciding"]) == row["recipient"].startswith("a:")
        assert row["kept"]
    counts = [
        table.pearson("r2").count
        for table in (finished.comparison.deciding, finished.comparison.reporting)
    ]
    assert counts[1] == 2 * counts[0] == 88


def test_stages_with_the_same_weights_are_not_measured(labelled: Labelled) -> None:
    state = load_file(labelled.folder / "a.safetensors")
    state["blocks.2.0.conv_pwl.weight"] += 0.05
    save_file(state, labelled.folder / "related.safetensors")
    overrides = ["name=related", "models.b.weights=related.safetensors"]
    finished = run_comparison(labelled, {**labelled.labels, "b": labelled.labels["a"]}, overrides)
    measured = {(row["donor"], row["recipient"]) for row in read_rows(finished)}
    for stage in ("stem", "blocks.0", "blocks.1"):
        assert not {(f"a:{stage}", f"b:{stage}"), (f"b:{stage}", f"a:{stage}")} & measured
    assert {("a:blocks.2", "b:blocks.2"), ("a:blocks.0", "b:blocks.1")} <= measured
    assert "6 pairs of stages with the same weights are left out" in finished.captured.text


def test_detectors_and_classifiers_are_measured_together(mixed: Observed) -> None:
    """In one pass, each share is scored by its own recipient."""
    deployment = mixed.deployment
    truth = {
        "cls": scenes_truth(STREET, 6, "classification"),
        "det": scenes_truth(STREET, 6, "detection"),
    }
    legal = enumerate_shares(deployment.pairs.legal, deployment.facts, [AdapterSpec("linear")])
    into = {name: [s for s in legal if s.recipient.model == name][:2] for name in truth}
    shares = [*into["cls"], *into["det"]]
    maps = mixed.maps_for([SharePlan((share,)) for share in shares])
    setup = EvaluationSetup(deployment.models, deployment.facts, maps, 3)
    steps: list[int] = []
    measured = measure_shares(setup, shares, truth, steps.append)
    assert sum(steps) == 6 + 5 * 2 and list(measured.scores) == shares
    for share in shares:
        name = share.recipient.model
        (scores,) = compute_accuracy(
            setup, [SharePlan((share,))], {name: truth[name]}, lambda n: None
        )
        main = scores[name]["map" if name == "det" else "top1"]
        assert measured.scores[share] == pytest.approx(main, abs=2e-3)


def test_shares_measured_in_groups_have_the_accuracy_of_all_together(
    mixed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    legal = enumerate_shares(mixed.deployment.pairs.legal, mixed.deployment.facts, [LINEAR])
    shares = [share for share in legal if share.recipient.model == "cls"][:6]
    parts: dict[LabelPart, dict[str, Truth]] = {
        "deciding": {"cls": scenes_truth(STREET, 6, "classification")},
        "reporting": {"cls": scenes_truth(STREET, 9, "classification")},
    }
    together = measure_parts(mixed, shares, parts, 3, SILENT)
    monkeypatch.setattr(search.statistics.observed, "MOST_MAP_BYTES", 1)
    captured = capture_reporter()
    assert measure_parts(mixed, shares, parts, 3, captured.reporter) == together
    assert list(together["deciding"].scores) == shares
    assert "Accuracy of 1 of 6 shares on the reporting frames" in captured.text


def test_accuracy_kept_is_relative_to_the_unmerged_recipient() -> None:
    shares = [Share(Ref(r, "s"), Ref(d, "s")) for d, r in (("a", "b"), ("b", "a"), ("a", "c"))]
    unmerged = {
        "a": {"top1": 0.8, "top5": 1.0},
        "b": {"map": 0.4, "ap50": 0.5},
        "c": {"map": 0.0, "ap50": 0.0},
    }
    scores = dict(zip(shares, (0.2, 0.9, 0.3), strict=True))
    measured = ShareAccuracy(unmerged, scores)
    assert measured.kept == {
        shares[0]: pytest.approx(0.5),
        shares[1]: pytest.approx(0.9 / 0.8),
    }
    assert list(measured.left_out) == ["c"]
    text = guides_csv(
        MetricValues({"r2": dict.fromkeys(shares, 0.1)}, {"r2": 0.0}),
        {"reporting": measured, "deciding": measured},
    )
    assert text.splitlines()[3] == "a:s,c:s,linear,0.3,,0.3,,0.1"


# User errors.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": {}}, "the config needs `truth:` for at least one model"),
        ({"truth.a": {"scenes": {"seed": 2}, "count": 1}}, "no frames among its reporting frames"),
        ({"truth.a": {"scenes": {"seed": 1}, "count": 5}}, "also among"),
        ({"truth.a": {"csv": "gone.csv"}}, "cannot be read"),
        ({"models.b.fit": "crop"}, "no representation may replace another"),
        ({"search.adapters": ["magic"]}, "must be identity or linear"),
    ],
)
def test_an_invalid_config_is_refused_before_any_file_is_written(
    tmp_path: Path, weights: Weights, changes: dict[str, Any], message: str
) -> None:
    path = write_config(tmp_path, with_changes(config_data(weights), changes))
    with pytest.raises(MergeSearchError, match=message) as failure:
        correlate(load_config(path), capture_reporter().reporter)
    assert "\n" not in str(failure.value)
    assert not list(tmp_path.rglob("league.json"))


def test_adapters_that_fit_no_share_are_refused(labelled: Labelled) -> None:
    """Every map into these networks has less than a thousand channels on one side."""
    with pytest.raises(NothingToCorrelate, match="no share with adapters"):
        run_comparison(labelled, labelled.labels, ["name=none", "search.adapters=[linear@1000]"])


def test_boxes_are_needed_on_both_parts() -> None:
    frames = RenderedScenes(STREET, 6)
    box = {"bbox": [0, 0, 9, 9], "category_id": 1, "area": 81, "iscrowd": 0}
    empty = BoxTruth(frames, ((),) * 5 + ((box,),), ({"id": 1, "name": "x"},))
    decided = BoxTruth(frames, ((), (box,)) + ((),) * 4, empty.categories)
    with pytest.raises(BadTruth, match=r"truth\.det: no boxes among its reporting frames"):
        split_truth({"det": empty})
    with pytest.raises(BadTruth, match=r"truth\.det: no boxes among its deciding frames"):
        split_truth({"det": decided})


def test_networks_without_any_accuracy_are_refused_before_the_statistics(
    labelled: Labelled, tmp_path: Path
) -> None:
    wrong = {
        name: [(label + 1) % 7 for label in labels] for name, labels in labelled.labels.items()
    }
    with pytest.raises(NothingToCorrelate, match="no model with ground truth scores above 0"):
        run_comparison(labelled, wrong, ["name=nothing", f"cache={tmp_path / 'cache'}"])
    assert not (tmp_path / "cache").exists()
    assert not (labelled.folder / "out" / "nothing" / "correlate").exists()
