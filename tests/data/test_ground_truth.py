"""Ground truth of every format: it is read, or refused with file, row and reason."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import (
    DETECTOR,
    STREET,
    Weights,
    capture_reporter,
    config_data,
    save_noise_image,
    with_changes,
    write_config,
)

from search.config.loading import load_config
from search.data.class_categories import ClassCategories
from search.data.class_labels import folder_truth, real_truth
from search.data.class_names import names_in_truth
from search.data.coco.truth import coco_truth
from search.data.frames import Sampling
from search.data.ground_truth import (
    BadTruth,
    BoxTruth,
    ClassTruth,
    check_classes,
    scenes_truth,
    truth_subset,
)
from search.data.images import read_image
from search.data.label_table import csv_truth
from search.data.synthetic.scenes import CLASSES as KINDS
from search.data.synthetic.scenes import render
from search.pipelines.prepare import open_truth
from search.statistics.observed import Observed

ALL = Sampling()


def correct_classes(truth: ClassTruth) -> list[set[int]]:
    """Return the correct classes of each frame."""
    return [set(classes) for classes in truth.labels]


def labels_file(folder: Path, text: str, images: int = 3) -> Path:
    for k in range(images):
        save_noise_image(folder / "images" / f"{k}.png", seed=k)
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


GOOD_CSV = "path,label_index,label_name\nimages/0.png,4,x\nimages/1.png,0,y\nimages/2.png,2,z\n"


def test_a_label_file_gives_each_image_its_label(tmp_path: Path) -> None:
    truth = csv_truth(labels_file(tmp_path, GOOD_CSV), ALL)
    assert correct_classes(truth) == [{4}, {0}, {2}]
    assert truth.frames[1].shape == (30, 40, 3)


def test_a_label_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Spreadsheet programs write one."""
    truth = csv_truth(labels_file(tmp_path, "\ufeff" + GOOD_CSV), ALL)
    assert correct_classes(truth) == [{4}, {0}, {2}]


def test_a_label_file_has_the_order_of_the_folder(tmp_path: Path) -> None:
    head, *rows = GOOD_CSV.splitlines()
    shuffled = labels_file(tmp_path, "\n".join([head, *rows[::-1]]))
    assert correct_classes(csv_truth(shuffled, ALL)) == [{4}, {0}, {2}]


def test_sampling_keeps_labels_with_their_images(tmp_path: Path) -> None:
    truth = csv_truth(labels_file(tmp_path, GOOD_CSV), Sampling(stride=2))
    assert correct_classes(truth) == [{4}, {2}]
    whole = csv_truth(tmp_path / "labels.csv", ALL)
    assert (truth.frames[1] == whole.frames[2]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a header line with path,label_index"),
        ("path,label_index\n", "path,label_index or path,label_indices, and rows"),
        ("path,label_index,label_indices\nimages/0.png,1,1\n", "label_index or path,label_ind"),
        ("path,label_indices\nimages/0.png,3;x\n", "label_indices '3;x' of images/0.png"),
        ("path,label_indices\nimages/0.png,3;\n", "label_indices '3;' of images/0.png"),
        ("path,label_indices\nimages/0.png,3 4\n", "whole numbers separated by ;"),
        ("path,label_indices\nimages/0.png,-1\n", "label_indices '-1'"),
        ("path,label_indices\nimages/0.png\n", "line 2: has no label or no path"),
        ("path,label_indices\nimages/0.png,\nimages/1.png, \n", "for any of 2 images"),
        ("where,kind\nimages/0.png,1\n", "its columns are where, kind"),
        ("path,label_index\nimages/0.png,dog\n", "label_index 'dog' of images/0.png"),
        ("path,label_index\nimages/0.png,-1\n", "label_index '-1'"),
        ("path,label_index\nimages/0.png,1.5\n", "label_index '1.5'"),
        ("path,label_index\nimages/0.png,\u00b2\n", "label_index '\u00b2'"),
        ("path,label_index\nimages/0.png,\n", "label_index ''"),
        ("path,label_index\nimages/0.png\n", "line 2: has no label or no path"),
        ("path,label_index\nimages/0.png,1\nimages/9.png,1\nimages/8.png,2\n", "2 of 3 images"),
        ("path,label_index\n,1\n", "line 2: the name of the image is empty"),
    ],
)
def test_malformed_label_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = labels_file(tmp_path, text)
    with pytest.raises(BadTruth) as caught:
        csv_truth(path, ALL)
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_a_label_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.csv").write_bytes(b"path,label_index\n\xff\xfe")
    for name in ("gone.csv", "bytes.csv"):
        with pytest.raises(BadTruth, match="cannot be read"):
            csv_truth(tmp_path / name, ALL)


