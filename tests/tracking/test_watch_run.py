"""The MLflow run of a watch has every round once, after repetitions, kills and outages too."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from commands import start_forked, wait_for_work, wait_until
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from servers import Server
from tiny import FinishedRun

from search.results.rounds import (
    ROUND_VERSION,
    CameraRound,
    Decision,
    PromotionRecord,
    Round,
    RoundHistory,
)
from search.tracking.client import TrackerUnreachable, log_document, pages
from search.tracking.payloads.watch_run import DECISIONS, NOTED_ROUNDS, watch_note
from search.tracking.run_writer import last_candidate_runs
from search.tracking.target import Target
from search.tracking.watch_run import TABLE_ROUNDS, log_rounds

START = datetime(2026, 11, 25, 10, tzinfo=UTC)
CAMERAS = ("gate", "bridge")
PLANS = ("0a1b2c3d4e5f", "66778899aabb")


def made_up_round(number: int, seed: int = 0) -> Round:
    """Return a round with random numbers."""
    chance = random.Random(f"{seed}/{number}")
    decision: Decision = chance.choice(list(DECISIONS))
    due = START + timedelta(minutes=30 * number, days=seed)
    searched = decision in ("searched", "promoted")
    inspected = decision not in ("waiting", "failed")
    return Round(
        version=ROUND_VERSION,
        number=number,
        due=due.isoformat(),
        began=(due + timedelta(seconds=1.25)).isoformat(),
        ended=(due + timedelta(seconds=90 + chance.random())).isoformat(),
        cameras={
            name: CameraRound(
                frames=chance.randrange(40),
                p_value=chance.random() if inspected and chance.random() < 0.7 else None,
            )
            for name in CAMERAS
        },
        decision=decision,
        reason=f"a | reason\nof round {number} " + "very " * chance.randrange(40),
        champion=None if number == 1 else chance.choice(PLANS),
        fidelity={"a": chance.random(), "b": None if chance.random() < 0.3 else chance.random()}
        if inspected
        else {},
        promotion=made_up_promotion(chance, decision) if searched else None,
        missed=chance.randrange(3),
    )


def made_up_promotion(chance: random.Random, decision: Decision) -> PromotionRecord:
    return PromotionRecord(
        result="0123456789ab",
        challenger=PLANS[1],
        bundle="ba9876543210",
        by="fidelity",
        challenger_quality=chance.random(),
        champion_quality=chance.random(),
        difference=[],
        promoted=decision == "promoted",
        reason="made up",
        measured_on=f"{chance.randrange(99)} new frames",
    )


def write_rounds(history: RoundHistory, numbers: Sequence[int], seed: int = 0) -> list[Round]:
    for number in numbers:
        history.write(made_up_round(number, seed))
    return history.rounds()


@pytest.fixture
def history(tmp_path: Path) -> RoundHistory:
    return RoundHistory(tmp_path / "street" / "watch")


Points = dict[str, list[tuple[int, int, float]]]
"""Metric -> (step, milliseconds, value), in the order of the steps."""


def expected_points(rounds: Sequence[Round]) -> Points:
    """Compute the points of some rounds by other code than the one under test."""
    points: Points = {}
    numbers = {"failed": -1, "waiting": 0, "unchanged": 1, "searched": 2, "promoted": 3}
    for record in rounds:
        p_values = {n: c.p_value for n, c in record.cameras.items() if c.p_value is not None}
        fidelity = {n: value for n, value in record.fidelity.items() if value is not None}
        values = {"decision": numbers[record.decision],
                  "new_frames": sum(c.frames for c in record.cameras.values())}  # fmt: skip
        metrics: dict[str, float] = {**values}
        metrics |= {f"p_value/{name}": p for name, p in p_values.items()}
        metrics |= {f"fidelity/{name}": value for name, value in fidelity.items()}
        if p_values:
            metrics["p_value"] = min(p_values.values())
        if fidelity:
            metrics["fidelity"] = sum(fidelity.values()) / len(fidelity)
        if record.promotion:
            assert record.promotion.champion_quality and record.promotion.challenger_quality
            metrics["champion_quality"] = record.promotion.champion_quality
            metrics["challenger_quality"] = record.promotion.challenger_quality
        ended = int(datetime.fromisoformat(record.ended).timestamp() * 1000)
        for name, value in metrics.items():
            points.setdefault(name, []).append((record.number, ended, value))
    return points


class LoggedWatch:
    """The runs of all watches with one name."""

    def __init__(self, target: Target, name: str = "street") -> None:
        self.client = MlflowClient(tracking_uri=target.uri)
        mlflow_experiment = self.client.get_experiment_by_name(target.experiment)
        assert mlflow_experiment is not None
        self.experiment = str(mlflow_experiment.experiment_id)
        kind = f"tags.`merge_search.kind` = 'watch' and tags.`merge_search.search` = '{name}'"
        self.runs: list[Run] = list(self.client.search_runs([self.experiment], kind))

    @property
    def run(self) -> Run:
        (run,) = self.runs
        return run

    def points(self) -> Points:
        return {
            name: sorted(
                (point.step, point.timestamp, point.value)
                for point in self.client.get_metric_history(self.run.info.run_id, name)
            )
            for name in self.run.data.metrics
        }


def table_of(logged_watch: LoggedWatch, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Read the table with MLflow, which uses the store of the environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", logged_watch.client.tracking_uri)
    table = logged_watch.client.load_table(
        logged_watch.experiment, "rounds.json", [logged_watch.run.info.run_id]
    )
    rows: list[dict[str, Any]] = table.to_dict("records")
    return rows


def test_every_round_is_a_step_with_all_its_numbers(local: Target, history: RoundHistory) -> None:
    rounds = write_rounds(history, range(1, 41))
    message = log_rounds(local, history, "street")
    logged_watch = LoggedWatch(local)
    assert logged_watch.points() == expected_points(rounds)
    run = logged_watch.run
    assert run.info.run_id in message and "rounds 1 to 40" in message
    assert run.info.run_name == "street watch" and run.info.status == "RUNNING"
    assert run.info.start_time == int(
        datetime.fromisoformat(rounds[0].began).timestamp() * 1000
    )  # fmt: skip
    tags = run.data.tags
    assert tags["merge_search.rounds"] == "40"
    assert tags["merge_search.decision"] == rounds[-1].decision
    assert tags["merge_search.champion"] == rounds[-1].champion


def test_rounds_are_added_one_by_one_to_the_same_run(local: Target, history: RoundHistory) -> None:
    for number in range(1, 6):
        rounds = write_rounds(history, [number])
        log_rounds(local, history, "street")
        assert LoggedWatch(local).points() == expected_points(rounds)
        assert LoggedWatch(local).run.data.tags["merge_search.rounds"] == str(number)
    before = LoggedWatch(local)
    assert "rounds 1 to 5" in log_rounds(local, history, "street")  # no round is new
    assert LoggedWatch(local).points() == before.points()
    assert log_rounds(local, RoundHistory(history.folder / "none"), "street").startswith(
        "no round"
    )


def test_logging_a_point_twice_keeps_one_point(local: Target, history: RoundHistory) -> None:
    rounds = write_rounds(history, range(1, 8))
    log_rounds(local, history, "street")
    logged_watch = LoggedWatch(local)
    logged_watch.client.set_tag(logged_watch.run.info.run_id, "merge_search.rounds", "2")
    log_rounds(local, history, "street")
    assert LoggedWatch(local).points() == expected_points(rounds)
    logged_watch.client.delete_tag(logged_watch.run.info.run_id, "merge_search.rounds")
    log_rounds(local, history, "street")
    assert LoggedWatch(local).points() == expected_points(rounds)


def test_the_table_has_the_last_rounds_only(
    local: Target, history: RoundHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = write_rounds(history, range(1, TABLE_ROUNDS + 8))
    log_rounds(local, history, "street")
    rounds = write_rounds(history, [TABLE_ROUNDS + 8])
    log_rounds(local, history, "street")
    logged_watch = LoggedWatch(local)
    table = table_of(logged_watch, monkeypatch)
    assert [row["round"] for row in table] == [record.number for record in rounds[-TABLE_ROUNDS:]]
    for row, record in zip(table, rounds[-TABLE_ROUNDS:], strict=True):
        assert (row["decision"], row["reason"]) == (record.decision, record.reason)
        assert row["champion"] == record.champion and row["missed"] == record.missed
        if (verdict := record.promotion) is not None:
            logged_verdict = (row["measured_by"], row["measured_on"], row["verdict"])
            assert logged_verdict == (verdict.by, verdict.measured_on, verdict.reason)
    assert logged_watch.points() == expected_points(rounds)


def test_the_note_shows_the_last_rounds_newest_first(local: Target, history: RoundHistory) -> None:
    rounds = write_rounds(history, range(1, NOTED_ROUNDS + 11))
    log_rounds(local, history, "street")
    note = LoggedWatch(local).run.data.tags["mlflow.note.content"]
    head, _, rest = note.partition("\n\n")
    table, _, legend = rest.partition("\n\n")
    assert "**street**" in head and rounds[-1].decision in head
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert [int(row[0]) for row in rows] == [
        record.number for record in reversed(rounds[-NOTED_ROUNDS:])
    ]
    for row, record in zip(rows, reversed(rounds[-NOTED_ROUNDS:]), strict=True):
        assert len(row) == 7
        assert row[1] == record.ended[:16].replace("T", " ") and row[2] == record.decision
        assert row[5] == (record.champion or "-")
        assert row[6].startswith(f"a ¦ reason of round {record.number}")
    for number in DECISIONS.values():
        assert f" {number} " in legend


def test_the_longest_note_fits_into_a_tag() -> None:
    rounds = [
        replace(made_up_round(k), number=10**8 + k, reason="|" * 5000, champion="f" * 12)
        for k in range(1, 100)
    ]
    assert len(watch_note("n" * 200, rounds)) < 8000
    assert "no plan yet" in watch_note("street", [made_up_round(1)])


# Interrupted.


def _record(target: Target, folder: Path) -> None:
    log_rounds(target, RoundHistory(folder), "street")


def _points_in(database: str) -> int:
    """Return how many decisions the database holds now, without MLflow.

    The connection can write: it rolls back the unfinished transaction of a killed process.
    """
    with contextlib.closing(sqlite3.connect(database, timeout=300)) as reader:
        query = "select count(*) from metrics where key = 'decision'"
        return int(reader.execute(query).fetchone()[0])


def _wait_for_a_point(database: str, before: int, writer: BaseProcess) -> None:
    """Wait until the database holds more points than before, or the writer has ended."""
    wait_until(lambda: _points_in(database) > before or not writer.is_alive())


@pytest.mark.durability
def test_after_kills_at_any_moment_every_step_is_logged_once(
    local: Target, history: RoundHistory
) -> None:
    rounds = write_rounds(history, range(1, 1001))
    database = local.uri.removeprefix("sqlite:///")
    chance, kills = random.Random(5), 0
    while kills < 7:
        before = _points_in(database)
        assert before < len(rounds), f"all rounds were logged after only {kills} kills"
        writer = start_forked(_record, local, history.folder)
        assert writer.pid is not None
        if kills < 2:  # before the first point
            wait_for_work(writer.pid, chance.uniform(0, 0.3))
        else:
            _wait_for_a_point(database, before, writer)
            wait_for_work(writer.pid, chance.uniform(0, 0.03))
        writer.kill()
        writer.join(600)
        kills += writer.exitcode == -signal.SIGKILL
    log_rounds(local, history, "street")
    logged_watch = LoggedWatch(local)
    assert logged_watch.points() == expected_points(rounds)
    assert logged_watch.run.data.tags["merge_search.rounds"] == "1000"


def test_duplicate_runs_become_one_again(local: Target, history: RoundHistory) -> None:
    rounds = write_rounds(history, range(1, 4))
    log_rounds(local, history, "street")
    logged_watch = LoggedWatch(local)
    tags = {key: value for key, value in logged_watch.run.data.tags.items()
            if key != "merge_search.rounds"}  # fmt: skip
    logged_watch.client.create_run(logged_watch.experiment, tags=tags)
    assert len(LoggedWatch(local).runs) == 2
    log_rounds(local, history, "street")
    assert LoggedWatch(local).run.info.run_id == logged_watch.run.info.run_id
    assert LoggedWatch(local).points() == expected_points(rounds)


def test_a_deleted_run_is_created_again_with_all_rounds(
    local: Target, history: RoundHistory
) -> None:
    write_rounds(history, range(1, 11))
    log_rounds(local, history, "street")
    deleted = LoggedWatch(local).run.info.run_id
    LoggedWatch(local).client.delete_run(deleted)
    rounds = write_rounds(history, [11])
    log_rounds(local, history, "street")
    assert LoggedWatch(local).run.info.run_id != deleted
    assert LoggedWatch(local).points() == expected_points(rounds)


def test_watches_of_one_name_on_two_machines_do_not_mix(
    local: Target, history: RoundHistory, tmp_path: Path
) -> None:
    other = RoundHistory(tmp_path / "other" / "watch")
    write_rounds(history, range(1, 6))
    write_rounds(other, range(1, 4), seed=1)
    log_rounds(local, history, "street")
    log_rounds(local, other, "street")
    counts = sorted(run.data.tags["merge_search.rounds"] for run in LoggedWatch(local).runs)
    assert counts == ["3", "5"]


# A real server.


def test_after_an_outage_a_server_has_every_round(
    server: Server, history: RoundHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    target = Target(server.uri, "watched", None)
    write_rounds(history, [1, 2])
    log_rounds(target, history, "street")
    server.stop()
    for number in range(3, 90):
        write_rounds(history, [number])
        if number in (3, 60):
            with pytest.raises(TrackerUnreachable) as failure:
                log_rounds(target, history, "street")
            message = str(failure.value)
            assert str(history.folder) in message and "\n" not in message
    server.start()
    log_rounds(target, history, "street")
    assert LoggedWatch(target).points() == expected_points(history.rounds())
    table = table_of(LoggedWatch(target), monkeypatch)
    assert [row["round"] for row in table] == list(range(1, 90))


# Beside searches.


def test_a_watch_is_not_mistaken_for_a_search(
    tiny_run: FinishedRun, local: Target, history: RoundHistory
) -> None:
    write_rounds(history, range(1, 4))
    log_rounds(local, history, "tiny")
    log_document(tiny_run.result, tiny_run.out, local)
    write_rounds(history, [4])
    log_rounds(local, history, "tiny")
    logged_watch = LoggedWatch(local, "tiny")
    candidates = last_candidate_runs(logged_watch.client, logged_watch.experiment, "tiny")
    assert len(candidates) == len(tiny_run.result.candidates) + 1
    assert logged_watch.run.info.run_id not in candidates
    assert "Candidates" in pages(local, "tiny", 5000)
    assert "logged before" in log_document(tiny_run.result, tiny_run.out, local)
    assert LoggedWatch(local, "tiny").points() == expected_points(history.rounds())
    run = LoggedWatch(local, "tiny").run
    assert run.info.status == "RUNNING" and run.info.lifecycle_stage == "active"
