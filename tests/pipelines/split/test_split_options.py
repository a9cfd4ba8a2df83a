"""What splits hold and compute, and what is looked up of them, computed again by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tiny import FinishedRun, capture_reporter

from search.pipelines.split.coded import CodedOption, fit_options
from search.pipelines.split.explore import USEFUL_DISTORTIONS, choose_to_verify, nearest
from search.pipelines.split.inputs import SplitInputs, load_split_inputs
from search.pipelines.split.lookup import SplitLookup
from search.pipelines.split.options import NoSplitFits, SplitOption, split_options
from search.pipelines.split.stage_times import StageTimes
from search.study.lookup.choices import LookedUp, Outcome
from spaces.plan import HEAD, Ref
from spaces.stages import StageFacts


@pytest.fixture(scope="module")
def inputs(tiny_split: FinishedRun) -> SplitInputs:
    return load_split_inputs(tiny_split.config, capture_reporter().reporter)


@pytest.fixture(scope="module")
def options(inputs: SplitInputs) -> list[SplitOption]:
    return split_options(inputs)


@pytest.fixture(scope="module")
def coded(inputs: SplitInputs, options: Sequence[SplitOption]) -> list[CodedOption]:
    """A few of them."""
    return fit_options(inputs, options[30:100:23], capture_reporter().reporter)


@pytest.fixture(scope="module")
def lookup(inputs: SplitInputs, coded: Sequence[CodedOption]) -> SplitLookup:
    times = StageTimes(inputs.deployment, inputs.maps, inputs.fitted_on)
    for plan in inputs.plans:
        times.measure(plan)
    return SplitLookup(coded, ["float32", "int8"], times, inputs.conditions)


def stages_before(inputs: SplitInputs, end: Ref) -> list[StageFacts]:
    facts = inputs.deployment.facts[end.model]
    if end.stage == HEAD:
        return [*facts.stages]
    return [*facts.stages[: facts.layout.index(end.stage) + 1]]


def test_two_unmerged_models_have_the_product_of_their_ends(
    inputs: SplitInputs, tiny_split: FinishedRun
) -> None:
    config = replace(
        inputs, settings=inputs.settings.model_copy(update={"device": no_limits(inputs)})
    )
    unmerged = [option for option in split_options(config) if not option.split.plan.shares]
    stages = [len(facts.stages) for facts in inputs.deployment.facts.values()]
    assert len(unmerged) == (stages[0] + 1) * (stages[1] + 1) - 1


def no_limits(inputs: SplitInputs) -> object:
    return inputs.settings.device.model_copy(update={"macs": None})


def test_the_device_holds_and_computes_the_stages_before_the_ends(
    inputs: SplitInputs, options: Sequence[SplitOption]
) -> None:
    for option in options:
        if option.split.plan.shares:
            continue
        stages = [s for end in option.split.ends for s in stages_before(inputs, end)]
        heads = [inputs.deployment.facts[e.model] for e in option.split.ends if e.stage == HEAD]
        macs = sum(s.macs for s in stages) + sum(facts.head_macs for facts in heads)
        size = sum(s.bytes for s in stages) + sum(facts.head_bytes for facts in heads)
        assert option.device_macs == macs
        assert option.device_share == pytest.approx(macs / inputs.costs.unmerged_macs)
        assert option.stored["float32"].weight_bytes == size
        assert 0.2 * size < option.stored["int8"].weight_bytes < 0.5 * size


def test_limits_leave_splits_out_and_name_the_least(inputs: SplitInputs) -> None:
    device = inputs.settings.device
    for update, words in (
        ({"macs": "1%"}, "of the unmerged MACs, and 1.0% are allowed"),
        ({"memory": "10 kB"}, "the least that a device holds is"),
    ):
        settings = inputs.settings.model_copy(
            update={"device": device.model_copy(update={"macs": None, **update})}
        )
        with pytest.raises(NoSplitFits, match=words):
            split_options(replace(inputs, settings=settings))
    limit = inputs.conditions.macs
    assert limit and all(option.device_macs <= limit for option in split_options(inputs))


def test_a_combination_is_worth_what_its_parts_say(
    inputs: SplitInputs, coded: Sequence[CodedOption], lookup: SplitLookup
) -> None:
    for option in coded:
        for precision, level in (("float32", 2), ("int8", 15)):
            found = {
                "split": option.option.split.hash,
                "precision": precision,
                "level": str(level),
            }
            size, macs, memory, distortion = lookup(found).values
            coding, stored = option.codings[level], option.option.stored[precision]  # type: ignore[index]
            assert size == option.codec.curve.bytes(coding)
            assert macs == option.option.device_macs
            assert memory == stored.weight_bytes + option.codec_bytes + option.peak_activations
            change = option.changes[stored.split.plan]
            assert distortion == option.codec.curve.distortion(coding) + change
            assert (change == 0) == (
                precision == "float32" and not option.option.split.plan.shares
            )


def test_the_limits_are_those_of_the_conditions(lookup: SplitLookup) -> None:
    combination = next(lookup.choices.all())
    point = lookup.point(combination)
    times = lookup.times(point, point.predicted_bytes)
    violations = lookup(combination).violations
    assert {*violations} == {"deadline", "macs"}
    assert violations["deadline"] == pytest.approx(times.total_ms / 1000 - 1)
    assert lookup.prediction(point).feasible == (max(violations.values()) <= 0)


def test_finer_levels_send_more_and_change_less(coded: Sequence[CodedOption]) -> None:
    for option in coded:
        sizes = [option.codec.curve.bytes(coding) for coding in option.codings]
        changes = [option.codec.curve.distortion(coding) for coding in option.codings]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
        assert changes[0] < changes[-1]


def test_points_to_verify_change_little_for_their_bytes(lookup: SplitLookup) -> None:
    points = [lookup.point(combination) for combination in lookup.choices.all()]
    chosen = choose_to_verify(points, 5)
    assert len({point.hash for point in chosen}) == 5
    low, high = USEFUL_DISTORTIONS
    useful = [point for point in points if low <= point.codec_distortion <= high]
    plans = {point.exact_split.plan for point in useful}
    assert {point.exact_split.plan for point in chosen} == plans  # each has its share
    for point in chosen[:4]:
        others = [p for p in useful if p.exact_split.plan == point.exact_split.plan]
        cheaper = [p for p in others if p.predicted_bytes < point.predicted_bytes]
        assert all(p.distortion > point.distortion for p in cheaper)
    assert len(choose_to_verify(points[:2], 5)) <= 2


def test_where_nothing_fits_the_nearest_are_taken() -> None:
    far, near, beaten = (
        LookedUp({"k": name}, Outcome(values, {"deadline": violation}))
        for name, values, violation in (
            ("far", (1.0, 1.0), 3.0), ("near", (2.0, 2.0), 0.5), ("beaten", (3.0, 2.0), 0.52),
        )
    )  # fmt: skip
    assert nearest([far, near, beaten]) == [near]
