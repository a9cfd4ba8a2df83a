"""Which representations are equal in two models, from their weights, inputs and structure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import library_network
from safetensors.torch import save_file
from tiny import CLASSIFIER, STREET, Weights, load_tiny
from torch import nn

from search.data.frames import RenderedScenes
from search.statistics.observed import Observed
from spaces.cost import CostModel
from spaces.deployment import Deployment
from spaces.inputs import Fit, Frame
from spaces.merged import MergedModel, prepare_inputs
from spaces.model_facts import collect_facts
from spaces.model_spec import Cut, ModelSpec
from spaces.plan import IDENTITY, LINEAR, Ref, Share, SharePlan
from spaces.prefixes import find_identical
from spaces.shares import Pair, find_pairs
from spaces.stages import StagedModel
from spaces.zoo import load_model

LITE0 = "timm/tf_efficientnet_lite0"
DETECTOR_LITE0 = "effdet/tf_efficientdet_lite0"


@pytest.fixture
def two(weights: Weights) -> dict[str, StagedModel]:
    """Two copies of one network that a test may change."""
    return load_tiny(weights, {"a": (CLASSIFIER, 1), "b": (CLASSIFIER, 1)})


def equal_stages(models: dict[str, StagedModel]) -> list[str]:
    """Return the stages of b that a holds too; a stage may equal only its namesake."""
    pairs = find_identical(models, find_pairs(collect_facts(models)).legal)
    assert all(pair.donor.stage == pair.recipient.stage for pair in pairs)
    return [s for s in models["b"].layout.stages if Pair(Ref("a", s), Ref("b", s)) in pairs]


def test_two_copies_are_equal_in_all_stages(two: dict[str, StagedModel]) -> None:
    assert equal_stages(two) == [*two["b"].layout.stages]


@torch.no_grad()
def test_one_changed_weight_ends_the_equality_from_its_stage_on(
    two: dict[str, StagedModel],
) -> None:
    for number, stage in reversed([*enumerate(two["b"].stages)]):
        weight = next(stage.parameters(), None)
        if weight is not None:
            weight[..., -1] += 1e-6
            assert equal_stages(two) == [*two["b"].layout.stages[:number]]


def test_the_counter_of_batches_does_not_matter(two: dict[str, StagedModel]) -> None:
    for name, tensor in two["b"].state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor += 5
    assert equal_stages(two) == [*two["b"].layout.stages]


def test_another_input_makes_all_stages_differ(two: dict[str, StagedModel]) -> None:
    two["b"].input = replace(two["b"].input, channels="bgr")
    assert equal_stages(two) == []


def test_the_cropped_part_matters_only_to_crops(two: dict[str, StagedModel]) -> None:
    fits: dict[Fit, list[str]] = {"squash": [*two["b"].layout.stages], "crop": []}
    for fit, stages in fits.items():
        for name, crop in (("a", 0.9), ("b", 0.91)):
            two[name].input = replace(two[name].input, fit=fit, crop_pct=crop)
        assert equal_stages(two) == stages


def test_where_a_model_was_loaded_from_does_not_matter(two: dict[str, StagedModel]) -> None:
    two["a"].source = two["b"].source = None
    assert equal_stages(two) == [*two["b"].layout.stages]


def test_the_device_and_the_memory_format_do_not_matter(two: dict[str, StagedModel]) -> None:
    two["a"].to(memory_format=torch.contiguous_format)
    two["b"].to(memory_format=torch.channels_last)
    assert equal_stages(two) == [*two["b"].layout.stages]


def _stride_of_a_convolution(stage: nn.Module) -> None:
    convolution = next(part for part in stage.modules() if isinstance(part, nn.Conv2d))
    convolution.stride = (convolution.stride[0] + 1, convolution.stride[1])


def _padding_of_a_convolution(stage: nn.Module) -> None:
    convolution = next(part for part in stage.modules() if isinstance(part, nn.Conv2d))
    convolution.padding_mode = "reflect"


def _activation(stage: nn.Module) -> None:
    next(part for part in stage.modules() if hasattr(part, "act")).act = nn.Hardtanh()


def _epsilon_of_a_norm(stage: nn.Module) -> None:
    next(part for part in stage.modules() if isinstance(part, nn.BatchNorm2d)).eps *= 2


def _function_of_a_module(stage: nn.Module) -> None:
    object.__setattr__(stage, "forward", lambda values: values)


def _hook(stage: nn.Module) -> None:
    next(stage.children()).register_forward_hook(lambda part, inputs, output: output + 1)


def _names_of_the_children(stage: nn.Module) -> None:
    """Swap two layers of equal tensors, so that they are called in the other order."""
    for part in stage.modules():
        names = [n for n, child in part.named_children() if isinstance(child, nn.BatchNorm2d)]
        if len(names) > 1:
            first, second = names[0], names[1]
            part._modules[first], part._modules[second] = (
                part._modules[second], part._modules[first],
            )  # fmt: skip
            return


def _class(stage: nn.Module) -> None:
    class Other(type(stage)):  # type: ignore[misc]
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return -values

    stage.__class__ = Other


CHANGES = (
    _stride_of_a_convolution, _padding_of_a_convolution, _activation, _epsilon_of_a_norm,
    _function_of_a_module, _hook, _names_of_the_children, _class,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("index", [0, 2])
def test_equal_tensors_are_not_enough_if_a_module_computes_something_else(
    two: dict[str, StagedModel], change: Callable[[nn.Module], None], index: int
) -> None:
    stages = two["b"].layout.stages
    if index == 0 and change is _names_of_the_children:
        pytest.skip("the stem has one normalisation")
    before = {name: t.clone() for name, t in two["b"].state_dict().items()}
    pairs = find_pairs(collect_facts(two)).legal
    change(two["b"].stages[index])
    if change is not _names_of_the_children:
        assert all(torch.equal(before[n], t) for n, t in two["b"].state_dict().items())
    equal = {pair.recipient.stage for pair in find_identical(two, pairs)}
    assert equal == {*stages[:index]}


class Trunk:
    """A detector and a classifier with the weights of its backbone, cut at will."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        detector, classifier = library_network(DETECTOR_LITE0), library_network(LITE0)
        state = detector.backbone.state_dict()
        assert not classifier.load_state_dict(state, strict=False).unexpected_keys
        save_file(detector.state_dict(), folder / "detector.safetensors")
        save_file(classifier.state_dict(), folder / "classifier.safetensors")

    def load(self, classifier_cut: Cut, detector_cut: Cut) -> dict[str, StagedModel]:
        return {
            name: load_model(
                ModelSpec(
                    name, arch, str(self._folder / f"{name}.safetensors"),
                    size=(128, 128), fit="letterbox", cut=cut,
                )
            )
            for name, arch, cut in (
                ("classifier", LITE0, classifier_cut),
                ("detector", DETECTOR_LITE0, detector_cut),
            )
        }  # fmt: skip


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Trunk:
    return Trunk(tmp_path_factory.mktemp("trunk"))


