"""Ground truth in its four forms: read as meant, or refused by file, row and reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import STREET, save_image

from search.frames import Sampling
from search.scenes import CLASSES as KINDS
from search.scenes import render
from search.truth import (
    BadTruth,
    BoxTruth,
    ClassTruth,
    check_classes,
    coco_truth,
    csv_truth,
    folder_truth,
    scenes_truth,
)

ALL = Sampling()


def labels_file(folder: Path, text: str, images: int = 3) -> Path:
    for k in range(images):
        save_image(folder / "images" / f"{k}.png", seed=k)
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


GOOD_CSV = "path,label_index,label_name\nimages/0.png,4,x\nimages/1.png,0,y\nimages/2.png,2,z\n"


def test_a_label_file_gives_each_image_its_label(tmp_path: Path) -> None:
    truth = csv_truth(labels_file(tmp_path, GOOD_CSV), ALL)
    assert truth.labels == (4, 0, 2)
    assert truth.frames[1].shape == (30, 40, 3)


def test_a_label_file_is_ordered_as_the_folder_is(tmp_path: Path) -> None:
    head, *rows = GOOD_CSV.splitlines()
    shuffled = labels_file(tmp_path, "\n".join([head, *rows[::-1]]))
    assert csv_truth(shuffled, ALL).labels == (4, 0, 2)


def test_sampling_keeps_labels_with_their_images(tmp_path: Path) -> None:
    truth = csv_truth(labels_file(tmp_path, GOOD_CSV), Sampling(stride=2))
    assert truth.labels == (4, 2)
    whole = csv_truth(tmp_path / "labels.csv", ALL)
    assert (truth.frames[1] == whole.frames[2]).all()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "needs a header line with path,label_index"),
        ("path,label_index\n", "needs a header line with path,label_index, and rows"),
        ("file,label\nimages/0.png,1\n", "needs a header line with path,label_index"),
        ("path,label_index\nimages/0.png,dog\n", "label_index 'dog' of images/0.png"),
        ("path,label_index\nimages/0.png,-1\n", "label_index '-1'"),
        ("path,label_index\nimages/0.png,1.5\n", "label_index '1.5'"),
        ("path,label_index\nimages/0.png,\u00b2\n", "label_index '\u00b2'"),
        ("path,label_index\nimages/0.png,\n", "label_index ''"),
        ("path,label_index\nimages/0.png\n", "label_index None"),
        ("path,label_index\nimages/0.png,1\nimages/9.png,1\nimages/8.png,2\n", "2 of 3 images"),
        ("path,label_index\n,1\n", "1 of 1 images are not there"),
    ],
)
def test_malformed_label_files_are_refused(tmp_path: Path, text: str, told: str) -> None:
    path = labels_file(tmp_path, text)
    with pytest.raises(BadTruth) as caught:
        csv_truth(path, ALL)
    assert str(path) in str(caught.value) and told in str(caught.value)


def test_a_label_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.csv").write_bytes(b"path,label_index\n\xff\xfe")
    for name in ("gone.csv", "bytes.csv"):
        with pytest.raises(BadTruth, match="cannot be read"):
            csv_truth(tmp_path / name, ALL)


def test_an_offset_beyond_all_labels_is_refused(tmp_path: Path) -> None:
    beyond = Sampling(offset=50)
    images = coco_file(tmp_path, COCO)
    save_image(tmp_path / "classes" / "cat" / "0.png", seed=1)
    with pytest.raises(BadTruth, match="offset"):
        csv_truth(labels_file(tmp_path, GOOD_CSV), beyond)
    with pytest.raises(BadTruth, match="offset"):
        folder_truth(tmp_path / "classes", beyond)
    with pytest.raises(BadTruth, match="offset"):
        coco_truth(images, tmp_path, beyond)


def test_class_folders_are_numbered_in_alphabetical_order(tmp_path: Path) -> None:
    for k, name in enumerate(("dog/1.png", "ant/7.png", "cat/3.png", "ant/deep/2.png")):
        save_image(tmp_path / name, seed=k)
    (tmp_path / "readme.txt").write_text("not a class")
    assert folder_truth(tmp_path, ALL).labels == (0, 0, 1, 2)


def test_folders_without_classes_are_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "flat" / "1.png", seed=0)
    (tmp_path / "hollow" / "cat").mkdir(parents=True)
    for name in ("flat", "hollow", "gone"):
        with pytest.raises(BadTruth, match="one sub-folder of images per class") as caught:
            folder_truth(tmp_path / name, ALL)
        assert str(tmp_path / name) in str(caught.value)


COCO: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "1.png", "height": 30, "width": 40},
        {"id": 3, "file_name": "0.png", "height": 30, "width": 40},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 20], "area": 150.5},
        {"id": 2, "image_id": 7, "category_id": 8, "bbox": [0, 0, 5.5, 4], "iscrowd": 1},
        {"id": 3, "image_id": 3, "category_id": 8, "bbox": [3, 3, 3, 3]},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}],
}


def coco_file(folder: Path, data: Any) -> Path:
    for k in range(2):
        save_image(folder / f"{k}.png", seed=k)
    path = folder / "instances.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_coco_boxes_go_with_their_images(tmp_path: Path) -> None:
    truth = coco_truth(coco_file(tmp_path, COCO), tmp_path, ALL)
    first, second = truth.annotations
    assert [a["bbox"] for a in first] == [[3, 3, 3, 3]]
    assert [a["bbox"] for a in second] == [[1, 2, 10, 20], [0, 0, 5.5, 4]]
    assert [a["area"] for a in second] == [150.5, 22.0]
    assert [a["iscrowd"] for a in second] == [0, 1]
    assert len(truth.frames) == 2


def test_an_image_without_boxes_stays(tmp_path: Path) -> None:
    data = {**COCO, "annotations": COCO["annotations"][:2]}
    truth = coco_truth(coco_file(tmp_path, data), tmp_path, ALL)
    assert [len(listed) for listed in truth.annotations] == [0, 2]


def without(key: str, within: str | None = None) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(COCO))
    del (data if within is None else data[within][0])[key]
    return data


@pytest.mark.parametrize(
    "data",
    [
        "{not json",
        "[]",
        "3",
        without("images"),
        without("annotations"),
        without("categories"),
        without("id", "images"),
        without("file_name", "images"),
        without("image_id", "annotations"),
        without("bbox", "annotations"),
        without("category_id", "annotations"),
        without("id", "categories"),
        without("name", "categories"),
        {**COCO, "images": [1, 2]},
        {**COCO, "categories": ["cat", "dog"]},
        {**COCO, "categories": []},
        {**COCO, "images": [], "annotations": []},
        {**COCO, "annotations": [{"image_id": 99, "category_id": 3, "bbox": [1, 1, 1, 1]}]},
        {**COCO, "annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 1, 1]}]},
        {**COCO, "annotations": [{"image_id": 7, "category_id": 3, "bbox": "1 1 1 1"}]},
        {**COCO, "annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 1, None, 1]}]},
        {**COCO, "annotations": [{"image_id": 7, "category_id": 5, "bbox": [1, 1, 1, 1]}]},
    ],
)
def test_malformed_coco_files_are_refused(tmp_path: Path, data: Any) -> None:
    path = coco_file(tmp_path, data)
    with pytest.raises(BadTruth) as caught:
        coco_truth(path, tmp_path, ALL)
    assert str(path) in str(caught.value)


def test_a_coco_file_of_other_images_is_refused(tmp_path: Path) -> None:
    path = coco_file(tmp_path, COCO)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadTruth, match="2 of 2 images are not there"):
        coco_truth(path, tmp_path / "empty", ALL)
    with pytest.raises(BadTruth, match="cannot be read"):
        coco_truth(tmp_path / "gone.json", tmp_path, ALL)


def boxes_with(ids: list[int]) -> BoxTruth:
    frames = scenes_truth(STREET, 1, "detection").frames
    return BoxTruth(frames, ((),), tuple({"id": i, "name": str(i)} for i in ids))


COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def test_eighty_classes_are_the_eighty_categories_in_the_order_of_their_ids() -> None:
    assert len(COCO_IDS) == 80
    assert boxes_with(COCO_IDS[::-1]).category_ids(80) == COCO_IDS


def test_ninety_classes_are_the_ids_themselves() -> None:
    assert boxes_with(COCO_IDS).category_ids(90) == list(range(1, 91))


@pytest.mark.parametrize("classes", [1, 79, 81, 89])
def test_other_numbers_of_classes_are_refused(classes: int) -> None:
    with pytest.raises(BadTruth, match="num_classes must be 80 or at least 90"):
        boxes_with(COCO_IDS).category_ids(classes)


def test_labels_beyond_the_classes_are_refused() -> None:
    truth = ClassTruth(scenes_truth(STREET, 3, "classification").frames, (0, 6, 2))
    check_classes(truth, 7, "a")
    with pytest.raises(BadTruth, match=r"labels for a go up to 6.* only 6 classes \(0 to 5\)"):
        check_classes(truth, 6, "a")


def test_scenes_know_their_own_labels_and_boxes() -> None:
    labels = scenes_truth(STREET, 8, "classification")
    boxes = scenes_truth(STREET, 8, "detection")
    assert isinstance(labels, ClassTruth) and isinstance(boxes, BoxTruth)
    assert labels.frames.hash == boxes.frames.hash
    assert [c["name"] for c in boxes.categories] == list(KINDS)
    for k in range(8):
        scene = render(STREET, k)
        assert labels.labels[k] == scene.label
        assert [a["bbox"] for a in boxes.annotations[k]] == scene.boxes.tolist()
        assert [a["category_id"] - 1 for a in boxes.annotations[k]] == scene.classes.tolist()


def test_labels_without_a_single_box_are_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", seed=0)
    file = tmp_path / "instances.json"
    file.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.png"}],
                "annotations": [],
                "categories": [{"id": 1, "name": "car"}],
            }
        )
    )
    with pytest.raises(BadTruth, match="no box on any of the 1 images"):
        coco_truth(file, tmp_path, Sampling())
