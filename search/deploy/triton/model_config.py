"""The `config.pbtxt` of a model: Triton's ModelConfig in protobuf's text format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FREE = -1
"""A side of a tensor that is not fixed, as Triton writes it."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model."""

    name: str
    data_type: str
    """Triton's word, such as TYPE_FP32."""
    dims: tuple[int, ...]
    """All sides; the first is the batch. `FREE` where a side is not fixed."""


@dataclass(frozen=True)
class Step:
    """A model that an ensemble runs, with its tensors by their names in the ensemble."""

    model: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    """Those that the ensemble uses; Triton refuses others."""


@dataclass(frozen=True)
class TritonModel:
    """A model of a repository: a graph, or an ensemble that runs others."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    largest_batch: int
    """0 if the graph is fixed to its own batch size."""
    steps: tuple[Step, ...] = ()
    """Of an ensemble, in order; empty for a graph."""

    def tensor(self, name: str) -> Tensor:
        return next(t for t in (*self.inputs, *self.outputs) if t.name == name)


def render_config(model: TritonModel) -> str:
    """Return the content of the model's `config.pbtxt`."""
    platform = "ensemble" if model.steps else "onnxruntime_onnx"
    lines = [
        f"name: {_text(model.name)}",
        f"platform: {_text(platform)}",
        f"max_batch_size: {model.largest_batch}",
    ]
    for kind, tensors in (("input", model.inputs), ("output", model.outputs)):
        for tensor in tensors:
            lines += _block(kind, _tensor_lines(tensor, model.largest_batch))
    if model.steps:
        steps = [line for step in model.steps for line in _block("step", _step_lines(step))]
        lines += _block("ensemble_scheduling", steps)
    else:
        # One copy of the weights: onnxruntime's default on a processor is two.
        lines += _block("instance_group", ["count: 1"])
    return "\n".join(lines) + "\n"


def _tensor_lines(tensor: Tensor, largest_batch: int) -> list[str]:
    """Describe a tensor; Triton adds the batch to `dims` by itself where it may be larger."""
    dims = tensor.dims[1:] if largest_batch else tensor.dims
    return [
        f"name: {_text(tensor.name)}",
        f"data_type: {tensor.data_type}",
        f"dims: [{', '.join(map(str, dims))}]",
    ]


def _step_lines(step: Step) -> list[str]:
    maps: Mapping[str, Sequence[str]] = {"input_map": step.inputs, "output_map": step.outputs}
    lines = [f"model_name: {_text(step.model)}", "model_version: -1"]
    for name, tensors in maps.items():
        for tensor in tensors:
            # A tensor has the same name in the ensemble as in the model.
            lines += _block(name, [f"key: {_text(tensor)}", f"value: {_text(tensor)}"])
    return lines


def _block(name: str, lines: Sequence[str]) -> list[str]:
    return [f"{name} {{", *(f"  {line}" for line in lines), "}"]


def _text(value: str) -> str:
    return json.dumps(value)
