"""How much the answers react to errors in crossing representations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from search.data.frames import FrameSet, Sampling, Subset
from search.data.inputs.input_batches import InputBatch
from search.split.setup import SplitSetup
from search.split.zone_statistics import ZoneSquares
from search.utils.arrays import FloatMatrix
from spaces.execution import EntryPoint, keeping
from spaces.merged import MergedModel
from spaces.node import Node
from spaces.split.split import Split, SplitParts
from spaces.split.transform import TensorForm
from spaces.tasks.registry import TASKS

_DRAWS = 4
"""Random projections per batch."""
_FRAMES_PER_BACKWARD = 4
"""Frames per backward pass: the gradients about all stages of a network are held at once."""
SMALLEST_SPREAD = 1e-6
"""Of answers that hardly change from frame to frame."""
ZoneWeights = Mapping[Node, Sequence[FloatMatrix]]
"""(c, c) per zone of each crossing representation: the mean product of two gradients."""
Read = tuple[nn.Module, list[Tensor]]
"""A head, and its taps."""


@dataclass(frozen=True)
class _Group:
    """Splits whose gradients one backward pass gives."""

    splits: tuple[Split, ...]
    before: EntryPoint | None
    """Runs without gradients; None if all of `traced` is traced."""
    traced: EntryPoint
    nodes: tuple[Node, ...]
    """What crosses the link in any of the splits."""


class AnswerGradients:
    """Gradients of the answers of a merged model about what crosses the link.

    An error e in a representation changes the answers by e' M e, where M is the Fisher information
    of the answers. The change is relative to the variance of the answers over frames, and is
    summed over the models that the server answers for. M is estimated by random projections, see
    `search.metrics.fisher`, and averaged within zones of frequencies.

    Every frame counts alike: its M is scaled to the trace of the mean. Otherwise the few frames
    whose answers are undecided would say alone what matters.
    """

    def __init__(
        self, setup: SplitSetup, merged: MergedModel, frames: FrameSet, count: int
    ) -> None:
        self._setup, self._merged = setup, merged
        self._frames = Subset(frames, tuple(Sampling(count).indices(len(frames))))
        self._spread = self._measure_spread()

    def weights(
        self, splits: Mapping[Split, SplitParts], forms: Mapping[Node, TensorForm], seed: int
    ) -> dict[Split, ZoneWeights]:
        """Return the weights of each split."""
        weights: dict[Split, ZoneWeights] = {}
        for group in _groups(self._merged, splits):
            crossing = dict.fromkeys(splits[split].crossing for split in group.splits)
            means = [_MeanSquares({node: forms[node] for node in nodes}) for nodes in crossing]
            for batch in self._batches():
                generator = torch.Generator().manual_seed(seed + batch.indices.start)
                gradients = self._gradients(group, batch.inputs, generator)
                for mean in means:
                    mean.add(gradients)
            finished = {nodes: mean.finish() for nodes, mean in zip(crossing, means, strict=True)}
            weights |= {split: finished[splits[split].crossing] for split in group.splits}
        return weights

    def _batches(self) -> Iterator[InputBatch]:
        return self._setup.batches(self._merged, self._frames, _FRAMES_PER_BACKWARD)

    def _gradients(
        self, group: _Group, inputs: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[Node, Tensor]:
        """Return (draws, batch, ...) gradients about each representation of a group."""
        with torch.inference_mode(False), torch.enable_grad():
            values, amplitudes = self._trace(group, inputs)
            draws = [
                torch.autograd.grad(
                    self._project(amplitudes, generator),
                    list(values.values()),
                    retain_graph=True,
                    materialize_grads=True,
                )
                for _ in range(_DRAWS)
            ]
        by_node = zip(values, zip(*draws, strict=True), strict=True)
        return {node: torch.stack(part) for node, part in by_node}

    def _trace(
        self, group: _Group, inputs: Mapping[str, Tensor]
    ) -> tuple[dict[Node, Tensor], dict[str, Tensor]]:
        if group.before is None:
            traced = {name: values.requires_grad_() for name, values in inputs.items()}
            run = self._merged.run(group.traced, traced, {}, _read)
            representations = {node: run.representations[node] for node in group.nodes}
        else:
            with torch.no_grad():
                given = self._merged.run(group.before, inputs, {}, _read).representations
            representations = {node: given[node].requires_grad_() for node in group.nodes}
            run = self._merged.run(group.traced, {}, representations, _read)
        return representations, self._amplitudes(run.answers)

    def _amplitudes(self, answers: Mapping[str, Read]) -> dict[str, Tensor]:
        found = {}
        for name, (head, taps) in answers.items():
            model = self._setup.models[name]
            found[name] = TASKS[model.task].amplitudes(model.comparable(taps, head))
        return found

    def _project(self, amplitudes: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the sum of random projections, of which each has its answer's variance as unit.

        The projections of several models are independent: the mean square of their sum is the
        sum of their mean squares.
        """
        parts = []
        for name, values in amplitudes.items():
            draw = torch.randn(values.shape, generator=generator).to(values.device)
            parts.append((values * draw).sum() / self._spread[name] ** 0.5)
        return torch.stack(parts).sum()

    @torch.no_grad()
    def _measure_spread(self) -> dict[str, float]:
        """Return the variance of each model's answer over frames, summed over its amplitudes."""
        moments: defaultdict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for batch in self._batches():
            answers = self._merged.run(self._merged.whole, batch.inputs, {}, _read).answers
            for name, values in self._amplitudes(answers).items():
                doubled = values.double()
                moments[name].append((doubled.sum(0), doubled.square().sum(0)))
        return {name: self._variance(parts) for name, parts in moments.items()}

    def _variance(self, parts: Sequence[tuple[Tensor, Tensor]]) -> float:
        total, square = (torch.stack(list(part)).sum(0) for part in zip(*parts, strict=True))
        count = len(self._frames)
        variance = float((square / count - (total / count).square()).sum())
        return max(variance, SMALLEST_SPREAD)


