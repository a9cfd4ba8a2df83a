"""Small networks of a user's own, one for each task, for `python:own_networks:FUNCTION`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHANNELS, SIDE = 12, 64


class Trunk(nn.Module):
    """Four residual blocks at half, a quarter and an eighth of the size of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 3, stride=2, padding=1)
        self.body = nn.ModuleList(Block(stride) for stride in (1, 2, 1, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        x: Tensor = self.first(inputs)
        for block in self.body:
            x = block(x)
        return x


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.layers: nn.Module = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, stride, 1),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        )
        self.shortcut: nn.Module = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.shortcut(x) + self.layers(x)
        return result


class OwnNetwork(nn.Module):
    """A trunk with layers for a task."""

    input_size = (SIDE, SIDE)

    def __init__(self, task: str, outputs: int) -> None:
        super().__init__()
        self.task = task
        self.trunk = Trunk()
        self.last = nn.Conv2d(CHANNELS, outputs, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.last(self.trunk(inputs))
        return result


class OwnEmbedding(OwnNetwork):
    """The mean over all positions."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).mean((2, 3))


class OwnDetector(OwnNetwork):
    """One box around each position of the grid, with a score for each class."""

    def __init__(self, classes: int) -> None:
        super().__init__("detection", 4 + classes)
        middle = torch.arange(SIDE // 8) * 8 + 4.0
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        self.middles: Tensor
        self.register_buffer("middles", torch.stack((x, y), 2).reshape(-1, 2))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        rows = super().forward(inputs).flatten(2).transpose(1, 2)
        half = 4 + 8 * rows[:, :, :4].sigmoid()
        boxes = torch.cat((self.middles - half[:, :, :2], self.middles + half[:, :, 2:]), 2)
        return boxes, (2 * rows[:, :, 4:]).sigmoid()


def _seeded(build: type[OwnNetwork], *arguments: object) -> OwnNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return build(*arguments)  # type: ignore[arg-type]


def embedding() -> OwnNetwork:
    return _seeded(OwnEmbedding, "embedding", 10)


def classifier(num_classes: int = 7) -> OwnNetwork:
    return _seeded(OwnEmbedding, "classification", num_classes)


def segmentation(num_classes: int = 3) -> OwnNetwork:
    return _seeded(OwnNetwork, "segmentation", num_classes)


def depth() -> OwnNetwork:
    return _seeded(OwnNetwork, "dense", 1)


def detector(num_classes: int = 2) -> OwnNetwork:
    return _seeded(OwnDetector, num_classes)