def test_a_frame_may_have_several_correct_classes_or_none(tmp_path: Path) -> None:
    text = "path,label_indices\nimages/0.png,3;17\nimages/1.png,\nimages/2.png, 5 \n"
    truth = csv_truth(labels_file(tmp_path, text), ALL)
    assert correct_classes(truth) == [{3, 17}, {5}]
    whole = csv_truth(labels_file(tmp_path, GOOD_CSV), ALL)
    assert (truth.frames[1] == whole.frames[2]).all(), "the frame of none is left out"
    part = truth_subset(truth, [1])
    assert isinstance(part, ClassTruth) and correct_classes(part) == [{5}]


def test_frames_without_a_correct_class_are_left_out_after_the_sampling(tmp_path: Path) -> None:
    """So labelled and unlabelled frames with the same sampling stay disjoint."""
    text = "path,label_indices\nimages/0.png,\nimages/1.png,1\nimages/2.png,2\n"
    assert correct_classes(csv_truth(labels_file(tmp_path, text), Sampling(stride=2))) == [{2}]


def test_a_frame_without_a_correct_class_is_no_ground_truth() -> None:
    frames = scenes_truth(STREET, 1, "classification").frames
    with pytest.raises(ValueError, match="leave it out"):
        ClassTruth(frames, (frozenset(),))


def real_file(folder: Path, data: Any, names: Sequence[str]) -> Path:
    """Write a ReaL label list beside a folder with some of ImageNet's validation images."""
    for k, name in enumerate(names):
        save_noise_image(folder / "val" / name, seed=k)
    path = folder / "real.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


REAL = [[2], [], [4, 1], [3]]


def test_the_real_list_is_indexed_by_the_numbers_in_the_file_names(tmp_path: Path) -> None:
    names = ("n01/ILSVRC2012_val_00000003.JPEG", "n02/ILSVRC2012_val_00000001.png",
             "n02/ILSVRC2012_val_00000002.JPEG")  # fmt: skip
    truth = real_truth(real_file(tmp_path, REAL, names), tmp_path / "val", ALL)
    assert correct_classes(truth) == [{1, 4}, {2}], "the second image has no correct class"
    assert (truth.frames[0] == read_image(tmp_path / "val" / names[0])).all()
    assert (truth.frames[1] == read_image(tmp_path / "val" / names[1])).all()


@pytest.mark.parametrize(
    ("data", "names", "message"),
    [
        ("{", ["ILSVRC2012_val_00000001.png"], "is not JSON"),
        ({"1": [2]}, ["ILSVRC2012_val_00000001.png"], "a list with a list of class indices"),
        ([[2], 3], ["ILSVRC2012_val_00000001.png"], "a list with a list of class indices"),
        ([["cat"]], ["ILSVRC2012_val_00000001.png"], "a list with a list of class indices"),
        ([[-1]], ["ILSVRC2012_val_00000001.png"], "a list with a list of class indices"),
        ([[True]], ["ILSVRC2012_val_00000001.png"], "a list with a list of class indices"),
        (REAL, [], "no images in"),
        (REAL, ["cat.png"], "cat.png must be named ILSVRC2012_val_00000001 to"),
        (REAL, ["ILSVRC2012_val_00000005.png"], "to ILSVRC2012_val_00000004"),
        (REAL, ["ILSVRC2012_val_00000000.png"], "must be named"),
        (REAL, ["ILSVRC2012_val_00000002.png"], "no correct class for any of 1 images"),
    ],
)
def test_a_list_or_images_that_are_not_of_real_are_refused(
    tmp_path: Path, data: Any, names: list[str], message: str
) -> None:
    path = real_file(tmp_path, data, names)
    with pytest.raises(BadTruth) as caught:
        real_truth(path, tmp_path / "val", ALL)
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_a_missing_real_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTruth, match=r"gone\.json: cannot be read"):
        real_truth(tmp_path / "gone.json", tmp_path, ALL)


