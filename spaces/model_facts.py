"""All that is known of a model without its tensors: what the search, the costs and tables need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import TypeAdapter

from spaces.activations import Footprint
from spaces.consumers import HEAD, Readers, find_readers
from spaces.inputs import FieldOfView
from spaces.precision import Dtype, element_bytes, weights_of
from spaces.stages import (
    Layout,
    StagedModel,
    StageFacts,
    Task,
    bytes_of,
    head_costs,
    stage_table,
)

Tensors = Mapping[str, Mapping[str, int]]
"""Owner (a stage or HEAD) -> name of each unique tensor -> bytes."""


@dataclass(frozen=True)
class ModelFacts:
    """A surveyed model: inert data."""

    layout: Layout
    task: Task
    field_of_view: FieldOfView
    stages: tuple[StageFacts, ...]
    tensors: Tensors
    head_macs: int
    readers: Mapping[str, Mapping[str, Readers]]
    """Representation -> owner that reads it -> how."""
    input_bytes: int
    """Of one prepared frame."""
    head_footprint: Footprint
    dtype: Dtype = "float32"
    """In which the weights are kept."""

    def stage(self, name: str) -> StageFacts:
        return self.stages[self.layout.index(name)]

    @property
    def head_bytes(self) -> int:
        return sum(self.tensors[HEAD].values())


def survey(model: StagedModel, dtype: Dtype = "float32") -> ModelFacts:
    """Run the model on a random input and write down what it is made of, kept in a dtype."""
    macs, footprint = head_costs(model)
    tensors = _tensors(model, dtype)
    return ModelFacts(
        layout=model.layout,
        task=model.task,
        field_of_view=model.input.field_of_view,
        stages=_stages(model, tensors),
        tensors=tensors,
        head_macs=macs,
        readers=_readers(model),
        input_bytes=bytes_of([model.example(batch=1)]),
        head_footprint=footprint,
        dtype=dtype,
    )


def survey_all(
    models: Mapping[str, StagedModel], dtype: Dtype = "float32"
) -> dict[str, ModelFacts]:
    return {name: survey(model, dtype) for name, model in models.items()}


def facts_to_json(facts: Mapping[str, ModelFacts]) -> Any:
    return _JSON.dump_python(dict(facts), mode="json")


def facts_from_json(data: Any) -> dict[str, ModelFacts]:
    """What `facts_to_json` wrote.

    Raises:
        ValueError: it is something else.
    """
    return _JSON.validate_python(data)


_JSON = TypeAdapter(dict[str, ModelFacts])


def layouts_of(facts: Mapping[str, ModelFacts]) -> dict[str, Layout]:
    return {name: fact.layout for name, fact in facts.items()}


def _stages(
    model: StagedModel, tensors: Mapping[str, Mapping[str, int]]
) -> tuple[StageFacts, ...]:
    """The stage table, with the bytes of the weights as they are kept."""
    return tuple(
        replace(stage, bytes=sum(tensors[stage.name].values())) for stage in stage_table(model)
    )


def _tensors(model: StagedModel, dtype: Dtype) -> dict[str, dict[str, int]]:
    """A tensor that two owners hold has one name, so that it is counted once."""
    weights, size = weights_of(model), element_bytes(dtype)
    names: dict[int, str] = {}
    owners = dict(zip(model.layout.stages, model.stages, strict=True)) | {HEAD: model.head}
    listed: dict[str, dict[str, int]] = {}
    for owner, module in owners.items():
        listed[owner] = {}
        for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
            name = names.setdefault(id(tensor), f"{model.name}/{owner}/{path}")
            each = size if id(tensor) in weights else tensor.element_size()
            listed[owner][name] = tensor.numel() * each
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
