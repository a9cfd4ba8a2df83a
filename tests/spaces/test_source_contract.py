"""Every source of networks keeps the same contract."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from source_examples import EXAMPLES, SourceExample, flat

from spaces.bundle import BundleContents, load_bundle, write_bundle
from spaces.bundle_files import BadBundle
from spaces.errors import BadInput, BadWeights, MergeSearchError
from spaces.inputs import prepare_batch
from spaces.merged import MergedModel
from spaces.model_facts import collect_model_facts
from spaces.model_spec import ARCH_FORMS, ModelSpec
from spaces.plan import SharePlan
from spaces.sources.source import BuiltNetwork
from spaces.stages import StagedModel
from spaces.zoo import NETWORK_SOURCES, build_skeleton, load_model


def test_every_source_has_an_example_and_a_form() -> None:
    assert set(EXAMPLES) == set(NETWORK_SOURCES) == {form.prefix for form in ARCH_FORMS}


@pytest.fixture(scope="module", params=NETWORK_SOURCES)
def example(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SourceExample]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path_factory.getbasetemp())
        torch.manual_seed(0)
        yield EXAMPLES[request.param](tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def built(example: SourceExample) -> BuiltNetwork:
    prefix = next(p for p in NETWORK_SOURCES if example.spec.arch.startswith(p))
    return NETWORK_SOURCES[prefix].build(example.spec, example.spec.arch.removeprefix(prefix))


@pytest.fixture(scope="module")
def model(example: SourceExample) -> StagedModel:
    return load_model(example.spec)


@torch.no_grad()
def test_the_cut_network_answers_like_the_uncut_one_and_its_library(
    example: SourceExample, built: BuiltNetwork
) -> None:
    for batch in (1, 3):
        inputs = built.model.example_input(batch)
        expected = flat(example.net(inputs))
        for answers in (built.answers(inputs), built.uncut_answers(inputs)):
            for one, other in zip(answers, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_network_has_stages_and_the_head_reads_some(model: StagedModel) -> None:
    assert len(model.layout.stages) >= 4
    assert model.layout.taps and set(model.layout.taps) <= set(model.layout.stages)
    assert len(set(model.layout.stages)) == len(model.layout.stages)


def test_a_network_is_in_evaluation_mode_and_needs_no_gradients(model: StagedModel) -> None:
    assert not any(part.training for part in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_skeleton_needs_no_weights_and_has_the_same_tensors(
    example: SourceExample, model: StagedModel
) -> None:
    skeleton = build_skeleton(replace(example.spec, weights="/no/such/file"))
    assert skeleton.layout == model.layout and skeleton.input == model.input
    assert all(tensor.is_meta for tensor in [*skeleton.parameters(), *skeleton.buffers()])
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in skeleton.state_dict().items()} == shapes


def test_the_same_spec_gives_the_same_weights(example: SourceExample, model: StagedModel) -> None:
    assert model.source is not None
    again = load_model(example.spec).source
    assert again is not None and again.weights_hash == model.source.weights_hash


@torch.no_grad()
def test_a_checkpoint_of_the_network_changes_its_answers_likewise(
    example: SourceExample, built: BuiltNetwork, tmp_path: Path
) -> None:
    state = {name: tensor.clone() for name, tensor in example.net.state_dict().items()}
    name = next(name for name in reversed(state) if state[name].ndim > 1)
    state[name] *= 2
    save_file(state, tmp_path / "other.safetensors")
    spec = replace(example.spec, weights=str(tmp_path / "other.safetensors"))
    if not example.loads_checkpoints:
        with pytest.raises(BadWeights, match=r"mine: .*set `weights: none`"):
            load_model(spec)
        return
    other = load_model(spec)
    inputs = other.example_input()
    own = example.net.state_dict()[name]
    own.mul_(2)
    expected = flat(example.net(inputs))
    own.div_(2)
    representations = dict(other.walk(inputs))
    taps = [representations[tap] for tap in other.layout.taps]
    run_head: Callable[[list[torch.Tensor]], object] = getattr(other.head, "raw", other.head)
    answers = flat(run_head(taps))
    for one, same in zip(answers, expected, strict=True):
        torch.testing.assert_close(one, same, rtol=1e-4, atol=1e-4)


def refusal(spec: ModelSpec) -> MergeSearchError:
    """Return the error with which a network is refused: one sentence that names the model."""
    with pytest.raises((BadInput, BadWeights)) as caught:
        load_model(spec)
    message = str(caught.value)
    assert message.startswith("mine: ") and len(message.splitlines()) == 1
    return caught.value


def test_an_unknown_name_is_refused(example: SourceExample) -> None:
    refusal(replace(example.spec, arch=example.unknown, weights="none"))


def test_what_does_not_fit_the_network_is_refused(example: SourceExample) -> None:
    for misfit in example.misfits:
        refusal(replace(example.spec, **misfit))


def test_a_network_without_weights_in_a_hub_is_refused(example: SourceExample) -> None:
    if example.without_hub is None:
        pytest.skip("every network of this source has weights in a hub")
    spec = replace(example.spec, arch=example.without_hub, weights="hub", size=None)
    assert isinstance(refusal(spec), BadWeights)


def test_a_bundle_needs_neither_the_weights_nor_the_file_of_the_network(
    example: SourceExample, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    for file in example.files:
        shutil.copy(file, tmp_path / "source" / file.name)
    spec = example.spec
    if example.files:
        prefix = spec.arch.partition(":")[0]
        spec = replace(spec, arch=f"{prefix}:{tmp_path / 'source' / example.files[0].name}")
    model = load_model(spec)
    facts = {"mine": collect_model_facts(model)}
    plan, inputs = SharePlan(), {"mine": model.input}
    contents = BundleContents({"mine": spec}, inputs, facts, plan, "float32")
    (tmp_path / "bundle").mkdir()
    write_bundle(tmp_path / "bundle", contents, MergedModel({"mine": model}, facts, plan, {}))
    shutil.rmtree(tmp_path / "source")
    (tmp_path / "bundle").rename(tmp_path / "moved")
    assert str(tmp_path) not in (tmp_path / "moved" / "bundle.json").read_text()
    bundle = load_bundle(tmp_path / "moved")
    frame = torch.randint(0, 255, (90, 120, 3), dtype=torch.uint8).numpy()
    prepared = prepare_batch([frame], model.input)
    with torch.inference_mode():
        merged = bundle.merged({"mine": prepared})["mine"]
        torch.testing.assert_close(merged, model(prepared))
    for structure in (tmp_path / "moved").glob("network.*"):
        assert structure.stat().st_size < 0.6 * example.files[-1].stat().st_size
        structure.unlink()
        with pytest.raises(BadBundle, match=r"network\.mine\..* is missing"):
            load_bundle(tmp_path / "moved")
