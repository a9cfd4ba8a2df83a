"""A long watch whose clock jumps from round to round.

The watcher starts rounds as `merge-search watch` does; each round is a process that runs the real
command against a real MLflow server. A seed chooses the faults: rounds are killed at random steps,
the disk is full, the server is down, pictures are damaged. `make soak` does two hundred rounds,
`make test` twenty-five.
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
from commands import limit_file_size, no_preparation, start_forked
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
"""Number of rounds after which memory must not grow."""
FLAT = 1.05
POOL = 2 * WINDOW
"""Number of different pictures of each kind: a camera may see the same again."""
KINDS: tuple[Callable[[int], Image.Image], ...] = (
    lambda index: picture(DAY, index),
    lambda index: picture(NIGHT, index),
    lambda index: ImageOps.invert(picture(DAY, index)),
    lambda index: ImageOps.posterize(picture(DAY, index), 1),
)
"""What the camera sees in turn: by day, by night, and with two failures of its electronics."""
STEPS = 60
"""Number of steps within which a round is killed; a round with fewer steps ends by itself."""
OUTAGE = range(15, 18)
"""The rounds of every 25 in which the server is down."""


class HurriedClock:
    """A clock that jumps to any moment that is waited for."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now

    def wait_until(self, moment: datetime) -> None:
        self._now = max(self._now, moment)


class AllRoundsDone(Exception):
    """Stops the watcher."""


@dataclass
class World:
    """Causes what happens between and during the rounds, and records the outcome."""

    watched: Watched
    server: Server
    folder: Path
    chance: random.Random = field(default_factory=lambda: random.Random(5))
    codes: list[int] = field(default_factory=list)
    """Exit codes of the rounds."""
    champions: list[str | None] = field(default_factory=list)
    """Bundles in service after each round."""
    watcher_bytes: list[int] = field(default_factory=list)
    """Resident bytes of this process after each round."""
    round_memory: list[tuple[str, int]] = field(default_factory=list)
    """Decision and peak resident kB of each round that ended by itself."""

    def __call__(self, due: Due) -> int:
        if len(self.codes) == ROUNDS:
            raise AllRoundsDone
        self._switch_server()
        self._deliver_pictures()
        peak = self.folder / "peak"
        peak.unlink(missing_ok=True)
        output, config = self.folder / "output", self.watched.config
        process = start_forked(_round, output, config, due, self._fault(), peak)
        process.join()
        assert process.exitcode is not None
        self.codes.append(process.exitcode)
        self.champions.append(self.watched.bundle_in_service())
        self.watcher_bytes.append(psutil.Process().memory_info().rss)
        if peak.exists() and process.exitcode in (0, 10, 11):
            decision = self.watched.history.latest(1)[0].decision
            self.round_memory.append((decision, int(peak.read_text())))
        return process.exitcode

    def _switch_server(self) -> None:
        if len(self.codes) % 25 in OUTAGE:
            self.server.kill()
        else:
            self.server.start()

    def _deliver_pictures(self) -> None:
        """Deliver no picture up to more than a window of them; a tenth are damaged."""
        kind = KINDS[len(self.codes) * len(KINDS) // ROUNDS]
        count = 20 if self._disk_full else self.chance.choice((0, 0, 10, 20, 40))
        for _ in range(count):
            name = self.watched.delivered
            path = self.watched.gate / f"{name:06d}.png"
            kind(self.chance.randrange(POOL)).save(path)
            if self.chance.random() < 0.1:
                path.write_bytes(path.read_bytes()[:500])
            taken_at = time.time() - 86400 + name * 0.01
            os.utime(path, (taken_at, taken_at))
            self.watched.delivered += 1

    def _fault(self) -> Callable[[], Any]:
        """Return the preparation of this round's process, which mostly does nothing."""
        if self._disk_full:
            return limit_file_size(2000)
        if len(self.codes) % 6 == 3:
            return kill_before_step(self.chance.randrange(STEPS), self.folder / "steps")
        return no_preparation

    @property
    def _disk_full(self) -> bool:
        return len(self.codes) % 10 == 7


def _round(output: Path, config: Path, due: Due, prepare: Callable[[], Any], peak: Path) -> None:
    """Run the command; unless killed, write its peak resident kB to a file."""
    log = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    shorten_stopwatch()
    prepare()
    try:
        main(["watch", str(config), "--once", "--due", due.at.isoformat(timespec="seconds")])
    finally:
        if prepare is no_preparation:
            peak.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def summarise(world: World, rounds: list[Round]) -> dict[str, Any]:
    """Return numbers about the watch; also write them to build/soak.json."""
    inspected = [kb for decision, kb in world.round_memory if decision == "unchanged"]
    summary = {
        "started": len(world.codes),
        "exit_codes": {str(code): world.codes.count(code) for code in sorted(set(world.codes))},
        "decisions": dict(Counter(ended.decision for ended in rounds)),
        "champions": len({champion for champion in world.champions if champion is not None}),
        "watcher_growth": max(world.watcher_bytes[SETTLED:]) / world.watcher_bytes[SETTLED],
        "round_growth": median(inspected[-SETTLED:]) / median(inspected[:SETTLED]),
    }
    write_json(BUILD / "soak.json", summary)
    return summary


@pytest.fixture
def world(weights: Weights, tmp_path: Path, server: Server) -> World:
    # Any plan is promoted, and the search space is small.
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
def test_many_rounds_survive_all_faults(world: World) -> None:
    watched, history = world.watched, world.watched.history
    with pytest.raises(AllRoundsDone):
        watch(
            Schedule.interval("1 h"), history, HurriedClock(), world, capture_reporter().reporter
        )
    world.server.start()
    code, output = watched.once()  # logs what MLflow missed
    assert code in (0, 10, 11), output

    # Rounds ended in every possible way, and those that ended are numbered without a gap.
    assert {0, 11, -9, 1} <= set(world.codes)
    rounds = watched.rounds
    summary = summarise(world, rounds)
    assert [ended.number for ended in rounds] == list(range(1, len(rounds) + 1))
    assert any(camera.fault for ended in rounds for camera in ended.cameras.values())

    # No champion was lost, and none was promoted twice.
    champions = [*world.champions, watched.bundle_in_service()]
    first = next(k for k, champion in enumerate(champions) if champion is not None)
    assert None not in champions[first:]
    promoted = [ended for ended in rounds if ended.decision == "promoted"]
    bundles = [ended.promotion.bundle for ended in promoted if ended.promotion is not None]
    assert len(promoted) == len(bundles) == len(set(bundles)) >= 2

    # MLflow has everything.
    client = MlflowClient(tracking_uri=world.server.uri)
    versions = client.search_model_versions("name = 'soaked'")
    tagged = [v for v in versions if "merge_search.promoted" in v.tags]
    champion = client.get_model_version_by_alias("soaked", "champion")
    assert json.loads(champion.tags["merge_search.standing"])["bundle"] == champions[-1]
    assert len(tagged) <= len(promoted)
    experiment = client.get_experiment_by_name(watched.run_config.mlflow.experiment)
    assert experiment is not None
    (page,) = client.search_runs([experiment.experiment_id], "tags.`merge_search.kind` = 'watch'")
    steps = [metric.step for metric in client.get_metric_history(page.info.run_id, "decision")]
    assert sorted(steps) == list(range(1, len(rounds) + 1))

    # Memory did not grow: neither of the watcher nor of rounds without a search.
    assert summary["watcher_growth"] <= FLAT and summary["round_growth"] <= FLAT
