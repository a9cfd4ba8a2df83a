"""Splits are scored as their decoded tensors are by hand; without a codec they lose nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from links import FRAMES, UNSEEN, link_setup, one_share, split_at, truth_of, truth_of_links
from torch import Tensor

from search.evaluation.evaluate import UNMERGED_PLAN, EvaluationSetup, score_answers, score_frames
from search.evaluation.per_frame import scores_by_model
from search.evaluation.splits.crossing import as_read, crossing_batches, frame_sizes
from search.evaluation.splits.link_scores import LinkSetup, ShownFrames
from search.evaluation.splits.score_splits import SplitCandidate, score_splits
from search.evaluation.splits.transparent_coder import TransparentCoder
from search.evaluation.tasks.registry import SCORING
from search.evaluation.tasks.scoring import Setting
from search.statistics.observed import Observed
from search.utils.progress import silent
from spaces.plan import HEAD, SharePlan
from spaces.split.split import BadSplit, Split, SplitParts
from spaces.tasks.task import FrameSize

MODELS = ("cls", "det")


@dataclass(frozen=True)
class HalvingCoder:
    """Rounds to float16, and loses the lower half of each channel's values."""

    shapes: tuple[tuple[int, ...], ...]

    def encode(self, tensors: Sequence[Tensor], frame_sizes: Sequence[FrameSize]) -> list[bytes]:
        rounded = [tensor.half().float().clamp_min(0) for tensor in tensors]
        return TransparentCoder(self.shapes).encode(rounded, frame_sizes)

    def decode(self, messages: Sequence[bytes]) -> list[Tensor]:
        return TransparentCoder(self.shapes).decode(messages)


@pytest.fixture(scope="module")
def plan(mixed: Observed) -> SharePlan:
    return one_share(mixed)


@pytest.fixture(scope="module")
def setup(mixed: Observed, plan: SharePlan) -> LinkSetup:
    return link_setup(mixed, plan)


def splits_of(plan: SharePlan) -> list[Split]:
    """Return splits of the shared trunk, of its end, and of networks that share nothing."""
    return [
        split_at(plan, "det:blocks.1"),
        split_at(plan, "det:blocks.4"),
        split_at(plan, "det:blocks.3", f"cls:{HEAD}"),
        split_at(UNMERGED_PLAN, "det:blocks.2", "cls:blocks.3"),
        split_at(UNMERGED_PLAN, "det:blocks.6", "cls:pool"),
    ]


def shapes_of(setup: LinkSetup, split: Split) -> tuple[tuple[int, ...], ...]:
    batch = next(crossing_batches(setup, [split], FRAMES))
    return tuple(tuple(tensor.shape[1:]) for tensor in batch[split])


def test_without_a_codec_a_split_answers_as_the_merged_model(
    setup: LinkSetup, plan: SharePlan
) -> None:
    splits = splits_of(plan)
    candidates = [SplitCandidate(s, TransparentCoder(shapes_of(setup, s))) for s in splits]
    shown = ShownFrames(FRAMES, MODELS, truth_of(FRAMES))
    scored = score_splits(setup, candidates, [shown], silent)
    for split, scores in zip(splits, scored.methods, strict=True):
        values = sum(int(np.prod(shape)) for shape in shapes_of(setup, split))
        assert (scores.all_bytes == 4 * values).all()
        unsplit = scored.unsplit[split.plan]
        assert scores_by_model(scores.scores) == scores_by_model(unsplit)
        assert scores.fidelity_by_model(["cls"]) == {"cls": 1.0}


