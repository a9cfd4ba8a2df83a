"""The folder OUT/watch, where a watch stores its state between rounds.

OUT/watch/rounds/          the records of the rounds
OUT/watch/cameras/NAME/    frames and windows of each camera
OUT/watch/references/      features of the frames of the last search, one file per part of them
OUT/watch/labels/          labels that the searches of champion and challenger used
OUT/watch/trials-NUMBER.log  trials of the search of that round
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from search.config.base import BadConfig
from search.config.run import RunConfig
from search.config.watch import WatchConfig
from search.deploy.champion import SERVICE
from search.utils.locks import exclusive_lock

WATCH = "watch"
"""Below OUT."""
REFERENCES, CAMERAS, LABELS = "references", "cameras", "labels"
ROUND_LOCK, TRIALS_PREFIX = "round.lock", "trials-"
WINDOW_REFERENCES = "*-" + "[0-9]" * 8 + ".safetensors"
"""Files of windows, as opposed to that of the config's own frames."""


@dataclass(frozen=True)
class Workspace:
    """Paths of the watch of one config, and the lock of a round."""

    out: Path
    """OUT, the config's output folder."""
    recorded_in: Path | None = None
    """OUT of the watch that records the cameras, if it is another one, as for a group of a
    fleet."""

    @property
    def folder(self) -> Path:
        return self.out / WATCH

    @property
    def service_folder(self) -> Path:
        return self.out / SERVICE

    @property
    def labels_folder(self) -> Path:
        return self.folder / LABELS

    def recordings_folder(self, camera: str) -> Path:
        return (self.recorded_in or self.out) / WATCH / CAMERAS / camera

    def reference_file(self, part: str) -> Path:
        """Return the path of the features of one part of the last search's frames."""
        return self.folder / REFERENCES / f"{part}.safetensors"

    def window_references(self) -> dict[str, Path]:
        """Return the files of the features of windows by the windows' names."""
        files = (self.folder / REFERENCES).glob(WINDOW_REFERENCES)
        return {path.stem: path for path in sorted(files)}

    def trials_file(self, number: int) -> Path:
        """Return the path of the trials of a round's search."""
        return self.folder / f"{TRIALS_PREFIX}{number:08d}.log"

    @contextmanager
    def round_lock(self) -> Iterator[None]:
        """Hold the lock of a round.

        Raises:
            Busy: another process does a round of this config.
        """
        with exclusive_lock(self.folder / ROUND_LOCK, f"does a round of {self.folder}"):
            yield

    def remove_other_trials(self, number: int) -> None:
        """Remove the trials of all rounds but this one."""
        for path in self.folder.glob(f"{TRIALS_PREFIX}*"):
            if not path.name.startswith(self.trials_file(number).name):
                path.unlink(missing_ok=True)

    def remove_other_references(self, windows: Collection[str]) -> None:
        """Remove the features of all windows but those of these names."""
        for name, path in self.window_references().items():
            if name not in windows:
                path.unlink(missing_ok=True)


def watch_config(config: RunConfig) -> WatchConfig:
    """Return the config's section `watch`.

    Raises:
        BadConfig: the config has no such section.
    """
    if config.watch is None:
        raise BadConfig(
            f"{config.name}: the config has no section `watch`; add one that names the cameras "
            "and a schedule"
        )
    return config.watch
