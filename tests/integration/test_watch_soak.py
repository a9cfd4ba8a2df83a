"""A watch that goes on and on, at the pace of a clock that is not waited for.

The watcher starts rounds and nothing else, as `merge-search watch` does; each round is a process,
the real command on a real MLflow server. What goes wrong is chosen by a seed: rounds are killed
at random steps, the disk is full, the server is down, pictures are damaged. `make soak` does two
hundred rounds, `make test` twenty-five.
"""

from __future__ import annotations

import json
import os
import random
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest
from commands import FORKED, limit_file_size, no_preparation
from mlflow.tracking import MlflowClient
from PIL import Image, ImageOps
from process_killer import kill_before_step
from quick import shorten_stopwatch
from servers import Server
from tiny import Weights, capture_reporter, with_changes
from watched import DAY, NIGHT, WINDOW, Watched, picture, watched_data

from search.cli.main import main
from search.results.rounds import Round
from search.utils.files import write_json
from search.utils.schedule import Due, Schedule
from search.watch.daemon import watch

BUILD = Path(__file__).parents[2] / "build"
"""Git-ignored."""
ROUNDS = int(os.environ.get("MERGE_SEARCH_SOAK_ROUNDS", "25"))
SETTLED = 10
"""Rounds after which memory has to stay where it is."""
FLAT = 1.05
POOL = 2 * WINDOW
"""Different pictures of each kind: a camera may see the like of what it has seen."""
KINDS: tuple[Callable[[int], Image.Image], ...] = (
    lambda index: picture(DAY, index),
    lambda index: picture(NIGHT, index),
    lambda index: ImageOps.invert(picture(DAY, index)),
    lambda index: ImageOps.posterize(picture(DAY, index), 1),
)
"""What the camera sees, one after another: by day, by night, and when its electronics fail."""
STEPS = 60
"""Steps within which a round is killed; one that has fewer ends well."""
OUTAGE = range(15, 18)
"""Of every 25 rounds, those in which the server is down."""


