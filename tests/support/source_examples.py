"""A small real network of every source, for the contract that all sources keep."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import effdet
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from spaces.model_spec import InputSettings, ModelSpec
from spaces.quiet import quiet

CLASSES = 7
PYTHON_MODULE = "contract_nets"
PYTHON_CODE = """
import torchvision


def build(num_classes=7):
    return torchvision.models.mobilenet_v3_small(num_classes=num_classes)
"""


@dataclass(frozen=True)
class SourceExample:
    """A network of a source, as its own library runs it, and its spec."""

    net: nn.Module
    spec: ModelSpec
    unknown: str
    """An arch of the source that does not exist."""
    misfits: tuple[Mapping[str, Any], ...]
    """Settings of a spec that do not fit the network."""
    without_hub: str | None
    """An arch without weights in a hub; None if all have some."""
    loads_checkpoints: bool = True
    files: tuple[Path, ...] = field(default=())
    """The files that the network is built from."""


def export_program(net: nn.Module, size: int, path: Path) -> Path:
    """Save a network with torch.export for batches of any size."""
    frames = torch.zeros(2, 3, size, size)
    with quiet(), torch.no_grad():
        shapes = ({0: torch.export.Dim("batch")},)
        torch.export.save(torch.export.export(net, (frames,), dynamic_shapes=shapes), path)
    return path


def export_onnx(net: nn.Module, size: int, path: Path, **options: Any) -> Path:
    """Write a network as ONNX for batches of any size."""
    frames = torch.zeros(2, 3, size, size)
    settings = {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("batch")},), **options}
    with quiet(), torch.no_grad():
        torch.onnx.export(net, (frames,), path, **settings)
    return path


def seeded(net: nn.Module) -> nn.Module:
    """Give the BatchNorms of a network values that matter, in evaluation mode."""
    generator = torch.Generator().manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return net.eval().requires_grad_(False)


def _saved(net: nn.Module, folder: Path) -> str:
    path = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, path)
    return str(path)


def _of_library(arch: str, net: nn.Module, folder: Path, **settings: Any) -> ModelSpec:
    return ModelSpec("mine", arch, _saved(net, folder), **settings)


def timm_example(folder: Path) -> SourceExample:
    net = seeded(timm.create_model("test_efficientnet", num_classes=CLASSES))
    spec = _of_library("timm/test_efficientnet", net, folder, num_classes=CLASSES, size=(64, 64))
    misfits = ({"size": (16, 16)}, {"input": InputSettings(mean=(0.5,))}, {"num_classes": 5})
    return SourceExample(net, spec, "timm/no_net", misfits, "timm/cs3darknet_s")


def effdet_example(folder: Path) -> SourceExample:
    name = "tf_efficientdet_lite0"
    net = seeded(
        effdet.create_model(
            name, bench_task="", num_classes=CLASSES, pretrained=False,
            pretrained_backbone=False, image_size=(128, 128),
        )
    )  # fmt: skip
    spec = _of_library(f"effdet/{name}", net, folder, num_classes=CLASSES, size=(128, 128))
    misfits = ({"size": (100, 100)}, {"input": InputSettings(in_chans=1)}, {"num_classes": 5})
    return SourceExample(net, spec, "effdet/no_net", misfits, "effdet/efficientdet_d2")


def torchvision_example(folder: Path) -> SourceExample:
    net = seeded(torchvision.models.mobilenet_v3_small(num_classes=CLASSES))
    spec = _of_library(
        "torchvision/mobilenet_v3_small", net, folder, num_classes=CLASSES, size=(64, 64)
    )
    misfits = ({"size": (16, 16)}, {"input": InputSettings(in_chans=1)}, {"num_classes": 5})
    return SourceExample(net, spec, "torchvision/no_net", misfits, None)


def python_example(folder: Path) -> SourceExample:
    (folder / f"{PYTHON_MODULE}.py").write_text(PYTHON_CODE)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    net = seeded(torchvision.models.mobilenet_v3_small(num_classes=CLASSES))
    arch = f"python:{PYTHON_MODULE}:build"
    spec = _of_library(arch, net, folder, size=(64, 64))
    misfits = ({"input": InputSettings(in_chans=1)}, {"size": (1, 1)}, {"num_classes": 5})
    return SourceExample(net, spec, f"python:{PYTHON_MODULE}:nothing", misfits, arch)


def program_example(folder: Path) -> SourceExample:
    net = seeded(timm.create_model("test_efficientnet", num_classes=CLASSES))
    path = export_program(net, 64, folder / "net.pt2")
    arch = f"program:{path}"
    misfits = ({"size": (96, 96)}, {"input": InputSettings(in_chans=1)}, {"num_classes": 5})
    spec = ModelSpec("mine", arch, "none")
    return SourceExample(net, spec, f"program:{folder}/nothing.pt2", misfits, arch, files=(path,))


def onnx_example(folder: Path) -> SourceExample:
    net = seeded(timm.create_model("test_efficientnet", num_classes=CLASSES))
    path = export_onnx(net, 64, folder / "net.onnx")
    arch = f"onnx:{path}"
    misfits = ({"size": (96, 96)}, {"input": InputSettings(in_chans=1)}, {"num_classes": 5})
    return SourceExample(
        net, ModelSpec("mine", arch, "none"), f"onnx:{folder}/nothing.onnx", misfits, arch,
        loads_checkpoints=False, files=tuple(sorted(folder.glob("net.onnx*"))),
    )  # fmt: skip


EXAMPLES: Mapping[str, Callable[[Path], SourceExample]] = {
    "timm/": timm_example,
    "effdet/": effdet_example,
    "torchvision/": torchvision_example,
    "python:": python_example,
    "program:": program_example,
    "onnx:": onnx_example,
}


def flat(answers: Any) -> list[Tensor]:
    """Return the tensors of an answer, in order."""
    if isinstance(answers, Tensor):
        return [answers]
    return [tensor for part in answers for tensor in flat(part)]
