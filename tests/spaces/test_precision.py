"""Weights in fewer bytes: rounding, plans that mix precisions, and their bundles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import torch
from bundles import facts_at_any_precision, model_specs, write_plan_bundle
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tiny import STREET, Weights, shares_in
from torch import nn

from search.data.frames import RenderedScenes
from search.statistics.observed import Observed
from spaces.batchnorm_fusion import fuse_batchnorms
from spaces.bundle import Bundle, load_bundle
from spaces.bundle_files import BadBundle
from spaces.cost import CostModel
from spaces.errors import BadPlan
from spaces.liveness import canonical, liveness
from spaces.map_folding import find_fold_targets
from spaces.merged import MergedModel, prepare_inputs
from spaces.model_facts import ModelFacts, layouts_by_model
from spaces.model_spec import ModelSpec
from spaces.plan import (
    HEAD,
    IDENTITY,
    LINEAR,
    PRECISIONS,
    AdapterSpec,
    Precision,
    Ref,
    Share,
    SharePlan,
)
from spaces.plan_set import PlanSet
from spaces.precision import LARGEST_INTEGER, round_weights, stored_bytes, to_stored
from spaces.stages import total_bytes, unique_tensors
from spaces.stored_modules import rounded_copy, stored_copy

SHAPES = st.sampled_from([(1, 1), (3, 5), (4, 2, 3, 3), (6, 1, 5, 5)])


@pytest.fixture(scope="session")
def specs(weights: Weights) -> dict[str, ModelSpec]:
    return model_specs(weights)


def random_weight(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return weights whose channels differ in size by orders of magnitude; the first is zero."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    weight *= torch.logspace(-6, 3, shape[0]).view(-1, *(1 for _ in shape[1:]))
    weight[0] = 0.0
    return weight


@given(shape=SHAPES, seed=st.integers(0, 99))
def test_an_integer_weight_is_off_by_at_most_half_a_step(
    shape: tuple[int, ...], seed: int
) -> None:
    weight = random_weight(shape, seed)
    values, scale = stored = to_stored(weight, "int8", "w")
    assert scale is not None and scale.shape == (shape[0], *(1 for _ in shape[1:]))
    assert values.dtype == torch.int8 and values.abs().max() <= LARGEST_INTEGER
    assert ((stored.widen() - weight).abs() <= scale * 0.5001).all()
    largest = weight.flatten(1).abs().max(1).values
    torch.testing.assert_close(stored.widen().flatten(1).abs().max(1).values, largest)


@given(shape=SHAPES, seed=st.integers(0, 99), precision=st.sampled_from(PRECISIONS))
def test_rounding_a_rounded_weight_changes_nothing(
    shape: tuple[int, ...], seed: int, precision: Precision
) -> None:
    rounded = to_stored(random_weight(shape, seed), precision, "w").widen()
    again = to_stored(rounded, precision, "w").widen()
    torch.testing.assert_close(again, rounded, rtol=1e-6, atol=0)


@given(shape=SHAPES, seed=st.integers(0, 99), factor=st.floats(0.01, 100))
def test_integers_do_not_depend_on_the_size_or_sign_of_a_channel(
    shape: tuple[int, ...], seed: int, factor: float
) -> None:
    """So it makes no difference whether a BatchNorm is fused before or after rounding."""
    weight = random_weight(shape, seed)
    signs = torch.tensor([(-1.0) ** k for k in range(shape[0])]).view(-1, *(1 for _ in shape[1:]))
    values = to_stored(weight, "int8", "w").values.int()
    scaled = to_stored(weight * factor * signs, "int8", "w").values.int()
    assert (scaled - values * signs.int()).abs().max() <= 1  # a tie may fall to either side


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (16, 4), (16,)])
def test_stored_bytes_are_those_of_the_tensors(
    precision: Precision, shape: tuple[int, ...]
) -> None:
    values, scale = to_stored(torch.randn(shape), precision, "w")
    tensors = [values] if scale is None else [values, scale]
    assert total_bytes(tensors) == stored_bytes(shape, precision)


def test_biases_and_normalisation_stay_in_float32_beside_integers() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    bias, norm = module[0].bias, {k: v.clone() for k, v in module[1].state_dict().items()}
    assert isinstance(bias, torch.Tensor)
    before = bias.clone()
    round_weights(module, "int8", "m")
    assert torch.equal(bias, before)
    assert all(torch.equal(value, norm[key]) for key, value in module[1].state_dict().items())


# Plans.


INT8 = SharePlan(precisions=((Ref("a", "s1"), "int8"), (Ref("b", HEAD), "float16")))


def test_a_plan_with_precisions_survives_json_and_has_its_own_hash() -> None:
    assert SharePlan.from_json(INT8.to_json()) == INT8
    assert INT8.hash != SharePlan().hash
    assert SharePlan((), INT8.precisions[::-1]).hash == INT8.hash
    assert str(INT8) == "nothing shared; float16: b:(head); int8: a:s1"


def test_a_plan_without_precisions_is_written_as_it_always_was() -> None:
    assert SharePlan().to_json() == '{"shares":[],"version":1}'
    assert INT8.with_precisions({}) == SharePlan()


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ({"a:s1": "int4"}, "precision of a:s1: 'int4' is none of float32, float16"),
        ({"s1": "int8"}, "'s1' is not a representation; write it as model:stage"),
        (["a:s1"], '"precision" is a mapping'),
    ],
)
def test_a_bad_precision_is_refused(precision: object, message: str) -> None:
    with pytest.raises(BadPlan) as refusal:
        SharePlan.from_dict({"version": 2, "shares": [], "precision": precision})
    assert message in str(refusal.value)


def test_precisions_in_a_plan_of_the_first_version_are_refused() -> None:
    with pytest.raises(BadPlan, match="in a plan of version 2"):
        SharePlan.from_dict({"version": 1, "shares": [], "precision": {"a:s1": "int8"}})


def test_weights_have_one_precision() -> None:
    with pytest.raises(BadPlan, match="a:s1 has more than one precision"):
        SharePlan(precisions=((Ref("a", "s1"), "int8"), (Ref("a", "s1"), "float16")))


def test_the_canonical_plan_names_no_weights_that_are_gone(mixed: Observed) -> None:
    layouts = layouts_by_model(mixed.deployment.facts)
    stages = layouts["cls"].stages
    share = next(s for s in shares_in(mixed) if s.recipient == Ref("cls", stages[3]))
    plan = SharePlan((share,)).with_precisions(
        dict.fromkeys([Ref("cls", stage) for stage in (*stages, HEAD)], "int8")
    )
    by_map_and_after = dict.fromkeys([Ref("cls", s) for s in (*stages[3:], HEAD)], "int8")
    assert canonical(plan, layouts).precision_by_owner == by_map_and_after


def test_a_precision_of_an_unknown_stage_is_refused(mixed: Observed) -> None:
    plan = SharePlan(precisions=((Ref("cls", "nowhere"), "int8"),))
    with pytest.raises(BadPlan, match="cls has no stage 'nowhere'"):
        canonical(plan, layouts_by_model(mixed.deployment.facts))


def test_a_precision_that_the_config_does_not_list_is_refused(mixed: Observed) -> None:
    plan = SharePlan(precisions=((Ref("cls", HEAD), "int8"),))
    with pytest.raises(BadPlan, match=r"cls: int8 is not one of the precisions float32 of"):
        CostModel(mixed.deployment.facts).bytes(plan)


# Merged models.


def all_facts(observed: Observed) -> dict[str, ModelFacts]:
    return facts_at_any_precision(observed.deployment.models)


def plans_of_mixed_precision(observed: Observed) -> list[SharePlan]:
    """Return plans with shares of every adapter, the weights of each in random precisions."""
    rng, facts = Random(5), all_facts(observed)
    layouts = layouts_by_model(facts)
    shares = shares_in(observed, LINEAR, IDENTITY, AdapterSpec("linear", 3))
    plans = [SharePlan(), *(SharePlan((share,)) for share in shares[:: len(shares) // 7])]
    plans += [SharePlan(chain) for chain in chains(shares)]
    owners = [Ref(n, s) for n, layout in layouts.items() for s in (*layout.stages, HEAD)]
    mixed_plans = [
        canonical(plan.with_precisions({o: rng.choice(PRECISIONS) for o in owners}), layouts)
        for plan in plans
    ]
    in_int8 = [canonical(p.with_precisions(dict.fromkeys(owners, "int8")), layouts) for p in plans]
    return [*mixed_plans, *in_int8]


def chains(shares: Sequence[Share]) -> list[tuple[Share, Share]]:
    """Return two pairs of shares of which one donates what the other gives: its map stays."""
    pairs = [
        (one, other)
        for one in shares[::5]
        for other in shares[::7]
        if other.donor == one.recipient and other.recipient.stage > one.recipient.stage
    ]
    return pairs[:2]


@dataclass(frozen=True)
class WrittenPlan:
    """A merged model, the file of its bundle, the bytes that were written, and the bundle."""

    merged: MergedModel
    file: Path
    written: int
    bundle: Bundle


@dataclass(frozen=True)
class WrittenPlans:
    """A deployment with the bundles of its plans."""

    observed: Observed
    plans: Mapping[SharePlan, WrittenPlan]


@pytest.fixture(scope="module", params=["pair", "mixed"])
def bundles(
    request: pytest.FixtureRequest,
    specs: dict[str, ModelSpec],
    tmp_path_factory: pytest.TempPathFactory,
) -> WrittenPlans:
    """Return plans of mixed precision, each written and loaded."""
    observed: Observed = request.getfixturevalue(request.param)
    base, plans = tmp_path_factory.mktemp("bundles"), {}
    for number, plan in enumerate(plans_of_mixed_precision(observed)):
        folder = base / str(number)
        merged, _, written = write_plan_bundle(observed, plan, specs, folder)
        file = folder / "weights.safetensors"
        plans[plan] = WrittenPlan(merged, file, written, load_bundle(folder))
    return WrittenPlans(observed, plans)


def test_predicted_bytes_equal_written_and_resident_bytes_at_any_precision(
    bundles: WrittenPlans,
) -> None:
    costs = CostModel(all_facts(bundles.observed))
    for plan, one in bundles.plans.items():
        with safe_open(one.file, "pt") as file:
            in_file = sum(total_bytes([file.get_tensor(name)]) for name in file.keys())
        assert costs.bytes(plan) == one.written == in_file, plan
        assert one.written == total_bytes(unique_tensors(one.bundle)), plan


@torch.no_grad()
def test_a_loaded_bundle_answers_as_the_merged_model_with_rounded_weights(
    bundles: WrittenPlans,
) -> None:
    frames = [RenderedScenes(STREET, 4)[k] for k in range(2)]
    inputs = prepare_inputs(bundles.observed.deployment.models, frames)
    for plan, one in bundles.plans.items():
        expected = rounded_copy(one.merged, "float32").answers(inputs, dense)
        for answers in (one.bundle.merged, stored_copy(one.merged)):
            actual = answers.answers(inputs, dense)
            for name in expected:
                torch.testing.assert_close(
                    actual[name], expected[name], rtol=1e-4, atol=1e-6, msg=f"{plan}"
                )


def dense(head: nn.Module, taps: list[torch.Tensor]) -> torch.Tensor:
    """Return answers that change continuously, as those before non-maximum suppression do."""
    return head.probabilities(taps) if hasattr(head, "probabilities") else head(taps)  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("which", ["pair", "mixed"])
@torch.no_grad()
def test_a_plan_set_answers_as_the_bundles_do(
    which: str, fused: bool, request: pytest.FixtureRequest
) -> None:
    """Maps are folded before the layers that take them in are rounded, in both."""
    observed: Observed = request.getfixturevalue(which)
    originals, facts = observed.deployment.models, all_facts(observed)
    models = {n: fuse_batchnorms(m) for n, m in originals.items()} if fused else originals
    plans = plans_of_mixed_precision(observed)
    maps = observed.maps_for(plans)
    inputs = prepare_inputs(originals, [RenderedScenes(STREET, 4)[k] for k in range(2)])
    joint = PlanSet(models, facts, plans, maps)
    answers = dict(joint.comparables(inputs))
    folded = 0
    for plan, outputs in zip(joint.plans, joint.outputs, strict=True):
        merged = rounded_copy(MergedModel(originals, facts, plan, maps), "float32")
        taps_read = merged.answers(inputs, lambda head, taps: (head, taps))
        live = liveness(plan, layouts_by_model(facts))
        folded += any(not find_fold_targets(s, live, facts).refusal for s in plan.shares)
        for name, (head, taps) in taps_read.items():
            expected = originals[name].comparable(taps, head)
            torch.testing.assert_close(answers[outputs[name]], expected, rtol=1e-3, atol=1e-5)
    assert folded > 3


@torch.no_grad()
def test_plans_with_one_precision_share_the_work_before_it(mixed: Observed) -> None:
    facts, models = all_facts(mixed), mixed.deployment.models
    last = facts["cls"].layout.stages[-1]
    plan = SharePlan(precisions=((Ref("cls", last), "int8"),))
    outputs = PlanSet(models, facts, [SharePlan(), plan], {}).outputs
    plain, rounded = (by_model["cls"].taps[0] for by_model in outputs)
    assert rounded != plain and rounded.source == plain.source
    assert outputs[0]["det"] == outputs[1]["det"]


def test_a_bundle_without_its_scales_is_refused(
    mixed: Observed, specs: dict[str, ModelSpec], tmp_path: Path
) -> None:
    plan = SharePlan(precisions=((Ref("cls", HEAD), "int8"),))
    write_plan_bundle(mixed, plan, specs, tmp_path / "bundle")
    file = tmp_path / "bundle" / "plan.json"
    assert json.loads(file.read_text())["precision"] == {"cls:(head)": "int8"}
    bundle = tmp_path / "bundle" / "bundle.json"
    data = json.loads(bundle.read_text())
    file.write_text(SharePlan().to_json())
    bundle.write_text(json.dumps(data | {"plan": SharePlan().hash}))
    with pytest.raises(BadBundle, match="unexpected tensors"):
        load_bundle(tmp_path / "bundle")
