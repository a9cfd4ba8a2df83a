"""What the rounds of a watch leave in MLflow, however often they are logged, and whatever ends
the logging."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from commands import start_forked
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


def made_up(number: int, seed: int = 0) -> Round:
    """A round as it could have been."""
    chance = random.Random(f"{seed}/{number}")
    decision: Decision = chance.choice(list(DECISIONS))
    due = START + timedelta(minutes=30 * number, days=seed)
    searched = decision in ("searched", "promoted")
    looked = decision not in ("waiting", "failed")
    return Round(
        version=ROUND_VERSION,
        number=number,
        due=due.isoformat(),
        began=(due + timedelta(seconds=1.25)).isoformat(),
        ended=(due + timedelta(seconds=90 + chance.random())).isoformat(),
        cameras={
            name: CameraRound(
                frames=chance.randrange(40),
                p_value=chance.random() if looked and chance.random() < 0.7 else None,
            )
            for name in CAMERAS
        },
        decision=decision,
        reason=f"as it | was\nin round {number} " + "very " * chance.randrange(40),
        champion=None if number == 1 else chance.choice(PLANS),
        fidelity={"a": chance.random(), "b": None if chance.random() < 0.3 else chance.random()}
        if looked
        else {},
        promotion=made_up_verdict(chance, decision) if searched else None,
        missed=chance.randrange(3),
    )


def made_up_verdict(chance: random.Random, decision: Decision) -> PromotionRecord:
    return PromotionRecord(
        result="0123456789ab",
        challenger=PLANS[1],
        bundle="ba9876543210",
        by="fidelity",
        challenger_quality=chance.random(),
        champion_quality=chance.random(),
        difference=[],
        promoted=decision == "promoted",
        reason="so it is",
        measured_on=f"{chance.randrange(99)} new frames",
    )


def keep(history: RoundHistory, numbers: Sequence[int], seed: int = 0) -> list[Round]:
    for number in numbers:
        history.write(made_up(number, seed))
    return history.rounds()


@pytest.fixture
def history(tmp_path: Path) -> RoundHistory:
    return RoundHistory(tmp_path / "street" / "watch")


Points = dict[str, list[tuple[int, int, float]]]
"""Of each metric (step, milliseconds, value), in the order of the steps."""


def wanted(rounds: Sequence[Round]) -> Points:
    """Said once more, apart from what is tested."""
    points: Points = {}
    numbers = {"failed": -1, "waiting": 0, "unchanged": 1, "searched": 2, "promoted": 3}
    for known in rounds:
        p_values = {n: c.p_value for n, c in known.cameras.items() if c.p_value is not None}
        faithful = {n: value for n, value in known.fidelity.items() if value is not None}
        values = {"decision": numbers[known.decision],
                  "new_frames": sum(c.frames for c in known.cameras.values())}  # fmt: skip
        told: dict[str, float] = {**values}
        told |= {f"p_value/{name}": p for name, p in p_values.items()}
        told |= {f"fidelity/{name}": value for name, value in faithful.items()}
        if p_values:
            told["p_value"] = min(p_values.values())
        if faithful:
            told["fidelity"] = sum(faithful.values()) / len(faithful)
        if known.promotion:
            assert known.promotion.champion_quality and known.promotion.challenger_quality
            told["champion_quality"] = known.promotion.champion_quality
            told["challenger_quality"] = known.promotion.challenger_quality
        ended = int(datetime.fromisoformat(known.ended).timestamp() * 1000)
        for name, value in told.items():
            points.setdefault(name, []).append((known.number, ended, value))
    return points


class Logged:
    """What a store holds of the watches of a name."""

    def __init__(self, target: Target, name: str = "street") -> None:
        self.client = MlflowClient(tracking_uri=target.uri)
        found = self.client.get_experiment_by_name(target.experiment)
        assert found is not None
        self.experiment = str(found.experiment_id)
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


def table_of(logged: Logged, patch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """As MLflow's own reader finds it, which asks the store of the environment."""
    patch.setenv("MLFLOW_TRACKING_URI", logged.client.tracking_uri)
    found = logged.client.load_table(logged.experiment, "rounds.json", [logged.run.info.run_id])
    rows: list[dict[str, Any]] = found.to_dict("records")
    return rows