def test_an_offset_beyond_all_labels_is_refused(tmp_path: Path) -> None:
    beyond = Sampling(offset=50)
    images = coco_file(tmp_path, COCO)
    save_noise_image(tmp_path / "classes" / "cat" / "0.png", seed=1)
    with pytest.raises(BadTruth, match="offset"):
        csv_truth(labels_file(tmp_path, GOOD_CSV), beyond)
    with pytest.raises(BadTruth, match="offset"):
        folder_truth(tmp_path / "classes", beyond)
    with pytest.raises(BadTruth, match="offset"):
        coco_truth(images, tmp_path, beyond)


def test_class_folders_are_numbered_in_alphabetical_order(tmp_path: Path) -> None:
    for k, name in enumerate(("dog/1.png", "ant/7.png", "cat/3.png", "ant/deep/2.png")):
        save_noise_image(tmp_path / name, seed=k)
    (tmp_path / "readme.txt").write_text("not a class")
    assert correct_classes(folder_truth(tmp_path, ALL)) == [{0}, {0}, {1}, {2}]


def test_folders_without_classes_are_refused(tmp_path: Path) -> None:
    save_noise_image(tmp_path / "flat" / "1.png", seed=0)
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
        save_noise_image(folder / f"{k}.png", seed=k)
    path = folder / "instances.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_coco_boxes_belong_to_their_images(tmp_path: Path) -> None:
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
    with pytest.raises(BadTruth, match="2 of 2 images do not exist"):
        coco_truth(path, tmp_path / "empty", ALL)
    with pytest.raises(BadTruth, match="cannot be read"):
        coco_truth(tmp_path / "gone.json", tmp_path, ALL)


def boxes_with(ids: list[int]) -> BoxTruth:
    frames = scenes_truth(STREET, 1, "detection").frames
    return BoxTruth(frames, ((),), tuple({"id": i, "name": str(i)} for i in ids))


COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def test_80_classes_are_the_80_categories_in_the_order_of_their_ids() -> None:
    assert len(COCO_IDS) == 80
    assert boxes_with(COCO_IDS[::-1]).category_ids(80) == COCO_IDS


def test_90_classes_are_the_category_ids() -> None:
    assert boxes_with(COCO_IDS).category_ids(90) == list(range(1, 91))


@pytest.mark.parametrize("classes", [1, 79, 81, 89])
def test_other_numbers_of_classes_are_refused(classes: int) -> None:
    with pytest.raises(BadTruth, match="num_classes must be 80 or at least 90"):
        boxes_with(COCO_IDS).category_ids(classes)


