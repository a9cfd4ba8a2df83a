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
from labelled import PICTURES, Compared, Labelled, compare
from PIL import Image
from tiny import STREET, Weights, capture_reporter, config_data, with_changes, write_config

from search.config.loading import load_config
from search.data.frames import RenderedScenes, Subset
from search.data.ground_truth import BadTruth, BoxTruth, ClassTruth, scenes_truth
from search.evaluation.evaluate import EvaluationSetup, compute_accuracy
from search.metrics.registry import METRICS
from search.pipelines.correlate import MetricValues, correlate, guides_csv
from search.pipelines.open_data import open_frame_set, open_ground_truth
from search.pipelines.prepare import load_deployment, observe
from search.pipelines.share_accuracy import (
    DECIDES,
    NothingToCorrelate,
    ShareAccuracy,
    measure_shares,
    split_truth,
)
from search.results.metric_comparison import LABEL_PARTS, LabelPart, MetricComparison
from search.statistics.observed import Observed
from search.utils.records import read_record
from spaces.errors import MergeSearchError
from spaces.plan import AdapterSpec, Ref, Share, SharePlan
from spaces.shares import enumerate_shares

Row = dict[str, str]
KEPT = {"reporting": "kept", "deciding": "kept_deciding"}


def read_rows(compared: Compared) -> list[Row]:
    with (compared.out / "guides.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def rows(tiny_league: Compared) -> list[Row]:
    return read_rows(tiny_league)


@pytest.fixture(scope="module")
def observed(tiny_league: Compared) -> Observed:
    """The statistics of the comparison, read from its cache."""
    config, reporter = tiny_league.config, capture_reporter().reporter
    deployment = load_deployment(config, reporter)
    return observe(config, deployment, open_frame_set(config), reporter)


def share_of(row: Row) -> Share:
    adapter = AdapterSpec.parse(row["adapter"])
    return Share(Ref.parse(row["recipient"]), Ref.parse(row["donor"]), adapter)


def r(rows: Sequence[Row], metric: str, kept: str) -> float | None:
    """Pearson's r by the standard library."""
    x, y = ([float(row[column]) for row in rows] for column in (metric, kept))
    return statistics.correlation(x, y) if len({*x}) > 1 < len({*y}) else None


def r_within(rows: Sequence[Row], metric: str, kept: str) -> float | None:
    into: dict[str, list[Row]] = {}
    for row in rows:
        into.setdefault(row["recipient"], []).append(row)
    values = [r(members, metric, kept) for members in into.values() if len(members) >= 3]
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
    tiny_league: Compared, rows: list[Row], observed: Observed
) -> None:
    deployment = observed.deployment
    legal = enumerate_shares(
        deployment.pairs.legal, deployment.facts, tiny_league.config.search.adapter_specs
    )
    assert [share_of(row) for row in rows] == list(legal)
    assert tiny_league.league.shares["all"] == len(rows)
    assert list(rows[0])[7:] == list(METRICS)
    assert {row["recipient"].partition(":")[0] for row in rows} == {"a", "b"}


@pytest.mark.parametrize("part", LABEL_PARTS)
def test_the_correlations_agree_with_the_rows(
    tiny_league: Compared, rows: list[Row], part: LabelPart
) -> None:
    written = json.loads((tiny_league.out / "league.json").read_text(encoding="utf-8"))
    assert list(written[part]["guides"]) == list(METRICS)
    for metric, groups in written[part]["guides"].items():
        assert list(groups) == list(GROUPS)
        for group, recomputed in GROUPS.items():
            wanted = recomputed(rows, metric, KEPT[part])
            correlation = groups[group]["pearson"]
            if wanted is None:
                assert correlation["value"] is correlation["low"] is correlation["high"] is None
            else:
                assert correlation["value"] == pytest.approx(wanted, abs=1e-9)
                assert correlation["low"] <= correlation["value"] <= correlation["high"]


def test_the_winner_is_the_best_on_the_deciding_frames(
    tiny_league: Compared, rows: list[Row]
) -> None:
    sizes = {metric: abs(r(rows, metric, "kept_deciding") or 0) for metric in METRICS}
    assert tiny_league.league.winner == max(sizes, key=lambda metric: sizes[metric])


