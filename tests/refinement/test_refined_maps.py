"""Refined maps: what is trained, what it is trained for, and where the maps are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bundles import model_specs, write_plan_bundle
from hypothesis import given
from hypothesis import strategies as st
from tiny import STREET, Weights, shares_in

from search.data.frames import RenderedScenes, split_frames
from search.refinement import refined_maps
from search.refinement.loss import TapLoss
from search.refinement.recorded import bytes_per_frame, record_representations
from search.refinement.refined_maps import maps_of, refinement_steps
from search.refinement.training import train_maps
from search.refinement.views import FRAME_VIEWS, views_of
from search.statistics.observed import FramePart, Observed
from search.utils.progress import silent
from spaces.bundle import load_bundle
from spaces.liveness import canonical
from spaces.merged import MergedModel, prepare_inputs
from spaces.model_facts import layouts_by_model
from spaces.plan import HEAD, IDENTITY, AdapterSpec, Ref, Share, SharePlan
from spaces.plan_set import PlanSet
from spaces.trainable_maps import TrainableMaps

TAP = Ref("m", "s")


def refinable_plans(observed: Observed) -> list[SharePlan]:
    """Return refined plans with one share, with two in a chain, and with a map of low rank."""
    layouts = layouts_by_model(observed.deployment.facts)
    shares = shares_in(observed)
    low_rank = shares_in(observed, AdapterSpec("linear", 3))
    chain = next(
        (one, other)
        for one in shares
        for other in shares
        if other.donor == one.recipient and is_behind(other.recipient, one.donor, observed)
    )
    chosen = [(shares[0],), (shares[len(shares) // 2],), (shares[-1],), chain, (low_rank[-1],)]
    return [canonical(SharePlan(plan, refined=True), layouts) for plan in chosen]


def is_behind(ref: Ref, other: Ref, observed: Observed) -> bool:
    stages = layouts_by_model(observed.deployment.facts)[ref.model].stages
    return ref.model == other.model and stages.index(ref.stage) > stages.index(other.stage)


def closed_form_of(observed: Observed, plan: SharePlan) -> TrainableMaps:
    deployment = observed.deployment
    maps = observed.maps_for([plan.in_closed_form()])
    return TrainableMaps(deployment.fused_models, deployment.facts, plan, maps)


def frame_inputs(observed: Observed, count: int) -> dict[str, torch.Tensor]:
    scenes = RenderedScenes(STREET, count)
    return prepare_inputs(observed.deployment.models, [scenes[k] for k in range(count)])


@pytest.mark.parametrize("which", ["pair", "mixed"])
@torch.no_grad()
def test_trainable_maps_lead_to_the_answers_of_the_merged_model(
    which: str, request: pytest.FixtureRequest
) -> None:
    observed: Observed = request.getfixturevalue(which)
    deployment, inputs = observed.deployment, frame_inputs(observed, 2)
    unmerged = {
        Ref(name, stage): values
        for name, model in deployment.fused_models.items()
        for stage, values in model.walk(inputs[name])
    }
    for plan in refinable_plans(observed):
        closed = plan.in_closed_form()
        merged = MergedModel(
            deployment.fused_models, deployment.facts, closed, observed.maps_for([closed])
        )
        answers = merged.answers(inputs, lambda head, taps: (head, taps))
        reached = closed_form_of(observed, plan)(unmerged)
        assert reached
        for name, (head, taps) in answers.items():
            model = deployment.fused_models[name]
            own = [Ref(name, tap) for tap in model.layout.taps]
            torch.testing.assert_close(
                model.comparable([reached.get(ref, unmerged[ref]) for ref in own]),
                model.comparable(taps, head),
                rtol=1e-3,
                atol=1e-5,
            )


@pytest.mark.parametrize("which", ["pair", "mixed"])
def test_training_brings_the_taps_closer_and_changes_nothing_but_the_maps(
    which: str, request: pytest.FixtureRequest
) -> None:
    observed: Observed = request.getfixturevalue(which)
    models, facts = observed.deployment.fused_models, observed.deployment.facts
    before = {name: [*model.state_dict().values()] for name, model in models.items()}
    frames, _ = split_frames(observed.frames, len(observed.held_out))
    plan = refinable_plans(observed)[1]
    trainable = closed_form_of(observed, plan)
    recorded = record_representations(
        models, dict.fromkeys(trainable.reads, len(frames)), frames, silent
    )
    read = {ref: values.float() for ref, values in recorded.items()}
    loss = TapLoss.of({ref: read[ref] for ref in trainable.taps})
    start = loss(trainable(read), read)
    maps = train_maps(trainable, recorded, silent)
    assert loss(trainable(read), read) < start
    assert {*maps} == {*plan.mapped_shares}
    own = observed.maps_for([plan.in_closed_form()])
    assert all(not torch.equal(maps[share].weight, own[share].weight) for share in maps)
    for name, model in models.items():
        assert all(map(torch.equal, model.state_dict().values(), before[name]))
    assert {ref: values.shape[0] for ref, values in recorded.items()} == dict.fromkeys(
        trainable.reads, len(frames) * FRAME_VIEWS
    )
    sizes = sum(v.numel() * v.element_size() for v in recorded.values())
    assert sizes == len(frames) * bytes_per_frame(facts, trainable.reads)


def test_refined_maps_are_those_of_the_plan_and_not_of_its_shares(pair: Observed) -> None:
    """Two refined plans with a share in common, and the plan in closed form, each have a map."""
    plans = refinable_plans(pair)
    chain = plans[3]
    alone = canonical(
        SharePlan((chain.shares[0],), refined=True), layouts_by_model(pair.deployment.facts)
    )
    compared = [chain, alone, alone.in_closed_form()]
    maps = maps_of(pair, compared)
    share = alone.shares[0]
    keys = [replace(share, refined_in=plan.hash) for plan in (chain, alone)]
    weights = [maps[key].weight for key in (*keys, share) if key in maps]
    assert len(weights) == 3
    assert not any(torch.equal(a, b) for k, a in enumerate(weights) for b in weights[:k])


@torch.no_grad()
def test_a_plan_set_answers_refined_plans_as_their_bundles_do(
    mixed: Observed, weights: Weights, tmp_path: Path
) -> None:
    refined = refinable_plans(mixed)[1]
    heads = {Ref(name, HEAD): "int8" for name in mixed.deployment.models}
    plans = [refined, refined.in_closed_form(), refined.with_precisions(heads)]  # type: ignore[arg-type]
    maps, inputs = maps_of(mixed, plans), frame_inputs(mixed, 2)
    joint = PlanSet(mixed.deployment.models, mixed.deployment.facts, plans, maps)
    answers = dict(joint.comparables(inputs))
    (recipient,) = {share.recipient.model for share in refined.shares}
    assert len({outputs[recipient] for outputs in joint.outputs}) == len(plans)
    for number, (plan, outputs) in enumerate(zip(plans, joint.outputs, strict=True)):
        folder = tmp_path / str(number)
        write_plan_bundle(mixed, plan, model_specs(weights), folder, maps=maps)
        bundle = load_bundle(folder)
        taps_read = bundle.merged.answers(inputs, lambda head, taps: (head, taps))
        for name, (head, taps) in taps_read.items():
            expected = mixed.deployment.models[name].comparable(taps, head)
            torch.testing.assert_close(answers[outputs[name]], expected, rtol=1e-3, atol=1e-5)


def test_maps_are_trained_once(
    pair: Observed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = FramePart(pair.held_out, lambda: pair.statistics, tmp_path / "notes")
    observed, plans = replace(pair, parts=(part,)), refinable_plans(pair)[:2]
    steps: list[int] = []
    first = maps_of(observed, plans, steps.append)
    assert sum(steps) == refinement_steps(observed, plans) > 0
    monkeypatch.setattr(refined_maps, "train_maps", None)
    again = maps_of(observed, plans)
    assert {*again} == {*first}
    assert all(torch.equal(again[share].weight, first[share].weight) for share in first)
    assert all(torch.equal(again[share].bias, first[share].bias) for share in first)


@pytest.mark.parametrize("content", [b"", b"not safetensors"])
def test_a_damaged_file_of_maps_is_written_anew(
    pair: Observed, tmp_path: Path, content: bytes
) -> None:
    part = FramePart(pair.held_out, lambda: pair.statistics, tmp_path / "notes")
    observed, plans = replace(pair, parts=(part,)), refinable_plans(pair)[:1]
    first = maps_of(observed, plans)
    (file,) = tmp_path.rglob("maps-*.safetensors")
    file.write_bytes(content)
    again = maps_of(observed, plans)
    assert file.stat().st_size > len(content)
    for share in first:
        torch.testing.assert_close(again[share].weight, first[share].weight)


# Plans.


def refined_text(plan: SharePlan) -> str:
    return str(SharePlan.from_json(plan.to_json()))


def test_a_refined_plan_survives_json_and_has_its_own_hash() -> None:
    plan = SharePlan((Share.between("a:s1", "b:s1"),))
    refined = replace(plan, refined=True)
    assert SharePlan.from_json(refined.to_json()) == refined != plan
    assert refined.to_dict()["version"] == 3
    assert refined.hash != plan.hash == refined.in_closed_form().hash
    assert refined_text(refined) == "a:s1 -> b:s1 (linear); maps refined"
    own = refined.with_own_maps()
    assert own.hash == refined.hash and {s.refined_in for s in own.shares} == {refined.hash}
    assert plan.with_own_maps() == plan


def test_there_is_no_refined_plan_without_a_linear_map(pair: Observed) -> None:
    layouts = layouts_by_model(pair.deployment.facts)
    identity = shares_in(pair, IDENTITY)[:1]
    for shares in ((), identity):
        plan: Sequence[Share] = shares
        assert not canonical(SharePlan(tuple(plan), refined=True), layouts).refined


# The loss.


def taps(seed: int) -> torch.Tensor:
    return torch.randn((6, 5, 3, 3), generator=torch.Generator().manual_seed(seed)) + 2


def test_the_loss_is_zero_for_equal_taps_and_nothing_else() -> None:
    unmerged, other = {TAP: taps(0)}, {TAP: taps(1)}
    loss = TapLoss.of(unmerged)
    assert loss(unmerged, unmerged).abs() < 1e-6
    assert loss(other, unmerged) > 0.1


@given(shrunk=st.floats(0.2, 0.9))
def test_taps_that_vary_less_are_no_better(shrunk: float) -> None:
    """A squared error would prefer them, because they are nearer where they are wrong."""
    unmerged = taps(0)
    noisy = unmerged + taps(1) - 2
    loss = TapLoss.of({TAP: unmerged})
    mean = unmerged.movedim(1, 0).flatten(1).mean(1).view(1, -1, 1, 1)
    noisy = mean + (noisy - mean) * unmerged.std() / noisy.std()
    less = mean + shrunk * (noisy - mean)
    assert loss({TAP: less}, {TAP: unmerged}) > loss({TAP: noisy}, {TAP: unmerged})


def test_views_of_a_frame_are_its_mirror_image_and_parts_and_depend_on_the_seed_only() -> None:
    frame = RenderedScenes(STREET, 1)[0]
    views = views_of(frame, seed=3)
    assert len(views) == FRAME_VIEWS
    assert (views[0] == frame).all() and (views[1] == frame[:, ::-1]).all()
    for view in views[2:]:
        assert 0.45 < view.shape[0] * view.shape[1] / (frame.shape[0] * frame.shape[1]) <= 1
    again = views_of(frame, seed=3)
    assert all((one == other).all() for one, other in zip(views, again, strict=True))
    assert views_of(frame, seed=4)[2].shape != views[2].shape
