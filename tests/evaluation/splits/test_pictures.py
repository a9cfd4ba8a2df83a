"""A picture shows what the networks see of a frame, and the whole networks answer to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from links import FRAMES, link_setup, truth_of
from tiny import STREET

from search.data.synthetic.scenes import render
from search.evaluation.evaluate import UNMERGED_PLAN
from search.evaluation.per_frame import scores_by_model
from search.evaluation.splits.link_scores import LinkSetup, ShownFrames
from search.evaluation.splits.pictures import (
    PictureCoding,
    PictureFormat,
    PictureView,
    missing_formats,
    picture_grid,
)
from search.evaluation.splits.score_pictures import score_pictures
from search.statistics.observed import Observed
from search.utils.progress import silent
from spaces.inputs import Fit, Frame, InputSpec, prepare

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
FITS: list[Fit] = ["squash", "letterbox", "crop"]
ONE_LEVEL = 0.5 / 255 / min(STD) + 1e-4
"""The largest error of an input when pixels are rounded to 8 bits."""


def spec(side: int, fit: Fit, wide: int = 0) -> InputSpec:
    return InputSpec(side, wide or side, MEAN, STD, fit)


@pytest.fixture(scope="module")
def setup(mixed: Observed) -> LinkSetup:
    return link_setup(mixed, UNMERGED_PLAN)


@pytest.fixture(scope="module")
def frame() -> Frame:
    return render(STREET, 3).image


@pytest.mark.parametrize("fit", FITS)
def test_a_lossless_picture_prepares_as_the_frame_up_to_8_bits(fit: Fit, frame: Frame) -> None:
    own = spec(48, fit)
    view = PictureView({"net": own})
    picture = PictureCoding("png").decode(PictureCoding("png").encode(view.take(frame)))
    received = prepare(picture, view.server_input("net"))
    assert (received - prepare(frame, own)).abs().max() <= ONE_LEVEL


@pytest.mark.parametrize("fit", FITS)
def test_a_frame_without_more_pixels_is_sent_as_it_is(fit: Fit, frame: Frame) -> None:
    view = PictureView({"net": spec(256, fit)})
    taken = view.take(frame)
    if fit != "crop":
        assert (taken == frame).all()
    assert taken.shape[0] <= frame.shape[0] and taken.shape[1] <= frame.shape[1]


def test_one_picture_serves_networks_that_show_other_parts(frame: Frame) -> None:
    """It is the whole frame, with a pixel for each of the finest input."""
    view = PictureView(
        {"a": spec(32, "squash"), "b": spec(48, "crop"), "c": spec(40, "letterbox")}
    )
    assert not view.is_cropped
    tall = round(72 * 48 / round(72 * 0.875))
    assert view.take(frame).shape == (tall, round(96 * 48 / 63), 3)
    assert view.server_input("b") == view.inputs["b"]


def test_networks_that_crop_alike_get_the_part_that_they_show(frame: Frame) -> None:
    view = PictureView({"a": spec(32, "crop"), "b": spec(48, "crop")})
    assert view.is_cropped and view.take(frame).shape == (48, 48, 3)
    assert view.server_input("a").fit == "squash"
    assert not PictureView({"a": spec(32, "crop"), "b": spec(48, "crop", 96)}).is_cropped


@given(st.integers(1, 90), st.integers(1, 90), st.integers(32, 64), st.sampled_from(FITS))
def test_any_frame_becomes_a_picture_that_can_be_prepared(
    height: int, width: int, side: int, fit: Fit
) -> None:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    view = PictureView({"net": spec(48, fit, 56)})
    picture = view.take(pixels, side)
    assert max(picture.shape[:2]) <= max(side, 32)
    assert prepare(picture, view.server_input("net")).shape == (3, 48, 56)


def test_networks_of_grey_frames_get_grey_pictures(frame: Frame) -> None:
    grey = InputSpec(48, 48, (0.5,), (0.2,))
    view = PictureView({"net": grey})
    picture = view.take(frame)
    assert picture.shape == (48, 48)
    received = prepare(PictureCoding.decode(PictureCoding("png").encode(picture)), grey)
    assert (received - prepare(frame, grey)).abs().max() <= ONE_LEVEL
    assert PictureView({"net": grey, "other": spec(32, "squash")}).take(frame).ndim == 3


def test_lossless_pictures_of_frames_as_they_are_get_the_unsplit_answers(setup: LinkSetup) -> None:
    """The frames have fewer pixels than the detector's input, so nothing is resized."""
    codings = [PictureCoding("png"), PictureCoding("jpeg", 100), PictureCoding("jpeg", 5)]
    shown = ShownFrames(FRAMES, ("cls", "det"), truth_of(FRAMES))
    scored = score_pictures(setup, UNMERGED_PLAN, codings, [shown], silent)
    lossless, fine, coarse = scored.methods
    assert scores_by_model(lossless.scores) == scores_by_model(scored.unsplit[UNMERGED_PLAN])
    assert lossless.fidelity_by_model(["cls"]) == fine.fidelity_by_model(["cls"]) == {"cls": 1.0}
    # With random weights the detector's answers to both codings are nearly chance.
    assert max(coarse.mean_fidelity, fine.mean_fidelity) < lossless.mean_fidelity
    assert coarse.mean_bytes < fine.mean_bytes < lossless.mean_bytes
    sizes = [len(PictureCoding("png").encode(FRAMES[index])) for index in range(len(FRAMES))]
    assert lossless.all_bytes.tolist() == sizes


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif"])
def test_a_higher_quality_is_closer_and_larger(name: PictureFormat, frame: Frame) -> None:
    if missing_formats([name]):
        pytest.skip(f"this Pillow writes no {name}")
    files = [PictureCoding(name, quality).encode(frame) for quality in (10, 50, 95)]
    errors = [np.square(PictureCoding.decode(file) - frame.astype(float)).mean() for file in files]
    assert sorted(map(len, files)) == [*map(len, files)]
    assert sorted(errors, reverse=True) == errors


def test_the_grid_names_its_pictures() -> None:
    grid = picture_grid(["jpeg", "png"], [75, 90], [None, 160])
    assert [coding.name for coding in grid] == [
        "JPEG q75", "JPEG q75 at 160 px", "JPEG q90", "JPEG q90 at 160 px", "PNG",
        "PNG at 160 px",
    ]  # fmt: skip
    for wrong in ({"quality": 101}, {"side": 8}):
        with pytest.raises(ValueError, match=str(*wrong.values())):
            PictureCoding("jpeg", **wrong)


def test_colours_in_another_order_are_sent_in_the_usual_one(frame: Frame) -> None:
    own = InputSpec(72, 96, MEAN, STD, channels="bgr")
    view = PictureView({"net": own})
    assert (view.take(frame) == frame).all()
    assert torch.equal(prepare(view.take(frame), view.server_input("net")), prepare(frame, own))
