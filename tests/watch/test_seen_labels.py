"""Labels unknown to a plan's search, recognised by content and not by path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import STREET

from search.data.frames import ImageFiles, JoinedFrames, RenderedScenes, Subset
from search.data.ground_truth import (
    BoxTruth,
    ClassTruth,
    Truth,
    label_hashes,
    scenes_truth,
    truth_subset,
)
from search.utils.files import CannotWrite
from search.watch.seen_labels import MIN_NEW_LABELS, SeenLabels

CATEGORIES = ({"id": 1, "name": "car"},)


def pictures(folder: Path, count: int) -> ImageFiles:
    """Write pictures that differ from each other and are the same in every folder."""
    folder.mkdir(exist_ok=True)
    paths = tuple(folder / f"{k:03d}.png" for k in range(count))
    for k, path in enumerate(paths):
        Image.fromarray(np.full((4, 4, 3), k, np.uint8)).save(path)
    return ImageFiles(paths)


def labelled(folder: Path, count: int) -> dict[str, Truth]:
    frames = pictures(folder, count)
    boxes = tuple(
        ({"bbox": [0.0, 0.0, 2.0, 1.0 + k], "category_id": 1, "area": 2.0, "iscrowd": 0},)
        for k in range(count)
    )
    classes = ClassTruth.single(frames, (k % 3 for k in range(count)))
    return {"cls": classes, "det": BoxTruth(frames, boxes, CATEGORIES)}


@pytest.fixture
def seen_labels(tmp_path: Path) -> SeenLabels:
    return SeenLabels(tmp_path / "labels")


def test_only_labels_since_the_last_record_are_new(
    seen_labels: SeenLabels, tmp_path: Path
) -> None:
    seen_labels.record("b1", labelled(tmp_path / "before", 20))
    assert seen_labels.new("b1", labelled(tmp_path / "before", 20)) == {}
    # in another folder they are the same, and the last ones are new
    now = labelled(tmp_path / "after", 20 + MIN_NEW_LABELS)
    new = seen_labels.new("b1", labelled(tmp_path / "after", 20 + MIN_NEW_LABELS))
    for model, truth in new.items():
        assert label_hashes(truth) == label_hashes(now[model])[20:]
        assert len(truth.frames) == MIN_NEW_LABELS
    assert set(new) == {"cls", "det"}
    assert seen_labels.new("b1", labelled(tmp_path / "after", 19 + MIN_NEW_LABELS)) == {}


def test_a_relabelled_picture_is_new(seen_labels: SeenLabels, tmp_path: Path) -> None:
    before = labelled(tmp_path / "before", 20)
    seen_labels.record("b1", before)
    classes = before["cls"]
    assert isinstance(classes, ClassTruth)
    corrections = [5 if k <= MIN_NEW_LABELS else k % 3 for k in range(20)]
    corrected = ClassTruth.single(classes.frames, corrections)
    new = seen_labels.new("b1", {"cls": corrected, "det": before["det"]})
    assert set(new) == {"cls"} and len(new["cls"].frames) == MIN_NEW_LABELS + 1


def test_all_labels_are_new_to_a_bundle_without_a_record(
    seen_labels: SeenLabels, tmp_path: Path
) -> None:
    now = labelled(tmp_path / "now", MIN_NEW_LABELS)
    assert set(seen_labels.new("b1", now)) == {"cls", "det"}
    seen_labels.record("b1", now)
    assert set(seen_labels.new("b2", now)) == {"cls", "det"} and not seen_labels.new("b1", now)
    for damage in ("", "{", "[]", '{"cls": 3}'):
        (seen_labels.folder / "b1.json").write_text(damage)
        assert set(seen_labels.new("b1", now)) == {"cls", "det"}


def test_records_of_other_bundles_are_removed(seen_labels: SeenLabels, tmp_path: Path) -> None:
    for bundle in ("b1", "b2", "b3"):
        seen_labels.record(bundle, labelled(tmp_path / "now", 1))
    seen_labels.keep_only(("b3", None, "b1", "b9"))
    assert sorted(path.stem for path in seen_labels.folder.iterdir()) == ["b1", "b3"]


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "labels").touch()
    with pytest.raises(CannotWrite):
        SeenLabels(tmp_path / "labels").record("b1", {})


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_rendered_labels_are_recognised_by_settings_and_index(task: str) -> None:
    few, more = (scenes_truth(STREET, count, task) for count in (4, 6))  # type: ignore[arg-type]
    assert label_hashes(few) == label_hashes(more)[:4] and len(set(label_hashes(more))) == 6
    assert label_hashes(truth_subset(more, (5, 2))) == [
        label_hashes(more)[5],
        label_hashes(more)[2],
    ]


def test_joined_frames_have_the_content_keys_of_their_parts(tmp_path: Path) -> None:
    files, scenes = pictures(tmp_path / "p", 3), RenderedScenes(STREET, 2)
    all_of_them = JoinedFrames((files, Subset(files, (2, 0)), scenes))
    of_files, of_scenes = files.content_keys(), scenes.content_keys()
    assert len({*of_files, *of_scenes}) == 5
    assert all_of_them.content_keys() == [*of_files, of_files[2], of_files[0], *of_scenes]
