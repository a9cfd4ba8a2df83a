"""Many plans in one pass: the outputs of each plan, each distinct representation computed once."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from networks import ZooDeployment, raw_maps, relative_error
from torch import Tensor

from spaces.liveness import canonical
from spaces.merged import MergedModel
from spaces.model_facts import layouts_by_model
from spaces.node import tap_nodes, upstream_nodes
from spaces.plan import IDENTITY, LINEAR, AdapterSpec, Ref, Share, SharePlan
from spaces.plan_set import PlanSet


def share(donor: str, recipient: str, adapter: AdapterSpec = LINEAR) -> Share:
    return Share(Ref.parse(recipient), Ref.parse(donor), adapter)


def plan_set(deployment: ZooDeployment, *plans: SharePlan) -> PlanSet:
    return PlanSet(deployment.models, deployment.facts, plans, deployment.maps(*plans))


PLANS = (
    SharePlan(),
    SharePlan((share("det:blocks.4", "b0:blocks.4"),)),
    SharePlan((share("det:blocks.4", "b0:blocks.4", IDENTITY),)),
    SharePlan((share("det:blocks.4", "b0:blocks.4"), share("det:blocks.6", "v3:blocks.6"))),
    SharePlan((share("b0:blocks.4", "det:blocks.4"), share("b0:blocks.2", "det:blocks.2"))),
    SharePlan((share("r50:pool", "b0:pool"), share("r50:pool", "v3:conv_head"))),
)


@contextmanager
def stage_hooks(deployment: ZooDeployment, hook: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `hook(model:stage, output)` whenever a stage of the original models runs."""

    def hooked(name: str) -> Callable[..., None]:
        return lambda _module, _args, output: hook(name, output)

    handles = [
        stage.register_forward_hook(hooked(f"{name}:{stage_name}"))
        for name, model in deployment.models.items()
        for stage_name, stage in zip(model.layout.stages, model.stages, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_against_merged(deployment: ZooDeployment, plans: tuple[SharePlan, ...]) -> None:
    inputs = deployment.inputs()
    with raw_maps(deployment.models):
        joint = plan_set(deployment, *plans)
        answers = dict(joint.answers(inputs))
        for plan, outputs in zip(plans, joint.outputs, strict=True):
            module = MergedModel(deployment.models, deployment.facts, plan, deployment.maps(plan))
            for name, answer in module(inputs).items():
                assert relative_error(answers[outputs[name]], answer) < 1e-3, f"{name}: {plan}"


@torch.no_grad()
def test_the_outputs_of_the_example_plans_are_those_of_the_merged_modules(
    street: ZooDeployment,
) -> None:
    check_against_merged(street, PLANS)


@torch.no_grad()
def test_the_outputs_of_random_plans_are_those_of_the_merged_modules(
    street: ZooDeployment,
) -> None:
    check_against_merged(street, tuple(street.random_plans(12)))


@torch.no_grad()
def test_the_outputs_of_the_empty_plan_are_bitwise_the_originals(street: ZooDeployment) -> None:
    inputs = street.inputs()
    joint = plan_set(street, *PLANS)
    answers = dict(joint.answers(inputs))
    for name, model in street.models.items():
        assert torch.equal(answers[joint.outputs[0][name]], model(inputs[name]))


def test_equivalent_plans_have_the_same_outputs(street: ZooDeployment) -> None:
    live, dead = share("det:blocks.6", "b0:blocks.6"), share("det:blocks.4", "b0:blocks.4")
    one, other = plan_set(street, SharePlan((live,)), SharePlan((live, dead))).outputs
    assert one == other


def test_an_output_that_no_share_affects_is_computed_once(street: ZooDeployment) -> None:
    joint = plan_set(street, *PLANS)
    for name, count in {"r50": 1, "det": 2, "v3": 3, "b0": 4}.items():
        assert len({outputs[name] for outputs in joint.outputs}) == count
    assert len(joint.distinct) == 1 + 2 + 3 + 4


def distinct_runs(deployment: ZooDeployment, plans: tuple[SharePlan, ...]) -> Counter[str]:
    """Return how often each stage must run: once for each distinct node."""
    layouts = layouts_by_model(deployment.facts)
    nodes = {
        node
        for plan in plans
        for name in deployment.models
        for node in upstream_nodes(tap_nodes(name, canonical(plan, layouts), layouts))
    }
    return Counter(str(node.ref) for node in nodes if node.share is None)


def test_each_distinct_representation_is_computed_once(street: ZooDeployment) -> None:
    ran: Counter[str] = Counter()
    with stage_hooks(street, lambda name, _: ran.update([name])):
        list(plan_set(street, *PLANS, *PLANS).answers(street.inputs()))
    assert ran == distinct_runs(street, PLANS)
    assert {ran[f"r50:{stage}"] for stage in street.facts["r50"].layout.stages} == {1}
    assert (ran["b0:blocks.4"], ran["b0:blocks.5"]) == (1, 3)


def test_random_plans_run_no_stage_twice_for_the_same_representation(
    street: ZooDeployment,
) -> None:
    plans = tuple(street.random_plans(25))
    ran: Counter[str] = Counter()
    with stage_hooks(street, lambda name, _: ran.update([name])):
        list(plan_set(street, *plans).answers(street.inputs()))
    assert ran == distinct_runs(street, plans)


class Alive:
    """Count the outputs of stages that are in memory."""

    def __init__(self) -> None:
        self.outputs: list[weakref.ref[Any]] = []
        self.peak = 0

    def note(self, _: str, output: Tensor) -> None:
        self.outputs.append(weakref.ref(output))
        self.peak = max(self.peak, self.count())

    def count(self) -> int:
        return sum(output() is not None for output in self.outputs)


def test_representations_are_freed_after_their_last_use(street: ZooDeployment) -> None:
    alive = Alive()
    with stage_hooks(street, alive.note):
        for _ in plan_set(street, SharePlan()).answers(street.inputs()):
            assert alive.count() <= len(street.facts["det"].layout.taps)
    assert len(alive.outputs) == sum(len(fact.stages) for fact in street.facts.values())
    # The output of a stage, its input, and the taps of the detector that its head reads later.
    assert alive.peak <= 2 + len(street.facts["det"].layout.taps)


def test_no_representation_is_left_in_memory(street: ZooDeployment) -> None:
    alive = Alive()
    with stage_hooks(street, alive.note):
        for _ in plan_set(street, *PLANS).answers(street.inputs()):
            pass
    gc.collect()
    assert alive.count() == 0 and len(alive.outputs) > 40


def test_only_inputs_that_some_plan_needs_are_read(street: ZooDeployment) -> None:
    assert plan_set(street, *PLANS).inputs_read == street.models.keys()
    plan = SharePlan((share("det:blocks.4", "b0:blocks.4"),))
    joint = plan_set(street, plan)
    assert joint.inputs_read == {"det", "v3", "r50"}
    inputs = {name: t for name, t in street.inputs().items() if name != "b0"}
    assert len(list(joint.answers(inputs))) == len(street.models)


@pytest.mark.parametrize("names", [["b0"], ["b0", "det"], []])
@torch.no_grad()
def test_restricting_the_models_does_not_change_their_outputs(
    street: ZooDeployment, names: list[str]
) -> None:
    joint, inputs = plan_set(street, *PLANS), street.inputs()
    ran: list[str] = []
    with stage_hooks(street, lambda name, _: ran.append(name)):
        some = dict(joint.restrict_to(names).answers(inputs))
    every = dict(joint.answers(inputs))
    assert list(some) == [output for output in every if output[0] in names]
    assert all(torch.equal(some[output], every[output]) for output in some)
    # b0 needs the detector's and resnet's trunks as donors, but never mobilenet's.
    assert not any(name.startswith("v3:") for name in ran)
    assert bool(ran) == bool(names)


@torch.no_grad()
def test_probabilities_belong_to_the_same_outputs(street: ZooDeployment) -> None:
    joint, inputs = plan_set(street, *PLANS), street.inputs()
    actual = dict(joint.comparables(inputs))
    assert list(actual) == joint.distinct
    for name, model in street.models.items():
        representations = dict(model.walk(inputs[name]))
        expected = model.comparable([representations[tap] for tap in model.layout.taps])
        assert torch.equal(actual[joint.outputs[0][name]], expected)


@torch.no_grad()
def test_the_probabilities_of_a_classifier_are_the_softmax_of_its_logits(
    street: ZooDeployment,
) -> None:
    joint, inputs = plan_set(street, SharePlan()).restrict_to(["v3"]), street.inputs(batch=2)
    ((_, actual),) = joint.comparables(inputs)
    ((_, logits),) = joint.answers(inputs)
    assert torch.equal(actual, logits.softmax(1))


@torch.no_grad()
def test_the_probabilities_of_a_detector_contain_its_scores_and_classes(
    street: ZooDeployment,
) -> None:
    """The best detection has the most probable class over all anchors."""
    joint, inputs = plan_set(street, SharePlan()).restrict_to(["det"]), street.inputs(batch=2)
    ((_, actual),) = joint.comparables(inputs)
    ((_, detections),) = joint.answers(inputs)
    model: Any = street.models["det"]
    assert actual.shape == (2, len(model.head.anchors.boxes) * model.num_classes)
    best, where = actual.max(1)
    torch.testing.assert_close(best, detections[:, :, 4].amax(1))
    assert torch.equal(where % model.num_classes + 1, detections[:, 0, 5].long())


@pytest.mark.parametrize("name", ["b0", "det"])
@torch.no_grad()
def test_agreement_is_one_with_itself_symmetric_and_falls_with_distance(
    street: ZooDeployment, name: str
) -> None:
    model = street.models[name]
    torch.manual_seed(0)
    one, other = torch.rand(2, 200, 20)
    near = one + 0.1 * (other - one)
    agreement = model.agreement(one, other)
    torch.testing.assert_close(model.agreement(one, one), torch.ones(200))
    torch.testing.assert_close(agreement, model.agreement(other, one))
    assert 0 < agreement.mean() < model.agreement(one, near).mean() < 1
    assert ((agreement >= 0) & (agreement <= 1)).all()


def test_a_detector_that_detects_nothing_has_almost_no_agreement(
    street: ZooDeployment,
) -> None:
    original = torch.full((1, 1000), 0.01)
    nothing = original.clone()
    original[0, 0] = 0.9
    assert street.models["det"].agreement(nothing, original) == pytest.approx(
        1000 * 0.01**2 / (0.9**2 + 999 * 0.01**2), rel=1e-4
    )