SEVEN = tuple(f"blocks.{number}" for number in range(7))
ENDS = ("blocks.0", "blocks.1.1", "blocks.2.1", "blocks.3.2", "blocks.4.2", "blocks.5.3")
"""The last blocks of the stages but one, if a network is cut into blocks."""


@pytest.mark.parametrize(
    ("classifier_cut", "detector_cut", "shared"),
    [
        ("stages", "stages", {"stem", *SEVEN}),
        ("blocks", "stages", {"stem", *SEVEN}),
        ("stages", "blocks", {"stem", *ENDS, "blocks.6"}),
    ],
)
@torch.no_grad()
def test_a_classifier_equals_the_backbone_of_a_detector_however_they_are_cut(
    trunk: Trunk, classifier_cut: Cut, detector_cut: Cut, shared: set[str]
) -> None:
    models = trunk.load(classifier_cut, detector_cut)
    pairs = find_identical(models, find_pairs(collect_facts(models)).legal)
    assert {p.recipient.stage for p in pairs if p.recipient.model == "detector"} == shared
    assert len(pairs) == 2 * len(shared)
    scenes = RenderedScenes(STREET, 2)
    frames: list[Frame] = [scenes[0], scenes[1]]
    representations = {
        Ref(name, stage): value
        for name, model in models.items()
        for stage, value in model.walk(model.prepare_frames(frames))
    }
    for pair in pairs:
        assert torch.equal(representations[pair.donor], representations[pair.recipient])


@torch.no_grad()
def test_a_changed_backbone_shares_only_what_comes_before_the_change(trunk: Trunk) -> None:
    models = trunk.load("stages", "blocks")
    pairs = find_pairs(collect_facts(models)).legal
    position = models["detector"].layout.index("blocks.3.1")
    next(models["detector"].stages[position].parameters())[0] += 1e-6
    into_classifier = {
        pair.recipient.stage
        for pair in find_identical(models, pairs)
        if pair.recipient.model == "classifier"
    }
    assert into_classifier == {"stem", "blocks.0", "blocks.1", "blocks.2"}


def test_equal_representations_are_shared_as_they_are(copies: Observed) -> None:
    shares = copies.deployment.shares([LINEAR])
    for share in shares:
        same = share.donor.stage == share.recipient.stage
        assert share.adapter == (IDENTITY if same else LINEAR)
    assert len(shares) == len(copies.deployment.pairs.legal)


def test_without_equal_stages_the_shares_are_those_of_all_pairs(pair: Observed) -> None:
    deployment = pair.deployment
    assert deployment.identical_pairs == frozenset()
    shares = deployment.shares([IDENTITY, LINEAR])
    assert len(shares) > len(deployment.pairs.legal)
    assert [s for s in shares if s.adapter == LINEAR] == [*deployment.shares([LINEAR])]


@torch.no_grad()
def test_copies_that_share_their_last_stage_hold_one_backbone_and_answer_exactly_the_same(
    copies: Observed,
) -> None:
    deployment: Deployment = copies.deployment
    last = deployment.facts["b"].layout.stages[-1]
    plan = SharePlan((Share(Ref("b", last), Ref("a", last), IDENTITY),))
    assert set(plan.shares) <= set(deployment.shares([LINEAR]))
    merged = MergedModel(deployment.models, deployment.facts, plan, {})
    frames: list[Frame] = [copies.held_out[0], copies.held_out[1]]
    inputs = prepare_inputs(deployment.models, frames)
    answers = merged(inputs)
    for name, model in deployment.models.items():
        assert torch.equal(answers[name], model(inputs[name]))
    facts = deployment.facts
    assert merged.inputs_read == {"a"}
    backbone = sum(sum(facts["b"].tensors[s].values()) for s in facts["b"].layout.stages)
    costs = CostModel(facts)
    assert costs.bytes(plan) == costs.unmerged_bytes - backbone
