"""Rounds of a watch are killed at every step that changes a record."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import StartCommand
from mlflow.tracking import MlflowClient
from process_killer import NEVER, kill_before_step, kill_in
from tiny import Weights, with_changes
from watched import DAY, NIGHT, Watched, watched_data

from search.tracking.target import Target
from spaces.bundle import load_bundle

EVERY = int(os.environ.get("MERGE_SEARCH_EVERY_STEP", "80"))
"""One in so many steps is tried of those that change no record of the watch; 1 takes long."""
RECORDS = (
    "/service/", "/watch/rounds/", "/watch/references/", "/watch/labels/", "mlflow:set_registered",
)  # fmt: skip


@dataclass(frozen=True)
class Situation:
    """A champion in service by day, and a window by night that makes a round replace it."""

    watched: Watched
    snapshot: Path
    steps: list[str]
    before: str
    after: str

    def restore(self) -> None:
        """Go back to the moment before that round."""
        shutil.rmtree(self.watched.config.parent)
        shutil.copytree(self.snapshot, self.watched.config.parent, symlinks=True)


@pytest.fixture
def situation(weights: Weights, tmp_path: Path, start: StartCommand) -> Situation:
    # Any plan is good enough, so that the round promotes.
    data = with_changes(watched_data(weights), {"promotion.slack": 1.0})
    watched = Watched.at(tmp_path / "watched", data)
    watched.deliver(DAY)
    assert start("watch", watched.config, "--once").exit_code() == 11
    before = watched.in_service()
    watched.deliver(NIGHT)
    snapshot = tmp_path / "snapshot"
    shutil.copytree(watched.config.parent, snapshot, symlinks=True)
    log = tmp_path / "steps"
    complete = start("watch", watched.config, "--once", prepare=kill_before_step(NEVER, log))
    assert complete.exit_code() == 11, complete.output
    after = watched.in_service()
    assert before is not None and after is not None
    return Situation(watched, snapshot, log.read_text().splitlines(), before, after)


def steps_to_try(steps: list[str]) -> Iterator[int]:
    """Yield step numbers, only a few of cameras: tests/cameras/test_polling.py kills there."""
    for number, step in enumerate(steps):
        every = 32 if "/cameras/" in step else EVERY
        if any(part in step for part in RECORDS) or number % every == 0:
            yield number


@pytest.mark.durability
def test_a_kill_at_any_step_leaves_one_champion_and_one_promotion(
    situation: Situation, start: StartCommand, tmp_path: Path
) -> None:
    watched = situation.watched
    numbers = list(steps_to_try(situation.steps))
    assert sum("/service/" in situation.steps[number] for number in numbers) >= 3
    for number in numbers:
        situation.restore()
        victim = start("watch", watched.config, "--once",
                       prepare=kill_before_step(number, tmp_path / "steps"))  # fmt: skip
        assert victim.exit_code() == -9, f"step {number}: {victim.output}"
        champion = watched.champions.champion()
        assert champion is not None, f"step {number}, {situation.steps[number]}: no champion"
        load_bundle(
            watched.champions.bundle_folder(champion.bundle)
        )  # refuses an incomplete bundle
        repeated = start("watch", watched.config, "--once")
        assert repeated.exit_code() in (0, 11), f"step {number}: {repeated.output}"
        check_promoted_once(situation, f"step {number}, {situation.steps[number]}")


@pytest.mark.durability
@pytest.mark.parametrize(
    "function", ["search.watch.round.replace_references", "search.watch.round.RoundHistory.write"]
)
def test_a_first_round_that_is_killed_after_its_promotion_is_recorded_as_promoted(
    weights: Weights, tmp_path: Path, start: StartCommand, function: str
) -> None:
    watched = Watched.at(tmp_path / "watched", watched_data(weights))
    watched.deliver(DAY)
    victim = start("watch", watched.config, "--once", prepare=kill_in(function))
    assert victim.exit_code() == -9, victim.output
    promoted = watched.in_service()
    assert promoted is not None and watched.rounds == []

    code, output = watched.once()
    assert code == 11, output
    (ended,) = watched.rounds
    assert ended.decision == "promoted" and ended.champion == promoted == watched.in_service()
    assert ended.promotion is not None and ended.promotion.promoted


def check_promoted_once(situation: Situation, where: str) -> None:
    watched = situation.watched
    assert watched.in_service() == situation.after, where
    assert watched.current() == watched.bundle_in_service(), where
    rounds = watched.rounds
    assert [ended.number for ended in rounds] == list(range(1, len(rounds) + 1)), where
    assert [ended.decision for ended in rounds].count("promoted") == 2, where
    target = Target.of(watched.run_config)
    client = MlflowClient(tracking_uri=target.uri)
    versions = {str(v.version): v.tags for v in client.search_model_versions("name = 'watched'")}
    aliases = client.get_registered_model("watched").aliases
    assert versions[str(aliases["champion"])]["merge_search.plan"] == situation.after, where
    assert sum("merge_search.promoted" in tags for tags in versions.values()) == 2, where
    assert len(versions) == 2, where
