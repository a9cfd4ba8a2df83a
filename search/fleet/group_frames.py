"""The frames of a group's search: a few of each window of its cameras, in one folder.

A search solves its maps and measures its shares once for each part of its frames. So the windows
of a group make one part: its search takes as long with thirty cameras as with three.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from search.data.frames import Sampling
from search.utils.files import link_or_copy, replace_folder
from search.watch.windows import Window

SAMPLE_MARKER = ".sample"
"""File that shows that the folder is complete."""


def sample_windows(folder: Path, windows: Sequence[Window], frames: int) -> None:
    """Fill a folder with about `frames` frames, spread evenly over all windows.

    Frames are ordered by camera, then by time.

    Raises:
        CannotWrite: the folder cannot be written to.
    """
    with replace_folder(folder, SAMPLE_MARKER) as part:
        for window in windows:
            below = part / window.name
            below.mkdir()
            count = max(1, frames // len(windows))
            for index in Sampling(count).indices(len(window.frames)):
                path = Path(str(window.frames.paths[index]))
                link_or_copy(str(path), str(below / path.name))
        (part / SAMPLE_MARKER).touch()