def test_the_columns_are_the_values_of_the_metrics(rows: list[Row], observed: Observed) -> None:
    some = rows[::9]
    shares = [share_of(row) for row in some]
    for name, metric in METRICS.items():
        values = metric.similarities(observed, shares)
        for row, share in zip(some, shares, strict=True):
            assert float(row[name]) == pytest.approx(values[share], abs=1e-5)


def test_accuracies_are_those_of_each_share_on_its_own(
    known: Labelled, tiny_league: Compared, rows: list[Row], observed: Observed
) -> None:
    config = tiny_league.config
    for row in rows[::11]:
        plan = SharePlan((share_of(row),))
        name = plan.shares[0].recipient.model
        truth = open_ground_truth(config, name, "classification")
        assert isinstance(truth, ClassTruth)
        deployment = observed.deployment
        setup = EvaluationSetup(deployment.models, deployment.facts, observed.maps_for([plan]), 5)
        hits = []
        for k in range(PICTURES):
            alone = ClassTruth.single(Subset(truth.frames, (k,)), [known.labels[name][k]])
            (scores,) = compute_accuracy(setup, [plan], {name: alone}, lambda done: None)
            hits.append(scores[name]["top1"])
        assert float(row["accuracy_deciding"]) == statistics.fmean(hits[::DECIDES])
        rest = [hit for k, hit in enumerate(hits) if k % DECIDES]
        assert float(row["accuracy"]) == pytest.approx(statistics.fmean(rest))
        assert row["kept"] == row["accuracy"]  # the unmerged accuracy is 1


def test_the_comparison_records_its_inputs(tiny_league: Compared) -> None:
    comparison, config = tiny_league.league, tiny_league.config
    assert read_record(MetricComparison, tiny_league.out / "league.json") == comparison
    assert (comparison.schema, comparison.seed, comparison.name) == (1, config.seed, "tiny")
    assert comparison.config == config.as_written()
    assert comparison.deciding.frames == {"a": 4, "b": 4}
    assert comparison.reporting.frames == {"a": 16, "b": 16}
    assert comparison.frames["hash"] == open_frame_set(config).hash
    assert set(comparison.metric_seconds) == set(METRICS) and comparison.seconds["statistics"] >= 0
    assert comparison.shares["same"] + comparison.shares["cross"] == comparison.shares["all"]


def test_files_are_complete_and_finite(tiny_league: Compared) -> None:
    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    json.loads((tiny_league.out / "league.json").read_text(), parse_constant=refuse)
    assert not [p for p in tiny_league.out.iterdir() if ".part" in p.name]
    for name in ("points.png", "maps.png", "bars.png"):
        with Image.open(tiny_league.out / name) as picture:
            picture.load()
            assert min(picture.size) > 300


def test_the_table_lists_the_winner_first(tiny_league: Compared) -> None:
    said, league = tiny_league.spoken.text, tiny_league.league
    assert f"{league.winner} *" in said and "nan" not in said.lower().split()
    assert "88 shares (16 same, 72 cross stage)" in said
    first = said.index("Pearson")
    places = [said.index(f"\n{metric} ", first) for metric in league.deciding.ranking]
    assert places == sorted(places)


# The deciding part is kept apart from the reporting part.


@given(st.integers(DECIDES, 60), st.randoms())
def test_labels_of_reporting_frames_never_reach_the_deciding_part(count: int, chance: Any) -> None:
    frames = RenderedScenes(STREET, count)
    labels = tuple(chance.randrange(9) for _ in range(count))
    turned = tuple(label if k % DECIDES == 0 else 8 - label for k, label in enumerate(labels))
    one, other = (
        split_truth({"a": ClassTruth.single(frames, known)}) for known in (labels, turned)
    )
    assert one["deciding"] == other["deciding"]
    decides, reports = one["deciding"]["a"], one["reporting"]["a"]
    assert isinstance(decides, ClassTruth) and isinstance(reports, ClassTruth)
    assert isinstance(decides.frames, Subset) and isinstance(reports.frames, Subset)
    both = {*decides.frames.indices, *reports.frames.indices}
    assert both == set(range(count))
    assert len(decides.labels) + len(reports.labels) == count
    assert len(decides.labels) == math.ceil(count / DECIDES)


