"""The two parts of a split model do the work of the whole, once, and share no input."""

from __future__ import annotations

import pytest
import torch
from networks import ZooDeployment

from spaces.merged import MergedModel
from spaces.plan import HEAD, Ref, Share, SharePlan
from spaces.split.split import BadSplit, Split, SplitParts

TRUNK = SharePlan(
    (
        Share.between("det:blocks.4", "v3:blocks.4"),
        Share.between("det:blocks.4", "r50:layer2"),
        Share.between("det:blocks.2", "b0:blocks.2"),
    )
)
SPLITS = {
    "before all taps of the detector": (TRUNK, ["det:blocks.1"]),
    "after its first tap": (TRUNK, ["det:blocks.3"]),
    "at the representation that two models take": (TRUNK, ["det:blocks.4"]),
    "further in one of the tails": (TRUNK, ["det:blocks.4", "v3:blocks.5"]),
    "with one model on the device": (TRUNK, ["det:blocks.4", f"v3:{HEAD}"]),
    "of models that share nothing": (
        SharePlan(),
        ["det:blocks.2", "v3:blocks.1", "r50:layer1", "b0:blocks.3"],
    ),
}


def split_of(plan: SharePlan, ends: list[str]) -> Split:
    return Split(plan, tuple(map(Ref.parse, ends)))


def merged_model(street: ZooDeployment, plan: SharePlan) -> MergedModel:
    return MergedModel(street.models, street.facts, plan, street.maps(plan))


@pytest.mark.parametrize(("plan", "ends"), SPLITS.values(), ids=list(SPLITS))
@torch.inference_mode()
def test_device_and_server_give_the_answers_of_the_whole(
    plan: SharePlan, ends: list[str], street: ZooDeployment
) -> None:
    merged, inputs = merged_model(street, plan), street.inputs()
    parts = SplitParts.of(merged, split_of(plan, ends))
    sent = merged.run(parts.device, inputs, {}, run_head)
    answers = sent.answers | merged.run(parts.server, {}, sent.representations, run_head).answers
    assert set(sent.representations) == set(parts.crossing)
    for name, answer in merged(inputs).items():
        assert torch.equal(answers[name], answer)


@pytest.mark.parametrize(("plan", "ends"), SPLITS.values(), ids=list(SPLITS))
def test_each_step_is_on_one_side(plan: SharePlan, ends: list[str], street: ZooDeployment) -> None:
    merged = merged_model(street, plan)
    parts = SplitParts.of(merged, split_of(plan, ends))
    steps = [(step.makes, step.output) for step in (*parts.device.steps, *parts.server.steps)]
    assert len(steps) == len({*steps})
    assert {*steps} == {(step.makes, step.output) for step in merged.whole.steps}


def test_every_tap_of_the_device_crosses(street: ZooDeployment) -> None:
    merged = merged_model(street, SharePlan())
    split = split_of(SharePlan(), ["det:blocks.4", "v3:blocks.1", "r50:layer1", "b0:blocks.0"])
    crossing = [str(node.ref) for node in SplitParts.of(merged, split).crossing]
    assert sorted(crossing) == [
        "b0:blocks.0",
        "det:blocks.2",
        "det:blocks.4",
        "r50:layer1",
        "v3:blocks.1",
    ]


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        (["det:blocks.2"], "the server would need the frames of"),
        (["det:blocks.9", "v3:blocks.1", "r50:layer1"], "does not compute det:blocks.9"),
        ([f"cam:{HEAD}"], "there is no model 'cam'"),
        (
            [f"det:{HEAD}", f"v3:{HEAD}", f"r50:{HEAD}", f"b0:{HEAD}"],
            "nothing is left for the server",
        ),
    ],
)
def test_a_split_that_does_not_fit_is_refused(
    ends: list[str], message: str, street: ZooDeployment
) -> None:
    with pytest.raises(BadSplit, match=message):
        SplitParts.of(merged_model(street, SharePlan()), split_of(SharePlan(), ends))


def test_a_split_is_data() -> None:
    split = split_of(TRUNK, ["v3:blocks.5", "det:blocks.4"])
    assert Split.from_dict(split.to_dict()) == split
    assert split == split_of(TRUNK, ["det:blocks.4", "v3:blocks.5"])
    assert len(split.hash) == 8 and split.hash != split_of(TRUNK, ["det:blocks.4"]).hash
    with pytest.raises(ValueError, match="each of them once"):
        Split(TRUNK, ())


def run_head(head: torch.nn.Module, taps: list[torch.Tensor]) -> torch.Tensor:
    answer: torch.Tensor = head(taps)
    return answer
