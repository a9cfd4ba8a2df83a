"""Build networks from ONNX files: `onnx:FILE`.

This is the only module that imports onnx2pytorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spaces.errors import BadInput, BadWeights
from spaces.inputs import InputSpec
from spaces.model_spec import ModelSpec
from spaces.quiet import quiet
from spaces.sources.network_file import check_class_count, check_no_hub, file_input
from spaces.sources.onnx_file import (
    control_flow,
    inputs_of,
    read_onnx,
    shape_of,
    simplify,
    write_without_weights,
)
from spaces.sources.onnx_operations import bind_sizes
from spaces.sources.own_answers import role_of_own
from spaces.sources.source import BuiltNetwork, build_traced, load_for_inference
from spaces.tasks.task import ClassNames

if TYPE_CHECKING:
    from onnx import ModelProto

_IN_BATCHES = (
    "torch.onnx.export(net, (torch.zeros(2, ...),), dynamo=True, "
    "dynamic_shapes=({0: torch.export.Dim('batch')},))"
)
FLOAT32 = 1
"""The number of the type in ONNX."""


class OnnxSource:
    """Networks in ONNX files."""

    def build(self, spec: ModelSpec, name: str) -> BuiltNetwork:
        check_no_hub(spec)
        if spec.weights != "none":
            raise BadWeights(
                f"{spec.name}: the weights of {spec.arch} are in its file, under names of its "
                "own; set `weights: none`, or export the network as `program:FILE`, which keeps "
                "the names"
            )
        with torch.device("cpu"):  # sizes are among the values
            network = _read(spec, Path(name).expanduser())
            input_spec = _input(network, spec)
            net = _convert(network, spec)
            note = load_for_inference(net, spec)
            role = role_of_own(net, spec, input_spec, spec.task or "classification")
            check_class_count(spec, role.classes)
            return build_traced(net, spec, role, note)

    def weights_licence(self, spec: ModelSpec, name: str) -> str:
        return ""

    def class_names(self, spec: ModelSpec, name: str) -> ClassNames:
        return ()

    def write_structure(self, spec: ModelSpec, path: Path, target: Path) -> None:
        write_without_weights(_read(spec, path), target)


def _read(spec: ModelSpec, path: Path) -> ModelProto:
    try:
        return read_onnx(path, spec.name)
    except ImportError as error:
        raise _missing_packages(spec, error) from error


def _missing_packages(spec: ModelSpec, error: ImportError) -> BadInput:
    return BadInput(
        f"{spec.name}: {spec.arch} needs more packages ({error}): pip install "
        "'merge-search[onnx]'; or export the network with torch.export, as `program:FILE`"
    )


def _input(network: ModelProto, spec: ModelSpec) -> InputSpec:
    inputs = inputs_of(network)
    if len(inputs) != 1:
        raise BadInput(
            f"{spec.name}: {spec.arch} has {len(inputs)} inputs; a network of frames has one"
        )
    if inputs[0].type.tensor_type.elem_type != FLOAT32:
        raise BadInput(f"{spec.name}: {spec.arch} takes no float32: export it in float32")
    return file_input(spec, shape_of(inputs[0]), _IN_BATCHES)


def _convert(network: ModelProto, spec: ModelSpec) -> nn.Module:
    try:
        import onnx2pytorch
    except ImportError as error:
        raise _missing_packages(spec, error) from error
    if kind := control_flow(network):
        raise BadInput(
            f"{spec.name}: {spec.arch} holds the operation {kind}, whose graph depends on values; "
            "export the network without it"
        )
    try:
        with quiet():
            simplify(network)
            net: Any = onnx2pytorch.ConvertModel(network)
            bind_sizes(net)
    except Exception as error:
        # each operation has a converter of its own, which may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"{spec.name}: {spec.arch} cannot be converted: {reason}; export the network with "
            "torch.export, as `program:FILE`"
        ) from error
    converted: nn.Module = net
    return converted
