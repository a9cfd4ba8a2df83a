"""Facts about a model that need none of its tensors: layout, bytes, MACs, shapes and consumers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter

from spaces.activations import Footprint
from spaces.consumers import Consumers, find_consumers
from spaces.errors import BadPlan
from spaces.inputs import FieldOfView
from spaces.plan import HEAD, Precision
from spaces.precision import Dtype, stored_bytes, weight_names
from spaces.stages import (
    Layout,
    StagedModel,
    StageFacts,
    measure_head,
    measure_stages,
    total_bytes,
)
from spaces.tasks.task import TaskName

Tensors = Mapping[str, Mapping[str, int]]
"""Owner (a stage or HEAD) -> name of each unique tensor -> its bytes."""


@dataclass(frozen=True)
class ModelFacts:
    """Facts about one model: inert data that can be written as JSON."""

    layout: Layout
    task: TaskName
    field_of_view: FieldOfView
    stages: tuple[StageFacts, ...]
    tensors: Tensors
    head_macs: int
    """Multiply-accumulates of the head per frame."""
    consumers: Annotated[Mapping[str, Mapping[str, Consumers]], Field(alias="readers")]
    """Stage -> owner that reads its representation (the next stage, HEAD) -> its consumers."""
    input_bytes: int
    """Bytes of one prepared frame in float32."""
    head_footprint: Footprint
    dtype: Dtype = "float32"
    """The precision in which the weights are stored, unless a plan says otherwise."""
    stored: Mapping[Precision, Tensors] = field(default_factory=dict)
    """The same as `tensors`, for each other precision that a plan may choose."""

    def tensors_at(self, owner: str, precision: Precision) -> Mapping[str, int]:
        """Return the bytes of each tensor of a stage or of HEAD at a precision.

        Raises:
            BadPlan: the bytes at that precision are not known.
        """
        if precision == self.dtype:
            return self.tensors[owner]
        if precision not in self.stored:
            known = ", ".join([self.dtype, *self.stored])
            raise BadPlan(
                f"{self.layout.model}: {precision} is not one of the precisions {known} of "
                "`search.precision`"
            )
        return self.stored[precision][owner]

    def stage(self, name: str) -> StageFacts:
        """Return the row of a stage; raise ValueError if there is none of that name."""
        return self.stages[self.layout.index(name)]

    @property
    def head_bytes(self) -> int:
        """Bytes of the parameters and buffers of the head."""
        return sum(self.tensors[HEAD].values())


def collect_model_facts(
    model: StagedModel, dtype: Dtype = "float32", precisions: Sequence[Precision] = ()
) -> ModelFacts:
    """Run the model on a random input and collect its facts, with weights stored as `dtype`.

    `precisions` are those that plans may choose.
    """
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
        stored={other: _tensors(model, other) for other in precisions if other != dtype},
    )


def collect_facts(
    models: Mapping[str, StagedModel],
    dtype: Dtype = "float32",
    precisions: Sequence[Precision] = (),
) -> dict[str, ModelFacts]:
    """Collect the facts of each model, by name."""
    return {name: collect_model_facts(model, dtype, precisions) for name, model in models.items()}


def facts_at(
    models: Mapping[str, StagedModel],
    facts: Mapping[str, ModelFacts],
    precisions: Sequence[Precision],
) -> dict[str, ModelFacts]:
    """Return the facts of models with other precisions that plans may choose."""
    return {
        name: replace(fact, stored={p: _tensors(models[name], p) for p in precisions})
        for name, fact in facts.items()
    }


def facts_to_json(facts: Mapping[str, ModelFacts]) -> Any:
    """Return facts as JSON values: dicts, lists, strings and numbers."""
    data = _JSON.dump_python(dict(facts), mode="json", by_alias=True)
    for model in data.values():
        if not model["stored"]:
            del model["stored"]  # as before plans had precisions: hashes of problems depend on it
    return data


def facts_from_json(data: Any) -> dict[str, ModelFacts]:
    """Return the facts that `facts_to_json` wrote.

    Raises:
        ValueError: the data has another structure.
    """
    return _JSON.validate_python(data)


_JSON = TypeAdapter(dict[str, ModelFacts])


def layouts_by_model(facts: Mapping[str, ModelFacts]) -> dict[str, Layout]:
    """Return the layout of each model, by name."""
    return {name: model_facts.layout for name, model_facts in facts.items()}


def _stages(
    model: StagedModel, tensors: Mapping[str, Mapping[str, int]]
) -> tuple[StageFacts, ...]:
    """Return the stage table with the bytes of the weights as they are stored."""
    return tuple(
        replace(stage, bytes=sum(tensors[stage.name].values())) for stage in measure_stages(model)
    )


def _tensors(model: StagedModel, precision: Precision) -> dict[str, dict[str, int]]:
    """Return the bytes of each tensor by owner; a tensor of two owners has one name in both."""
    weights = weight_names(model)
    names: dict[int, str] = {}
    owners = dict(zip(model.layout.stages, model.stages, strict=True)) | {HEAD: model.head}
    sizes: dict[str, dict[str, int]] = {}
    for owner, module in owners.items():
        sizes[owner] = {}
        for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
            name = names.setdefault(id(tensor), f"{model.name}/{owner}/{path}")
            sizes[owner][name] = (
                stored_bytes(tensor.shape, precision)
                if id(tensor) in weights
                else tensor.numel() * tensor.element_size()
            )
    return sizes


@torch.no_grad()
def _consumers(model: StagedModel) -> dict[str, dict[str, Consumers]]:
    representations = dict(model.walk(model.example_input(batch=1)))
    taps = [representations[name] for name in model.layout.taps]
    names = model.layout.stages
    consumers: dict[str, dict[str, Consumers]] = {}
    for index, name in enumerate(names):
        watched = representations[name]
        consumers[name] = {}
        if index + 1 < len(names):
            following = model.stages[index + 1]
            consumers[name][names[index + 1]] = find_consumers(
                names[index + 1], following, watched, watched
            )
        if name in model.layout.taps:
            consumers[name][HEAD] = find_consumers(HEAD, model.head, taps, watched)
    return consumers
