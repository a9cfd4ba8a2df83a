"""The frames of a group's search: a few of each window of its cameras, in one folder.

A search solves its maps and measures its shares once for each part of its frames. So the windows
of a group make one part: its search takes as long with thirty cameras as with three.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from search.data.frames import FrameSet, JoinedFrames, Sampling, Subset
from search.utils.files import link_or_copy, replace_folder
from search.watch.search_again import SampledWindows
from search.watch.windows import Window

SAMPLE_MARKER = ".sample"
"""File that shows that the folder is complete."""
MOST_OF_A_WINDOW = 0.75
"""Share of a window that a search uses at most: the plans are compared on the rest."""


def sample_windows(
    folder: Path,
    windows: Sequence[Window],
    new_windows: Collection[Window],
    frames: int,
    compared: int,
) -> SampledWindows:
    """Fill a folder with about `frames` frames, spread evenly over all windows.

    Up to `compared` other frames of the new windows are left for the comparison of plans. Frames
    are ordered by camera, then by time.

    Raises:
        CannotWrite: the folder cannot be written to.
    """
    with replace_folder(folder, SAMPLE_MARKER) as part:
        for window in windows:
            below = part / window.name
            below.mkdir()
            for index in _used(window, frames, len(windows)):
                path = window.frames.paths[index]
                link_or_copy(str(path), str(below / path.name))
        (part / SAMPLE_MARKER).touch()
    new = [window for window in windows if window in new_windows]
    return SampledWindows(folder, _unused(new, frames, len(windows), compared))


def _used(window: Window, frames: int, windows: int) -> Sequence[int]:
    """Return the indices of the frames of a window that the search uses, at least one."""
    available = len(window.frames)
    count = min(frames // windows, int(available * MOST_OF_A_WINDOW))
    return Sampling(max(1, count)).indices(available)


def _unused(new: Sequence[Window], frames: int, windows: int, compared: int) -> FrameSet:
    parts = []
    for window in new:
        used = set(_used(window, frames, windows))
        others = (index for index in range(len(window.frames)) if index not in used)
        parts.append(Subset(window.frames, tuple(others)))
    joined = JoinedFrames(tuple(parts))
    return Subset(joined, tuple(Sampling(compared).indices(len(joined))))
