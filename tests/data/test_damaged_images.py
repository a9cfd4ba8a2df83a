"""Damaged images are left out while they are few, and before any network runs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import save_noise_image

from search.data.class_labels import csv_truth
from search.data.coco import coco_truth
from search.data.damaged_images import check_images, intact_frames, intact_truth
from search.data.frames import BadFrames, ImageFiles, Sampling, folder_frames, remarks_of
from search.data.ground_truth import BadTruth, ClassTruth
from search.data.images import find_damage, read_image

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
    assert find_damage(path) == ""
    path.write_bytes(encoded(suffix) + b"added by a camera")
    read_image(path)
    assert find_damage(path) == ""


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("end", [0, 3, 40, 600, -60])
def test_a_truncated_image_is_damaged_exactly_if_it_cannot_be_read(
    tmp_path: Path, suffix: str, end: int
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(suffix)[:end])
    with pytest.raises(BadFrames):
        read_image(path)
    assert find_damage(path)


def test_a_file_that_is_missing_or_of_another_kind_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "depth.tif")
    assert "no image" in find_damage(tmp_path / "a.jpg")
    assert "No such file" in find_damage(tmp_path / "gone.jpg")
    assert "floating-point" in find_damage(tmp_path / "depth.tif")


def test_complete_images_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = frames_of(tmp_path, 3)
    monkeypatch.setattr("search.data.images.read_image", None)
    assert check_images(frames.paths).intact == (0, 1, 2)


def test_a_few_damaged_images_are_left_out_with_a_warning(tmp_path: Path) -> None:
    frames = frames_of(tmp_path, 20, damaged=4)
    intact = intact_frames(frames, 0.2, "frames folder in")
    assert [path.stem for path in intact.paths[:4]] == ["001", "003", "005", "007"]
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
    assert not isinstance(boxed, ClassTruth)
    assert [annotations[0]["bbox"][0] for annotations in boxed.annotations] == [1, 3, 4, 5]
    assert len(boxed.frames) == 4 and "2 of 6" in remarks_of(boxed.frames).warnings[0]
    with pytest.raises(BadTruth, match=r"^truth\.a: 2 of 6 images cannot be read"):
        intact_truth(csv_truth(tmp_path / "labels.csv", Sampling()), 0.1, "truth.a")
