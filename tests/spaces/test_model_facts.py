"""The bytes of a model: tied tensors count once, checkpoints in half precision keep their size."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CLASSIFIER, Weights, random_network
from torch import Tensor, nn

from spaces.bundle import BundleContents, load_bundle, write_bundle
from spaces.bundle_files import WEIGHTS
from spaces.cost import CostModel
from spaces.inputs import InputSpec
from spaces.merged import MergedModel
from spaces.model_facts import collect_facts, collect_model_facts
from spaces.model_spec import ModelSpec
from spaces.plan import SharePlan
from spaces.precision import TORCH_DTYPES, Dtype
from spaces.stages import Layout, StagedModel, total_bytes, unique_tensors
from spaces.zoo import load_model

SPEC = InputSpec(32, 32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "squash")


class PooledHead(nn.Module):
    """A linear classifier of the mean over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 5)

    def forward(self, taps: list[Tensor]) -> Tensor:
        logits: Tensor = self.linear(taps[0].mean((2, 3)))
        return logits


def tied_model() -> StagedModel:
    """Return a model with one convolution in two places of a stage and again in another stage."""
    first, tied = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    stages = [first, nn.Sequential(tied, nn.ReLU(), tied), nn.Sequential(tied, nn.ReLU())]
    layout = Layout("tied", ("one", "two", "three"), ("three",))
    return StagedModel(layout, stages, PooledHead(8), SPEC, "classification", 5).eval()


@pytest.mark.parametrize(("dtype", "element"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_a_tensor_of_several_names_counts_once(dtype: Dtype, element: int) -> None:
    first, tied, head = 8 * 3 * 9 + 8, 8 * 8 * 9 + 8, 5 * 8 + 5
    for model in (tied_model(), copy.deepcopy(tied_model()).to("cpu")):
        facts = collect_model_facts(model, dtype)
        stages = {stage.name: stage.bytes for stage in facts.stages}
        assert stages == {"one": first * element, "two": tied * element, "three": tied * element}
        assert facts.head_bytes == head * element
        unmerged = CostModel({"tied": facts}).unmerged_bytes
        assert unmerged == (first + tied + head) * element
    if dtype == "float32":
        assert unmerged == total_bytes(unique_tensors(model))


def names_in_layers(net: nn.Module) -> set[str]:
    """Return the names of the weights and biases of convolutions and linear layers."""
    return {
        f"{path}.{name}"
        for path, part in net.named_modules()
        if isinstance(part, (nn.Conv2d, nn.Linear))
        for name, _ in part.named_parameters()
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_checkpoint_in_half_precision_keeps_its_size_and_values(
    dtype: Dtype, weights: Weights, tmp_path: Path
) -> None:
    """Convolutions and linear layers do; BatchNorms are stored in float32 whatever the dtype."""
    half = TORCH_DTYPES[dtype]
    state = load_file(weights(CLASSIFIER, 1))
    small = {name: t.to(half) if t.is_floating_point() else t for name, t in state.items()}
    save_file(small, tmp_path / "half.safetensors")
    spec = ModelSpec("a", CLASSIFIER, str(tmp_path / "half.safetensors"), 7, (64, 64), "squash")
    models = {"a": load_model(spec)}
    facts = collect_facts(models, dtype)
    layers = names_in_layers(random_network(CLASSIFIER, 1))
    originals = [small[name] for name in layers]
    others = [state[name] for name in state if name not in layers]
    unmerged = CostModel(facts).unmerged_bytes
    assert unmerged == total_bytes(originals) + total_bytes(others)
    assert CostModel(collect_facts(models)).unmerged_bytes > 1.7 * unmerged
    merged = MergedModel(models, facts, SharePlan(), {})
    contents = BundleContents({"a": spec}, {"a": models["a"].input}, facts, merged.plan, dtype)
    assert write_bundle(tmp_path, contents, merged) == unmerged
    stored = [t for t in load_file(tmp_path / WEIGHTS).values() if t.dtype == half]
    assert len(stored) == len(originals)
    for tensor in originals:
        assert any(tensor.shape == t.shape and torch.equal(tensor, t) for t in stored)
    assert total_bytes(unique_tensors(load_bundle(tmp_path))) == unmerged
