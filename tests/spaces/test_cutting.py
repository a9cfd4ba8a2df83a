"""Networks are cut where everything passes through one tensor, and nowhere else."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spaces.cutting import CutNetwork, Hints, cut_network
from spaces.dataflow import Dataflow, Uncuttable, find_trunk
from spaces.model_spec import Cut
from spaces.network_graph import VALUE, trace


def conv(channels: int = 4, stride: int = 1, source: int = 4) -> nn.Conv2d:
    return nn.Conv2d(source, channels, 3, stride=stride, padding=1)


class Block(nn.Module):
    """Two convolutions and a shortcut around them."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.one, self.two = conv(channels, source=channels), conv(channels, source=channels)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.two(self.one(x).relu())
        return x + added


class Classifier(nn.Module):
    """A stem, blocks in sequence, and a classifier that is called on the mean."""

    def __init__(self, *blocks: nn.Module, stem: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = stem or conv(source=3, stride=2)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.fc(self.blocks(self.stem(x)).mean((2, 3)))
        return answer


def cut(net: nn.Module, fineness: Cut = "stages", hints: Hints | None = None) -> CutNetwork:
    """Cut a network, and check that it computes the same for another number of frames."""
    net.eval()
    parts = cut_network(net, torch.randn(2, 3, 16, 16), fineness, hints or Hints())
    inputs = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        expected, actual = answers(net(inputs)), answers(run(parts, inputs))
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(one, other)
    return parts


def run(parts: CutNetwork, inputs: Tensor) -> Any:
    representations = [inputs]
    for stage in parts.stages:
        before = representations[-1].clone()
        representations.append(stage(representations[-1]))
        assert torch.equal(representations[-2], before), "a stage has changed its input"
        assert representations[-1].dim() in (2, 4)
    by_name = dict(zip(parts.names, representations[1:], strict=True))
    return parts.head(*(by_name[tap] for tap in parts.taps))


def answers(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [part for value in output for part in answers(value)]


def test_a_network_is_cut_after_each_block_whatever_its_children_are_called() -> None:
    parts = cut(Classifier(*(Block() for _ in range(4))))
    assert parts.names == ("stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "pool")
    assert parts.taps == ("pool",)
    assert isinstance(parts.stages[1], Block) and isinstance(parts.head, nn.Linear)


def test_a_shortcut_over_two_blocks_makes_them_one_stage() -> None:
    class Over(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            first = self.blocks[0](self.stem(x))
            then = self.blocks[2](self.blocks[1](first)) + first
            answer: Tensor = self.fc(self.blocks[3:](then).mean((2, 3)))
            return answer

    parts = cut(Over(*(Block() for _ in range(7))))
    inner = [f"blocks.{k}" for k in (0, 3, 4, 5, 6)]
    assert parts.names == ("stem", *inner, "pool")


class Pyramid(nn.Module):
    """A backbone of which a decoder reads three points."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.stem = conv(source=3)
        self.layers = nn.ModuleList(Block() for _ in range(blocks))
        self.lateral = nn.ModuleList(conv() for _ in range(3))
        self.classes, self.boxes = conv(2), conv(8)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        points = [self.stem(x)]
        for layer in self.layers:
            points.append(layer(points[-1]))
        laterals = zip(self.lateral, points[-3:], strict=True)
        merged = torch.stack([lateral(point) for lateral, point in laterals]).sum(0)
        return [self.classes(merged)], self.boxes(merged)


def test_what_reads_several_points_of_the_trunk_is_the_head() -> None:
    parts = cut(Pyramid())
    assert parts.names == ("stem", *(f"layers.{k}" for k in range(4)), "lateral.2")
    assert parts.taps == ("layers.1", "layers.2", "lateral.2")


class Transformer(nn.Module):
    """Tokens with a class token, positions, and blocks that take a table beside them."""

    def __init__(self, registers: int = 0) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.cls = nn.Parameter(torch.randn(1, 1 + registers, 6))
        self.positions = nn.Parameter(torch.randn(1, 17 + registers, 6))
        self.blocks = nn.ModuleList(AttentionBlock() for _ in range(4))
        self.angles: Tensor
        self.register_buffer("angles", torch.randn(1, 1, 6))
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        frames = x.shape[0]
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(frames, -1, -1), x], dim=1) + self.positions
        assert x.shape[1] % 4 == 1 or mask is None
        table = self.angles.sin()
        for block in self.blocks:
            x = block(x, table)
        answer: Tensor = self.head(self.norm(x)[:, 0])
        return answer.reshape(frames, -1)


class AttentionBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(6), nn.MultiheadAttention(6, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        y = self.norm(x) + table
        x = x + self.mix(y, y, y, need_weights=False)[0]
        added: Tensor = self.mlp(x)
        return x + added


@pytest.mark.parametrize("registers", [0, 4])
def test_a_transformer_is_cut_into_maps_with_blocks_of_channels_for_its_tokens(
    registers: int,
) -> None:
    net = Transformer(registers)
    parts = cut(net, hints=Hints(prefix=1 + registers))
    assert parts.names == ("stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "pool")
    with torch.no_grad():
        first = parts.stages[1](parts.stages[0](torch.randn(2, 3, 16, 16)))
    assert first.shape == (2, 6 * (2 + registers), 4, 4)


def test_the_tensors_of_a_network_are_those_of_its_parts() -> None:
    for net in (Transformer(), Pyramid(), Classifier(Block(), Block())):
        parts = cut(net)
        held = {id(t) for part in (*parts.stages, parts.head) for t in part.parameters()}
        assert held == {id(t) for t in net.parameters()}


def test_channels_last_are_permuted_at_the_cut() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv(source=3, stride=4)
            self.blocks = nn.Sequential(*(
                nn.Sequential(nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 4), nn.GELU()))
                for _ in range(4)
            ))  # fmt: skip
            self.fc = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.fc(self.blocks(self.stem(x).permute(0, 2, 3, 1)).mean((1, 2)))
            return answer

    parts = cut(Last())
    with torch.no_grad():
        shapes = [tuple(stage(torch.randn(2, 3, 16, 16)).shape) for stage in parts.stages[:1]]
    assert shapes == [(2, 4, 4, 4)] and parts.names[-2:] == ("blocks.3", "pool")


def test_a_module_that_returns_a_size_beside_its_tensor_is_cut() -> None:
    class Sized(Block):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), tuple(x.shape[2:])

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv(source=3)
            self.stages = nn.ModuleList(Sized() for _ in range(4))
            self.fc = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for stage in self.stages:
                x, (height, width) = stage(x)
                x = x.reshape(x.shape[0], -1, height, width)
            answer: Tensor = self.fc(x.mean((2, 3)))
            return answer

    assert cut(Net()).names == ("stem", "stages.0", "stages.1", "stages.2", "stages.3", "pool")


def test_code_that_depends_on_shapes_and_data_of_its_weights_is_traced() -> None:
    class Careful(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            if not isinstance(x, Tensor) or isinstance(x, nn.Parameter):
                raise TypeError("a tensor, please")
            if x.shape[-1] < 8 or x.ndim != 4 or not x.is_floating_point():
                raise ValueError("too small")
            scale = float(self.fc.weight.abs().max() > 0)
            return super().forward(x * scale)

    assert len(cut(Careful(*(Block() for _ in range(4)))).names) == 6


def test_a_forward_pass_of_hundreds_of_operations_is_traced() -> None:
    class Long(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(500):
                x = x * 1.0
            return super().forward(x)

    parts = cut(Long(*(Block() for _ in range(4))))
    assert parts.names == ("stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "pool")


class Fickle(Block):
    """A block whose code takes another way for each frame."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.mean()) > 0 else x


def test_a_module_whose_code_depends_on_the_frames_stays_whole() -> None:
    parts = cut(Classifier(*(Fickle() for _ in range(4))), "blocks")
    assert len(parts.names) == 6


def test_a_network_whose_code_depends_on_the_frames_is_refused_with_the_reason() -> None:
    class Branches(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if bool((x > 0).any()) else -x)

    with pytest.raises(Uncuttable, match=r"forward pass cannot be traced: .*control flow"):
        cut(Branches(Block(), Block()))


def test_a_network_of_two_streams_is_refused_with_the_modules() -> None:
    class Streams(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv(4, source=3)
            self.left = nn.ModuleList(Block(16) for _ in range(12))
            self.right = nn.ModuleList(Block(16) for _ in range(12))
            self.fc = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            a, b = x.repeat(1, 4, 1, 1), -x.repeat(1, 4, 1, 1)
            for left, right in zip(self.left, self.right, strict=True):
                a, b = left(a) + b, right(b) + a
            answer: Tensor = self.fc((a + b).mean((2, 3))[:, :4])
            return answer

    with pytest.raises(Uncuttable, match=r"left\.0 to .*, with 9\d% of its weights"):
        cut(Streams())


def test_stages_are_opened_at_blocks_and_keep_their_names() -> None:
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block(), Block())

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.blocks(x)
            return out

    def net() -> Classifier:
        return Classifier(*(Stage() for _ in range(4)))

    hints = Hints(frozenset(["blocks"]))
    assert cut(net(), hints=hints).names == (
        "stem", *(f"blocks.{k}" for k in range(4)), "pool",
    )  # fmt: skip
    inner = [
        name
        for k in range(4)
        for name in (f"blocks.{k}.blocks.0", f"blocks.{k}.blocks.1", f"blocks.{k}")
    ]
    assert cut(net(), "blocks", hints).names == ("stem", *inner, "pool")


def test_a_large_module_is_opened_while_there_are_few_blocks() -> None:
    body = nn.Sequential(*(nn.Sequential(conv(), nn.ReLU(), Block()) for _ in range(5)))

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.fc = conv(source=3), body, nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.fc(self.body(self.stem(x)).mean((2, 3)))
            return answer

    assert cut(Wrapped()).names == ("stem", *(f"body.{k}" for k in range(5)), "pool")


def test_a_network_of_plain_layers_has_a_stage_for_each() -> None:
    layers = [layer for _ in range(3) for layer in (conv(), nn.ReLU(), nn.MaxPool2d(2))]
    parts = cut(Classifier(*layers))
    assert parts.names == ("stem", "blocks.0", "blocks.3", "blocks.6", "pool")


# Random graphs, against a slow twin.


class RandomGraph(nn.Module):
    """Convolutions that each read one or two earlier results."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.stem = conv(source=3)
        self.layers = nn.ModuleList(conv() for _ in range(rng.randint(3, 8)))
        self.reads = [
            sorted({max(0, k - rng.choice([0, 0, 0, 1, 3])), k}) for k in range(len(self.layers))
        ]
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        made = [self.stem(x)]
        for layer, reads in zip(self.layers, self.reads, strict=True):
            made.append(layer(sum(made[read] for read in reads)))
        answer: Tensor = self.fc(made[-1].mean((2, 3)))
        return answer


@pytest.mark.parametrize("seed", range(25))
def test_every_path_of_a_random_graph_passes_its_points(seed: int) -> None:
    net = RandomGraph(seed).eval()
    cut(net)
    flow = Dataflow(net, trace(net, torch.randn(2, 3, 16, 16), set()), None)
    points = find_trunk(flow, [n for n in flow.nodes if flow.module_of(n) is net.fc]).points
    end = points[-1]
    paths = list(paths_to(flow, end))
    expected = [
        node
        for node in flow.nodes[1:]
        if all(node in path for path in paths) and isinstance(node.meta[VALUE], Tensor)
    ]
    assert list(points) == expected


def paths_to(flow: Dataflow, node: Any) -> list[list[Any]]:
    """Return all paths from the input to a node, by enumeration."""
    if node is flow.example:
        return [[node]]
    return [[*path, node] for read in flow.reads(node) for path in paths_to(flow, read)]


@pytest.mark.parametrize("build", [Transformer, Pyramid, lambda: Classifier(Block(), Block())])
def test_a_network_without_data_is_cut_in_the_same_way(build: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        empty = build().eval()
        parts = cut_network(empty, torch.randn(2, 3, 16, 16), "stages", Hints())
    full = cut(build())
    assert (parts.names, parts.taps) == (full.names, full.taps)
    for one, other in zip(parts.stages, full.stages, strict=True):
        assert {k: v.shape for k, v in one.state_dict().items()} == {
            k: v.shape for k, v in other.state_dict().items()
        }
