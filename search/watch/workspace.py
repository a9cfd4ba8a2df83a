"""Where a watch keeps what it has seen and done: the folder OUT/watch.

OUT/watch/rounds/          the history
OUT/watch/cameras/NAME/    frames and windows of each camera
OUT/watch/references/      what the frames of the last search look like, for each part of them
OUT/watch/labels/          which labels the search of the plan in service has known
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from search.cameras.recordings import Recordings
from search.config.base import BadConfig
from search.config.run import RunConfig
from search.config.watch import WatchConfig
from search.data.frames import ImageFiles, Sampling, folder_frames
from search.deploy.champion import SERVICE, ChampionStore
from search.results.rounds import History, Round
from search.utils.locks import alone
from search.watch.seen_labels import SeenLabels

WATCH = "watch"
"""Below OUT."""
REFERENCES, CAMERAS, LABELS = "references", "cameras", "labels"
LOCK, TRIALS = "round.lock", "trials-"


@dataclass(frozen=True)
class Window:
    """A window of a camera's frames that is on disk."""

    camera: str
    number: int
    folder: Path

    @cached_property
    def frames(self) -> ImageFiles:
        return folder_frames(self.folder, Sampling())

    @property
    def name(self) -> str:
        return f"{self.camera}-{self.number:08d}"


@dataclass(frozen=True)
class Workspace:
    """The watch of one config."""

    config: RunConfig

    @property
    def asked(self) -> WatchConfig:
        """
        Raises:
            BadConfig: the config says nothing of it.
        """
        if self.config.watch is None:
            raise BadConfig(
                f"{self.config.name}: no section `watch` in the config: it names the cameras and "
                "says when to look at them (docs/tutorial/5-watch-cameras.md)"
            )
        return self.config.watch

    @property
    def folder(self) -> Path:
        return self.config.out_folder / WATCH

    @property
    def history(self) -> History:
        return History(self.folder)

    @property
    def service(self) -> ChampionStore:
        return ChampionStore(self.config.out_folder / SERVICE)

    @property
    def labels(self) -> SeenLabels:
        return SeenLabels(self.folder / LABELS)

    @cached_property
    def footage(self) -> Mapping[str, Recordings]:
        return {name: Recordings(self.folder / CAMERAS / name) for name in self.asked.cameras}

    @contextmanager
    def round_of_ones_own(self) -> Iterator[None]:
        """One round of a config at a time.

        Raises:
            Busy: there is one.
        """
        with alone(self.folder / LOCK, f"does a round of {self.folder}"):
            yield

    def windows(self, camera: str) -> list[Window]:
        """All of a camera's, in their order."""
        kept = self.footage[camera]
        return [
            Window(camera, number, kept.window_folder(number)) for number in kept.window_numbers()
        ]

    def known(self, last: Round | None) -> list[Window]:
        """The windows that the last search looked back on; what came after the last round that
        ended was seen by none."""
        return [
            window
            for camera in self.asked.cameras
            for window in self.windows(camera)
            if window.number <= judged(last, camera) and self.reference(window.name).is_file()
        ]

    def unjudged(self, last: Round | None) -> list[Window]:
        """The windows that no round has compared yet."""
        return [
            window
            for camera in self.asked.cameras
            for window in self.windows(camera)
            if window.number > judged(last, camera)
        ]

    def reference(self, part: str) -> Path:
        """Where it is kept what a part of the last search's frames looks like."""
        return self.folder / REFERENCES / f"{part}.safetensors"

    def trials(self, number: int) -> Path:
        """Where the trials of that round's search are."""
        return self.folder / f"{TRIALS}{number:08d}.log"

    def keep_only(self, windows: list[Window], number: int) -> None:
        """Remove all other windows, what they look like, and the trials of all but one round."""
        for path in self.folder.glob(f"{TRIALS}*"):
            if not path.name.startswith(self.trials(number).name):
                path.unlink(missing_ok=True)
        for camera, kept in self.footage.items():
            kept.prune([window.number for window in of_camera(windows, camera)])
        names = {window.name for window in windows}
        for path in (self.folder / REFERENCES).glob("*-*.safetensors"):
            if re.search(r"-\d{8}$", path.stem) and path.stem not in names:
                path.unlink(missing_ok=True)


def of_camera(windows: Iterable[Window], camera: str) -> list[Window]:
    """Those of one camera."""
    return [window for window in windows if window.camera == camera]


def judged(last: Round | None, camera: str) -> int:
    """Number of the last window of a camera that was compared."""
    known = None if last is None else last.cameras.get(camera)
    return 0 if known is None else known.window