def test_labels_of_the_reporting_part_cannot_change_the_winner(
    known: Labelled, tiny_league: Compared
) -> None:
    other = {
        name: [
            label if k % DECIDES == 0 or k % 3 == 0 else (label + 1) % 7
            for k, label in enumerate(labels)
        ]
        for name, labels in known.labels.items()
    }
    league = compare(known, other, ["name=relabelled"]).league
    assert league.deciding == tiny_league.league.deciding
    assert league.winner == tiny_league.league.winner
    assert league.reporting != tiny_league.league.reporting


def test_a_model_that_scores_nothing_is_left_out_and_named(
    known: Labelled, tiny_league: Compared
) -> None:
    wrong = [(label + 1) % 7 for label in known.labels["b"]]
    compared = compare(known, {**known.labels, "b": wrong}, ["name=hopeless"])
    rows = read_rows(compared)
    assert {row["recipient"].partition(":")[0] for row in rows} == {"a"}
    assert compared.league.reporting.left_out == {"b": "its unmerged score is 0"}
    assert "b is left out on the reporting frames: its unmerged score is 0" in compared.spoken.text
    whole = [row for row in read_rows(tiny_league) if row["recipient"].startswith("a:")]
    assert [row["kept"] for row in rows] == [row["kept"] for row in whole]


def test_a_model_that_scores_nothing_on_one_part_is_left_out_of_that_part(
    known: Labelled,
) -> None:
    luck = [
        (label + 1) % 7 if k % DECIDES == 0 else label for k, label in enumerate(known.labels["b"])
    ]
    compared = compare(known, {**known.labels, "b": luck}, ["name=unlucky"])
    assert compared.league.deciding.left_out == {"b": "its unmerged score is 0"}
    assert compared.league.reporting.left_out == {}
    for row in read_rows(compared):
        assert bool(row["kept_deciding"]) == row["recipient"].startswith("a:")
        assert row["kept"]
    counts = [
        table.pearson("r2").count
        for table in (compared.league.deciding, compared.league.reporting)
    ]
    assert counts[1] == 2 * counts[0] == 88


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
def test_a_bad_config_is_refused_before_anything_is_written(
    tmp_path: Path, weights: Weights, changes: dict[str, Any], message: str
) -> None:
    path = write_config(tmp_path, with_changes(config_data(weights), changes))
    with pytest.raises(MergeSearchError, match=message) as caught:
        correlate(load_config(path), capture_reporter().reporter)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("league.json"))


def test_adapters_that_fit_no_share_are_refused(known: Labelled) -> None:
    """Every map into these networks has less than a thousand channels on one side."""
    with pytest.raises(NothingToCorrelate, match="no share with adapters"):
        compare(known, known.labels, ["name=none", "search.adapters=[linear@1000]"])


def test_boxes_are_needed_on_both_parts() -> None:
    frames = RenderedScenes(STREET, 6)
    box = {"bbox": [0, 0, 9, 9], "category_id": 1, "area": 81, "iscrowd": 0}
    empty = BoxTruth(frames, ((),) * 5 + ((box,),), ({"id": 1, "name": "x"},))
    decided = BoxTruth(frames, ((), (box,)) + ((),) * 4, empty.categories)
    with pytest.raises(BadTruth, match=r"truth\.det: no boxes among its reporting frames"):
        split_truth({"det": empty})
    with pytest.raises(BadTruth, match=r"truth\.det: no boxes among its deciding frames"):
        split_truth({"det": decided})


def test_networks_without_any_accuracy_are_refused_before_the_long_work(
    known: Labelled, tmp_path: Path
) -> None:
    wrong = {name: [(label + 1) % 7 for label in labels] for name, labels in known.labels.items()}
    with pytest.raises(NothingToCorrelate, match="no model with ground truth scores above 0"):
        compare(known, wrong, ["name=nothing", f"cache={tmp_path / 'cache'}"])
    assert not (tmp_path / "cache").exists()
    assert not (known.folder / "out" / "nothing" / "correlate").exists()
