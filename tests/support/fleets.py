"""A tiny deployment under watch with several cameras, each of which writes images to a folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from tiny import Weights, with_changes, write_config
from watched import DAY, NIGHT, WINDOW, picture, watched_data

from search.cli.main import main
from search.config.loading import load_config
from search.config.run import RunConfig
from search.data.synthetic.scenes import SceneSettings
from search.fleet.placement import Fleet
from search.fleet.storage import load_fleet
from search.results.rounds import Round, RoundHistory
from search.watch.workspace import Workspace
from spaces.bundle_files import bundle_id


def fleet_data(weights: Weights, cameras: Sequence[str]) -> dict[str, Any]:
    """Return a config of two classifiers and several cameras, without labels."""
    changes = {
        "watch.cameras": {name: {"folder": name} for name in cameras},
        "watch.fleet": {"frames": 48},
        "search.trials": 10,
        "verify": {"fidelity_frames": 12, "shortlist": 2, "candidates": 1, "batch": 12},
    }
    return with_changes(watched_data(weights), changes)


@dataclass
class WatchedFleet:
    """A config under watch with several cameras."""

    config: Path
    delivered: dict[str, int] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path, data: dict[str, Any]) -> WatchedFleet:
        for name in data["watch"]["cameras"]:
            (folder / name).mkdir(parents=True)
        return cls(write_config(folder, data))

    @property
    def run_config(self) -> RunConfig:
        return load_config(self.config)

    @property
    def out(self) -> Path:
        return self.run_config.out_folder

    @property
    def fleet(self) -> Fleet:
        return load_fleet(Workspace(self.out).folder / "fleet.safetensors")

    @property
    def rounds(self) -> list[Round]:
        return RoundHistory(Workspace(self.out).folder).rounds()

    def group_rounds(self, group: str) -> list[Round]:
        return RoundHistory(Workspace(self.out / "groups" / group).folder).rounds()

    def deliver(self, camera: str, look: SceneSettings, count: int = WINDOW) -> None:
        """Write new images of a camera, with modification times an hour ago and 10 ms apart."""
        first = self.delivered.get(camera, 0)
        seed = sum(map(ord, camera)) + (1000 if look.night else 0)
        settings = replaced(look, seed=seed)
        for index in range(first, first + count):
            path = self.config.parent / camera / f"{index:06d}.png"
            picture(settings, index).save(path)
            taken_at = time.time() - 3600 + index * 0.01
            os.utime(path, (taken_at, taken_at))
        self.delivered[camera] = first + count

    def call(self, command: str, *options: str) -> tuple[int, str]:
        """Run a command; return its exit code and its output."""
        result = CliRunner().invoke(main, [command, str(self.config), *options])
        return result.exit_code, result.output

    def once(self, *options: str) -> tuple[int, str]:
        return self.call("watch", "--once", *options)

    def listed(self) -> list[Any]:
        """Return the records that `history --json` prints."""
        printed = CliRunner().invoke(main, ["history", str(self.config), "--json"]).stdout
        records: list[Any] = json.loads(printed)
        return records

    def current(self, camera: str) -> str:
        """Return the identity of the bundle that the box of a camera would load."""
        return bundle_id(self.out / "fleet" / camera)


__all__ = ["DAY", "NIGHT", "WINDOW", "WatchedFleet", "fleet_data"]
