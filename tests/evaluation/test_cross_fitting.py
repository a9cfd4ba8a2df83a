"""Every new frame is answered by maps that were fitted without it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import CLASSIFIER, Weights, load_tiny

from search.data.frames import FrameSet, JoinedFrames, RenderedScenes, Subset
from search.data.synthetic.scenes import SceneSettings
from search.evaluation.cross_fitting import (
    FRAME_FOLDS,
    CrossFitting,
    FittedPart,
    Piece,
    collect_pieces,
    mapped_pairs,
)
from search.evaluation.evaluate import EvaluationSetup, collect_answers
from search.statistics.left_out import RowOwners, folds_of, moments_of_pairs, moments_without
from search.statistics.rows import FOLDS as ROW_FOLDS
from search.statistics.second_moments import SecondMoments
from search.statistics.similarity import Statistics
from search.statistics.streaming import Moments, PassSettings, accumulate_moments
from search.utils.progress import silent
from spaces.deployment import Deployment
from spaces.model_facts import collect_facts
from spaces.plan import LINEAR, SharePlan
from spaces.shares import find_pairs

BASE, NEW = (RenderedScenes(SceneSettings(seed=seed), count) for seed, count in ((3, 40), (4, 26)))
SETTINGS = PassSettings(batch=8, positions=6)


@pytest.fixture(scope="module")
def deployment(weights: Weights) -> Deployment:
    models = load_tiny(weights, {"a": (CLASSIFIER, 1), "b": (CLASSIFIER, 2)})
    facts = collect_facts(models)
    return Deployment(models, facts, find_pairs(facts))


@pytest.fixture(scope="module")
def plan(deployment: Deployment) -> SharePlan:
    share = deployment.shares((LINEAR,))[-1]
    return SharePlan((share,))


def measured(deployment: Deployment, frames: FrameSet) -> Moments:
    return accumulate_moments(
        deployment.fused_models, deployment.facts, deployment.pairs.legal, frames, SETTINGS
    )


@pytest.fixture(scope="module")
def parts(deployment: Deployment, plan: SharePlan) -> list[FittedPart]:
    """The frames that a search has, of which the second part is new but for its first two."""
    pairs = mapped_pairs(plan)
    base, new = (moments_of_pairs(measured(deployment, f), pairs) for f in (BASE, NEW))
    indices = [None, None, *range(len(NEW) - 2)]
    return [FittedPart(base, len(BASE)), FittedPart(new, len(NEW), indices)]


@given(st.integers(0, 99), st.integers(1, 9))
def test_folds_hold_every_frame_once(frames: int, count: int) -> None:
    folds = folds_of(frames, count)
    assert [index for fold in folds for index in fold] == list(range(frames))
    sizes = [len(fold) for fold in folds]
    assert len(folds) == min(frames, count) and max(sizes, default=0) - min(sizes, default=0) <= 1


def test_the_rows_of_all_folds_are_those_of_all_frames(
    deployment: Deployment, parts: list[FittedPart]
) -> None:
    new = parts[1].moments
    folds = folds_of(len(NEW), FRAME_FOLDS)
    for grid, rows in new.grids.items():
        of_folds = []
        for fold in folds:
            others = [k for k in range(len(NEW)) if k not in fold]
            of_folds.append(moments_without(new, others, SETTINGS, len(NEW)).grids[grid])
        for ref, coded in rows.coded.items():
            alone = [SecondMoments(own, ROW_FOLDS) for own in of_folds]
            assert sum(own.count for own in alone) == len(coded.codes)
            total = sum(own.mean(ref) * own.weight for own in alone)
            together = SecondMoments(rows, ROW_FOLDS)
            torch.testing.assert_close(total, together.mean(ref) * together.weight)


def test_a_row_belongs_to_the_frame_that_it_was_sampled_from(
    deployment: Deployment, parts: list[FittedPart]
) -> None:
    """Replacing a frame changes the rows of this frame alone."""
    replaced = 21
    frames = JoinedFrames(
        (first_frames(NEW, replaced), first_frames(BASE, 1), after(NEW, replaced))
    )
    other = measured(deployment, frames)
    kept, kept_other = (
        moments_without(moments, [replaced], SETTINGS, len(NEW))
        for moments in (parts[1].moments, other)
    )
    for grid, rows in kept.grids.items():
        ours, theirs = (SecondMoments(m.grids[grid], ROW_FOLDS) for m in (kept, kept_other))
        for ref in rows.coded:
            torch.testing.assert_close(ours.mean(ref), theirs.mean(ref), rtol=1e-4, atol=1e-5)
            assert ours.variance(ref) == pytest.approx(theirs.variance(ref), rel=1e-3)


def first_frames(frames: FrameSet, count: int) -> Subset:
    return Subset(frames, tuple(range(count)))


def after(frames: FrameSet, index: int) -> Subset:
    return Subset(frames, tuple(range(index + 1, len(frames))))


def test_maps_of_a_fold_are_those_fitted_on_the_other_frames_alone(
    deployment: Deployment, plan: SharePlan, parts: list[FittedPart]
) -> None:
    """The slow twin writes out every row and drops those of the fold."""
    fold = folds_of(len(NEW), FRAME_FOLDS)[1]
    fitting = CrossFitting(deployment, plan, parts, SETTINGS)
    (share,) = plan.mapped_shares
    ours = fitting.maps_without([[], fold])[share]
    whole = Statistics(fitting_total(parts), deployment.facts).linear_map(share)
    assert not torch.equal(ours.weight, whole.weight)
    (grid,) = parts[1].moments.grids
    donor: list[torch.Tensor] = []
    recipient: list[torch.Tensor] = []
    for part, dropped in zip(parts, ([], fold), strict=True):
        rows = part.moments.grids[grid]
        keep = []
        for block in rows.blocks:
            frames = torch.cat(RowOwners(SETTINGS, part.frames).of(block, grid))
            keep += [int(frame) not in dropped for frame in frames]
        for ref, values in ((share.donor, donor), (share.recipient, recipient)):
            coded = rows.coded[ref]
            sizes = torch.tensor([block.rows for block in rows.blocks])
            full = coded.codes * coded.scales.repeat_interleave(sizes, 0)
            full = full + coded.centres.repeat_interleave(sizes, 0)
            values.append(full[torch.tensor(keep)].double())
    x, y = torch.cat(donor), torch.cat(recipient)
    predicted = x @ ours.weight.double().T + ours.bias.double()
    # least squares with stretched channels: the predictions have the mean and variance of y
    torch.testing.assert_close(predicted.mean(0), y.mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(predicted.var(0), y.var(0), rtol=1e-2, atol=1e-3)


def fitting_total(parts: list[FittedPart]) -> Moments:
    (rows,) = parts[0].moments.grids.values()
    total = moments_of_pairs(parts[0].moments, rows.pairs)
    total.merge(parts[1].moments)
    return total


def test_pieces_answer_each_fitted_frame_once_by_maps_that_never_saw_it(
    deployment: Deployment, plan: SharePlan, parts: list[FittedPart]
) -> None:
    frames = Subset(NEW, tuple(range(2, len(NEW))))
    fitting = CrossFitting(deployment, plan, parts, SETTINGS)
    setup = EvaluationSetup(deployment.deployed_models, deployment.facts, {}, 8)
    pieces = list(fitting.pieces())
    assert len(pieces) == FRAME_FOLDS
    assert fitting.fitted_indices == frozenset(range(len(frames)))
    collected = collect_pieces(pieces, setup, frames, silent)
    folds = folds_of(len(NEW), FRAME_FOLDS)
    for output, answers in collected.answers.items():
        assert len(answers) == len(frames)
        for fold in folds:
            places = [place - 2 for place in fold if place >= 2]
            own = collect_answers(
                fitting.answers_without([[], fold]), setup, Subset(frames, tuple(places)), silent
            )
            (expected,) = (a for key, a in own.answers.items() if key.model == output.model)
            np.testing.assert_array_equal(answers[places], expected)


def test_pieces_that_leave_a_frame_out_are_refused(
    deployment: Deployment, plan: SharePlan, parts: list[FittedPart]
) -> None:
    fitting = CrossFitting(deployment, plan, parts, SETTINGS)
    setup = EvaluationSetup(deployment.deployed_models, deployment.facts, {}, 8)
    pieces = [Piece([0, 1], fitting.answers_without([[], []]))]
    with pytest.raises(ValueError, match="every frame once"):
        collect_pieces(pieces, setup, NEW, silent)
