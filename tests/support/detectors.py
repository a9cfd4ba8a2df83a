"""Detectors of torchvision with seeded random weights that find objects."""

from __future__ import annotations

import zlib
from typing import Any

import torch
import torchvision
from networks import randomise_batchnorms
from torch import Tensor, nn


def side_of(name: str) -> int:
    """Return the side of the input in these tests: the network's own, if it has no other."""
    return {"ssdlite320_mobilenet_v3_large": 320, "ssd300_vgg16": 300}.get(name, 128)


def library_detector(name: str, classes: int) -> Any:
    """Build a detector with torchvision, with seeded random weights that find objects."""
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(name.encode()))
        net: Any = torchvision.models.get_model(
            name, weights=None, weights_backbone=None, num_classes=classes + 1
        )
        randomise_batchnorms(net)
        side = side_of(name)
        net.transform.min_size, net.transform.max_size = (side,), side
        net.eval()
        _spread_outputs(net, torch.rand(3, side, side), classes)
    return net


@torch.no_grad()
def _spread_outputs(net: nn.Module, picture: Tensor, classes: int) -> None:
    """Scale the last layers: scores are to be neither nearly equal nor saturated."""

    scaled: set[nn.Module] = set()

    def scale(layer: Any, _: object, output: Tensor) -> Tensor:
        if layer in scaled:  # by its output on a finer level
            return output
        scaled.add(layer)
        spread = output.std()
        layer.weight.div_(spread)
        layer.bias.zero_()
        return output / spread

    heads = ("classification_head", "regression_head", "rpn.head", "box_predictor")
    layers = [
        part
        for path, part in net.named_modules()
        if isinstance(part, (nn.Conv2d, nn.Linear))
        and any(head in path for head in heads)
        and ".conv." not in path
        and not path.endswith("0.0")
    ]
    handles = [layer.register_forward_hook(scale) for layer in layers]
    net([picture])
    for handle in handles:
        handle.remove()
    for path, part in net.named_modules():
        if path.endswith("classification_head.cls_logits"):
            assert isinstance(part, nn.Conv2d) and part.bias is not None
            part.bias.fill_(-1).view(-1, classes + 1)[:, 0] = -100  # no class has label 0
