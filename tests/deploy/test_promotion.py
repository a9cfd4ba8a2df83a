"""Champion and challenger: the rule as a table, and the registry of real stores."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from servers import Server
from tiny import FinishedRun

from search.cli.main import main
from search.config.search import PromotionConfig
from search.deploy.comparison import Comparison
from search.deploy.promotion import decide
from search.evaluation.bundles import Difference, Measure
from search.results.registered_plan import RegisteredPlan
from search.results.search_result import Result
from search.study.problem import Limits
from search.tracking.client import log_document, open_registry
from search.tracking.target import Target
from search.utils.records import write_record

# The rule.

CHAMPION = RegisteredPlan(
    plan="aaa", bundle="b1", bytes=900, unmerged_bytes=2000, quality=0.95, interval=(0.93, 0.97),
    worst=0.9, fidelity=0.94, labels={"a": "f1 l1"}, frames="u1", created="2026-01-01",
)  # fmt: skip
CHALLENGER = replace(CHAMPION, plan="bbb", bundle="b2")
LIMITS = Limits(bytes=1000)


@pytest.mark.parametrize(
    ("rule", "changes", "promoted", "reason"),
    [
        ({}, {}, True, "not worse outside its interval"),
        ({}, {"quality": 0.99, "interval": (0.98, 1.0)}, True, "keeps 99.0%"),
        # the interval of the challenger reaches the champion's quality, or does not
        ({}, {"quality": 0.94, "interval": (0.92, 0.95)}, True, "keeps 94.0%"),
        ({}, {"quality": 0.93, "interval": (0.91, 0.949)}, False, "worse outside its interval"),
        ({"slack": 0.01}, {"quality": 0.93, "interval": (0.91, 0.949)}, True, "not worse"),
        ({}, {"bytes": 1001}, False, "over the budget"),
        ({}, {"quality": None, "interval": None}, False, "not verified on ground truth"),
        ({}, {"labels": {"a": "f1 l2"}}, False, "measured on other labels"),
        ({"measured_on": "any"}, {"labels": {"a": "f1 l2"}}, True, "not worse"),
        ({}, {"bundle": "b1"}, False, "the champion already"),
        # fidelity alone decides; it has an interval if the bundle itself was measured
        ({"by": "fidelity"}, {"quality": None, "interval": None}, True, "fidelity 94.0%"),
        ({"by": "fidelity"}, {"fidelity": 0.939}, False, "worse"),
        (
            {"by": "fidelity"},
            {"fidelity": 0.92, "fidelity_interval": (0.90, 0.95)},
            True,
            "fidelity 92.0% (90.0…95.0%)",
        ),
        ({"by": "fidelity"}, {"fidelity": None}, False, "not measured for fidelity"),
        ({"by": "fidelity"}, {"frames": "u2"}, False, "measured on other frames"),
        ({"by": "fidelity"}, {"labels": {}}, True, "not worse"),
        # ground truth decides if both plans have it, otherwise fidelity
        ({"by": "either"}, {}, True, "keeps 95.0%"),
        ({"by": "either"}, {"quality": None, "interval": None}, True, "fidelity 94.0%"),
        ({"by": "either"}, {"quality": None, "fidelity": None}, False, "not measured"),
    ],
)
def test_the_rule_promotes_or_gives_its_reason(
    rule: Mapping[str, Any], changes: Mapping[str, Any], promoted: bool, reason: str
) -> None:
    comparison = Comparison(replace(CHALLENGER, **changes), CHAMPION)
    decision = decide(PromotionConfig(**rule), LIMITS, comparison)
    assert decision.promoted is promoted and reason in decision.reason


@pytest.mark.parametrize(
    ("slack", "difference", "promoted", "reason"),
    [
        (0.0, Difference(-0.05, -0.11, 0.0), True, "-5.0 points (-11.0 to +0.0)"),
        (0.0, Difference(-0.05, -0.09, -0.01), False, "worse frame by frame"),
        (0.01, Difference(-0.05, -0.09, -0.01), True, "not worse frame by frame"),
        (0.0, Difference(0.05, 0.01, 0.09), True, "+5.0 points (+1.0 to +9.0)"),
    ],
)
def test_plans_measured_on_the_same_frames_are_compared_frame_by_frame(
    slack: float, difference: Difference, promoted: bool, reason: str
) -> None:
    # by its own interval, from 0 to 1, the challenger would always be promoted
    wide = replace(CHALLENGER, quality=0.95 + difference.value, interval=(0.0, 1.0))
    rule = PromotionConfig(slack=slack)
    decision = decide(rule, LIMITS, Comparison(wide, CHAMPION, {"truth": difference}))
    assert decision.promoted is promoted and reason in decision.reason
    assert decide(rule, LIMITS, Comparison(wide, CHAMPION, {"fidelity": difference})).promoted


def test_the_first_challenger_is_promoted_if_it_meets_the_limits() -> None:
    rule = PromotionConfig()
    fit, large = Comparison(CHALLENGER, None), replace(CHALLENGER, bytes=1001)
    assert decide(rule, LIMITS, fit).promoted
    assert not decide(rule, LIMITS, Comparison(large, None)).promoted
    floor = Limits(quality=0.9)
    assert decide(rule, floor, Comparison(large, None)).promoted
    bad = Comparison(replace(CHALLENGER, worst=0.89), None)
    assert "below the floor" in decide(rule, floor, bad).reason


def test_at_chance_the_reason_of_a_decision_holds_no_percentage_of_quality_kept() -> None:
    """The decision is the same as without the note."""
    rule, note = PromotionConfig(), "no baseline: unmerged, a is no better than chance"
    noise = replace(CHALLENGER, at_chance=("a",))
    by_frame: dict[Measure, Difference | None] = {"truth": Difference(-0.05, -0.09, -0.01)}
    for limits, comparison in [
        (LIMITS, Comparison(noise, None)),
        (LIMITS, Comparison(noise, CHAMPION)),
        (LIMITS, Comparison(CHALLENGER, replace(CHAMPION, at_chance=("a",)))),
        (LIMITS, Comparison(noise, CHAMPION, by_frame)),
        (Limits(quality=0.91), Comparison(noise, None)),
    ]:
        decision = decide(rule, limits, comparison)
        assert note in decision.reason
        assert set(re.findall(r"[\d.]+%|points", decision.reason)) <= {"91.0%"}
        above = Comparison(
            CHALLENGER, None if comparison.champion is None else CHAMPION, comparison.differences
        )
        assert decide(rule, limits, above).promoted == decision.promoted
    by_fidelity = decide(PromotionConfig(by="fidelity"), LIMITS, Comparison(noise, CHAMPION))
    assert "fidelity 94.0%" in by_fidelity.reason and note not in by_fidelity.reason


# The registry.


@pytest.fixture
def out(tiny_run: FinishedRun, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run.out, tmp_path / "out"))


def write_later_result(result: Result, seed: int, quality: float, out: Path) -> Result:
    """Write the result of another run whose chosen plan keeps that quality on the same labels."""
    chosen = [
        replace(c, quality_kept=quality, quality_interval=[quality - 0.01, quality + 0.01])
        if c.hash == result.chosen
        else c
        for c in result.candidates
    ]
    other = replace(
        result, seed=seed, candidates=chosen, created=f"2030-01-0{seed}T00:00:00+00:00"
    )
    write_record(out / "result.json", other)
    return other


def aliases(target: Target, name: str = "tiny") -> dict[str, int]:
    versions = MlflowClient(tracking_uri=target.uri).get_registered_model(name).aliases
    return {alias: int(version) for alias, version in versions.items()}


def tags(target: Target, version: int) -> dict[str, str]:
    client = MlflowClient(tracking_uri=target.uri)
    return dict(client.get_model_version("tiny", str(version)).tags)


def test_every_run_proposes_its_chosen_plan(tiny_run: FinishedRun) -> None:
    target = Target.of(tiny_run.config)
    assert aliases(target) == {"challenger": 1}
    assert "model 'tiny', version 1" in tiny_run.output
    with open_registry(target, "tiny") as registry:
        entry = registry.challenger()
    assert entry is not None
    registered = entry.plan
    chosen = next(c for c in tiny_run.result.candidates if c.hash == tiny_run.result.chosen)
    assert (registered.plan, registered.bytes, registered.quality) == (
        chosen.hash, chosen.bytes, chosen.quality_kept,
    )  # fmt: skip
    assert registered.bundle == tiny_run.result.bundle and set(registered.labels) == {"a"}


def test_a_challenger_becomes_champion_and_is_rolled_back(
    tiny_run: FinishedRun, out: Path, local: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local.uri)
    config = tiny_run.config.base / "config.yaml"

    def call(command: str, *more: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, [command, str(config), *more])
        return result.exit_code, result.output

    code, text = call("rollback")
    assert code == 1 and "no champion" in text
    code, text = call("promote")
    assert code == 0 and "Version 1 of tiny" in text and "there was no champion" in text
    # The networks of the run are untrained.
    assert "no baseline: unmerged, a is no better than chance" in text and "keeps" not in text
    assert aliases(local) == {"champion": 1}
    assert call("promote")[0] == 1  # there is no challenger any more
    code, text = call("rollback")
    assert code == 1 and "replaced no champion" in text

    good = replace(
        write_later_result(tiny_run.result, 2, 0.99, out), bundle=tiny_run.result.bundle
    )
    log_document(good, out, local)
    # This bundle is already in service.
    assert call("promote")[0] == 4 and "already" in tags(local, 2)["merge_search.not_promoted"]

    for seed, quality in ((3, 0.99), (4, 0.5)):
        _change_bundle(out / "bundle")
        result = write_later_result(tiny_run.result, seed, quality, out)
        log_document(_with_bundle_of_out(result, out), out, local)
    assert aliases(local) == {"champion": 1, "challenger": 4}
    code, text = call("promote")
    assert code == 4 and "worse outside its interval" in text
    assert "worse" in tags(local, 4)["merge_search.not_promoted"]
    assert aliases(local)["champion"] == 1

    MlflowClient(tracking_uri=local.uri).set_registered_model_alias("tiny", "challenger", "3")
    assert call("promote")[0] == 0 and aliases(local) == {"champion": 3}
    assert tags(local, 3)["merge_search.replaced"] == "1"
    code, text = call("rollback", "--why", "it rains")
    assert code == 0 and "Version 1 of tiny" in text and aliases(local)["champion"] == 1
    assert tags(local, 3)["merge_search.rolled_back"] == "it rains"


def _change_bundle(bundle: Path) -> None:
    """Change a file of the bundle, as another run does."""
    described = json.loads((bundle / "bundle.json").read_text())
    described["changes"] = described.get("changes", 0) + 1
    (bundle / "bundle.json").unlink()  # it may be a hard link
    (bundle / "bundle.json").write_text(json.dumps(described))


def _with_bundle_of_out(result: Result, out: Path) -> Result:
    from spaces.bundle_files import bundle_id

    other = replace(result, bundle=bundle_id(out / "bundle"))
    write_record(out / "result.json", other)
    return other


def test_a_repeated_result_is_not_registered_and_an_older_one_is_no_challenger(
    tiny_run: FinishedRun, out: Path, local: Target
) -> None:
    newer = write_later_result(tiny_run.result, 5, 0.9, out)
    log_document(newer, out, local)
    older = write_later_result(tiny_run.result, 2, 0.9, out)
    log_document(older, out, local)
    assert log_document(older, out, local).endswith("logged before; model 'tiny', version 3")
    versions = MlflowClient(tracking_uri=local.uri).search_model_versions("name = 'tiny'")
    assert sorted(int(v.version) for v in versions) == [1, 2, 3]
    assert aliases(local) == {"challenger": 2}


def test_a_server_has_a_registry_too(
    tiny_run: FinishedRun, out: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(server.uri, "registered", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    log_document(write_later_result(tiny_run.result, 2, 0.9, out), out, target)
    result = CliRunner().invoke(main, ["promote", str(tiny_run.config.base / "config.yaml")])
    assert result.exit_code == 0, result.output
    assert "champion" in aliases(target)


def test_promoting_without_a_challenger_is_refused_in_one_line(
    tiny_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    result = CliRunner().invoke(main, ["promote", str(tiny_run.config.base / "config.yaml")])
    assert result.exit_code == 1 and "has no challenger" in result.output
    assert len(result.output.strip().splitlines()) == 1
