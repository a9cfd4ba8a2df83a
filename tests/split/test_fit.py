"""Codecs fitted to real networks: their rates and distortions are the predicted ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from tiny import CLASSIFIER, DETECTOR, STREET, Weights, load_tiny

from search.data.frames import RenderedScenes, Subset
from search.split.answer_weights import AnswerGradients
from search.split.fit import FittedCodec, fit_codecs
from search.split.settings import CodecSettings
from search.split.setup import SplitSetup, representations
from search.split.zone_statistics import coded_form
from search.utils.progress import silent
from spaces.model_facts import collect_facts
from spaces.node import Node
from spaces.plan import HEAD, Ref, SharePlan
from spaces.split.codec import Decoder, Encoder
from spaces.split.coefficients import Coding
from spaces.split.message import Message
from spaces.split.split import Split, SplitParts
from spaces.tasks.registry import TASKS

FRAMES = RenderedScenes(STREET, 128)
FITTED, OTHERS = Subset(FRAMES, tuple(range(96))), Subset(FRAMES, tuple(range(96, 128)))
SETTINGS = CodecSettings(gradient_frames=16, seed=1)
CHAIN = ["a:blocks.1", "a:blocks.3", "a:pool"]
Codecs = dict[Split, FittedCodec]


def split_at(*ends: str) -> Split:
    return Split(SharePlan(), tuple(map(Ref.parse, ends)))


SPLITS = [split_at(end) for end in CHAIN]
TWO_MODELS = split_at("a:blocks.2", "det:blocks.4")
WITH_LOCAL = split_at(f"a:{HEAD}", "det:blocks.1")


def setup_of(weights: Weights, archs: Mapping[str, tuple[str, int]]) -> SplitSetup:
    models = load_tiny(weights, archs)
    return SplitSetup(models, collect_facts(models), {}, "float32")


@pytest.fixture(scope="module")
def one(weights: Weights) -> SplitSetup:
    return setup_of(weights, {"a": (CLASSIFIER, 1)})


@pytest.fixture(scope="module")
def two(weights: Weights) -> SplitSetup:
    return setup_of(weights, {"a": (CLASSIFIER, 1), "det": (DETECTOR, 3)})


@pytest.fixture(scope="module")
def codecs(one: SplitSetup) -> Codecs:
    return fit_codecs(one, SPLITS, FITTED, SETTINGS)


def sent_by(setup: SplitSetup, split: Split) -> list[torch.Tensor]:
    """Return what crosses the link, of all other frames."""
    merged = setup.merged(split.plan)
    parts = SplitParts.of(merged, split)
    runs = [*representations(setup, merged, parts.device, OTHERS, 8, silent)]
    return [torch.cat([run[node] for run in runs]) for node in parts.crossing]


@pytest.mark.parametrize("split", SPLITS, ids=CHAIN)
def test_predicted_bytes_are_those_of_messages_of_other_frames(
    split: Split, one: SplitSetup, codecs: Codecs
) -> None:
    codec = codecs[split]
    coefficients = codec.encoder(sent_by(one, split)).numpy()
    steps = codec.curve.steps
    for step in (steps[len(steps) // 4], steps[len(steps) // 2]):
        for bands in {max(1, codec.curve.zones // 2), codec.curve.zones}:
            coding = Coding(step, bands)
            payloads = [codec.encoder.encode(frame, coding) for frame in coefficients]
            sizes = [len(Message(1, 0, coding, (72, 96), p).to_bytes()) for p in payloads]
            assert codec.curve.bytes(coding) == pytest.approx(np.mean(sizes), rel=0.1)


@pytest.mark.parametrize("split", SPLITS, ids=CHAIN)
def test_predicted_distortion_is_that_of_the_coefficients(
    split: Split, one: SplitSetup, codecs: Codecs
) -> None:
    codec = codecs[split]
    coefficients = codec.encoder(sent_by(one, split)).numpy()
    steps = codec.curve.steps
    for coding in (Coding(steps[len(steps) // 4], 8), Coding(steps[len(steps) // 2], 1)):
        payloads = [codec.encoder.encode(frame, coding) for frame in coefficients]
        received = np.stack([codec.decoder.decode(payload, coding) for payload in payloads])
        errors = np.square(received - coefficients).sum(1).mean()
        assert codec.curve.distortion(coding) == pytest.approx(errors, rel=0.25)


def test_coarser_steps_and_fewer_bands_save_bytes_and_distort(codecs: Codecs) -> None:
    for codec in codecs.values():
        curve = codec.curve
        for bands in range(1, curve.zones + 1):
            codings = [Coding(step, bands) for step in curve.steps]
            rates = [curve.bytes(coding) for coding in codings]
            assert (np.diff(rates) < 3).all()  # bytes: more states may cost a little
            distortions = [curve.distortion(coding) for coding in codings]
            assert (np.diff(distortions) > 0).all()
        middle = curve.steps[len(curve.steps) // 2]
        by_bands = [Coding(middle, bands) for bands in range(curve.zones + 1)]
        assert (np.diff([*map(curve.bytes, by_bands)]) >= 0).all()
        assert (np.diff([*map(curve.distortion, by_bands)]) <= 0).all()


@pytest.mark.parametrize("split", [*SPLITS, TWO_MODELS], ids=lambda split: split.label)
def test_fine_steps_give_the_representations_back(
    split: Split, one: SplitSetup, two: SplitSetup
) -> None:
    setup = two if split == TWO_MODELS else one
    settings = CodecSettings(gradient_frames=4, device_bytes=2_000_000)
    codec = fit_codecs(setup, [split], Subset(FRAMES, tuple(range(8))), settings)[split]
    values = sent_by(setup, split)
    back = codec.decoder(codec.encoder(values))
    for sent, received in zip(values, back, strict=True):
        assert float((received - sent).abs().max() / sent.abs().max()) < 1e-3


@pytest.mark.parametrize("split", [SPLITS[1], TWO_MODELS, WITH_LOCAL], ids=lambda s: s.label)
def test_weights_are_the_effect_of_small_errors_on_the_answers(
    split: Split, two: SplitSetup
) -> None:
    if split == SPLITS[1]:
        split = split_at("a:blocks.3", f"det:{HEAD}")
    merged = two.merged(split.plan)
    parts = SplitParts.of(merged, split)
    frames = Subset(FRAMES, tuple(range(12)))
    values = next(representations(two, merged, parts.device, frames, 12, silent))
    forms = {node: coded_form(tuple(v.shape[1:]), 8, 75_000) for node, v in values.items()}
    gradients = AnswerGradients(two, merged, frames, 12)
    weights = gradients.weights({split: parts}, forms, 0)[split]
    size, generator = 1e-3, torch.Generator().manual_seed(5)
    noisy = {
        node: value + size * torch.randn(value.shape, generator=generator)
        for node, value in values.items()
    }
    predicted = size**2 * sum(
        count * float(np.trace(weight))
        for node in parts.crossing
        for count, weight in zip(forms[node].zone_sizes, weights[node], strict=True)
    )
    exact, changed = (amplitudes_of(two, parts, run) for run in (values, noisy))
    actual = 0.0
    for name, amplitudes in exact.items():
        change = (changed[name] - amplitudes).square().sum(1).mean()
        actual += float(change / amplitudes.var(0, correction=0).sum())
    assert predicted == pytest.approx(actual, rel=0.4)  # of 12 frames


@torch.inference_mode()
def amplitudes_of(
    setup: SplitSetup, parts: SplitParts, values: Mapping[Node, torch.Tensor]
) -> dict[str, torch.Tensor]:
    merged = setup.merged(SharePlan())
    taken = {node: values[node] for node in parts.crossing}
    answers = merged.run(parts.server, {}, taken, lambda head, taps: (head, taps)).answers
    found = {}
    for name, (head, taps) in answers.items():
        task = TASKS[setup.models[name].task]
        found[name] = task.amplitudes(task.comparable(head, taps)).double()
    return found


def test_weights_by_answers_keep_them_better(one: SplitSetup, codecs: Codecs) -> None:
    split = SPLITS[1]
    plain = fit_codecs(one, [split], FITTED, CodecSettings(weight="none"))[split]
    parts = SplitParts.of(one.merged(split.plan), split)
    values = sent_by(one, split)
    exact = amplitudes_of(one, parts, dict(zip(parts.crossing, values, strict=True)))["a"]
    changes = []
    for codec in (codecs[split], plain):
        # the same bytes: the closest step to 150
        steps, zones = codec.curve.steps, codec.curve.zones
        sizes = [abs(codec.curve.bytes(Coding(step, zones)) - 150) for step in steps]
        coding = Coding(steps[int(np.argmin(sizes))], zones)
        coder = codec.encoder.coder
        received = [
            coder.dequantise(coder.quantise(frame, coding), coding)
            for frame in codec.encoder(values).numpy()
        ]
        decoded = codec.decoder(torch.from_numpy(np.stack(received)))
        run = dict(zip(parts.crossing, decoded, strict=True))
        changes.append(float((amplitudes_of(one, parts, run)["a"] - exact).square().mean()))
    assert changes[0] < changes[1]


def test_device_holds_no_more_than_it_may(one: SplitSetup, codecs: Codecs) -> None:
    for codec in codecs.values():
        stored = codec.encoder.stored()
        maps = [tensor for name, tensor in stored.items() if name.endswith("maps")]
        assert sum(tensor.nbytes for tensor in maps) <= SETTINGS.device_bytes
    small = CodecSettings(gradient_frames=4, device_bytes=1000)
    codec = fit_codecs(one, SPLITS[:1], FITTED, small)[SPLITS[0]]
    assert codec.encoder.stored()["0.maps"].nbytes <= 1000


def test_equal_seeds_give_equal_codecs(one: SplitSetup, codecs: Codecs) -> None:
    again = fit_codecs(one, SPLITS, FITTED, SETTINGS)
    for split, codec in codecs.items():
        for part in ("encoder", "decoder"):
            ours, theirs = (getattr(c, part).stored() for c in (codec, again[split]))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_stored_ends_code_alike(one: SplitSetup, codecs: Codecs) -> None:
    codec, values = codecs[SPLITS[0]], sent_by(one, SPLITS[0])
    encoder = Encoder.from_stored(codec.encoder.stored())
    decoder = Decoder.from_stored(codec.decoder.stored())
    coding = Coding(codec.curve.steps[10], 3)
    payload = encoder.encode(encoder(values)[0].numpy(), coding)
    assert payload == codec.encoder.encode(codec.encoder(values)[0].numpy(), coding)
    received = torch.from_numpy(decoder.decode(payload, coding))[None]
    assert torch.equal(decoder(received)[0], codec.decoder(received)[0])
