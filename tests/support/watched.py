"""A tiny deployment that is watched: its config, and a camera that puts pictures into a folder."""

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
from search.data.synthetic.scenes import SceneSettings, render
from search.results.rounds import Round
from search.watch.round import do_round  # noqa: F401  (imported by the command only when it runs)
from search.watch.workspace import Workspace
from spaces.bundle import bundle_id

DAY = SceneSettings(seed=21, width=192, height=144)
NIGHT = replace(DAY, seed=22, night=1.0)
WINDOW = 32


def watched_data(weights: Weights) -> dict[str, Any]:
    """Two classifiers, by day; a window of one camera is 32 pictures. No labels."""
    data = config_data(weights)
    del data["truth"]
    changes = {
        "name": "watched",
        "frames": {"scenes": {"seed": 1}, "count": 60},
        "search.trials": 20,
        "promotion": {"by": "either"},
        "watch": {"interval": "1 h", "window": WINDOW, "cameras": {"gate": {"folder": "gate"}}},
    }
    return with_changes(data, changes)


@cache
def picture(settings: SceneSettings, index: int) -> Image.Image:
    return Image.fromarray(render(settings, index).image)


@dataclass
class Watched:
    """A config that is watched, and its only camera."""

    config: Path
    delivered: int = 0

    @classmethod
    def at(cls, folder: Path, data: Mapping[str, Any]) -> Watched:
        (folder / "gate").mkdir(parents=True)
        return cls(write_config(folder, dict(data)))

    @property
    def post(self) -> Workspace:
        return Workspace(load_config(self.config))

    @property
    def rounds(self) -> list[Round]:
        return self.post.history.rounds()

    @property
    def gate(self) -> Path:
        return self.config.parent / "gate"

    def deliver(self, settings: SceneSettings, count: int = WINDOW) -> None:
        """New pictures, an hour old, a second apart."""
        for index in range(self.delivered, self.delivered + count):
            path = self.gate / f"{index:06d}.png"
            picture(settings, index).save(path)
            taken = time.time() - 3600 + index * 0.01
            os.utime(path, (taken, taken))
        self.delivered += count

    def call(self, command: str, *options: str) -> tuple[int, str]:
        """Its exit code, and what it said."""
        done = CliRunner().invoke(main, [command, str(self.config), *options])
        return done.exit_code, done.output

    def printed(self, command: str, *options: str) -> str:
        """On its standard output alone."""
        return CliRunner().invoke(main, [command, str(self.config), *options]).stdout

    def once(self, *options: str) -> tuple[int, str]:
        return self.call("watch", "--once", *options)

    def in_service(self) -> str | None:
        """The plan of the champion of record."""
        champion = self.post.service.champion()
        self.bundle_in_service()
        return None if champion is None else champion.standing.plan

    def bundle_in_service(self) -> str | None:
        """The champion's bundle, which is there whole."""
        service = self.post.service
        champion = service.champion()
        if champion is None:
            return None
        assert bundle_id(service.bundle(champion.bundle)) == champion.bundle
        return champion.bundle

    def current(self) -> str:
        """The bundle that a box would load."""
        return bundle_id(self.post.service.folder / "current")
