"""All that is known of a model without its tensors: what the search, the costs and tables need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter

from spaces.activations import Footprint
from spaces.consumers import HEAD, Consumers, find_consumers
from spaces.inputs import FieldOfView
from spaces.precision import Dtype, element_bytes, weight_names
from spaces.stages import (
    Layout,
    StagedModel,
    StageFacts,
    Task,
    measure_head,
    measure_stages,
    total_bytes,
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
    consumers: Annotated[Mapping[str, Mapping[str, Consumers]], Field(alias="readers")]
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


def collect_model_facts(model: StagedModel, dtype: Dtype = "float32") -> ModelFacts:
    """Run the model on a random input and write down what it is made of, kept in a dtype."""
    macs, footprint = measure_head(model)
    tensors = _tensors(model, dtype)
    return ModelFacts(
        layout=model.layout,
        task=model.task,
        field_of_view=model.input.field_of_view,
        stages=_stages(model, tensors),
        tensors=tensors,
        head_macs=macs,
        consumers=_consumers(model),
        input_bytes=total_bytes([model.example_input(batch=1)]),
        head_footprint=footprint,
        dtype=dtype,
    )


def collect_facts(
    models: Mapping[str, StagedModel], dtype: Dtype = "float32"
) -> dict[str, ModelFacts]:
    return {name: collect_model_facts(model, dtype) for name, model in models.items()}


def facts_to_json(facts: Mapping[str, ModelFacts]) -> Any:
    return _JSON.dump_python(dict(facts), mode="json", by_alias=True)


def facts_from_json(data: Any) -> dict[str, ModelFacts]:
    """What `facts_to_json` wrote.

    Raises:
        ValueError: it is something else.
    """
    return _JSON.validate_python(data)


_JSON = TypeAdapter(dict[str, ModelFacts])


def layouts_by_model(facts: Mapping[str, ModelFacts]) -> dict[str, Layout]:
    return {name: fact.layout for name, fact in facts.items()}


def _stages(
    model: StagedModel, tensors: Mapping[str, Mapping[str, int]]
) -> tuple[StageFacts, ...]:
    """The stage table, with the bytes of the weights as they are kept."""
    return tuple(
        replace(stage, bytes=sum(tensors[stage.name].values())) for stage in measure_stages(model)
    )


def _tensors(model: StagedModel, dtype: Dtype) -> dict[str, dict[str, int]]:
    """A tensor that two owners hold has one name, so that it is counted once."""
    weights, size = weight_names(model), element_bytes(dtype)
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
def _consumers(model: StagedModel) -> dict[str, dict[str, Consumers]]:
    representations = dict(model.walk(model.example_input(batch=1)))
    taps = [representations[name] for name in model.layout.taps]
    names = model.layout.stages
    found: dict[str, dict[str, Consumers]] = {}
    for index, name in enumerate(names):
        watched = representations[name]
        found[name] = {}
        if index + 1 < len(names):
            following = model.stages[index + 1]
            found[name][names[index + 1]] = find_consumers(
                names[index + 1], following, watched, watched
            )
        if name in model.layout.taps:
            found[name][HEAD] = find_consumers(HEAD, model.head, taps, watched)
    return found