STREET_COCO: dict[str, Any] = {
    "images": COCO["images"],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [1, 2, 10, 20]},
        {"image_id": 7, "category_id": 3, "bbox": [1, 2, 5, 5]},
        {"image_id": 3, "category_id": 17, "bbox": [3, 3, 3, 3]},
    ],
    "categories": [
        {"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 6, "name": "bus"},
        {"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}, {"id": 21, "name": "dog"},
    ],
}  # fmt: skip


def with_classes(folder: Path, classes: ClassCategories) -> BoxTruth:
    return coco_truth(coco_file(folder, STREET_COCO), folder, ALL, classes)


@pytest.mark.parametrize(
    ("classes", "ids"),
    [
        (["car", "person", "bus"], [3, 1, 6]),
        ([3, "person", 6], [3, 1, 6]),
        ({1: "car", 2: "person", 3: "bus"}, [3, 1, 6]),
        ({3: "bus", 1: 3}, [3, None, 6]),
    ],
)
def test_classes_are_the_categories_of_the_config(
    tmp_path: Path, classes: ClassCategories, ids: list[int | None]
) -> None:
    truth = with_classes(tmp_path, classes)
    assert truth.category_ids(3) == ids
    assert {c["id"] for c in truth.categories} == set(ids) - {None}


def test_only_categories_with_a_class_are_measured(tmp_path: Path) -> None:
    truth = with_classes(tmp_path, {1: "person", 4: "bus"})
    assert [[a["bbox"] for a in listed] for listed in truth.annotations] == [[], [[1, 2, 10, 20]]]
    assert len(truth.frames) == 2, "what a frame shows else is no reason to leave it out"
    assert truth.unscored == ("car", "cat", "dog", "dog")
    note = truth.coverage_note(4)
    assert note == (
        "only 2 of 6 categories are scored (person, bus); 2 of its 4 classes have no category"
    )
    part = truth_subset(truth, [1])
    assert isinstance(part, BoxTruth) and part.category_ids(4) == [1, None, None, 6]
    whole = coco_truth(coco_file(tmp_path, COCO), tmp_path, ALL, ["dog", "cat"])
    assert whole.coverage_note(2) is None


def test_a_run_names_the_categories_that_it_does_not_measure(
    mixed: Observed, weights: Weights, tmp_path: Path
) -> None:
    coco_file(tmp_path, STREET_COCO)
    data = config_data(weights)
    models = {"cls": data["models"]["a"], "det": {**data["models"]["b"], "arch": DETECTOR}}
    section = {"coco": "instances.json", "classes": {1: "person", 4: "bus"}}
    changed = with_changes(data, {"models": models, "truth": {"det": section}})
    captured = capture_reporter()
    config = load_config(write_config(tmp_path, changed))
    truth = open_truth(config, mixed.deployment, mixed.frames, captured.reporter)
    assert set(truth) == {"det"}
    note = (
        "det: only 2 of 6 categories are scored (person, bus); 4 of its 6 classes have no category"
    )
    assert note in captured.text


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["car", "tram"], "no category has the name 'tram'; there are person, car, bus, cat"),
        (["car", 4], "no category has the id 4; there are 1, 3, 6, 17"),
        (["Car"], "no category has the name 'Car'"),
        (["dog"], "several are named 'dog': give the id, one of 18, 21"),
        (["car", "bus", "car"], "gives category 'car' to class 1 and again to 3"),
        ({2: "car", 5: 3}, "gives category 'car' to class 2 and again to 5"),
        (["bus"], "no box of bus on any of the 2 images"),
    ],
)
def test_classes_that_name_no_category_or_one_twice_are_refused(
    tmp_path: Path, classes: ClassCategories, message: str
) -> None:
    with pytest.raises(BadTruth) as caught:
        with_classes(tmp_path, classes)
    assert message in str(caught.value) and "instances.json" in str(caught.value)


def test_classes_that_the_detector_does_not_have_are_refused(tmp_path: Path) -> None:
    listed = with_classes(tmp_path, ["car", "person", "bus"])
    for classes in (2, 4):  # a list is of all classes: one too few would be of the wrong ones
        with pytest.raises(BadTruth, match=rf"has {classes} classes, `classes` lists 3: list"):
            listed.category_ids(classes)
    with pytest.raises(BadTruth, match=r"has 2 classes \(1 to 2\), `classes` names class 5"):
        with_classes(tmp_path, {1: "car", 5: "bus"}).category_ids(2)


def test_labels_beyond_the_classes_are_refused() -> None:
    frames = scenes_truth(STREET, 3, "classification").frames
    single = ClassTruth.single(frames, (0, 6, 2))
    several = ClassTruth(frames, tuple(frozenset(right) for right in ({0}, {2, 6, 1}, {2})))
    for truth in (single, several):
        check_classes(truth, 7, "a")
        with pytest.raises(BadTruth, match=r"for a go up to 6.* only 6 classes \(0 to 5\)"):
            check_classes(truth, 6, "a")


