"""Boxes end to end: drawn in a frame, detected in a network's input, scored in the frame."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search.data.frames import FrameSet
from search.data.ground_truth import BoxTruth, coco_annotation
from search.evaluation.evaluate import UNMERGED_PLAN, EvaluationSetup, compute_accuracy
from search.evaluation.tasks.detection import BoxGeometry, score_boxes
from spaces.inputs import Fit, Frame, InputSpec, boxes_to_frame, prepare
from spaces.model_facts import collect_model_facts
from spaces.stages import Layout, StagedModel

FITS: tuple[Fit, Fit] = ("squash", "letterbox")
SIZES = [(203, 331), (331, 203), (187, 189)]
"""Heights and widths, some odd, with aspect ratios that differ from the input's."""
BOX = (21, 47, 140, 168)
"""x1, y1, x2, y2 within frames of all these sizes."""
NAMES = {7: "red", 3: "green"}
"""Categories by id, in the order of the detector's classes, which differs from that of the ids."""


def spec_of(fit: Fit) -> InputSpec:
    return InputSpec(224, 288, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), fit)


def draw_frame(size: tuple[int, int], box: Sequence[int], channel: int) -> Frame:
    """Return a black frame with one box of one colour."""
    frame = np.zeros((*size, 3), dtype=np.uint8)
    frame[box[1] : box[3], box[0] : box[2], channel] = 255
    return frame


def in_input(box: Sequence[int], size: tuple[int, int], spec: InputSpec) -> np.ndarray:
    """Return the exact place of a frame's box in the input, in fractions of pixels."""
    down, across = spec.height / size[0], spec.width / size[1]
    if spec.fit == "letterbox":
        down = across = min(down, across)
    return np.array([box[0] * across, box[1] * down, box[2] * across, box[3] * down])


class ColourHead(nn.Module):
    """A detection head that detects the coloured boxes in its input: one row for each colour."""

    def forward(self, taps: list[Tensor]) -> Tensor:
        rows = [[self._row(channel, k) for k, channel in enumerate(f[:2], 1)] for f in taps[0]]
        return torch.tensor(rows)

    def _row(self, channel: Tensor, label: int) -> list[float]:
        lit = channel > 0.5
        if not lit.any():
            return [0.0] * 6
        ys, xs = lit.any(1).nonzero(), lit.any(0).nonzero()
        return [float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1), 0.9, label]


def perfect_detector(fit: Fit) -> StagedModel:
    """Return a perfect detector of two classes; its only stage is the identity."""
    stage = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        stage.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
    layout = Layout("det", ("pixels",), ("pixels",))
    return StagedModel(layout, [stage], ColourHead(), spec_of(fit), "detection", len(NAMES))


@dataclass(frozen=True)
class DrawnFrames:
    """Frames of several sizes with a red or green box each."""

    hash: str = "drawn"

    def __len__(self) -> int:
        return 2 * len(SIZES)

    def __getitem__(self, index: int) -> Frame:
        return draw_frame(SIZES[index // 2], self.box(index), index % 2)

    def identities(self) -> Sequence[Hashable]:
        return [*range(len(self))]

    def content_keys(self) -> Sequence[Hashable]:
        return [*range(len(self))]

    def box(self, index: int) -> list[int]:
        return [side + 3 * index for side in BOX]


def truth_of(frames: DrawnFrames, classes: Mapping[int, int]) -> BoxTruth:
    ids = list(NAMES)
    boxes = []
    for k in range(len(frames)):
        x1, y1, x2, y2 = frames.box(k)
        box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": ids[k % 2]}
        boxes.append((coco_annotation(box),) if ids[k % 2] in classes.values() else ())
    categories = tuple(
        {"id": i, "name": name} for i, name in NAMES.items() if i in classes.values()
    )
    frame_set: FrameSet = frames
    return BoxTruth(frame_set, tuple(boxes), categories, dict(classes))


def geometry(fit: Fit) -> BoxGeometry:
    return BoxGeometry([SIZES[k // 2] for k in range(2 * len(SIZES))], spec_of(fit))


@torch.inference_mode()
def detections_by(fit: Fit) -> np.ndarray:
    model, frames = perfect_detector(fit), DrawnFrames()
    answers: np.ndarray = model(
        model.prepare_frames([frames[k] for k in range(len(frames))])
    ).numpy()
    return answers


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", SIZES)
def test_a_box_is_at_its_place_in_the_input_and_maps_back(size: tuple[int, int], fit: Fit) -> None:
    spec = spec_of(fit)
    exact = in_input(BOX, size, spec)
    head = ColourHead()
    detected = head([prepare(draw_frame(size, BOX, 0), spec)[None]])[0, 0, :4].numpy()
    assert np.abs(detected - exact).max() <= 1
    # The letterbox has whole pixels, so its two scales differ by less than a pixel.
    assert np.abs(boxes_to_frame(exact[None], size, spec)[0] - BOX).max() <= 1


@pytest.mark.parametrize("fit", FITS)
def test_a_perfect_detector_scores_one(fit: Fit) -> None:
    model = perfect_detector(fit)
    bench = EvaluationSetup({"det": model}, {"det": collect_model_facts(model)}, {}, batch=4)
    truth = truth_of(DrawnFrames(), {1: 7, 2: 3})
    (scores,) = compute_accuracy(bench, [UNMERGED_PLAN], {"det": truth}, lambda done: None)
    assert scores["det"] == pytest.approx(
        {"map": 1, "ap50": 1, "ap_red": 1, "ap_green": 1}, abs=1e-6
    )


@pytest.mark.parametrize(("fit", "other"), [FITS, FITS[::-1]])
def test_boxes_mapped_with_another_fit_are_wrong(fit: Fit, other: Fit) -> None:
    truth, answers = truth_of(DrawnFrames(), {1: 7, 2: 3}), detections_by(fit)
    right = score_boxes(answers, geometry(fit), truth, 2).scores
    wrong = score_boxes(answers, geometry(other), truth, 2).scores
    assert right["map"] == pytest.approx(1, abs=1e-6) and wrong["map"] < 0.5


def test_swapped_classes_score_nothing() -> None:
    truth = truth_of(DrawnFrames(), {1: 7, 2: 3})
    swapped = replace(truth, classes={1: 3, 2: 7})
    assert score_boxes(detections_by("squash"), geometry("squash"), swapped, 2).scores["map"] == 0


def test_detections_of_a_class_without_a_category_are_dropped() -> None:
    """They are neither correct nor wrong: the scores of the other class do not change."""
    only_green = truth_of(DrawnFrames(), {2: 3})
    scores = score_boxes(detections_by("squash"), geometry("squash"), only_green, 2).scores
    assert scores == pytest.approx({"map": 1, "ap50": 1, "ap_green": 1}, abs=1e-6)
