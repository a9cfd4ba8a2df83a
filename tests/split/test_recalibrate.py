"""Recalibrated BatchNorms: what they return, and for which codings they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest
import torch
from tiny import CLASSIFIER, STREET, Weights, load_tiny
from torch import Tensor, nn

from search.data.frames import FrameSet, RenderedScenes, split_frames
from search.split import batchnorm_moments
from search.split.batchnorm_moments import ChannelMoments, ServerRun, matching
from search.split.fit import FittedCodec, fit_codecs
from search.split.recalibrate import Recalibration, recalibrate, recalibrate_steps, steps_to_try
from search.split.settings import CodecSettings
from search.split.setup import SplitSetup
from spaces.batchnorm_fusion import fuse_batchnorms
from spaces.merged import MergedModel
from spaces.model_facts import collect_facts
from spaces.node import Node
from spaces.plan import Ref, SharePlan
from spaces.split.coefficients import Coding
from spaces.split.recalibrated import BatchNormStatistics, batchnorms, with_statistics
from spaces.split.split import Split, SplitParts
from spaces.stages import StagedModel

ALL = RenderedScenes(STREET, 48)
FRAMES, HELD_OUT = split_frames(ALL, 24)
COARSER = 6
"""Steps beyond the useful ones: this network hardly minds those."""
SPLIT = Split(SharePlan(), (Ref("a", "blocks.2"),))


@dataclass(frozen=True)
class SplitNetwork:
    """A classifier with a codec in its middle."""

    setup: SplitSetup
    codec: FittedCodec

    @cached_property
    def merged(self) -> MergedModel:
        return self.setup.merged(SPLIT.plan)

    @cached_property
    def parts(self) -> SplitParts:
        return SplitParts.of(self.merged, SPLIT)

    @property
    def run(self) -> ServerRun:
        return ServerRun(self.merged, self.setup.facts, self.parts.server)

    @torch.no_grad()
    def crossing(self, frames: FrameSet) -> dict[Node, Tensor]:
        inputs = self.setup.inputs(self.merged, [frames[k] for k in range(len(frames))])
        return self.merged.run(self.parts.device, inputs, {}, nothing).representations

    def coding(self, place: int) -> Coding:
        """Return a coding with all bands: from the finest useful one, 0, to a very coarse one."""
        curve = self.codec.curve
        steps = range(curve.steps[0], curve.steps[-1] + COARSER)
        return Coding(steps[place], curve.zones)

    def recalibrate(self, coding: Coding) -> Recalibration | None:
        return recalibrate(self.setup, SPLIT, self.codec, coding, FRAMES, HELD_OUT)


def nothing(head: nn.Module, taps: list[Tensor]) -> None:
    return None


@torch.no_grad()
def train_statistics(model: StagedModel, frames: FrameSet) -> None:
    """Give random weights BatchNorms that fit them, so that answers differ between frames."""
    for _, norm in batchnorms(model):
        assert isinstance(norm, nn.BatchNorm2d)
        norm.momentum = None
        norm.reset_running_stats()
    model.train()
    model(model.prepare_frames([frames[k] for k in range(len(frames))]))
    model.eval()


@pytest.fixture(scope="module")
def network(weights: Weights) -> SplitNetwork:
    models = load_tiny(weights, {"a": (CLASSIFIER, 1)})
    train_statistics(models["a"], FRAMES)
    return split_network(models)


def split_network(models: Mapping[str, StagedModel]) -> SplitNetwork:
    setup = SplitSetup(models, collect_facts(models), {}, "float32")
    settings = CodecSettings(gradient_frames=8)
    return SplitNetwork(setup, fit_codecs(setup, [SPLIT], FRAMES, settings)[SPLIT])


def distorted(crossing: Mapping[Node, Tensor]) -> dict[Node, Tensor]:
    """Return representations with less contrast, an offset, and noise."""
    noise = torch.Generator().manual_seed(0)
    return {
        node: 0.4 * values + 0.3 + 0.1 * torch.randn(values.shape, generator=noise)
        for node, values in crossing.items()
    }


def test_a_matching_batchnorm_returns_the_moments_of_exact_values() -> None:
    generator = torch.Generator().manual_seed(1)
    exact = 3 * torch.randn(20, 4, 5, 5, generator=generator) + torch.arange(4).view(4, 1, 1)
    decoded = 0.5 * exact + torch.rand(exact.shape, generator=generator)
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean, norm.running_var = (
        torch.tensor([0.1, 2, 3, 4]),
        torch.tensor([9.0, 4, 8, 1]),
    )
    expected = ChannelMoments.of(norm(exact))
    own = ChannelMoments(norm.running_mean, norm.running_var)
    found = matching(own, norm.eps, ChannelMoments.of(exact), ChannelMoments.of(decoded))
    norm.running_mean, norm.running_var = found.mean, found.variance
    actual = ChannelMoments.of(norm(decoded))
    torch.testing.assert_close(actual.mean, expected.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual.variance, expected.variance, rtol=1e-5, atol=1e-5)


def test_a_channel_without_variance_keeps_its_own() -> None:
    own = ChannelMoments(torch.zeros(3), torch.ones(3))
    exact = ChannelMoments(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.0, 2.0, 0.0]))
    decoded = ChannelMoments(torch.tensor([2.0, 2.0, 2.0]), torch.tensor([3.0, 0.0, 0.0]))
    found = matching(own, 1e-5, exact, decoded)
    assert torch.allclose(found.variance, torch.ones(3))
    assert torch.allclose(found.mean, torch.ones(3))  # what is 1 too large is subtracted


def test_exact_moments_are_those_of_a_slow_computation(network: SplitNetwork) -> None:
    read: dict[str, Tensor] = {}
    handles = [
        norm.register_forward_pre_hook(lambda _, args, path=path: read.update({path: args[0]}))
        for path, norm in batchnorms(network.merged)
    ]
    inputs = network.setup.inputs(network.merged, [FRAMES[k] for k in range(len(FRAMES))])
    with torch.no_grad():
        network.merged(inputs)
    for handle in handles:
        handle.remove()
    moments = network.run.exact_moments(network.crossing(FRAMES))
    assert moments
    assert set(read) - set(moments) == {path for path in read if not of_server(path)}
    for path, found in moments.items():
        rows = read[path].transpose(0, 1).flatten(1).double().numpy()
        np.testing.assert_allclose(found.mean, rows.mean(1), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found.variance, rows.var(1), rtol=1e-3, atol=1e-6)


def of_server(path: str) -> bool:
    return not any(f"a:{stage}" in path for stage in ("stem", "blocks/0", "blocks/1", "blocks/2"))


def test_exact_frames_leave_the_statistics_as_they_are(network: SplitNetwork) -> None:
    crossing = network.crossing(FRAMES)
    found = network.run.matching_statistics(network.run.exact_moments(crossing), crossing)
    own = BatchNormStatistics.of(network.merged)
    for path, mean in found.means.items():
        scale = own.variances[path].sqrt()
        assert ((mean - own.means[path]).abs() <= 1e-4 * scale + 1e-6).all(), path
        torch.testing.assert_close(found.variances[path], own.variances[path], rtol=1e-3, atol=0)


def test_behind_distorted_frames_all_batchnorms_return_what_they_should(
    network: SplitNetwork,
) -> None:
    exact = network.crossing(FRAMES)
    decoded, own_moments = distorted(exact), network.run.exact_moments(exact)
    statistics = network.run.matching_statistics(own_moments, decoded)
    matched = with_statistics(network.merged, statistics)
    expected = normalised(network.merged, own_moments)
    run = ServerRun(matched, network.setup.facts, network.parts.server)
    actual = normalised(matched, run.exact_moments(decoded))
    apart = normalised(network.merged, network.run.exact_moments(decoded))
    assert expected.keys() == actual.keys()
    for path, (mean, variance) in expected.items():
        torch.testing.assert_close(actual[path].mean, mean, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(actual[path].variance, variance, rtol=1e-3, atol=1e-3)
    assert any((apart[path].mean - expected[path].mean).abs().max() > 0.1 for path in expected)


def normalised(
    merged: MergedModel, read: Mapping[str, ChannelMoments]
) -> dict[str, ChannelMoments]:
    """Return the moments of what BatchNorms return before their weights and biases."""
    norms = dict(batchnorms(merged))
    out = {}
    for path, (mean, variance) in read.items():
        norm = norms[path]
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        divisor = norm.running_var + norm.eps
        out[path] = ChannelMoments((mean - norm.running_mean) / divisor.sqrt(), variance / divisor)
    return out


def test_large_activations_are_measured_on_the_first_frames(
    network: SplitNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = network.crossing(FRAMES)
    first = {node: values[:16] for node, values in exact.items()}
    expected = network.run.exact_moments(first)
    monkeypatch.setattr(batchnorm_moments, "PASS_BYTES", 1)
    found = network.run.exact_moments(exact)
    for path in expected:
        assert torch.equal(found[path].mean, expected[path].mean)
        assert torch.equal(found[path].variance, expected[path].variance)


def test_coarse_frames_gain_and_their_fidelity_is_that_of_real_messages(
    network: SplitNetwork,
) -> None:
    coding = network.coding(-1)
    found = network.recalibrate(coding)
    assert found is not None and found.helps
    exact = network.crossing(HELD_OUT)
    encoder, decoder = network.codec.encoder, network.codec.decoder
    with torch.no_grad():
        coefficients = encoder([exact[node] for node in network.parts.crossing]).numpy()
        payloads = [encoder.encode(frame, coding) for frame in coefficients]
        received = np.stack([decoder.decode(payload, coding) for payload in payloads])
        tensors = decoder(torch.from_numpy(received))
        decoded = dict(zip(network.parts.crossing, tensors, strict=True))
        recalibrated = with_statistics(network.merged, found.statistics)
        expected = classes(network, network.merged, exact)
        own = classes(network, network.merged, decoded) == expected
        new = classes(network, recalibrated, decoded) == expected
    assert found.fidelity == pytest.approx(own.mean())
    assert found.recalibrated_fidelity == pytest.approx(new.mean())
    assert found.fidelity_noise == pytest.approx(np.std(new * 1.0 - own, ddof=1) / len(own) ** 0.5)
    assert new.mean() > own.mean() + 0.1


def classes(
    network: SplitNetwork, merged: MergedModel, taken: Mapping[Node, Tensor]
) -> np.typing.NDArray[np.int64]:
    answers = merged.run(network.parts.server, {}, taken, lambda head, taps: head(taps)).answers
    return np.asarray(answers["a"].argmax(1).numpy())


@pytest.mark.parametrize(
    ("rise", "rise_noise", "gain", "gain_noise", "helps"),
    [
        (0.03, 0.02, 0.02, 0.01, True),
        (0.03, 0.02, 0.019, 0.01, False),  # answers may have come closer by chance
        (0.02, 0.03, 0.02, 0.01, False),  # closer, and hardly any decision changes
        (-0.03, 0.02, 0.02, 0.01, False),
        (0.0, 0.0, 0.0, 0.0, False),
    ],
)
def test_what_is_within_noise_does_not_help(
    rise: float, rise_noise: float, gain: float, gain_noise: float, helps: bool
) -> None:
    statistics = BatchNormStatistics({}, {})
    found = Recalibration(Coding(0, 1), statistics, 0.5, 0.5 + rise, rise_noise, gain, gain_noise)
    assert found.helps is helps


def test_frames_that_are_nearly_exact_gain_nothing(network: SplitNetwork) -> None:
    assert network.recalibrate(network.coding(0)) is None


def test_the_same_frames_give_the_same_statistics(network: SplitNetwork) -> None:
    first, second = (network.recalibrate(network.coding(-1)) for _ in range(2))
    assert first is not None and second is not None
    assert (first.fidelity, first.gain) == (second.fidelity, second.gain)
    for path, mean in first.statistics.means.items():
        assert of_server(path)
        assert torch.equal(mean, second.statistics.means[path])
        assert torch.equal(first.statistics.variances[path], second.statistics.variances[path])


def test_each_coding_has_the_statistics_of_the_last_one_that_is_no_coarser(
    network: SplitNetwork,
) -> None:
    curve = network.codec.curve
    steps = [network.coding(place).step for place in (0, -6, -1)]
    found = recalibrate_steps(network.setup, SPLIT, network.codec, FRAMES, HELD_OUT, steps)
    assert found is not None
    assert [tried.coding.step for tried in found.tried] == steps
    assert [tried.helps for tried in found.tried][:: len(steps) - 1] == [False, True]
    for step in range(steps[0] - 3, steps[-1] + 3):
        tried = [t for t in found.tried if t.coding.step <= step]
        expected = tried[-1].statistics if tried and tried[-1].helps else None
        assert found.by_coding.at(Coding(step, curve.zones)) is expected


def test_with_fewer_bands_statistics_begin_at_the_same_distortion(network: SplitNetwork) -> None:
    curve = network.codec.curve
    steps = [network.coding(-1).step]
    found = recalibrate_steps(network.setup, SPLIT, network.codec, FRAMES, HELD_OUT, steps)
    assert found is not None
    least = curve.distortion(found.tried[0].coding)
    for bands in range(1, curve.zones + 1):
        first = int(found.by_coding.first_steps[0, bands - 1])
        assert first <= steps[0]
        assert curve.distortion(Coding(first, bands)) >= least
        assert first == -128 or curve.distortion(Coding(first - 1, bands)) < least


def test_the_steps_to_try_are_the_finest_of_their_distortions(network: SplitNetwork) -> None:
    curve = network.codec.curve
    steps = steps_to_try(curve)
    assert steps == sorted(steps)
    assert {*steps} <= {*curve.steps}
    distortions = [curve.distortion(Coding(step, curve.zones)) for step in steps]
    for least in (0.01, 0.025, 0.05, 0.1, 0.2):
        assert min(d for d in distortions if d >= least) < 2 * least


def test_without_batchnorms_nothing_is_recalibrated(network: SplitNetwork) -> None:
    """Fused models have none left, as networks that never had one."""
    fused = {name: fuse_batchnorms(model) for name, model in network.setup.models.items()}
    setup = replace(network.setup, models=fused)
    assert not [*batchnorms(setup.merged(SPLIT.plan))]
    coding = network.coding(-1)
    assert recalibrate(setup, SPLIT, network.codec, coding, FRAMES, HELD_OUT) is None
    assert recalibrate_steps(setup, SPLIT, network.codec, FRAMES, HELD_OUT) is None