class Hurried:
    """A clock that is wherever it is waited for."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now

    def wait_until(self, moment: datetime) -> None:
        self._now = max(self._now, moment)


class Enough(Exception):
    """All rounds are done."""


@dataclass
class World:
    """What happens between the rounds, and to them; and a diary of what came of it."""

    watched: Watched
    server: Server
    folder: Path
    chance: random.Random = field(default_factory=lambda: random.Random(5))
    codes: list[int] = field(default_factory=list)
    champions: list[str | None] = field(default_factory=list)
    """After every round."""
    watcher: list[int] = field(default_factory=list)
    """Resident bytes of this process after every round."""
    rounds: list[tuple[str, int]] = field(default_factory=list)
    """Decisions of the rounds that ended by themselves, and the most kB that each had resident."""

    def __call__(self, due: Due) -> int:
        if len(self.codes) == ROUNDS:
            raise Enough
        self._server()
        self._pictures()
        used = self.folder / "used"
        used.unlink(missing_ok=True)
        told, config = self.folder / "said", self.watched.config
        process = FORKED.Process(target=_round, args=(told, config, due, self._fault(), used))
        process.start()
        process.join()
        assert process.exitcode is not None
        self.codes.append(process.exitcode)
        self.champions.append(self.watched.bundle_in_service())
        self.watcher.append(psutil.Process().memory_info().rss)
        if used.exists() and process.exitcode in (0, 10, 11):
            decision = self.watched.post.history.latest(1)[0].decision
            self.rounds.append((decision, int(used.read_text())))
        return process.exitcode

    def _server(self) -> None:
        if len(self.codes) % 25 in OUTAGE:
            self.server.kill()
        else:
            self.server.start()

    def _pictures(self) -> None:
        """From none to more than a window of them; a tenth are damaged."""
        kind = KINDS[len(self.codes) * len(KINDS) // ROUNDS]
        count = 20 if self._disk_full else self.chance.choice((0, 0, 10, 20, 40))
        for _ in range(count):
            name = self.watched.delivered
            path = self.watched.gate / f"{name:06d}.png"
            kind(self.chance.randrange(POOL)).save(path)
            if self.chance.random() < 0.1:
                path.write_bytes(path.read_bytes()[:500])
            taken = time.time() - 86400 + name * 0.01
            os.utime(path, (taken, taken))
            self.watched.delivered += 1

    def _fault(self) -> Callable[[], Any]:
        """What befalls this round: mostly nothing."""
        if self._disk_full:
            return limit_file_size(2000)
        if len(self.codes) % 6 == 3:
            return kill_before_step(self.chance.randrange(STEPS), self.folder / "steps")
        return no_preparation

    @property
    def _disk_full(self) -> bool:
        return len(self.codes) % 10 == 7


def _round(told: Path, config: Path, due: Due, prepare: Callable[[], Any], used: Path) -> None:
    """The command itself; if it is not killed, it tells what it had resident at most, in kB."""
    log = os.open(told, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    shorten_stopwatch()
    prepare()
    try:
        main(["watch", str(config), "--once", "--due", due.at.isoformat(timespec="seconds")])
    finally:
        if prepare is no_preparation:
            used.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def tell(world: World, rounds: list[Round]) -> dict[str, Any]:
    """What happened, in numbers; also in build/soak.json, for people."""
    looked = [kb for decision, kb in world.rounds if decision == "unchanged"]
    told = {
        "started": len(world.codes),
        "exit_codes": {str(code): world.codes.count(code) for code in sorted(set(world.codes))},
        "decisions": dict(Counter(known.decision for known in rounds)),
        "champions": len({champion for champion in world.champions if champion is not None}),
        "watcher_growth": max(world.watcher[SETTLED:]) / world.watcher[SETTLED],
        "round_growth": median(looked[-SETTLED:]) / median(looked[:SETTLED]),
    }
    write_json(BUILD / "soak.json", told)
    return told


@pytest.fixture
def world(weights: Weights, tmp_path: Path, server: Server) -> World:
    # Whatever is found is promoted, and the space is small.
    changes = {
        "name": "soaked", "mlflow.tracking_uri": server.uri, "mlflow.experiment": "soaked",
        "promotion.slack": 1.0, "search.trials": 12,
        "verify.candidates": 2, "verify.shortlist": 3,
    }  # fmt: skip
    watched = Watched.at(tmp_path / "soaked", with_changes(watched_data(weights), changes))
    for index in range(POOL):
        picture(DAY, index), picture(NIGHT, index)
    return World(watched, server, tmp_path)


@pytest.mark.durability
def test_many_rounds_with_all_that_may_go_wrong(world: World) -> None:
    watched, history = world.watched, world.watched.post.history
    with pytest.raises(Enough):
        watch(Schedule.interval("1 h"), history, Hurried(), world, capture_reporter().reporter)
    world.server.start()
    code, said = watched.once()  # MLflow is told what it has missed
    assert code in (0, 10, 11), said

    # Every kind of end has been seen, and the rounds that ended are numbered without a gap.
    assert {0, 11, -9, 1} <= set(world.codes)
    rounds = watched.rounds
    told = tell(world, rounds)
    assert [known.number for known in rounds] == list(range(1, len(rounds) + 1))
    assert any(camera.fault for known in rounds for camera in known.cameras.values())

    # No champion is lost, and none is promoted twice.
    champions = [*world.champions, watched.bundle_in_service()]
    first = next(k for k, champion in enumerate(champions) if champion is not None)
    assert None not in champions[first:]
    promoted = [known for known in rounds if known.decision == "promoted"]
    bundles = [known.verdict.bundle for known in promoted if known.verdict is not None]
    assert len(promoted) == len(bundles) == len(set(bundles)) >= 2

    # MLflow has it all.
    client = MlflowClient(tracking_uri=world.server.uri)
    versions = client.search_model_versions("name = 'soaked'")
    tagged = [v for v in versions if "merge_search.promoted" in v.tags]
    champion = client.get_model_version_by_alias("soaked", "champion")
    assert json.loads(champion.tags["merge_search.standing"])["bundle"] == champions[-1]
    assert len(tagged) <= len(promoted)
    known = client.get_experiment_by_name(watched.post.config.mlflow.experiment)
    assert known is not None
    (page,) = client.search_runs([known.experiment_id], "tags.`merge_search.kind` = 'watch'")
    steps = [metric.step for metric in client.get_metric_history(page.info.run_id, "decision")]
    assert sorted(steps) == list(range(1, len(rounds) + 1))

    # Memory stays where it was: the watcher's, and that of rounds that found nothing to do.
    assert told["watcher_growth"] <= FLAT and told["round_growth"] <= FLAT
