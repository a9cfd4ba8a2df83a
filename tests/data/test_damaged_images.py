"""Damaged images are left out while they are few, and before any network runs."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_files import write_jpeg_damaged_inside
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny import local_paths, save_noise_image

from search.data.coco.truth import coco_truth
from search.data.damaged_images import intact_frames, intact_truth
from search.data.frames import BadFrames, ImageFiles, Sampling, folder_frames, remarks_of
from search.data.ground_truth import BadTruth, BoxTruth, ClassTruth
from search.data.images import check_image, read_image
from search.data.label_table import csv_truth

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
SUFFIXES = (".jpg", ".png", ".bmp", ".webp", ".ppm", ".tif")


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, {".jpg": "jpeg", ".tif": "tiff"}.get(suffix, suffix[1:]))
    return buffer.getvalue()


def frames_of(folder: Path, count: int, damaged: int = 0) -> ImageFiles:
    for k in range(count):
        save_noise_image(folder / f"{k:03}.png", seed=k)
    for k in range(damaged):
        path = folder / f"{k * 2:03}.png"
        path.write_bytes(path.read_bytes()[:-40])
    return folder_frames(folder, Sampling())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_intact_image_has_no_damage(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(suffix))
    assert check_image(path).damage == ""
    path.write_bytes(encoded(suffix) + b"added by a camera")
    read_image(path)
    assert check_image(path).damage == ""


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("end", [0, 3, 40, 600, -60])
def test_a_truncated_image_is_damaged_exactly_if_it_cannot_be_read(
    tmp_path: Path, suffix: str, end: int
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(suffix)[:end])
    with pytest.raises(BadFrames):
        read_image(path)
    assert check_image(path).damage


@pytest.mark.parametrize("chunk", [b"IDAT", b"tEXt"])
def test_an_image_with_a_wrong_checksum_is_damaged_only_if_it_cannot_be_read(
    tmp_path: Path, chunk: bytes
) -> None:
    info = PngInfo()
    info.add_text("place", "gate")
    Image.fromarray(NOISE).save(tmp_path / "a.png", pnginfo=info)
    content = bytearray((tmp_path / "a.png").read_bytes())
    start = content.index(chunk)
    length = int.from_bytes(content[start - 4 : start], "big")
    content[start + 4 + length] ^= 0xFF  # the first byte of the checksum
    (tmp_path / "a.png").write_bytes(content)
    try:
        read_image(tmp_path / "a.png")
    except BadFrames:
        assert check_image(tmp_path / "a.png").damage
    else:
        assert check_image(tmp_path / "a.png").damage == ""


def test_a_file_that_is_missing_or_of_another_kind_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "depth.tif")
    assert "no image" in check_image(tmp_path / "a.jpg").damage
    assert "No such file" in check_image(tmp_path / "gone.jpg").damage
    assert "floating-point" in check_image(tmp_path / "depth.tif").damage


def photo() -> Image.Image:
    """Return a picture that takes some kilobytes in every format."""
    smooth = Image.fromarray(NOISE).resize((320, 240), Image.Resampling.BICUBIC)
    return Image.blend(smooth, smooth.transpose(Image.Transpose.ROTATE_180), 0.5)


FORMATS: dict[str, dict[str, Any]] = {
    "jpeg": {"quality": 92},
    "jpeg, progressive": {"quality": 92, "progressive": True},
    "jpeg, restarts": {"quality": 92, "restart_marker_blocks": 10},
    "png": {},
    "webp": {},
    "webp, lossless": {"lossless": True},
    "tiff, lzw": {"compression": "tiff_lzw"},
}


def with_flipped_bytes(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(20):
        changed[chance.randrange(len(content) // 4, len(content) - 20)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def with_foreign_block(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content) // 4, len(content) * 3 // 4 - 512)
    return content[:start] + chance.randbytes(512) + content[start + 512 :]


def without_middle(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content) // 4, len(content) // 2)
    return content[:start] + content[-100:]


@pytest.mark.parametrize("name", FORMATS)
def test_the_check_finds_the_damage_inside_a_file_that_decoding_finds(
    tmp_path: Path, name: str
) -> None:
    suffix = name.split(",")[0]
    intact, path, chance = io.BytesIO(), tmp_path / f"a.{suffix}", random.Random(name)
    photo().save(intact, suffix, **FORMATS[name])
    unreadable = 0
    for damage in (with_flipped_bytes, with_foreign_block, without_middle) * 12:
        path.write_bytes(damage(intact.getvalue(), chance))
        try:
            read_image(path)
        except BadFrames:
            unreadable += 1
            assert check_image(path).damage
        else:
            assert not check_image(path).damage
    assert unreadable > 0


def test_a_jpeg_file_that_is_damaged_inside_and_ends_properly_is_left_out(tmp_path: Path) -> None:
    for k in range(4):
        save_noise_image(tmp_path / f"{k}.jpg", seed=k)
    write_jpeg_damaged_inside(tmp_path / "1.jpg")
    frames = intact_frames(folder_frames(tmp_path, Sampling()), 0.25, "frames folder in")
    assert [path.name for path in local_paths(frames)] == ["0.jpg", "2.jpg", "3.jpg"]


def test_every_file_is_read_once_for_the_check_and_the_hash(tmp_path: Path) -> None:
    frames = frames_of(tmp_path, 5, damaged=1)
    intact = intact_frames(frames, 0.2, "frames folder in")
    for path in local_paths(frames):
        path.unlink()
    digests = intact.content_keys()
    assert len(set(digests)) == len(digests) == 4 and intact.hash


def test_an_image_that_is_damaged_after_the_check_ends_the_run_in_one_sentence(
    tmp_path: Path,
) -> None:
    intact = intact_frames(frames_of(tmp_path, 3), 0.0, "frames folder in")
    (tmp_path / "001.png").unlink()
    with pytest.raises(BadFrames) as caught:
        _ = intact[1]
    assert str(caught.value) == (
        f"image {tmp_path}/001.png: could be read when the frames were checked, and cannot any "
        "more (No such file or directory); put it back, and start the command again"
    )


def test_a_few_damaged_images_are_left_out_with_a_warning(tmp_path: Path) -> None:
    frames = frames_of(tmp_path, 20, damaged=4)
    intact = intact_frames(frames, 0.2, "frames folder in")
    assert [path.stem for path in local_paths(intact)[:4]] == ["001", "003", "005", "007"]
    (warning,) = remarks_of(intact).warnings
    assert warning.startswith(f"frames folder in: 4 of 20 images cannot be read: {tmp_path}/000")
    assert warning.endswith("; and 1 more; they are left out")
    for index in range(len(intact)):
        _ = intact[index]
    assert intact.hash == ImageFiles(intact.paths).hash


def test_the_hash_of_intact_frames_is_that_of_all(tmp_path: Path) -> None:
    frames = frames_of(tmp_path, 5)
    assert intact_frames(frames, 0.0, "frames folder in") == frames
    assert intact_frames(frames, 0.0, "in").hash == frames.hash


@pytest.mark.parametrize("limit", [0.0, 0.19])
def test_more_damaged_images_are_refused_in_one_sentence(tmp_path: Path, limit: float) -> None:
    frames = frames_of(tmp_path, 20, damaged=4)
    with pytest.raises(BadFrames, match=rf"^frames folder in: 4 of 20 .*unreadable, {limit:g}:"):
        intact_frames(frames, limit, "frames folder in")


def test_frames_of_which_none_is_intact_are_refused_at_any_limit(tmp_path: Path) -> None:
    save_noise_image(tmp_path / "a.png", seed=1)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(BadFrames, match="1 of 1 images cannot be read"):
        intact_frames(folder_frames(tmp_path, Sampling()), 1.0, "frames folder in")


def test_a_damaged_labelled_image_takes_its_labels_with_it(tmp_path: Path) -> None:
    frames_of(tmp_path, 6, damaged=2)  # 0 and 2
    rows = [f"{k:03}.png,{k}" for k in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label_index", *rows]))
    boxes = {
        "images": [{"id": k, "file_name": f"{k:03}.png"} for k in range(6)],
        "annotations": [{"image_id": k, "bbox": [k, 0, 5, 5], "category_id": 1} for k in range(6)],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    labels = intact_truth(csv_truth(tmp_path / "labels.csv", Sampling()), 0.5, "truth.a")
    assert isinstance(labels, ClassTruth)
    assert [sorted(classes) for classes in labels.labels] == [[1], [3], [4], [5]]
    boxed = intact_truth(coco_truth(tmp_path / "boxes.json", tmp_path, Sampling()), 0.5, "truth.b")
    assert isinstance(boxed, BoxTruth)
    assert [annotations[0]["bbox"][0] for annotations in boxed.annotations] == [1, 3, 4, 5]
    assert len(boxed.frames) == 4 and "2 of 6" in remarks_of(boxed.frames).warnings[0]
    with pytest.raises(BadTruth, match=r"^truth\.a: 2 of 6 images cannot be read"):
        intact_truth(csv_truth(tmp_path / "labels.csv", Sampling()), 0.1, "truth.a")
