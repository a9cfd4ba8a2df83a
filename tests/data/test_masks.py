"""Folders of masks for segmentations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.data.frames import Sampling
from search.data.ground_truth import BadTruth, MaskTruth, label_hashes, summarise_truth, truth_on
from search.data.masks import ImageMasks, check_mask_classes, folder_masks, read_mask

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a writer of an image and its mask under one name."""

    def write(name: str, mask: object = 1, size: tuple[int, int] = (6, 4)) -> None:
        image, of_mask = tmp_path / "images" / f"{name}.jpg", tmp_path / "masks" / f"{name}.png"
        for path in (image, of_mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (9, 9, 9)).save(image)
        if isinstance(mask, Image.Image):
            mask.save(of_mask)
        elif mask is not None:
            Image.new("L", size, int(mask)).save(of_mask)  # type: ignore[call-overload]

    return write


def masks_in(folder: Path, names: tuple[str, ...] = (), ignore: int = 255) -> MaskTruth:
    return folder_masks(ImageMasks(folder / "masks", folder / "images", ignore), Sampling(), names)


def test_masks_belong_to_the_images_of_their_names(tmp_path: Path, write: Write) -> None:
    for k, name in enumerate(("b", "a", "day/c", "day/b")):
        write(name, k)
    write("lonely", None)
    truth = masks_in(tmp_path)
    values = {mask.relative_to(tmp_path / "masks").as_posix(): read_mask(mask)[0, 0] for mask in
              truth.masks}  # fmt: skip
    assert values == {"a.png": 1, "b.png": 0, "day/b.png": 3, "day/c.png": 2}
    assert len(truth.frames) == 4 and truth.frames[0].shape == (4, 6, 3)
    (note,) = truth.frames.remarks.notes  # type: ignore[attr-defined]
    assert "1 images without a mask are left out" in note


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1"])
def test_numbers_are_read_from_grey_palette_and_16_bit_masks(
    tmp_path: Path, write: Write, mode: str
) -> None:
    """A palette only says how a class is shown."""
    mask = Image.new(mode, (6, 4), 1)
    if mode == "P":
        mask.putpalette([200, 10, 10, 10, 200, 10])
    write("a", mask)
    assert (read_mask(masks_in(tmp_path).masks[0]) == 1).all()


def test_labels_change_with_the_content_of_a_mask_only(tmp_path: Path, write: Write) -> None:
    write("a", 1)
    write("b", 2)
    truth = masks_in(tmp_path)
    before, summary = label_hashes(truth), summarise_truth(truth)
    assert label_hashes(truth_on(truth.frames, truth, [0, 1])) == before
    write("b", 3)
    changed = masks_in(tmp_path)
    assert label_hashes(changed)[0] == before[0] and label_hashes(changed)[1] != before[1]
    assert summarise_truth(changed)["labels"] != summary["labels"]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("RGB", (6, 4)), "in colours (mode RGB); write the number of the class"),
        (Image.new("L", (4, 6)), "is 4x6 pixels, but its image 6x4"),
    ],
)
def test_masks_that_are_no_class_numbers_of_the_image_are_refused(
    tmp_path: Path, write: Write, mask: Image.Image, message: str
) -> None:
    write("a", mask)
    with pytest.raises(BadTruth) as refused:
        masks_in(tmp_path)
    assert message in str(refused.value) and "masks/a.png" in str(refused.value)


def test_a_damaged_mask_and_a_folder_without_masks_are_refused(
    tmp_path: Path, write: Write
) -> None:
    write("a", 1)
    (tmp_path / "masks" / "a.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(BadTruth, match=r"mask .*a\.png: cannot be read"):
        masks_in(tmp_path)
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "other.png")
    with pytest.raises(BadTruth, match=r"no mask of an image of .*: the mask of DIR/NAME\.jpg is"):
        masks_in(tmp_path)


def test_classes_must_be_those_of_the_model_or_ignored(tmp_path: Path, write: Write) -> None:
    write("a", 4)
    write("b", 255)
    check_mask_classes(masks_in(tmp_path), 5, "seg")
    with pytest.raises(BadTruth, match=r"truth\.seg: mask .*a\.png has the class 4, .*0 to 3"):
        check_mask_classes(masks_in(tmp_path), 4, "seg")
    with pytest.raises(BadTruth, match=r"mask .*b\.png has the class 255"):
        check_mask_classes(masks_in(tmp_path, ignore=0), 5, "seg")
    with pytest.raises(BadTruth, match="names 3 classes"):
        check_mask_classes(masks_in(tmp_path, ("a", "b", "c")), 2, "seg")
    write("a", 255)
    with pytest.raises(BadTruth, match="have no pixel of a class"):
        check_mask_classes(masks_in(tmp_path), 5, "seg")


def test_images_that_lie_on_their_side_fit_their_upright_masks(
    tmp_path: Path, write: Write
) -> None:
    write("a", 1, (4, 6))
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "images" / "a.jpg", exif=exif)
    truth = masks_in(tmp_path)
    assert truth.frames[0].shape[:2] == read_mask(truth.masks[0]).shape == (6, 4)
