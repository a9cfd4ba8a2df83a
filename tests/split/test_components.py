"""Codecs joined of independent parts, the codings worth choosing, and how answers change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from links import FRAMES, link_setup, one_share, split_at
from networks import ZooDeployment

from search.split.answer_change import answer_changes
from search.split.components import component_splits, fit_joined_codecs
from search.split.fit import FittedCodec, fit_codecs
from search.split.levels import cheapest_codings, distortion_levels
from search.split.settings import CodecSettings
from search.statistics.observed import Observed
from spaces.merged import MergedModel
from spaces.plan import HEAD, Ref, Share, SharePlan
from spaces.split.coefficients import Coding
from spaces.split.possible import possible_splits
from spaces.split.split import Split, SplitParts
from spaces.tasks.registry import TASKS

SETTINGS = CodecSettings(gradient_frames=4, batch=4)
TRUNK = SharePlan((Share.between("det:blocks.4", "v3:blocks.4"),))


@pytest.fixture(scope="module")
def unmerged_split() -> Split:
    return split_at(SharePlan(), "cls:blocks.2", "det:blocks.3")


@pytest.fixture(scope="module")
def joined(mixed: Observed, unmerged_split: Split) -> FittedCodec:
    setup = link_setup(mixed).networks
    return fit_joined_codecs(setup, [unmerged_split], FRAMES, SETTINGS)[unmerged_split]


def test_what_crosses_is_in_one_part_each(street: ZooDeployment) -> None:
    merged = MergedModel(street.models, street.facts, TRUNK, street.maps(TRUNK))
    for split in possible_splits(TRUNK, [*merged.outputs.values()], most=60):
        parts = component_splits(split, merged)
        crossing = [node for part in parts for node in SplitParts.of(merged, part).crossing]
        assert len({*crossing}) == len(crossing)
        assert {*crossing} == {*SplitParts.of(merged, split).crossing}
        for part in parts:
            assert component_splits(part, merged) == [part]


def test_models_that_share_nothing_are_parts_of_their_own(
    mixed: Observed, unmerged_split: Split
) -> None:
    merged = link_setup(mixed).networks.merged(SharePlan())
    found = {part.ends for part in component_splits(unmerged_split, merged)}
    cls, det = Ref("cls", "blocks.2"), Ref("det", "blocks.3")
    taps = {Ref("det", tap) for tap in ("blocks.2",)}
    assert tuple(sorted((cls, Ref("det", HEAD)))) in found
    assert tuple(sorted({det, *taps, Ref("cls", HEAD)})) in found


def test_a_trunk_that_two_models_read_is_one_part(mixed: Observed) -> None:
    plan = one_share(mixed)
    merged = link_setup(mixed, plan).networks.merged(plan)
    (part,) = component_splits(split_at(plan, "det:blocks.3"), merged)
    assert HEAD not in {end.stage for end in part.ends}


def test_a_joined_codec_sends_what_its_parts_send(
    mixed: Observed, unmerged_split: Split, joined: FittedCodec
) -> None:
    setup = link_setup(mixed).networks
    merged = setup.merged(SharePlan())
    parts = component_splits(unmerged_split, merged)
    alone = fit_codecs(setup, parts, FRAMES, SETTINGS)
    crossing = SplitParts.of(merged, unmerged_split).crossing
    tensors = representations_of(merged, setup.inputs(merged, [FRAMES[0]]), unmerged_split)
    together = joined.encoder([tensors[node] for node in crossing])[0].numpy()
    coding = Coding(0, 8)
    levels = joined.encoder.coder.quantise(together, coding)
    decoded = dict(zip(crossing, joined.decoder(torch.from_numpy(together)[None]), strict=True))
    bits = 0.0
    for part in parts:
        nodes, codec = SplitParts.of(merged, part).crossing, alone[part]
        own = codec.encoder([tensors[node] for node in nodes])[0].numpy()
        bits += codec.encoder.coder.count_bits(codec.encoder.coder.quantise(own, coding), coding)
        for node, tensor in zip(nodes, codec.decoder(torch.from_numpy(own)[None]), strict=True):
            torch.testing.assert_close(decoded[node], tensor)
    assert joined.encoder.coder.count_bits(levels, coding) == pytest.approx(bits, abs=200)
    payload = joined.encoder.encode(together, coding)
    back = joined.decoder.coder.decode(payload, coding)
    np.testing.assert_array_equal(back, levels)
    for coding in (Coding(-4, 8), Coding(6, 3)):
        curves = [codec.curve for codec in alone.values()]
        total = sum(curve.distortion(coding) for curve in curves)
        assert joined.curve.distortion(coding) == pytest.approx(total)
        assert joined.curve.bytes(coding) < sum(curve.bytes(coding) for curve in curves)


def representations_of(merged: MergedModel, inputs: object, split: Split) -> dict:  # type: ignore[type-arg]
    with torch.inference_mode():
        device = SplitParts.of(merged, split).device
        return merged.run(device, inputs, {}, lambda head, taps: None).representations  # type: ignore[arg-type]


def test_the_cheapest_codings_are_those_of_all(joined: FittedCodec) -> None:
    curve, targets = joined.curve, distortion_levels(6)
    every = [Coding(s, b) for s in curve.steps for b in range(1, curve.zones + 1)]
    for target, coding in zip(targets, cheapest_codings(curve, targets), strict=True):
        reaching = [c for c in every if curve.distortion(c) <= target]
        if reaching:
            assert curve.bytes(coding) == min(map(curve.bytes, reaching))
        else:
            assert coding == Coding(curve.steps[0], curve.zones)


def test_changed_answers_are_measured_in_the_unit_of_distortion(mixed: Observed) -> None:
    """A slow twin: each plan by itself, and the variance over all frames at once."""
    facts, models = mixed.deployment.facts, mixed.deployment.fused_models
    rounded = SharePlan(precisions=((Ref("cls", "blocks.2"), "int8"),))
    plans = [SharePlan(), rounded, one_share(mixed)]
    maps = mixed.maps_for(plans)
    changes = answer_changes(models, facts, maps, SharePlan(), plans, FRAMES, batch=4)
    assert changes[0] == 0 and 0 < changes[1] < changes[2]
    exact = amplitudes_of(mixed, SharePlan())
    shared = amplitudes_of(mixed, plans[2])
    expected = sum(
        float((shared[name] - values).square().sum(1).mean() / values.var(0, correction=0).sum())
        for name, values in exact.items()
    )
    assert changes[2] == pytest.approx(expected, rel=1e-3)


def amplitudes_of(mixed: Observed, plan: SharePlan) -> dict[str, torch.Tensor]:
    deployment = mixed.deployment
    models: Sequence[str] = [*deployment.fused_models]
    merged = MergedModel(deployment.fused_models, deployment.facts, plan, mixed.maps_for([plan]))
    pictures = [FRAMES[k] for k in range(len(FRAMES))]
    inputs = {name: deployment.fused_models[name].prepare_frames(pictures) for name in models}

    def read(head: torch.nn.Module, taps: list[torch.Tensor]) -> tuple[object, list[torch.Tensor]]:
        return head, taps

    with torch.no_grad():
        answers = merged.answers(inputs, read)
        return {
            name: TASKS[deployment.models[name].task]
            .amplitudes(deployment.fused_models[name].comparable(taps, head))  # type: ignore[arg-type]
            .flatten(1)
            .double()
            for name, (head, taps) in answers.items()
        }