def test_every_round_is_a_step_and_every_number_is_there(
    local: Target, history: RoundHistory
) -> None:
    rounds = keep(history, range(1, 41))
    said = log_rounds(local, history, "street")
    logged = Logged(local)
    assert logged.points() == wanted(rounds)
    run = logged.run
    assert run.info.run_id in said and "rounds 1 to 40" in said
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
        rounds = keep(history, [number])
        log_rounds(local, history, "street")
        assert Logged(local).points() == wanted(rounds)
        assert Logged(local).run.data.tags["merge_search.rounds"] == str(number)
    before = Logged(local)
    assert "rounds 1 to 5" in log_rounds(local, history, "street")  # nothing is new
    assert Logged(local).points() == before.points()
    assert log_rounds(local, RoundHistory(history.folder / "none"), "street").startswith(
        "no round"
    )


def test_the_same_point_twice_stays_one(local: Target, history: RoundHistory) -> None:
    rounds = keep(history, range(1, 8))
    log_rounds(local, history, "street")
    logged = Logged(local)
    logged.client.set_tag(logged.run.info.run_id, "merge_search.rounds", "2")
    log_rounds(local, history, "street")
    assert Logged(local).points() == wanted(rounds)
    logged.client.delete_tag(logged.run.info.run_id, "merge_search.rounds")
    log_rounds(local, history, "street")
    assert Logged(local).points() == wanted(rounds)


def test_the_table_is_one_of_mlflow_s_own_and_does_not_grow_without_end(
    local: Target, history: RoundHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = keep(history, range(1, TABLE_ROUNDS + 8))
    log_rounds(local, history, "street")
    rounds = keep(history, [TABLE_ROUNDS + 8])
    log_rounds(local, history, "street")
    logged = Logged(local)
    table = table_of(logged, monkeypatch)
    assert [row["round"] for row in table] == [known.number for known in rounds[-TABLE_ROUNDS:]]
    for row, known in zip(table, rounds[-TABLE_ROUNDS:], strict=True):
        assert (row["decision"], row["reason"]) == (known.decision, known.reason)
        assert row["champion"] == known.champion and row["missed"] == known.missed
        if (verdict := known.promotion) is not None:
            told = (row["measured_by"], row["measured_on"], row["verdict"])
            assert told == (verdict.by, verdict.measured_on, verdict.reason)
    assert logged.points() == wanted(rounds)


def test_the_note_shows_the_last_rounds_newest_first(local: Target, history: RoundHistory) -> None:
    rounds = keep(history, range(1, NOTED_ROUNDS + 11))
    log_rounds(local, history, "street")
    told = Logged(local).run.data.tags["mlflow.note.content"]
    head, _, rest = told.partition("\n\n")
    table, _, legend = rest.partition("\n\n")
    assert "**street**" in head and rounds[-1].decision in head
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert [int(row[0]) for row in rows] == [
        known.number for known in reversed(rounds[-NOTED_ROUNDS:])
    ]
    for row, known in zip(rows, reversed(rounds[-NOTED_ROUNDS:]), strict=True):
        assert len(row) == 7
        assert row[1] == known.ended[:16].replace("T", " ") and row[2] == known.decision
        assert row[5] == (known.champion or "-")
        assert row[6].startswith(f"as it ¦ was in round {known.number}")
    for number in DECISIONS.values():
        assert f" {number} " in legend


def test_the_longest_note_is_still_taken() -> None:
    rounds = [
        replace(made_up(k), number=10**8 + k, reason="|" * 5000, champion="f" * 12)
        for k in range(1, 100)
    ]
    assert len(watch_note("n" * 200, rounds)) < 8000
    assert "no plan yet" in watch_note("street", [made_up(1)])


# Interrupted.


def _record(target: Target, folder: Path) -> None:
    log_rounds(target, RoundHistory(folder), "street")


def _points_in(database: str) -> int:
    """So many as a reader sees at this moment, without MLflow.

    It may write: what a killed process has left half done is rolled back by the next that opens.
    """
    with contextlib.closing(sqlite3.connect(database, timeout=300)) as reader:
        query = "select count(*) from metrics where key = 'decision'"
        return int(reader.execute(query).fetchone()[0])


@pytest.mark.durability
def test_killed_anywhere_every_step_is_there_once(local: Target, history: RoundHistory) -> None:
    rounds = keep(history, range(1, 1001))
    database = local.uri.removeprefix("sqlite:///")
    chance, killed = random.Random(5), 0
    while killed < 7:
        before = _points_in(database)
        assert before < len(rounds), f"all was logged before the kernel had killed it {killed}x"
        writer = start_forked(_record, local, history.folder)
        if killed < 2:  # before the first point
            time.sleep(chance.uniform(0, 0.3))
        else:
            while _points_in(database) == before and writer.is_alive():
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.03))
        writer.kill()
        writer.join(600)
        killed += writer.exitcode == -signal.SIGKILL
    log_rounds(local, history, "street")
    logged = Logged(local)
    assert logged.points() == wanted(rounds)
    assert logged.run.data.tags["merge_search.rounds"] == "1000"


