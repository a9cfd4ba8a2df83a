"""Build networks from programs that `torch.export.save` has written: `program:FILE`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from spaces.errors import BadInput
from spaces.inputs import InputSpec
from spaces.model_spec import ModelSpec
from spaces.quiet import quiet
from spaces.sources.network_file import check_class_count, check_no_hub, file_input
from spaces.sources.own_answers import role_of_own
from spaces.sources.program_file import read_program
from spaces.sources.program_layers import as_layers, unflattened
from spaces.sources.source import BuiltNetwork, as_list, build_traced, load_for_inference
from spaces.tasks.task import ClassNames

_IN_BATCHES = (
    "torch.export.export(net, (torch.zeros(2, ...),), "
    "dynamic_shapes=({0: torch.export.Dim('batch')},))"
)


class ProgramSource:
    """Networks in files of torch.export."""

    def build(self, spec: ModelSpec, name: str) -> BuiltNetwork:
        check_no_hub(spec)
        with torch.device("cpu"):  # the values of a program are on the devices that it names
            program = read_program(Path(name).expanduser(), spec.name)
            input_spec = _input(program, spec)
            net = _modules(program, spec)
            note = load_for_inference(net, spec)
            layers = as_layers(net)
            role = role_of_own(layers, spec, input_spec, spec.task or "classification")
            check_class_count(spec, role.classes)
            built = build_traced(layers, spec, role, note)
        return replace(built, uncut_answers=lambda inputs: as_list(net(inputs)))

    def weights_licence(self, spec: ModelSpec, name: str) -> str:
        return ""

    def class_names(self, spec: ModelSpec, name: str) -> ClassNames:
        return ()

    def write_structure(self, spec: ModelSpec, path: Path, target: Path) -> None:
        with torch.device("cpu"):
            program = read_program(path, spec.name)
            program.example_inputs = None
            for tensor_name, tensor in program.state_dict.items():
                program.state_dict[tensor_name] = _without_values(tensor)
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # it holds paths of the machine
            with quiet():
                torch.export.save(program, target)


def _without_values(tensor: Tensor) -> Tensor:
    """Return zeros of the same shape that take the memory of one."""
    zeros = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
    return nn.Parameter(zeros, False) if isinstance(tensor, nn.Parameter) else zeros


def _input(program: ExportedProgram, spec: ModelSpec) -> InputSpec:
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    names = program.graph_signature.user_inputs
    values = [nodes[name].meta["val"] for name in names if isinstance(name, str) and name in nodes]
    if len(names) != 1 or not all(isinstance(value, Tensor) for value in values):
        raise BadInput(
            f"{spec.name}: {spec.arch} takes {len(names)} inputs; a network of frames takes one "
            "tensor"
        )
    if values[0].dtype != torch.float32:
        raise BadInput(
            f"{spec.name}: {spec.arch} takes {values[0].dtype}: export the network in float32"
        )
    shape = tuple(size if isinstance(size, int) else None for size in values[0].shape)
    return file_input(spec, shape, _IN_BATCHES)


def _modules(program: ExportedProgram, spec: ModelSpec) -> nn.Module:
    """Return the modules of a program.

    Raises:
        BadInput: it is of a network in training, or has no modules.
    """
    if program.graph_signature.buffers_to_mutate or any(map(_is_training, program.graph.nodes)):
        raise BadInput(
            f"{spec.name}: {spec.arch} was exported in training mode: call net.eval() before "
            "torch.export.export"
        )
    try:
        return unflattened(program)
    except Exception as error:
        # a program of another version of torch may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{spec.name}: {spec.arch} cannot be divided: {reason}") from error


def _is_training(node: fx.Node) -> bool:
    """Return whether an operation is a dropout or a BatchNorm as in training."""
    operation = str(node.target)
    position = 2 if "dropout.default" in operation else 5
    is_one = operation == "aten.batch_norm.default" or "dropout.default" in operation
    return is_one and node.args[position : position + 1] == (True,)