@torch.inference_mode()
def test_answers_of_the_two_parts_are_those_of_the_merged_model(
    setup: LinkSetup, plan: SharePlan
) -> None:
    """Bit by bit: what crosses is computed by the device's part alone, and sent as it is."""
    frames = [FRAMES[index] for index in range(3)]
    for split in splits_of(plan):
        merged = setup.networks.merged(split.plan)
        parts = SplitParts.of(merged, split)
        inputs = {name: setup.models[name].prepare_frames(frames) for name in MODELS}
        sent = merged.run(parts.device, inputs, {}, lambda head, taps: head(taps))
        tensors = [sent.representations[node] for node in parts.crossing]
        coder = TransparentCoder(tuple(tuple(t.shape[1:]) for t in tensors))
        received = coder.decode(coder.encode(tensors, frame_sizes(frames)))
        taken = dict(zip(parts.crossing, map(as_read, received), strict=True))
        rest = merged.run(parts.server, {}, taken, lambda head, taps: head(taps))
        answers = sent.answers | rest.answers
        for name, answer in merged(inputs).items():
            assert torch.equal(answers[name], answer)


def test_unsplit_scores_are_those_of_the_plan(
    mixed: Observed, setup: LinkSetup, plan: SharePlan
) -> None:
    truth, split = truth_of_links(), splits_of(plan)[0]
    candidate = SplitCandidate(split, TransparentCoder(shapes_of(setup, split)))
    scored = score_splits(setup, [candidate], ShownFrames.labelled(truth, MODELS), silent)
    deployment = mixed.deployment
    evaluation = EvaluationSetup(
        deployment.models, deployment.facts, mixed.maps_for([plan]), batch=4
    )
    (expected,) = score_frames(evaluation, [plan], truth, silent)
    for found in (scored.unsplit[plan], scored.methods[0].scores):
        for name, scores in scores_by_model(expected).items():
            assert found[name].scores == pytest.approx(scores, abs=1e-6)
    assert [len(sizes) for sizes in scored.methods[0].bytes.values()] == [7, 5]


def test_scores_are_those_of_decoded_tensors_by_hand(setup: LinkSetup, plan: SharePlan) -> None:
    split = splits_of(plan)[1]
    coder = HalvingCoder(shapes_of(setup, split))
    shown = ShownFrames.unlabelled(UNSEEN, MODELS)
    (scores,) = score_splits(setup, [SplitCandidate(split, coder)], [shown], silent).methods
    merged, frames = setup.networks.merged(plan), [UNSEEN[index] for index in range(len(UNSEEN))]
    inputs = {name: setup.models[name].prepare_frames(frames) for name in merged.inputs_read}
    with torch.inference_mode():
        whole = merged(inputs)
        parts = SplitParts.of(merged, split)
        device = merged.run(parts.device, inputs, {}, lambda head, taps: head(taps))
        taken = {node: value.half().float().clamp_min(0)
                 for node, value in device.representations.items()}  # fmt: skip
        answers = merged.run(parts.server, {}, taken, lambda head, taps: head(taps)).answers
    for name in MODELS:
        scoring = SCORING[setup.models[name].task]
        setting = Setting(setup.models[name], frame_sizes(frames))
        expected = scoring.as_expected(scoring.compact(whole[name]), setting, UNSEEN)
        assert expected is not None
        by_hand = score_answers(
            scoring.compact(answers[name]), expected, setup.models[name], setting.frame_sizes
        )
        assert scores.fidelity[name].scores == pytest.approx(by_hand.scores, abs=1e-6)
    assert scores.mean_fidelity < 0.999


def test_models_without_labels_are_compared_on_the_first_labelled_frames() -> None:
    truth = truth_of_links()
    (shown,) = ShownFrames.labelled({"cls": truth["cls"]}, MODELS)
    assert shown.models == MODELS and set(shown.truth) == {"cls"}
    first, second = ShownFrames.labelled(truth, MODELS)
    assert (first.models, second.models) == (("cls",), ("det",))
    with pytest.raises(ValueError, match="without ground truth"):
        ShownFrames.labelled({}, MODELS)


def test_a_split_that_does_not_fit_is_refused(setup: LinkSetup, plan: SharePlan) -> None:
    candidate = SplitCandidate(split_at(plan, "cls:blocks.0"), TransparentCoder(()))
    with pytest.raises(BadSplit):
        score_splits(setup, [candidate], [ShownFrames.unlabelled(FRAMES, MODELS)], silent)