class _MeanSquares:
    """The mean products of gradients about what crosses the link together."""

    def __init__(self, forms: Mapping[Node, TensorForm]) -> None:
        self._squares = {node: ZoneSquares(form) for node, form in forms.items()}
        self._frames, self._total = 0, 0.0

    def add(self, gradients: Mapping[Node, Tensor]) -> None:
        """Add (draws, batch, ...) gradients, among them those of the representations."""
        parts = {node: gradients[node] for node in self._squares}
        norms = [part.flatten(2).square().sum(2) for part in parts.values()]
        traces = torch.stack(norms).sum(0).sum(0)
        factors = traces.clamp_min(torch.finfo(traces.dtype).tiny).rsqrt()
        for node, part in parts.items():
            scaled = part * factors.reshape(-1, *[1] * (part.dim() - 2))
            self._squares[node].add(scaled.flatten(0, 1))
        self._frames += len(traces)
        self._total += float(traces.double().sum()) / _DRAWS

    def finish(self) -> ZoneWeights:
        """Return the means, (c, c) for each zone of each representation."""
        level = self._total / self._frames
        return {
            node: [level * mean for mean in squares.means(self._frames)]
            for node, squares in self._squares.items()
        }


def _read(head: nn.Module, taps: list[Tensor]) -> Read:
    return head, taps


def _groups(merged: MergedModel, splits: Mapping[Split, SplitParts]) -> Iterable[_Group]:
    """Return the splits in groups.

    Where one representation crosses, the answers depend on frames through it alone: gradients of
    the whole model are those of the server's part, for all such splits with one backward pass.
    """
    chains: defaultdict[frozenset[str], list[Split]] = defaultdict(list)
    for split, parts in splits.items():
        if len(parts.crossing) == 1:
            chains[frozenset(parts.server.models)].append(split)
        else:
            yield _Group((split,), parts.device, parts.server, parts.crossing)
    for models, members in chains.items():
        nodes = tuple(dict.fromkeys(splits[split].crossing[0] for split in members))
        yield _Group(tuple(members), None, keeping(merged.answering(models), nodes), nodes)


def unweighted(variance: float, form: TensorForm) -> list[FloatMatrix]:
    """Return weights for which errors count as they are, relative to the total variance."""
    weight = np.eye(form.channels) / max(variance, np.finfo(float).tiny)
    return [weight] * len(form.zone_sizes)
