"""Image files of every kind are read upright, in RGB, with 8 bits, and without a warning."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from search.data.images import BadFrames, read_image
from spaces.inputs import Frame

GREY_RAMP = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
"""64 values over the range of 16 bits."""


def numbered(height: int = 16, width: int = 24) -> Frame:
    """Return a picture whose corners all differ."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 10, y * 15, (x + y) * 6], axis=2).astype(np.uint8)


def saved(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


def stored_with(orientation: int, upright: Image.Image) -> Image.Image:
    """Return the picture as a camera held at that EXIF orientation stores it."""
    methods = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    return upright.transpose(methods[orientation]) if orientation > 1 else upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_a_picture_is_read_upright_whichever_way_the_camera_was_held(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    upright = numbered()
    options = {"quality": 100, "subsampling": 0, "lossless": True}
    stored = stored_with(orientation, Image.fromarray(upright))
    path = saved(tmp_path / f"a{suffix}", stored, exif=exif, **options)
    frame = read_image(path)
    assert frame.shape == upright.shape
    assert np.abs(frame.astype(int) - upright).max() <= (6 if suffix == ".jpg" else 0)
    with Image.open(path) as image:
        reference = ImageOps.exif_transpose(image).convert("RGB")
    assert (frame == np.asarray(reference)).all()


@pytest.mark.parametrize("length", [0, 3, 7, 9, 14, 20, 25])
@pytest.mark.parametrize("junk", [b"", b"\xff" * 40])
def test_damaged_exif_data_leave_the_picture_as_it_is(
    tmp_path: Path, length: int, junk: bytes
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "a camera"
    damaged = exif.tobytes()[:length] + junk
    path = saved(tmp_path / "a.png", Image.fromarray(numbered()), exif=damaged)
    assert (read_image(path) == numbered()).all()


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", ".png"), ("I;16", ".tif"),
                                              ("I;16B", ".tif"), ("I", ".pgm")])  # fmt: skip
def test_grey_values_of_16_bits_keep_their_8_highest_bits(
    tmp_path: Path, mode: str, suffix: str
) -> None:
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(GREY_RAMP.astype(dtype)))
    with Image.open(path) as image:
        assert image.mode[0] == "I"
    frame = read_image(path)
    assert (frame == (GREY_RAMP >> 8)[..., None]).all() and frame.shape == (8, 8, 3)


def test_grey_values_of_16_bits_are_turned_upright_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = saved(tmp_path / "a.png", Image.fromarray(GREY_RAMP[:4]), exif=exif)
    assert (read_image(path)[..., 0] == np.rot90(GREY_RAMP[:4] >> 8, -1)).all()


def test_grey_values_of_12_bits_are_scaled_by_12_bits(tmp_path: Path) -> None:
    """Two values in three bytes, as scientific cameras pack them."""
    values = np.array([[0, 0x123, 0x800, 0xFFF]], dtype=np.uint16)
    packed = bytes([0x00, 0x01, 0x23, 0x80, 0x0F, 0xFF])
    entries = [(256, 4, 4), (257, 4, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8),
               (277, 3, 1), (278, 4, 1), (279, 4, len(packed))]  # fmt: skip
    directory = b"".join(
        tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, kind, value in entries
    )  # fmt: skip
    header = b"II*\x00" + (16).to_bytes(4, "little")
    count = len(entries).to_bytes(2, "little")
    path = tmp_path / "a.tif"
    path.write_bytes(header + packed.ljust(8, b"\0") + count + directory + bytes(4))
    assert (read_image(path)[..., 0] == values >> 4).all()


@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.float32, "floating-point"), (np.int32, "32 bits")]
)
def test_values_without_a_defined_white_are_refused(
    tmp_path: Path, dtype: type, kind: str
) -> None:
    path = saved(tmp_path / "depth.tif", Image.fromarray(GREY_RAMP.astype(dtype)))
    with pytest.raises(BadFrames, match=f"depth.tif: cannot be read .*{kind}.*8 or 16 bits"):
        read_image(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_transparency_is_dropped(tmp_path: Path, mode: str, suffix: str) -> None:
    opaque = Image.fromarray(numbered()).convert("RGB" if mode == "RGBA" else "L")
    picture = opaque.copy()
    picture.putalpha(Image.fromarray(np.arange(24 * 16, dtype=np.uint8).reshape(16, 24)))
    frame = read_image(saved(tmp_path / f"a{suffix}", picture))
    assert (frame == np.asarray(opaque.convert("RGB"))).all()


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128, 255])])
@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_a_palette_gives_its_colours_whatever_is_transparent(
    tmp_path: Path, transparency: int | bytes | None, suffix: str
) -> None:
    if suffix == ".gif" and isinstance(transparency, bytes):
        pytest.skip("a GIF file has one transparent colour")
    picture = Image.new("P", (4, 1))
    picture.putpalette([10, 20, 30, 255, 0, 0, 9, 99, 199])
    picture.putdata([0, 1, 2, 1])
    options = {} if transparency is None else {"transparency": transparency}
    frame = read_image(saved(tmp_path / f"a{suffix}", picture, **options))
    assert frame.tolist() == [[[10, 20, 30], [255, 0, 0], [9, 99, 199], [255, 0, 0]]]


def test_cmyk_is_read_as_pillow_converts_it(tmp_path: Path) -> None:
    picture = Image.fromarray(numbered()).convert("CMYK")
    frame = read_image(saved(tmp_path / "a.tif", picture))
    assert (frame == np.asarray(picture.convert("RGB"))).all()


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".tif", ".png"])
def test_of_several_pictures_the_first_is_read(tmp_path: Path, suffix: str) -> None:
    pictures = [Image.new("RGB", (8, 8), (40 * k, 0, 0)) for k in range(3)]
    options = {"lossless": True} if suffix == ".webp" else {}
    path = saved(tmp_path / f"a{suffix}", pictures[0], save_all=True,
                 append_images=pictures[1:], **options)  # fmt: skip
    with Image.open(path) as image:
        assert image.n_frames == 3  # type: ignore[attr-defined]
    assert (read_image(path) == 0).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".ppm"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_ordinary_pictures_are_read_as_pillow_reads_them(
    tmp_path: Path, suffix: str, mode: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(noise).convert(mode))
    with Image.open(path) as image:
        assert (read_image(path) == np.asarray(image.convert("RGB"))).all()


def test_threads_read_pictures_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    damaged = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x09\x00" + b"\x12\x01\x03\x00"
    path = saved(tmp_path / "a.jpg", Image.fromarray(numbered()), exif=damaged)
    threads = [threading.Thread(target=read_image, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(recwarn) == []
