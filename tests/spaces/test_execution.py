"""The parts of a merged model: trunk and tails together do the work of the whole, once."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from networks import ZooDeployment

from spaces.execution import ticks
from spaces.merged import MergedModel
from spaces.plan import Share, SharePlan

SHARES: dict[str, list[Share]] = {
    "nothing": [],
    "one stage": [Share.between("v3:blocks.2", "r50:layer2")],
    "into a detector": [Share.between("v3:blocks.4", "det:blocks.4")],
    "three models on one trunk": [
        Share.between("det:blocks.2", "v3:blocks.2"),
        Share.between("det:blocks.2", "r50:layer2"),
    ],
    "a chain": [
        Share.between("det:blocks.2", "v3:blocks.2"),
        Share.between("v3:blocks.3", "r50:layer2"),
    ],
}


@pytest.fixture(params=list(SHARES.values()), ids=list(SHARES))
def merged(request: pytest.FixtureRequest, street: ZooDeployment) -> MergedModel:
    plan = SharePlan(tuple(request.param))
    return MergedModel(street.models, street.facts, plan, street.maps(plan))


@torch.inference_mode()
def test_trunk_and_tails_give_the_answers_of_the_whole(
    merged: MergedModel, street: ZooDeployment
) -> None:
    inputs = street.inputs()
    expected = merged(inputs)
    taken = merged.run(merged.trunk, inputs, {}, run_head).representations
    for name, answer in expected.items():
        entry = merged.tail(name)
        assert set(entry.takes) <= set(taken) and not entry.gives
        answers = merged.run(entry, inputs, taken, run_head).answers
        assert answers.keys() == {name} and torch.equal(answers[name], answer)


@torch.inference_mode()
def test_a_model_alone_gives_its_answer_of_the_whole(
    merged: MergedModel, street: ZooDeployment
) -> None:
    inputs = street.inputs()
    for name, answer in merged(inputs).items():
        entry = merged.answering([name])
        own = {model: inputs[model] for model in entry.inputs_read}
        assert torch.equal(merged.run(entry, own, {}, run_head).answers[name], answer)


def test_trunk_and_tails_run_every_step_of_the_whole_once(merged: MergedModel) -> None:
    parts = [merged.trunk, *map(merged.tail, merged.whole.models)]
    steps = Counter((step.makes, step.output) for part in parts for step in part.steps)
    assert steps == Counter((step.makes, step.output) for step in merged.whole.steps)


def test_a_trunk_is_what_more_than_one_model_needs(merged: MergedModel) -> None:
    needs = {
        name: {step.makes for step in merged.answering([name]).steps if step.makes}
        for name in merged.whole.models
    }
    counts = Counter(node for nodes in needs.values() for node in nodes)
    assert {s.makes for s in merged.trunk.steps} == {n for n, count in counts.items() if count > 1}


def test_a_trunk_gives_just_what_its_tails_take(merged: MergedModel) -> None:
    taken = {node for name in merged.whole.models for node in merged.tail(name).takes}
    assert set(merged.trunk.gives) == taken


@pytest.mark.parametrize(
    "rates", [{"a": 1.0}, {"a": 1.0, "b": 10.0}, {"a": 5.0, "b": 0.5, "c": 5.0}]
)
def test_ticks_give_each_model_its_rate_and_set_the_fastest(rates: dict[str, float]) -> None:
    per_model = dict.fromkeys(rates, 0.0)
    for models, per_second in ticks(rates):
        for name in models:
            per_model[name] += per_second
    assert per_model == pytest.approx(rates)
    assert sum(per_second for _, per_second in ticks(rates)) == pytest.approx(max(rates.values()))


def run_head(head: torch.nn.Module, taps: list[torch.Tensor]) -> torch.Tensor:
    answer: torch.Tensor = head(taps)
    return answer
