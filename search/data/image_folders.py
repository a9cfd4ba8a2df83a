"""The files of a folder and of the folders below it, and which of them are images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.data.images import IMAGE_SUFFIXES

MAX_SUFFIXES = 8
"""The most suffixes that a remark names."""

ErrorHandler = Callable[[OSError], None]


@dataclass(frozen=True)
class FolderContent:
    """The images of a folder and of the folders below it, and the files that are no images."""

    images: tuple[Path, ...]
    """Ordered by path."""
    others: tuple[str, ...]
    """The suffix of each other file, in lower case; it may be empty."""
    unreadable_folders: tuple[str, ...]

    def remarks(self) -> tuple[str, ...]:
        """Return in words what was left out."""
        return tuple(filter(None, (describe_others(self.others), self._describe_unreadable())))

    def _describe_unreadable(self) -> str:
        folders = self.unreadable_folders
        if not folders:
            return ""
        return f"{len(folders)} folders cannot be read and are left out, first {folders[0]}"


def read_folder(folder: Path) -> FolderContent:
    """Return the visible files in a folder and the folders below it."""
    images: list[Path] = []
    others: list[str] = []
    unreadable: list[str] = []
    for parent, names in visible_files(folder, lambda error: unreadable.append(error.filename)):
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in IMAGE_SUFFIXES:
                images.append(Path(parent, name))
            else:
                others.append(suffix)
    return FolderContent(tuple(sorted(images)), tuple(others), tuple(unreadable))


def joined(contents: Sequence[FolderContent]) -> FolderContent:
    """Return the contents of several folders as one, in their order."""
    return FolderContent(
        tuple(image for content in contents for image in content.images),
        tuple(suffix for content in contents for suffix in content.others),
        tuple(name for content in contents for name in content.unreadable_folders),
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden: caches, thumbnails, copies that are not complete."""
    return name.startswith(".")


def visible_files(folder: Path, on_error: ErrorHandler) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder, from `folder` downwards, with the names of its files.

    Hidden files and folders are left out. Linked folders are followed after all others. Each
    folder comes once, under however many links; one that holds `folder` itself does not come.
    """
    visited = set(map(str, folder.resolve().parents))
    waiting = [str(folder)]
    while waiting:
        links: list[str] = []
        for top in waiting:
            for parent, folders, names in os.walk(top, onerror=on_error):
                real_path = os.path.realpath(parent)
                if real_path in visited:
                    folders.clear()
                    continue
                visited.add(real_path)
                folders[:] = sorted(name for name in folders if not is_hidden(name))
                paths = (os.path.join(parent, name) for name in folders)
                links += [path for path in paths if os.path.islink(path)]
                yield parent, [name for name in names if not is_hidden(name)]
        waiting = links


def describe_others(suffixes: tuple[str, ...]) -> str:
    """Return how many files of each suffix are no images; empty if there are none."""
    if not suffixes:
        return ""
    counts = sorted(Counter(suffixes).items(), key=lambda item: (-item[1], item[0]))
    named = [f"{suffix or 'without suffix'} {count}" for suffix, count in counts[:MAX_SUFFIXES]]
    rest = sum(count for _, count in counts[MAX_SUFFIXES:])
    named += [f"others {rest}"] if rest else []
    files = "file of another type" if len(suffixes) == 1 else "files of other types"
    return f"{len(suffixes)} {files} left out: {', '.join(named)}"
