"""COCO files as labelling tools write them: what is repaired, left out and refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny import save_noise_image

from search.data.coco.truth import coco_truth
from search.data.frames import Sampling
from search.data.ground_truth import BadTruth, BoxTruth
from search.data.images import read_image, read_size
from search.data.labelled_images import ImageRoot

IMAGES = [
    {"id": 1, "file_name": "0.png", "width": 40, "height": 30},
    {"id": 2, "file_name": "1.png", "width": 40, "height": 30},
]
CATEGORIES = [{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}]
GOOD = {"id": 10, "image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10]}


def document(*annotations: dict[str, Any], **lists: Any) -> dict[str, Any]:
    return {
        "images": IMAGES,
        "annotations": [GOOD, *annotations],
        "categories": CATEGORIES,
        **lists,
    }


def annotation(**fields: Any) -> dict[str, Any]:
    return {"id": 11, "image_id": 2, "category_id": 2, "bbox": [1, 2, 3, 4], **fields}


def truth_of(folder: Path, data: Any, **options: Any) -> BoxTruth:
    """Read a COCO file beside two pictures of 40 x 30 pixels."""
    for k in range(2):
        save_noise_image(folder / f"{k}.png", seed=k)
    file = folder / "labels.json"
    if isinstance(data, bytes):
        file.write_bytes(data)
    else:
        file.write_text(json.dumps(data), encoding="utf-8")
    return coco_truth(file, options.pop("images", folder), Sampling(), **options)


def refusal(folder: Path, data: Any, **options: Any) -> str:
    with pytest.raises(BadTruth) as caught:
        truth_of(folder, data, **options)
    text = str(caught.value)
    assert text.startswith(f"labels {folder / 'labels.json'}: ") and "\n" not in text
    return text


def boxes(truth: BoxTruth) -> list[list[list[float]]]:
    return [[box["bbox"] for box in listed] for listed in truth.annotations]


def test_ids_in_text_are_the_numbers_that_they_spell(tmp_path: Path) -> None:
    data = document(
        annotation(id="b", image_id="2", category_id="2"),
        images=[{**IMAGES[0], "id": "1"}, IMAGES[1]],
        categories=[{"id": "1", "name": "car"}, {"id": 2.0, "name": "bus"}],
    )
    truth = truth_of(tmp_path, data)
    assert boxes(truth) == [[[5, 5, 10, 10]], [[1, 2, 3, 4]]]
    assert [category["id"] for category in truth.categories] == [1, 2]


def test_images_may_have_names_as_ids(tmp_path: Path) -> None:
    images = [{"id": "a", "file_name": "0.png"}, {"id": "007", "file_name": "1.png"}]
    data = document(images=images, annotations=[annotation(image_id="007")])
    assert boxes(truth_of(tmp_path, data)) == [[], [[1, 2, 3, 4]]]


@pytest.mark.parametrize("key", ["id", "file_name"])
def test_an_image_that_is_listed_twice_is_refused(tmp_path: Path, key: str) -> None:
    data = document(images=[IMAGES[0], {**IMAGES[1], key: IMAGES[0][key]}])
    assert f"the {key} {IMAGES[0][key]} more than once" in refusal(tmp_path, data)


def test_annotations_of_unlisted_images_are_counted(tmp_path: Path) -> None:
    data = document(annotation(id=20, image_id=99), annotation(id=21, image_id=98))
    truth = truth_of(tmp_path, data)
    assert truth.coverage_note(2) == (
        "2 annotations left out: of images that the file does not list (annotation 20, 21)"
    )


def test_a_missing_box_is_taken_from_the_polygons(tmp_path: Path) -> None:
    polygons = [[3, 4, 9, 4, 9, 12], [2, 6, 5, 6, 5, 20]]
    without_box = {key: value for key, value in annotation().items() if key != "bbox"}
    data = document(
        {**without_box, "segmentation": polygons}, annotation(bbox=[], segmentation=polygons)
    )
    truth = truth_of(tmp_path, data)
    assert boxes(truth)[1] == [[2, 4, 7, 16], [2, 4, 7, 16]]
    assert truth.coverage_note(2) is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"bbox": []}, "without a bbox or a polygon"),
        ({"bbox": None}, "without a bbox or a polygon"),
        ({"bbox": None, "segmentation": {"counts": [1], "size": [1, 1]}}, "without a bbox or"),
        ({"bbox": [], "segmentation": [[1, 2, 3]]}, "without a bbox or a polygon"),
        ({"bbox": [1, 1, 0, 5]}, "with a width or height that is not above 0"),
        ({"bbox": [1, 1, 5, -2]}, "with a width or height that is not above 0"),
        ({"bbox": [1, math.nan, 5, 5]}, "with a width or height that is not above 0"),
        ({"bbox": [1, 1, math.inf, 5]}, "with a width or height that is not above 0"),
        ({"bbox": [50, 1, 5, 5]}, "wholly outside the picture"),
        ({"bbox": [-9, 1, 5, 5]}, "wholly outside the picture"),
    ],
)
def test_a_box_that_nothing_can_match_is_left_out_and_counted(
    tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    truth = truth_of(tmp_path, document(annotation(**fields)))
    assert boxes(truth) == [[[5, 5, 10, 10]], []]
    note = truth.coverage_note(2)
    assert note is not None and note.startswith(f"1 annotation left out: {reason}")
    assert note.endswith("(annotation 11)")


def test_boxes_beyond_their_picture_are_clipped_and_counted(tmp_path: Path) -> None:
    truth = truth_of(tmp_path, document(annotation(bbox=[30, -5, 20, 15], area=290)))
    assert boxes(truth)[1] == [[30, 0, 10, 10]]
    assert truth.annotations[1][0]["area"] == 100
    assert truth.coverage_note(2) == "1 box clipped to the picture (annotation 11)"


def test_a_box_that_rounding_puts_beyond_its_picture_stays(tmp_path: Path) -> None:
    truth = truth_of(tmp_path, document(annotation(bbox=[30, 10, 10.5, 20.5])))
    assert boxes(truth)[1] == [[30, 10, 10.5, 20.5]] and truth.coverage_note(2) is None


@pytest.mark.parametrize("area", [None, math.nan, -1])
def test_an_area_that_is_none_is_that_of_the_box(tmp_path: Path, area: float | None) -> None:
    truth = truth_of(tmp_path, document(annotation(area=area, iscrowd=None)))
    assert [(box["area"], box["iscrowd"]) for box in truth.annotations[1]] == [(12, 0)]


def test_corners_in_place_of_sizes_are_refused(tmp_path: Path) -> None:
    corners = [[25, 5, 35, 20], [20, 15, 38, 28], [15, 10, 39, 29], [2, 2, 10, 10]]
    text = refusal(tmp_path, document(annotations=[annotation(bbox=box) for box in corners]))
    assert "3 of 4 boxes leave their picture" in text and "corners x1, y1, x2, y2" in text


def test_boxes_relative_to_the_picture_are_refused(tmp_path: Path) -> None:
    data = document(annotations=[annotation(bbox=[0.5, 0.5, 0.2, 1.0])])
    assert "shares of the picture's sides" in refusal(tmp_path, data)


@pytest.mark.parametrize("width_height", [(80, 60), (30, 40)])
def test_images_of_another_size_are_refused(tmp_path: Path, width_height: tuple[int, int]) -> None:
    width, height = width_height
    data = document(images=[{**IMAGES[0], "width": width, "height": height}, IMAGES[1]])
    text = refusal(tmp_path, data)
    assert (
        f"image 1 has width x height {width} x {height}, but {tmp_path / '0.png'} is 40 x 30"
        in text
    )
    assert ("turned upright" if width < height else "resized copy") in text


@pytest.mark.parametrize("sides", [{}, {"width": None, "height": None}, {"width": 0, "height": 0}])
def test_images_need_not_have_a_size(tmp_path: Path, sides: dict[str, Any]) -> None:
    data = document(images=[{"id": 1, "file_name": "0.png", **sides}])
    assert boxes(truth_of(tmp_path, data)) == [[[5, 5, 10, 10]]]


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_size_of_a_picture_is_that_of_its_frame(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    height, width, _ = read_image(tmp_path / "a.jpg").shape
    assert read_size(tmp_path / "a.jpg") == (width, height)


def test_file_names_may_have_folders_and_backslashes(tmp_path: Path) -> None:
    save_noise_image(tmp_path / "day" / "one" / "5.png", seed=5)
    data = document(images=[{"id": 1, "file_name": "day\\one\\5.png"}])
    truth = truth_of(tmp_path, data)
    assert list(truth.frames.identities()) == [tmp_path / "day" / "one" / "5.png"]


@pytest.mark.parametrize("climbing", [True, False])
def test_images_outside_their_folder_need_permission(tmp_path: Path, climbing: bool) -> None:
    outside = save_noise_image(tmp_path / "5.png", seed=5)
    inner = tmp_path / "inner"
    inner.mkdir()
    name = "day/../../5.png" if climbing else str(outside)
    data = document(images=[{"id": 1, "file_name": name}])
    text = refusal(inner, data)
    assert f"image 1: image {name} is not inside {inner}" in text and "outside: true" in text
    (inner / "day").mkdir()
    truth = truth_of(inner, data, images=ImageRoot(inner, outside=True))
    assert list(truth.frames.identities()) == [outside]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_accepted(tmp_path: Path, encoding: str) -> None:
    truth = truth_of(tmp_path, json.dumps(document()).encode(encoding))
    assert boxes(truth)[0] == [[5, 5, 10, 10]]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"[" * 200_000, "are nested too deep"),
        (b"\xff\x00\xfe", "cannot be read"),
        ([{"image_id": 1, "bbox": [1, 1, 1, 1], "score": 1}], "has no list `images`"),
        (document(annotation(bbox=[1, 2, 3])), "annotation 11: bbox must be four numbers"),
        (document(annotation(bbox=[1, "x", 3, 4])), "annotation 11: bbox: 'x' is not a number"),
        (document(annotation(area="big")), "annotation 11: area: 'big' is not a number"),
        (document(annotation(iscrowd="no")), "annotation 11: iscrowd must be a whole number"),
        (document(annotation(category_id=None)), "annotation 11: category_id is missing"),
        (document(annotation(category_id="car")), "annotation 11: category_id must be a whole"),
        (document(annotation(category_id=7)), "annotation 11: category_id 7 is not in"),
        (document(annotation(image_id=[1])), "annotation 11: image_id must be a number or text"),
        (document(annotation(id=None, image_id=None)), "annotation number 2: image_id is missing"),
        (document(images=[{"id": 1, "file_name": 7}]), "image 1: file_name must be text"),
        (document(images=[{"id": 1, "file_name": " "}]), "the name of the image is empty"),
        (document(images=[{**IMAGES[0], "width": "a"}]), "image 1: width must be a whole number"),
        (document(categories=[*CATEGORIES, CATEGORIES[0]]), "lists the id 1 more than once"),
        (document(categories=[]), "its list `categories` is empty"),
        (
            document(annotations=[annotation(image_id=9)]),
            "no box on any of the 2 images sampled from it (1 annotation left out: of images",
        ),
    ],
)  # fmt: skip
def test_a_refusal_names_the_entry_and_the_field(tmp_path: Path, data: Any, reason: str) -> None:
    assert reason in refusal(tmp_path, data)


def test_categories_with_boxes_need_different_names(tmp_path: Path) -> None:
    twins = [{"id": 1, "name": "car"}, {"id": 2, "name": "car"}]
    text = refusal(tmp_path, document(annotation(), categories=twins))
    assert "the categories 1, 2 are all named 'car'" in text
    one = truth_of(tmp_path, document(categories=twins))
    assert one.category_ids(2) == [1, 2]
    named = truth_of(tmp_path, document(categories=twins), classes=["car"])
    assert named.category_ids(1) == [1]


def with_ids(folder: Path, ids: list[int], empty: tuple[int, ...] = ()) -> BoxTruth:
    """Read a file whose categories all have a box, except the `empty` ones."""
    return truth_of(
        folder,
        document(
            annotations=[annotation(category_id=i) for i in ids if i not in empty],
            categories=[{"id": i, "name": f"c{i}"} for i in ids],
        ),
    )


def test_a_category_0_without_boxes_is_no_class(tmp_path: Path) -> None:
    truth = with_ids(tmp_path, [0, 1, 3, 17], empty=(0,))
    assert truth.category_ids(3) == [1, 3, 17]
    assert truth.category_ids(4) == [0, 1, 3, 17]
    assert truth.category_ids(20) == list(range(1, 21))


@pytest.mark.parametrize(
    ("ids", "classes", "reason"),
    [
        ([0, 1, 2, 3, 4], 6, "category 0 (c0) has boxes, but the classes of a detector count fro"),
        (list(range(80)), 90, "category 0 (c0) has boxes, but the classes of a detector count"),
        (list(range(1, 81)), 90, "category 12 (c12) has boxes, but COCO"),
        (list(range(1, 81)), 91, "category 12 (c12) has boxes, but COCO"),
        ([-1, 2], 3, "category -1 (c-1) has boxes"),
    ],
)
def test_a_category_that_no_class_can_answer_is_refused(
    tmp_path: Path, ids: list[int], classes: int, reason: str
) -> None:
    with pytest.raises(BadTruth) as caught:
        with_ids(tmp_path, ids).category_ids(classes)
    assert reason in str(caught.value) and "`classes` must give" in str(caught.value)


def test_as_many_classes_as_categories_go_by_the_order_of_the_ids(tmp_path: Path) -> None:
    assert with_ids(tmp_path, [0, 1, 2, 3, 4]).category_ids(5) == [0, 1, 2, 3, 4]
