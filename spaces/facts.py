"""All that is known of a model without its tensors: what the search, the costs and tables need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from spaces.activations import Footprint
from spaces.inputs import FieldOfView
from spaces.readers import HEAD, Readers, find_readers
from spaces.stages import (
    Layout,
    StagedModel,
    StageFacts,
    Task,
    bytes_of,
    head_costs,
    stage_table,
)


@dataclass(frozen=True)
class ModelFacts:
    """A surveyed model: inert data."""

    layout: Layout
    task: Task
    field_of_view: FieldOfView
    stages: tuple[StageFacts, ...]
    tensors: Mapping[str, Mapping[str, int]]
    """Owner (a stage or HEAD) -> name of each unique tensor -> bytes."""
    head_macs: int
    readers: Mapping[str, Mapping[str, Readers]]
    """Representation -> owner that reads it -> how."""
    input_bytes: int
    """Of one prepared frame."""
    head_footprint: Footprint

    def stage(self, name: str) -> StageFacts:
        return self.stages[self.layout.index(name)]

    @property
    def head_bytes(self) -> int:
        return sum(self.tensors[HEAD].values())


def survey(model: StagedModel) -> ModelFacts:
    """Run the model on a random input and write down what it is made of."""
    macs, footprint = head_costs(model)
    return ModelFacts(
        layout=model.layout,
        task=model.task,
        field_of_view=model.input.field_of_view,
        stages=stage_table(model),
        tensors=_tensors(model),
        head_macs=macs,
        readers=_readers(model),
        input_bytes=bytes_of([model.example(batch=1)]),
        head_footprint=footprint,
    )


def survey_all(models: Mapping[str, StagedModel]) -> dict[str, ModelFacts]:
    return {name: survey(model) for name, model in models.items()}


def layouts_of(facts: Mapping[str, ModelFacts]) -> dict[str, Layout]:
    return {name: fact.layout for name, fact in facts.items()}


def _tensors(model: StagedModel) -> dict[str, dict[str, int]]:
    """A tensor that two owners hold has one name, so that it is counted once."""
    names: dict[int, str] = {}
    owners = dict(zip(model.layout.stages, model.stages, strict=True)) | {HEAD: model.head}
    listed: dict[str, dict[str, int]] = {}
    for owner, module in owners.items():
        listed[owner] = {}
        for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
            name = names.setdefault(id(tensor), f"{model.name}/{owner}/{path}")
            listed[owner][name] = tensor.numel() * tensor.element_size()
    return listed


@torch.no_grad()
def _readers(model: StagedModel) -> dict[str, dict[str, Readers]]:
    representations = dict(model.walk(model.example(batch=1)))
    taps = [representations[name] for name in model.layout.taps]
    names = model.layout.stages
    found: dict[str, dict[str, Readers]] = {}
    for index, name in enumerate(names):
        watched = representations[name]
        found[name] = {}
        if index + 1 < len(names):
            following = model.stages[index + 1]
            found[name][names[index + 1]] = find_readers(
                names[index + 1], following, watched, watched
            )
        if name in model.layout.taps:
            found[name][HEAD] = find_readers(HEAD, model.head, taps, watched)
    return found
