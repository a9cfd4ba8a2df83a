"""The merged module: original outputs without shares, and each live stage runs exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import Zoo, ZooDeployment
from torch import Tensor, nn

from spaces.errors import BadPlan
from spaces.execution import execution_order
from spaces.liveness import canonical, liveness
from spaces.merged import MergedModel
from spaces.model_facts import layouts_by_model
from spaces.node import Node, Output, tap_nodes
from spaces.plan import IDENTITY, LINEAR, AdapterSpec, Ref, Share, SharePlan

CLASSIFIER, DETECTOR = "timm/tf_efficientnet_lite0", "effdet/tf_efficientdet_lite0"


def share(donor: str, recipient: str, adapter: AdapterSpec = LINEAR) -> Share:
    return Share(Ref.parse(recipient), Ref.parse(donor), adapter)


def merged(deployment: ZooDeployment, *shares: Share) -> MergedModel:
    plan = SharePlan(shares)
    return MergedModel(deployment.models, deployment.facts, plan, deployment.maps(plan))


def originals(deployment: ZooDeployment, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: model(inputs[name]) for name, model in deployment.models.items()}


@torch.no_grad()
def test_without_shares_every_output_is_bitwise_that_of_the_original(
    street: ZooDeployment,
) -> None:
    inputs = street.inputs(batch=2)
    actual, expected = merged(street)(inputs), originals(street, inputs)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


STAGES = ["stem", *(f"blocks.{i}" for i in range(7))]


@pytest.mark.parametrize("stages", [["pool"], ["conv_head"], ["blocks.4"], STAGES])
@torch.no_grad()
def test_two_copies_of_a_classifier_share_without_loss(
    two_copies: Callable[[str], ZooDeployment], stages: list[str]
) -> None:
    _no_loss(two_copies(CLASSIFIER), stages)


@pytest.mark.parametrize("stages", [[f"blocks.{i}" for i in (2, 4, 6)], ["blocks.3"], STAGES])
@torch.no_grad()
def test_two_copies_of_a_detector_share_without_loss(
    two_copies: Callable[[str], ZooDeployment], stages: list[str]
) -> None:
    _no_loss(two_copies(DETECTOR), stages)


def _no_loss(pair: ZooDeployment, stages: list[str]) -> None:
    inputs = dict.fromkeys(pair.models, pair.inputs(batch=2)["left"])
    shares = [share(f"left:{stage}", f"right:{stage}", IDENTITY) for stage in stages]
    actual, expected = merged(pair, *shares)(inputs), originals(pair, inputs)
    assert torch.equal(expected["left"], expected["right"]), "the copies have equal outputs"
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@torch.no_grad()
def test_a_share_changes_the_output_of_the_recipient_only(street: ZooDeployment) -> None:
    inputs = street.inputs()
    actual = merged(street, share("det:blocks.4", "b0:blocks.4"))(inputs)
    expected = originals(street, inputs)
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == ["b0"]


def calls_of(module: MergedModel, inputs: dict[str, Tensor]) -> Counter[str]:
    """Count the runs of each stage, adapter and head in one forward pass of the merged module."""
    counted: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., None]:
        return lambda *_: counted.update([name])

    parts: dict[str, nn.ModuleDict] = {
        "stage": module.stages,
        "adapter": module.adapters,
        "head": module.heads,
    }
    handles = [
        part.register_forward_hook(counting(f"{kind} {name}"))
        for kind, group in parts.items()
        for name, part in group.items()
    ]
    with torch.no_grad():
        module(inputs)
    for handle in handles:
        handle.remove()
    return counted


def test_every_live_module_runs_exactly_once_and_no_other_is_held(street: ZooDeployment) -> None:
    for plan in street.random_plans(12):
        module = merged(street, *plan.shares)
        live = liveness(plan, layouts_by_model(street.facts))
        assert len(module.stages) == len(live.stages)
        assert len(module.adapters) == len(live.shares)
        counted = calls_of(module, street.inputs())
        assert set(counted.values()) == {1}, str(plan)
        assert len(counted) == len(live.stages) + len(live.shares) + len(street.models)


def test_every_value_is_computed_before_its_use_and_freed_after_the_last(
    street: ZooDeployment,
) -> None:
    layouts = layouts_by_model(street.facts)
    for plan in street.random_plans(50):
        computed: set[Node] = set()
        in_memory: set[Node] = set()
        for step in execution_order(
            Output(name, tap_nodes(name, plan, layouts)) for name in layouts
        ):
            assert in_memory.issuperset(step.reads), "a value is read while it is in memory"
            if step.makes:
                assert step.makes not in computed, "no value is computed twice"
                computed.add(step.makes)
                in_memory.add(step.makes)
            assert set(step.frees) <= set(step.reads), "its last reader frees a value"
            in_memory.difference_update(step.frees)
        assert not in_memory, "no value is left"


def test_a_head_runs_before_the_next_model_begins(street: ZooDeployment) -> None:
    layouts = layouts_by_model(street.facts)
    order = execution_order(
        Output(name, tap_nodes(name, SharePlan(), layouts)) for name in layouts
    )
    heads = [place for place, step in enumerate(order) if step.makes is None]
    ends = [sum(len(layouts[n].stages) + 1 for n in list(layouts)[: k + 1]) for k in range(4)]
    assert [order[place].model for place in heads] == list(layouts)
    assert heads == [end - 1 for end in ends]


def test_an_input_is_looked_up_once(street: ZooDeployment) -> None:
    lookups: list[str] = []

    class RecordingInputs(dict[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            lookups.append(name)
            return super().__getitem__(name)

    module = merged(street, share("det:blocks.4", "b0:blocks.4"))
    with torch.no_grad():
        module(RecordingInputs(street.inputs()))
    assert sorted(lookups) == sorted(module.inputs_read) and len(lookups) == 3


def test_no_dead_stage_of_the_original_modules_runs(street: ZooDeployment) -> None:
    ran: list[str] = []

    def noting(stage: str) -> Callable[..., None]:
        return lambda *_: ran.append(stage)

    b0 = street.models["b0"]
    handles = [
        stage.register_forward_hook(noting(name))
        for name, stage in zip(b0.layout.stages, b0.stages, strict=True)
    ]
    with torch.no_grad():
        merged(street, share("det:blocks.4", "b0:blocks.5"))(street.inputs())
    for handle in handles:
        handle.remove()
    assert ran == ["blocks.6", "conv_head", "pool"]


@pytest.mark.parametrize(
    ("shares", "inputs_read"),
    [
        ([], {"b0", "v3", "r50", "det"}),
        ([share("det:blocks.4", "b0:blocks.4")], {"v3", "r50", "det"}),
        ([share("b0:blocks.4", "det:blocks.4")], {"b0", "v3", "r50", "det"}),
        ([share(f"b0:blocks.{i}", f"det:blocks.{i}") for i in (2, 4, 6)], {"b0", "v3", "r50"}),
        ([share("v3:conv_head", f"{m}:pool") for m in ("b0", "r50")], {"v3", "det"}),
    ],
)
@torch.no_grad()
def test_an_input_that_is_not_read_can_be_omitted(
    street: ZooDeployment, shares: list[Share], inputs_read: set[str]
) -> None:
    module = merged(street, *shares)
    assert module.inputs_read == inputs_read
    inputs = {name: tensor for name, tensor in street.inputs().items() if name in inputs_read}
    assert module(inputs).keys() == street.models.keys()


@torch.no_grad()
def test_the_outputs_of_a_frame_do_not_depend_on_its_batch(
    street: ZooDeployment,
) -> None:
    module = merged(street, share("det:blocks.4", "b0:blocks.4"), share("b0:blocks.6", "v3:pool"))
    inputs = street.inputs(batch=2)
    batched = module(inputs)
    for frame in range(2):
        single = module({name: tensor[frame : frame + 1] for name, tensor in inputs.items()})
        for name in ("b0", "v3", "r50"):
            torch.testing.assert_close(batched[name][frame], single[name][0], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_building_and_running_a_merged_module_leaves_the_originals_unchanged(
    street: ZooDeployment,
) -> None:
    before = fingerprint(street)
    for plan in street.random_plans(8):
        merged(street, *plan.shares)(street.inputs())
    assert fingerprint(street) == before


def fingerprint(deployment: ZooDeployment) -> list[Any]:
    return [
        (name, key, tensor.data_ptr(), tensor._version)
        for name, model in deployment.models.items()
        for key, tensor in model.state_dict().items()
    ]


@torch.no_grad()
def test_a_plan_read_from_json_builds_the_same_module(street: ZooDeployment) -> None:
    shares = (share("det:blocks.4", "b0:blocks.4"), share("b0:blocks.6", "v3:blocks.6", IDENTITY))
    shares = (*shares[:1], share("b0:blocks.5", "v3:blocks.5"))
    plan = SharePlan(shares)
    loaded = SharePlan.from_json(plan.to_json())
    inputs = street.inputs()
    one, other = merged(street, *plan.shares)(inputs), merged(street, *loaded.shares)(inputs)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_merged_module_holds_the_canonical_plan(street: ZooDeployment) -> None:
    live, dead = share("det:blocks.6", "b0:blocks.6"), share("det:blocks.4", "b0:blocks.4")
    assert merged(street, live, dead).plan == SharePlan((live,))
    assert canonical(SharePlan((live, dead)), layouts_by_model(street.facts)) == SharePlan((live,))


def test_a_plan_with_a_cycle_is_refused(street: ZooDeployment) -> None:
    with pytest.raises(BadPlan, match="cycle"):
        merged(street, share("det:blocks.4", "b0:blocks.2"), share("b0:blocks.4", "det:blocks.2"))


@pytest.mark.parametrize("name", ["items", "front.door", "front/door", "forward", "Tür 1"])
@torch.no_grad()
def test_a_model_may_have_any_name(zoo: Zoo, name: str) -> None:
    pair = zoo.deployment({n: "timm/mobilenetv2_100" for n in (name, "keys", "front~1door")})
    inputs = pair.inputs()
    actual = merged(pair, share("keys:blocks.4", f"{name}:blocks.4", IDENTITY))(inputs)
    expected = originals(pair, inputs)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[n], expected[n]) for n in expected)
