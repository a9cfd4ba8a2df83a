"""The peak bytes of live activations that a merged model has, measured at every step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from spaces.activations import AllocationTracker
from spaces.cost import CostModel
from spaces.merged import LinearMaps, MergedModel, ModelsByName
from spaces.model_facts import ModelFacts
from spaces.plan import SharePlan


class ReleasedInputs(Mapping[str, Tensor]):
    """A mapping of inputs that gives up its only reference when an input is looked up."""

    def __init__(self, inputs: dict[str, Tensor]) -> None:
        self.inputs = inputs

    def __getitem__(self, name: str) -> Tensor:
        return self.inputs.pop(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.inputs)

    def __len__(self) -> int:
        return len(self.inputs)


@torch.no_grad()
def peaks_of(merged: MergedModel, inputs: Mapping[str, Tensor]) -> list[int]:
    """Return the peak during each call of a merged model that owns copies of its inputs."""
    alive, peaks = AllocationTracker(), list[int]()

    def before(*_: object) -> None:
        alive.peak = alive.live_bytes

    def after(*_: object) -> None:
        peaks.append(alive.peak)

    parts = [p for group in (merged.stages, merged.adapters, merged.heads) for p in group.values()]
    handles = [part.register_forward_pre_hook(before) for part in parts]
    handles += [part.register_forward_hook(after) for part in parts]
    with alive:
        merged(ReleasedInputs({name: inputs[name].clone() for name in merged.inputs_read}))
    for handle in handles:
        handle.remove()
    return peaks


def check_activations(
    models: ModelsByName,
    facts: Mapping[str, ModelFacts],
    plan: SharePlan,
    maps: LinearMaps,
    seed: int = 0,
) -> None:
    """Assert that prediction and measurement agree at every step, on new random inputs."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        name: torch.rand_like(model.example_input(1), generator=generator)
        for name, model in models.items()
    }
    costs = CostModel(facts)
    predicted = [peak for _, peak in costs.activations(plan)]
    measured = peaks_of(MergedModel(models, facts, plan, maps), inputs)
    assert predicted == measured, str(plan)
    assert costs.activation(plan) == max(measured)
