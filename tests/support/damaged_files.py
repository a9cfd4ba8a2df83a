"""Image files that are damaged inside."""

from __future__ import annotations

from pathlib import Path


def write_jpeg_damaged_inside(path: Path) -> None:
    """Put a header of another picture into the middle of a JPEG file, which keeps its ending.

    Of what disks and networks do to a file, this is what decoding refuses; it passes over most
    changed bytes of the picture itself.
    """
    content = path.read_bytes()
    middle = (content.index(b"\xff\xda") + len(content)) // 2
    path.write_bytes(content[:middle] + b"\xff\xd8" + content[middle + 2 :])
    assert path.read_bytes().endswith(b"\xff\xd9")