def test_a_run_that_was_made_twice_is_one_again(local: Target, history: RoundHistory) -> None:
    rounds = keep(history, range(1, 4))
    log_rounds(local, history, "street")
    logged = Logged(local)
    tags = {key: value for key, value in logged.run.data.tags.items()
            if key != "merge_search.rounds"}  # fmt: skip
    logged.client.create_run(logged.experiment, tags=tags)
    assert len(Logged(local).runs) == 2
    log_rounds(local, history, "street")
    assert Logged(local).run.info.run_id == logged.run.info.run_id
    assert Logged(local).points() == wanted(rounds)


def test_a_run_that_somebody_deleted_is_made_again_with_all_rounds(
    local: Target, history: RoundHistory
) -> None:
    keep(history, range(1, 11))
    log_rounds(local, history, "street")
    deleted = Logged(local).run.info.run_id
    Logged(local).client.delete_run(deleted)
    rounds = keep(history, [11])
    log_rounds(local, history, "street")
    assert Logged(local).run.info.run_id != deleted
    assert Logged(local).points() == wanted(rounds)


def test_watches_of_one_name_on_two_machines_do_not_mix(
    local: Target, history: RoundHistory, tmp_path: Path
) -> None:
    other = RoundHistory(tmp_path / "other" / "watch")
    keep(history, range(1, 6))
    keep(other, range(1, 4), seed=1)
    log_rounds(local, history, "street")
    log_rounds(local, other, "street")
    counts = sorted(run.data.tags["merge_search.rounds"] for run in Logged(local).runs)
    assert counts == ["3", "5"]


# A real server.


def test_a_server_that_was_away_gets_all_that_it_missed(
    server: Server, history: RoundHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    target = Target(server.uri, "watched", None)
    keep(history, [1, 2])
    log_rounds(target, history, "street")
    server.stop()
    for number in range(3, 90):
        keep(history, [number])
        if number in (3, 60):
            with pytest.raises(TrackerUnreachable) as caught:
                log_rounds(target, history, "street")
            said = str(caught.value)
            assert str(history.folder) in said and "\n" not in said
    server.start()
    log_rounds(target, history, "street")
    assert Logged(target).points() == wanted(history.rounds())
    table = table_of(Logged(target), monkeypatch)
    assert [row["round"] for row in table] == list(range(1, 90))


# Beside searches.


def test_a_watch_is_not_mistaken_for_a_search(
    tiny_run: FinishedRun, local: Target, history: RoundHistory
) -> None:
    keep(history, range(1, 4))
    log_rounds(local, history, "tiny")
    log_document(tiny_run.result, tiny_run.out, local)
    keep(history, [4])
    log_rounds(local, history, "tiny")
    logged = Logged(local, "tiny")
    compared = last_candidate_runs(logged.client, logged.experiment, "tiny")
    assert len(compared) == len(tiny_run.result.candidates) + 1
    assert logged.run.info.run_id not in compared
    assert "Candidates" in pages(local, "tiny", 5000)
    assert "logged before" in log_document(tiny_run.result, tiny_run.out, local)
    assert Logged(local, "tiny").points() == wanted(history.rounds())
    alone = Logged(local, "tiny").run
    assert alone.info.status == "RUNNING" and alone.info.lifecycle_stage == "active"
