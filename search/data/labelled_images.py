"""The images that a label file names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath

from search.data.frames import ImageFiles, Remarks, Sampling
from search.data.ground_truth import BadTruth, ClassTruth
from search.data.image_folders import visible_files


@dataclass(frozen=True)
class ImageRoot:
    """The folder at which the image names of a label file start."""

    folder: Path
    outside: bool = False
    """Names may be absolute, or lead out of the folder."""

    def image_path(self, name: str, place: str) -> Path:
        """Return the path of an image; its name may have the backslashes of Windows.

        `place` is where the name is written, for the error message.

        Raises:
            BadTruth: the name is empty, or leads out of the folder though it must not.
        """
        if not name.strip():
            raise BadTruth(f"{place}: the name of the image is empty")
        path = self.folder / name
        if "\\" in name and not path.exists():
            name = name.replace("\\", "/")
            path = self.folder / name
        if not self.outside and _leads_outside(name):
            raise BadTruth(
                f"{place}: image {name} is not inside {self.folder}: name it relative to that "
                "folder, or set `outside: true` in this section of `truth` (verify: --outside)"
            )
        return path


def existing_images(
    paths: tuple[Path, ...], source: Path, folder: Path, notes: Sequence[str] = ()
) -> ImageFiles:
    """Return the labelled images, with notes on what their folder holds besides.

    `folder` is where the names of the images start.

    Raises:
        BadTruth: some do not exist.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise BadTruth(
            f"labels {source}: {len(missing)} of {len(paths)} images do not exist, "
            f"first {missing[0]}{_hint(missing[0], folder)}"
        )
    return ImageFiles(paths, Remarks(tuple(f"labels {source}: {note}" for note in notes)))


def labelled_classes(
    images: Sequence[tuple[Path, frozenset[int]]],
    source: Path,
    folder: Path,
    names: tuple[str, ...] = (),
    notes: Sequence[str] = (),
) -> ClassTruth:
    """Build ground truth from the images that have a correct class.

    `folder` is where the names of the images start.

    Raises:
        BadTruth: no image has one, or some images do not exist.
    """
    labelled = [(path, classes) for path, classes in images if classes]
    if not labelled:
        raise BadTruth(f"labels {source}: no correct class for any of {len(images)} images")
    frames = existing_images(tuple(path for path, _ in labelled), source, folder, notes)
    return ClassTruth(frames, tuple(classes for _, classes in labelled), names)


def _hint(missing: Path, folder: Path) -> str:
    """Return in words which file is probably meant; empty if none has the name."""
    candidates = [
        Path(parent, name)
        for parent, names in visible_files(folder, lambda _: None)
        for name in names
        if name.casefold() == missing.name.casefold()
    ]
    if not candidates:
        return ""
    likeliest = min(
        candidates,
        key=lambda path: (-_equal_last_parts(path, missing), len(path.parts), str(path)),
    )
    return f"; is {likeliest} meant? The names of images must start at {folder}"


def _equal_last_parts(first: Path, second: Path) -> int:
    """Count the folders above two files that have the same names, from the files upwards."""
    pairs = zip(reversed(first.parent.parts), reversed(second.parent.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def sample_indices(available: int, sampling: Sampling, source: Path) -> range:
    """Return the indices of the labelled frames to use.

    Raises:
        BadTruth: there are none.
    """
    indices = sampling.indices(available)
    if not indices:
        raise BadTruth(
            f"labels {source}: offset {sampling.offset} skips all of {available} labelled frames"
        )
    return indices


def _leads_outside(name: str) -> bool:
    """Return whether a name is absolute, or climbs above the folder where it starts."""
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        return True
    depth = 0
    for part in PurePosixPath(name).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False
