"""A tiny deployment under watch: its config, and a camera that writes images to a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from PIL import Image
from tiny import Weights, config_data, with_changes, write_config

from search.cli.main import main
from search.config.loading import load_config
from search.config.run import RunConfig
from search.data.synthetic.scenes import SceneSettings, render
from search.deploy.champion import ChampionStore
from search.results.rounds import Round, RoundHistory
from search.watch.round import do_round  # noqa: F401  (imported by the command only when it runs)
from search.watch.workspace import Workspace
from spaces.bundle_files import bundle_id

DAY = SceneSettings(seed=21, width=192, height=144)
NIGHT = replace(DAY, seed=22, night=1.0)
WINDOW = 32


def watched_data(weights: Weights) -> dict[str, Any]:
    """Return a config of two classifiers and one camera, by day, without labels."""
    data = config_data(weights)
    del data["truth"]
    changes = {
        "name": "watched",
        "frames": {"scenes": {"seed": 1}, "count": 60},
        "search.trials": 12,
        "verify.shortlist": 3,
        "verify.candidates": 2,
        "promotion": {"by": "either"},
        "watch": {"interval": "1 h", "window": WINDOW, "cameras": {"gate": {"folder": "gate"}}},
    }
    return with_changes(data, changes)


@cache
def picture(settings: SceneSettings, index: int) -> Image.Image:
    return Image.fromarray(render(settings, index).image)


@dataclass
class Watched:
    """A config under watch, and its only camera."""

    config: Path
    delivered: int = 0

    @classmethod
    def at(cls, folder: Path, data: Mapping[str, Any]) -> Watched:
        (folder / "gate").mkdir(parents=True)
        return cls(write_config(folder, dict(data)))

    @property
    def run_config(self) -> RunConfig:
        return load_config(self.config)

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.run_config.out_folder)

    @property
    def history(self) -> RoundHistory:
        return RoundHistory(self.workspace.folder)

    @property
    def champions(self) -> ChampionStore:
        return ChampionStore(self.workspace.service_folder)

    @property
    def rounds(self) -> list[Round]:
        return self.history.rounds()

    @property
    def gate(self) -> Path:
        return self.config.parent / "gate"

    def deliver(self, settings: SceneSettings, count: int = WINDOW) -> None:
        """Write new images to the folder, with modification times an hour ago and 10 ms apart."""
        for index in range(self.delivered, self.delivered + count):
            path = self.gate / f"{index:06d}.png"
            picture(settings, index).save(path)
            taken_at = time.time() - 3600 + index * 0.01
            os.utime(path, (taken_at, taken_at))
        self.delivered += count

    def call(self, command: str, *options: str) -> tuple[int, str]:
        """Run a command; return its exit code and its output."""
        result = CliRunner().invoke(main, [command, str(self.config), *options])
        return result.exit_code, result.output

    def printed(self, command: str, *options: str) -> str:
        """Run a command; return its standard output alone."""
        return CliRunner().invoke(main, [command, str(self.config), *options]).stdout

    def once(self, *options: str) -> tuple[int, str]:
        return self.call("watch", "--once", *options)

    def in_service(self) -> str | None:
        """Return the hash of the champion's plan."""
        champion = self.champions.champion()
        self.bundle_in_service()
        return None if champion is None else champion.registered_plan.plan

    def bundle_in_service(self) -> str | None:
        """Return the identity of the champion's bundle, after checking that it is complete."""
        champions = self.champions
        champion = champions.champion()
        if champion is None:
            return None
        assert bundle_id(champions.bundle_folder(champion.bundle)) == champion.bundle
        return champion.bundle

    def current(self) -> str:
        """Return the identity of the bundle that a box would load."""
        return bundle_id(self.champions.folder / "current")
