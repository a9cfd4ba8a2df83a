"""Windows of frames on disk, and which of them the rounds have compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from search.cameras.recordings import Recordings
from search.data.frames import FrameSet, ImageFiles, JoinedFrames, Sampling, folder_frames
from search.results.rounds import Round
from search.watch.workspace import Workspace


@dataclass(frozen=True)
class Window:
    """A window of a camera's frames."""

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
class WindowStore:
    """The recordings of all cameras of a watch, and their windows."""

    workspace: Workspace
    cameras: tuple[str, ...]
    """Names."""

    @cached_property
    def recordings(self) -> Mapping[str, Recordings]:
        """Recordings by camera.

        Raises:
            BadRecordings: the state of a camera cannot be read.
        """
        return {
            camera: Recordings(self.workspace.recordings_folder(camera)) for camera in self.cameras
        }

    def windows(self, camera: str) -> list[Window]:
        """Return all windows of a camera in order."""
        numbers = self.recordings[camera].window_numbers()
        return [self.window(camera, number) for number in numbers]

    def window(self, camera: str, number: int) -> Window:
        """Return a window of a camera, whether or not it exists."""
        return Window(camera, number, self.recordings[camera].window_folder(number))

    def searched(self, last: Round | None) -> list[Window]:
        """Return the windows that the last search used.

        Windows that came after the last round are not among them.
        """
        return [
            window
            for window in self._all_windows()
            if window.number <= last_compared(last, window.camera)
            and self.workspace.reference_file(window.name).is_file()
        ]

    def uncompared(self, last: Round | None) -> list[Window]:
        """Return the windows that no round has compared yet."""
        return [
            window
            for window in self._all_windows()
            if window.number > last_compared(last, window.camera)
        ]

    def waiting_frames(self) -> FrameSet:
        """Return the frames of all cameras that are not in a window yet."""
        paths = (recordings.waiting_frames() for recordings in self.recordings.values())
        return ImageFiles(tuple(path for of_camera in paths for path in of_camera))

    def keep_only(self, windows: Sequence[Window]) -> None:
        """Remove all other windows and their references.

        Raises:
            CannotWrite: the folder cannot be changed.
        """
        for camera, recordings in self.recordings.items():
            recordings.prune([window.number for window in of_camera(windows, camera)])
        self.workspace.remove_other_references({window.name for window in windows})

    def _all_windows(self) -> list[Window]:
        return [window for camera in self.cameras for window in self.windows(camera)]


def of_camera(windows: Iterable[Window], camera: str) -> list[Window]:
    """Select the windows of one camera."""
    return [window for window in windows if window.camera == camera]


def join_frames(windows: Iterable[Window]) -> FrameSet:
    """Return the frames of all windows as one set."""
    return JoinedFrames(tuple(window.frames for window in windows))


def last_compared(last: Round | None, camera: str) -> int:
    """Return the number of the last window of a camera that was compared; 0 if none was."""
    record = None if last is None else last.cameras.get(camera)
    return 0 if record is None else record.window
