"""A round of the watch is killed at every step that makes something of record."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import StartCommand
from mlflow.tracking import MlflowClient
from process_killer import NEVER, kill_before_step
from tiny import Weights, with_changes
from watched import DAY, NIGHT, Watched, watched_data

from search.tracking.target import Target
from spaces.bundle import load_bundle

EVERY = int(os.environ.get("MERGE_SEARCH_EVERY_STEP", "40"))
"""Of the steps that are no record of the watch's own, one in so many is tried; 1 takes long."""
OURS = (
    "/service/", "/watch/rounds/", "/watch/references/", "/watch/labels/", "mlflow:set_registered",
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A champion in service by day, and a window of the night that calls for another."""

    watched: Watched
    snapshot: Path
    steps: list[str]
    before: str
    after: str

    def again(self) -> None:
        """As it was before that round."""
        shutil.rmtree(self.watched.config.parent)
        shutil.copytree(self.snapshot, self.watched.config.parent, symlinks=True)


@pytest.fixture
def scene(weights: Weights, tmp_path: Path, start: StartCommand) -> Scene:
    # Whatever is found is good enough: the round promotes.
    data = with_changes(watched_data(weights), {"promotion.slack": 1.0})
    watched = Watched.at(tmp_path / "watched", data)
    watched.deliver(DAY)
    assert start("watch", watched.config, "--once").exit_code() == 11
    before = watched.in_service()
    watched.deliver(NIGHT)
    snapshot = tmp_path / "snapshot"
    shutil.copytree(watched.config.parent, snapshot, symlinks=True)
    log = tmp_path / "steps"
    whole = start("watch", watched.config, "--once", prepare=kill_before_step(NEVER, log))
    assert whole.exit_code() == 11, whole.output
    after = watched.in_service()
    assert before is not None and after is not None
    return Scene(watched, snapshot, log.read_text().splitlines(), before, after)


def chosen(steps: list[str]) -> Iterator[int]:
    """Only a few of the many steps of the cameras: tests/cameras/test_polling.py kills there."""
    for number, step in enumerate(steps):
        every = 32 if "/cameras/" in step else EVERY
        if any(part in step for part in OURS) or number % every == 0:
            yield number


@pytest.mark.durability
def test_whatever_is_killed_when_there_is_one_champion_and_one_promotion(
    scene: Scene, start: StartCommand, tmp_path: Path
) -> None:
    watched = scene.watched
    numbers = list(chosen(scene.steps))
    assert sum("/service/" in scene.steps[number] for number in numbers) >= 3
    for number in numbers:
        scene.again()
        victim = start("watch", watched.config, "--once",
                       prepare=kill_before_step(number, tmp_path / "steps"))  # fmt: skip
        assert victim.exit_code() == -9, f"step {number}: {victim.output}"
        known = watched.post.service.champion()
        assert known is not None, f"step {number}, {scene.steps[number]}: no champion"
        load_bundle(watched.post.service.bundle(known.bundle))  # whole, or it would be refused
        again = start("watch", watched.config, "--once")
        assert again.exit_code() in (0, 11), f"step {number}: {again.output}"
        _promoted_once(scene, f"step {number}, {scene.steps[number]}")


def _promoted_once(scene: Scene, where: str) -> None:
    watched = scene.watched
    assert watched.in_service() == scene.after, where
    assert watched.current() == watched.bundle_in_service(), where
    rounds = watched.rounds
    assert [known.number for known in rounds] == list(range(1, len(rounds) + 1)), where
    assert [known.decision for known in rounds].count("promoted") == 2, where
    target = Target.of(watched.post.config)
    client = MlflowClient(tracking_uri=target.uri)
    versions = {str(v.version): v.tags for v in client.search_model_versions("name = 'watched'")}
    aliases = client.get_registered_model("watched").aliases
    assert versions[str(aliases["champion"])]["merge_search.plan"] == scene.after, where
    assert sum("merge_search.promoted" in tags for tags in versions.values()) == 2, where
    assert len(versions) == 2, where