def test_boxes_that_do_not_fit_the_classes_name_the_model() -> None:
    check_classes(boxes_with(COCO_IDS), 80, "det")
    with pytest.raises(BadTruth, match=r"^truth\.det: the detector has 4 classes"):
        check_classes(boxes_with(COCO_IDS), 4, "det")


def test_scenes_have_their_own_labels_and_boxes() -> None:
    labels = scenes_truth(STREET, 8, "classification")
    boxes = scenes_truth(STREET, 8, "detection")
    assert isinstance(labels, ClassTruth) and isinstance(boxes, BoxTruth)
    assert labels.frames.hash == boxes.frames.hash
    assert [c["name"] for c in boxes.categories] == list(KINDS)
    for k in range(8):
        scene = render(STREET, k)
        assert labels.labels[k] == {scene.label}
        assert [a["bbox"] for a in boxes.annotations[k]] == scene.boxes.tolist()
        assert [a["category_id"] - 1 for a in boxes.annotations[k]] == scene.classes.tolist()


def test_labels_without_a_single_box_are_refused(tmp_path: Path) -> None:
    save_noise_image(tmp_path / "a.png", seed=0)
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


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("images/train/a.jpg", "a.jpg"),
        ("train/a.jpg", "a.jpg"),
        ("a.jpg", "images/train/a.jpg"),
        ("val/a.jpg", "images/val/a.jpg"),
        ("a.jpg", "a.JPG"),
    ],
)
def test_a_name_with_other_folders_than_its_image_is_refused_with_the_image(
    tmp_path: Path, name: str, place: str
) -> None:
    (tmp_path / "train").mkdir()
    save_noise_image(tmp_path / place, seed=1)
    save_noise_image(tmp_path / "images/other/a.jpg", seed=2)
    (tmp_path / "labels.csv").write_text(f"path,label_index\n{name},0\n")
    coco = {
        "images": [{"id": 1, "file_name": name}],
        "annotations": [{"image_id": 1, "bbox": [0, 0, 5, 5], "category_id": 1}],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    if place == "images/train/a.jpg":
        (tmp_path / "images/other/a.jpg").unlink()
    hint = f"first {tmp_path / name}; is {tmp_path / place} meant? The names of images must start"
    with pytest.raises(BadTruth, match=re.escape(f"{hint} at {tmp_path}")):
        csv_truth(tmp_path / "labels.csv", Sampling())
    with pytest.raises(BadTruth, match=re.escape(hint)):
        coco_truth(tmp_path / "boxes.json", tmp_path, Sampling())


def test_an_image_that_is_nowhere_is_refused_without_a_hint(tmp_path: Path) -> None:
    save_noise_image(tmp_path / "b.jpg", seed=1)
    (tmp_path / "labels.csv").write_text("path,label_index\na.jpg,0\n")
    with pytest.raises(BadTruth, match=re.escape(f"first {tmp_path / 'a.jpg'}") + "$"):
        csv_truth(tmp_path / "labels.csv", Sampling())


def test_labels_name_the_classes_of_a_detector_by_their_numbers() -> None:
    names = names_in_truth(boxes_with(COCO_IDS), 90)
    assert len(names) == 91 and names[12] == "" == names[0]
    assert {names[i] for i in COCO_IDS} == {str(i) for i in COCO_IDS}
    assert names_in_truth(boxes_with([7, 3]), 2) == ("", "3", "7")


def test_labels_name_the_classes_of_a_classifier_if_they_name_all(tmp_path: Path) -> None:
    for name in ("car", "bus"):
        save_noise_image(tmp_path / name / "1.png", 1)
    truth = folder_truth(tmp_path, ALL)
    assert names_in_truth(truth, 2) == ("bus", "car") and names_in_truth(truth, 1000) == ()
