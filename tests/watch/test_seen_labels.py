"""Labels that a plan's search has not known: told by their content, not by their place."""

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
from search.watch.seen_labels import LEAST, SeenLabels

CATEGORIES = ({"id": 1, "name": "car"},)


def pictures(folder: Path, count: int) -> ImageFiles:
    """Each of its own, the same in every folder."""
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
def known(tmp_path: Path) -> SeenLabels:
    return SeenLabels(tmp_path / "labels")


def test_only_labels_that_have_come_since_are_new(known: SeenLabels, tmp_path: Path) -> None:
    known.keep("b1", labelled(tmp_path / "before", 20))
    assert known.new("b1", labelled(tmp_path / "before", 20)) == {}
    # moved to another folder they are the same, and what came last is new
    found = known.new("b1", labelled(tmp_path / "after", 20 + LEAST))
    now = labelled(tmp_path / "after", 20 + LEAST)
    for name, truth in found.items():
        assert label_hashes(truth) == label_hashes(now[name])[20:] and len(truth.frames) == LEAST
    assert set(found) == {"cls", "det"}
    assert known.new("b1", labelled(tmp_path / "after", 19 + LEAST)) == {}


def test_a_picture_that_is_labelled_otherwise_is_new(known: SeenLabels, tmp_path: Path) -> None:
    before = labelled(tmp_path / "before", 20)
    known.keep("b1", before)
    classes = before["cls"]
    assert isinstance(classes, ClassTruth)
    right = [5 if k <= LEAST else k % 3 for k in range(20)]
    corrected = ClassTruth.single(classes.frames, right)
    found = known.new("b1", {"cls": corrected, "det": before["det"]})
    assert set(found) == {"cls"} and len(found["cls"].frames) == LEAST + 1


def test_of_a_bundle_of_which_nothing_is_known_all_labels_are_new(
    known: SeenLabels, tmp_path: Path
) -> None:
    now = labelled(tmp_path / "now", LEAST)
    assert set(known.new("b1", now)) == {"cls", "det"}
    known.keep("b1", now)
    assert set(known.new("b2", now)) == {"cls", "det"} and not known.new("b1", now)
    for damage in ("", "{", "[]", '{"cls": 3}'):
        (known.folder / "b1.json").write_text(damage)
        assert set(known.new("b1", now)) == {"cls", "det"}


def test_the_files_of_other_bundles_are_removed(known: SeenLabels, tmp_path: Path) -> None:
    for bundle in ("b1", "b2", "b3"):
        known.keep(bundle, labelled(tmp_path / "now", 1))
    known.keep_only(("b3", None, "b1", "b9"))
    assert sorted(path.stem for path in known.folder.iterdir()) == ["b1", "b3"]


def test_a_folder_that_takes_no_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "labels").touch()
    with pytest.raises(CannotWrite):
        SeenLabels(tmp_path / "labels").keep("b1", {})


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_rendered_labels_are_told_apart_by_settings_and_index(task: str) -> None:
    few, more = (scenes_truth(STREET, count, task) for count in (4, 6))  # type: ignore[arg-type]
    assert label_hashes(few) == label_hashes(more)[:4] and len(set(label_hashes(more))) == 6
    assert label_hashes(truth_subset(more, (5, 2))) == [
        label_hashes(more)[5],
        label_hashes(more)[2],
    ]


def test_contents_are_those_of_each_frame_in_its_place(tmp_path: Path) -> None:
    files, scenes = pictures(tmp_path / "p", 3), RenderedScenes(STREET, 2)
    all_of_them = JoinedFrames((files, Subset(files, (2, 0)), scenes))
    of_files, of_scenes = files.content_keys(), scenes.content_keys()
    assert len({*of_files, *of_scenes}) == 5
    assert all_of_them.content_keys() == [*of_files, of_files[2], of_files[0], *of_scenes]
