"""Folders of images on servers, read as those of this machine are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from search.data.frames import BadFrames, ImageFiles, Sampling, sampled_images
from search.data.image_folders import describe_others, is_hidden
from search.data.images import IMAGE_SUFFIXES
from search.data.remote.file_system import list_folder, read_file


@dataclass(frozen=True, order=True)
class RemoteImage:
    """An image file on a server."""

    address: str

    def __str__(self) -> str:
        return self.address

    def read_bytes(self) -> bytes:
        """Return the content of the file.

        Raises:
            OSError: it is missing, or the server does not give it.
        """
        return read_file(self.address)

    def resolve(self) -> str:
        """Return what identifies the file."""
        return self.address


def remote_frames(address: str, sampling: Sampling) -> ImageFiles:
    """Return the images in a folder on a server and its sub-folders, ordered by path.

    The order, and so the hash, are those of a copy of the folder on this machine.

    Raises:
        BadFrames: the server does not answer, or there is no such folder, or it holds no images.
    """
    where = f"frames folder {address}"
    images: list[tuple[tuple[str, ...], RemoteImage]] = []
    others: list[str] = []
    waiting = [(f"{address.rstrip('/')}/", PurePosixPath())]
    while waiting:
        folder, place = waiting.pop()
        try:
            entries = list_folder(folder)
        except FileNotFoundError as error:
            raise BadFrames(f"{where}: there is no such folder") from error
        except OSError as error:
            raise BadFrames(f"{where}: {error}") from error
        for entry in entries:
            path = place / entry.name
            if is_hidden(entry.name):
                continue
            if entry.is_folder:
                waiting.append((entry.address, path))
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                images.append((path.parts, RemoteImage(entry.address)))
            else:
                others.append(path.suffix.lower())
    ordered = tuple(image for _, image in sorted(images))
    remark = describe_others(tuple(others))
    return sampled_images(where, ordered, (remark,) if remark else (), sampling)
