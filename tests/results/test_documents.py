"""Files of earlier versions are read, and written again byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import FinishedRun

from search.cameras.recordings import CameraState
from search.deploy.champion import Champion
from search.metrics.fidelity_cache import AgreementRecord
from search.results.documents import DOCUMENT_NAMES, content_id, read_document
from search.results.measured import DeviceMeasurement
from search.results.metric_comparison import MetricComparison
from search.results.registered_plan import RegisteredPlan
from search.results.rounds import PromotionRecord, Round
from search.results.search_result import CandidateRecord, PlanRecord, Result
from search.results.verification import Verification
from search.tracking.target import StoredTarget
from search.utils.files import json_bytes, write_json
from search.utils.records import BadRecord, dump_record, load_record

PLAN: dict[str, Any] = {
    "hash": "0123456789ab",
    "plan": {"version": 1, "shares": [{"donor": "a:2", "recipient": "b:2"}]},
    "bytes": 16_000_000,
    "macs": 9_007_199_254_740_993,
    "saved_pct": 33.300000000000004,
    "proxy": 0.1 + 0.2,
    "costs": {"bytes": 16.0, "activation": 1e-07},
}
CANDIDATE: dict[str, Any] = {
    **PLAN,
    "fidelity": {"a": 1.0, "b": None},
    "accuracy": {"b": {"top1": 0.75, "top5": 1.0}},
    "kept": {"b": 0.9868421052631579},
    "quality_kept": 0.9868421052631579,
    "intervals": {"b": {"top1": [0.7, 0.8]}},
    "differences": {"b": {"top1": [-0.01, -0.03, 0.01]}},
    "quality_interval": [0.95, 1.02],
}
FRAMES = {"hash": "fedcba987654", "count": 28}
VERSIONS = {"python": "3.12.3", "torch": "2.15.0+cpu"}
CREATED = "2026-05-04T12:00:00+00:00"
RESULT: dict[str, Any] = {
    "name": "Tür 7",
    "seed": 0,
    "metric": "fidelity",
    "budget_bytes": 16_000_001,
    "quality_floor": None,
    "unmerged_bytes": 24_000_000,
    "unmerged_macs": 700_000_000,
    "smallest_bytes": 15_000_000,
    "frames": FRAMES,
    "models": {
        "b": {
            "arch": "tf_efficientnet_lite1",
            "task": "classification",
            "stages": [{"name": "blocks.5", "shape": [112, 14, 14], "bytes": 5, "tap": False}],
            "head_bytes": 5_124_000,
            "head_macs": 1_280_000,
        }
    },
    "study": {"sampler": "nsga2", "trials": 30, "hypervolume": [0.0, 0.25], "joined": True},
    "baseline": {"b": {"top1": 0.76, "top5": 1.0}},
    "baseline_intervals": {"b": {"top1": [0.7, 0.8], "top5": [1.0, 1.0]}},
    "front": [PLAN],
    "candidates": [CANDIDATE],
    "verified_front": ["0123456789ab"],
    "chosen": "0123456789ab",
    "rungs": {"proxy_fidelity": 1.0, "proxy_truth": None, "fidelity_truth": -0.5},
    "config": {"frames": {"folder": "frames"}, "seed": 0, "budget": "65%"},
    "base": "../..",
    "seconds": {"search": 0.07, "statistics": 12.0},
    "created": CREATED,
    "truth": {"b": {**FRAMES, "labels": "aaaabbbbcccc"}},
    "latency_ms": {"unmerged": 12.5, "0123456789ab": 10.0},
    "bundle": "ddddeeeeffff",
    "versions": VERSIONS,
    "schema": 4,
}
REFINEMENTS = [
    {"plan": "0123456789ab", "refined": "ba9876543210", "closed_form": 0.8, "closeness": 0.85,
     "gain": [0.05, 0.01, 0.09]},
]  # fmt: skip
ALTERNATIVES = [
    {"precision": "int8", "bytes": 260, "saved_pct": 74.0, "fidelity": 0.98, "quality_kept": None,
     "quality_interval": None},
]  # fmt: skip
DEVICE: dict[str, Any] = {
    "version": 1,
    "plan": "0123456789ab",
    "bundle": "ab" * 32,
    "folder": "",
    "device": "Jetson Orin Nano",
    "cores": 6,
    "system": "Linux aarch64",
    "provider": "CUDAExecutionProvider",
    "threads": 6,
    "runtime": "onnxruntime 1.31.1",
    "opset": 17,
    "frames": 30,
    "created": CREATED,
    "graphs": {"model": 20.25, "trunk": 12.0, "b": 8.5, "b_alone": 19.0},
    "sets": {
        "merged": {"milliseconds": 20.25, "loaded_bytes": 21_000_000, "running_bytes": None},
        "split": {"milliseconds": 20.5, "loaded_bytes": 0, "running_bytes": 50_000_000},
    },
    "models": {"b": {"split": 20.5, "alone": 19.0}},
    "rates": {"b": 12.5},
    "per_second": {"split": 256.25},
}
LAST = ("bundle", "versions", "schema")
"""The keys at the end of a result, in their order."""
MEASURED = {
    **{key: value for key, value in RESULT.items() if key not in LAST},
    "refinements": REFINEMENTS,
    "alternatives": ALTERNATIVES,
    **{key: RESULT[key] for key in LAST},
}
RATED_CANDIDATE = {
    **PLAN,
    "macs_per_second": 27_650_296.5,
    **{key: value for key, value in CANDIDATE.items() if key not in PLAN},
}
RATED = {
    **{key: value for key, value in RESULT.items() if key not in LAST},
    "front": [{**PLAN, "macs_per_second": 27_650_296.5}],
    "candidates": [RATED_CANDIDATE],
    "rates": {"b": 10.0, "a": 0.5},
    "unmerged_macs_per_second": 141_590_000.0,
    **{key: RESULT[key] for key in LAST},
}
ON_DEVICES = {
    **{key: value for key, value in MEASURED.items() if key not in LAST},
    "measured": [DEVICE],
    **{key: RESULT[key] for key in LAST},
}
VERIFICATION: dict[str, Any] = {
    "name": "doors",
    "seed": 0,
    "result": "123456789abc",
    "frames": FRAMES,
    "truth": {"b": {**FRAMES, "labels": "aaaabbbbcccc"}},
    "unmerged_bytes": 24_000_000,
    "baseline": {"b": {"top1": 0.76}},
    "baseline_intervals": {"b": {"top1": [0.7, 0.8]}},
    "candidates": [CANDIDATE],
    "verified_front": [],
    "chosen": None,
    "config": {},
    "seconds": {"verify": 1.5},
    "created": CREATED,
    "versions": VERSIONS,
    "schema": 1,
}
CORRELATION = {"value": 0.9, "low": 0.5, "high": 0.99, "count": 12}
UNDEFINED = {"value": None, "low": None, "high": None, "count": 2}
TABLE: dict[str, Any] = {
    "frames": {"b": 16},
    "unmerged": {"b": {"top1": 0.76}},
    "left_out": {"a": "no labels"},
    "guides": {"cka": {"all": {"pearson": CORRELATION}, "within": {"pearson": UNDEFINED}}},
}
LEAGUE: dict[str, Any] = {
    "name": "doors",
    "seed": 0,
    "adapters": ["linear"],
    "frames": FRAMES,
    "models": {"a": "tf_efficientnet_lite0"},
    "shares": {"all": 12, "same": 3, "cross": 9},
    "guides": {"cka": "unbiased CKA"},
    "guide_seconds": {"cka": 0.01},
    "winner": "cka",
    "deciding": TABLE,
    "reporting": TABLE,
    "settings": {"every": 5},
    "config": {},
    "seconds": {"statistics": 3.25},
    "created": CREATED,
    "versions": VERSIONS,
    "schema": 1,
}
REGISTERED: dict[str, Any] = {
    "plan": "0123456789ab",
    "bundle": "ddddeeeeffff",
    "bytes": 16_000_000,
    "unmerged_bytes": 24_000_000,
    "quality": 0.9868421052631579,
    "interval": [0.95, 1.02],
    "worst": 0.9868421052631579,
    "fidelity": 1.0,
    "labels": {"b": "fedcba987654 aaaabbbbcccc"},
    "frames": "fedcba987654",
    "created": CREATED,
    "fidelity_interval": None,
    "at_chance": [],
}
PROMOTION: dict[str, Any] = {
    "result": "123456789abc",
    "challenger": "0123456789ab",
    "bundle": "ddddeeeeffff",
    "by": "truth",
    "challenger_quality": 0.98,
    "champion_quality": None,
    "difference": ["b:2 is shared"],
    "promoted": True,
    "reason": "there was no champion",
    "measured_on": "16 new frames",
    "at_chance": ["b"],
}
ROUND: dict[str, Any] = {
    "version": 1,
    "number": 12,
    "due": CREATED,
    "began": CREATED,
    "ended": CREATED,
    "cameras": {
        "door": {
            "frames": 30,
            "fault": None,
            "judged": 30,
            "p_value": 1e-22,
            "drifted": True,
            "window": 3,
        }
    },
    "decision": "promoted",
    "reason": "door has changed",
    "champion": "0123456789ab",
    "fidelity": {"a": 1.0, "b": None},
    "verdict": PROMOTION,
    "missed": 0,
    "expected": 1.0,
}
CHAMPION: dict[str, Any] = {
    "version": 1,
    "standing": REGISTERED,
    "since": CREATED,
    "reason": "there was no champion",
    "before": None,
    "round": 12,
    "verdict": PROMOTION,
    "told": False,
}
SAMPLES: list[tuple[type[Any], dict[str, Any]]] = [
    (Result, RESULT),
    (Result, MEASURED),
    (Result, RATED),
    (Result, ON_DEVICES),
    (DeviceMeasurement, DEVICE),
    (Verification, VERIFICATION),
    (Verification, {**VERIFICATION, "candidates": [RATED_CANDIDATE]}),
    (MetricComparison, LEAGUE),
    (RegisteredPlan, REGISTERED),
    (Round, ROUND),
    (Round, {**ROUND, "verdict": None, "cameras": {}, "fidelity": {}, "expected": None}),
    (Champion, CHAMPION),
    (Champion, {**CHAMPION, "round": None, "verdict": None, "told": True}),
    (StoredTarget, {"uri": "http://server:5000", "experiment": "doors", "artifacts": "file:///a"}),
    (AgreementRecord, {"frames": 8, "sums": {"a:2 -> b:2 (linear)": 7.25}}),
    (CameraState, {"cursor": {"last": [1, "x"]}, "faults": 2, "not_before": CREATED}),
]


@pytest.mark.parametrize(("kind", "sample"), SAMPLES)
def test_reading_and_writing_a_record_changes_no_byte(
    kind: type[Any], sample: dict[str, Any]
) -> None:
    content = json_bytes(sample)
    record = load_record(kind, content, "sample")
    assert json_bytes(dump_record(record)) == content


@pytest.mark.parametrize(("kind", "sample"), SAMPLES)
def test_a_record_with_an_unknown_key_is_refused(kind: type[Any], sample: dict[str, Any]) -> None:
    with pytest.raises(BadRecord, match=r"sample: added: "):
        load_record(kind, json_bytes({**sample, "added": 1}), "sample")


@pytest.mark.parametrize(("kind", "sample"), [(Round, ROUND), (Champion, CHAMPION)])
@pytest.mark.parametrize("version", [{}, {"version": 2}, {"version": None}])
def test_a_record_without_its_version_or_of_another_is_refused(
    kind: type[Any], sample: dict[str, Any], version: dict[str, Any]
) -> None:
    unversioned = {key: value for key, value in sample.items() if key != "version"}
    with pytest.raises(BadRecord, match=r"sample: version: "):
        load_record(kind, json_bytes({**unversioned, **version}), "sample")


def test_fields_have_the_types_that_the_code_relies_on() -> None:
    result = load_record(Result, json_bytes(RESULT), "sample")
    assert type(result.front[0]) is PlanRecord and type(result.candidates[0]) is CandidateRecord
    plan = load_record(RegisteredPlan, json_bytes(REGISTERED), "sample")
    assert plan.interval == (0.95, 1.02)


def test_fields_that_came_later_have_their_defaults() -> None:
    earlier = {key: RESULT[key] for key in RESULT if key not in ("truth", "latency_ms", "bundle")}
    result = load_record(Result, json_bytes(earlier), "sample")
    assert (result.truth, result.latency_ms, result.bundle) == ({}, {}, None)
    later = ("fidelity_interval", "at_chance")
    earlier = {key: REGISTERED[key] for key in REGISTERED if key not in later}
    plan = load_record(RegisteredPlan, json_bytes(earlier), "sample")
    assert plan.fidelity_interval is None and plan.at_chance == ()
    earlier = {key: PROMOTION[key] for key in PROMOTION if key != "at_chance"}
    assert load_record(PromotionRecord, json_bytes(earlier), "sample").at_chance == ()


def test_measurements_leave_the_identity_of_a_result() -> None:
    assert content_id(json_bytes(ON_DEVICES)) == content_id(json_bytes(MEASURED))
    assert content_id(json_bytes(MEASURED)) != content_id(json_bytes(RESULT))


@pytest.mark.parametrize(
    "change",
    [
        {"sets": {"a_alone": DEVICE["sets"]["merged"]}},
        {"graphs": {"model": 0}},
        {"threads": 0},
        {"version": 2},
    ],
)
def test_a_measurement_that_means_nothing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadRecord, match=next(iter(change)) + "|neither model.onnx nor trunk"):
        load_record(DeviceMeasurement, json_bytes({**DEVICE, **change}), "sample")


@pytest.mark.parametrize("change", [{"created": "in May"}, {"seconds": {"search": "1"}}])
def test_a_document_without_its_times_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    write_json(tmp_path / "result.json", {**RESULT, **change})
    with pytest.raises(BadRecord, match=rf"result\.json: {next(iter(change))}"):
        read_document(tmp_path / "result.json")


def test_the_result_of_a_run_is_written_again_byte_for_byte(tiny_run: FinishedRun) -> None:
    path = tiny_run.out / DOCUMENT_NAMES[Result]
    assert json_bytes(dump_record(read_document(path))) == path.read_bytes()
