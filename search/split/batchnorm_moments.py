"""The statistics with which BatchNorms return of decoded frames what they return of exact ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spaces.execution import EntryPoint, ExecutionStep
from spaces.merged import MergedModel
from spaces.model_facts import ModelFacts
from spaces.node import Node
from spaces.split.recalibrated import BatchNormStatistics, batchnorms, with_statistics
from spaces.tasks.registry import TASKS

PASS_BYTES = 2**30
"""Bytes of activations of the frames that a stage is measured on, at most."""
FEWEST_FRAMES = 16
"""Frames that a stage is measured on however large their activations are."""
UNCHANGED = BatchNormStatistics({}, {})


class ChannelMoments(NamedTuple):
    """The mean and the variance of each channel over frames and positions, (channels,) each."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, values: Tensor) -> ChannelMoments:
        """Return the moments of (frames, channels, ...) values."""
        variance, mean = torch.var_mean(values, [0, *range(2, values.dim())], correction=0)
        return cls(mean, variance)


def matching(
    own: ChannelMoments, epsilon: float, exact: ChannelMoments, decoded: ChannelMoments
) -> ChannelMoments:
    """Return the statistics with which a BatchNorm maps `decoded` to what it makes of `exact`.

    A BatchNorm with the statistics (m, v) returns values of the mean (mean - m) / sqrt(v +
    epsilon) and the variance variance / (v + epsilon), before its weight and bias. Both are to be
    as with its `own` statistics on exact values. A channel that is constant in either keeps its
    own variance.
    """
    ratio = decoded.variance / exact.variance
    ratio = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
    variance = ((own.variance + epsilon) * ratio - epsilon).clamp_min(0)
    # where the variance would be negative, the division is not quite by what it should be
    divided = ((variance + epsilon) / (own.variance + epsilon)).sqrt()
    return ChannelMoments(decoded.mean - (exact.mean - own.mean) * divided, variance)


@dataclass(frozen=True, eq=False)
class ServerRun:
    """Runs the server's part of a split, stage after stage, on all frames."""

    merged: MergedModel
    facts: Mapping[str, ModelFacts]
    server: EntryPoint

    def exact_moments(self, crossing: Mapping[Node, Tensor]) -> dict[str, ChannelMoments]:
        """Return what each BatchNorm reads of exact frames, by its path in the merged model.

        `crossing` holds what the server takes, (frames, ...) each. BatchNorms that run several
        times are left out.
        """
        moments: dict[str, ChannelMoments] = {}
        runs: Counter[str] = Counter()

        def record(path: str, norm: nn.Module, values: Tensor) -> None:
            runs[path] += 1
            moments[path] = ChannelMoments.of(values)

        self._run(with_statistics(self.merged, UNCHANGED), crossing, record)
        return {path: found for path, found in moments.items() if runs[path] == 1}

    def matching_statistics(
        self, exact: Mapping[str, ChannelMoments], decoded: Mapping[Node, Tensor]
    ) -> BatchNormStatistics:
        """Return statistics with which all BatchNorms return of decoded frames what they should.

        `exact` is what `exact_moments` returned for the frames that `decoded` are of. All frames
        run through a stage at once, so that each BatchNorm reads what those before it return with
        the statistics just found; measured batch by batch, it would read something else.
        """
        network = with_statistics(self.merged, UNCHANGED)
        found: dict[str, ChannelMoments] = {}

        def match(path: str, norm: nn.Module, values: Tensor) -> None:
            if path in exact:
                own = ChannelMoments(
                    norm.get_buffer("running_mean"), norm.get_buffer("running_var")
                )
                assert isinstance(norm.eps, float)
                found[path] = matching(own, norm.eps, exact[path], ChannelMoments.of(values))
                norm.register_buffer("running_mean", found[path].mean)
                norm.register_buffer("running_var", found[path].variance)

        self._run(network, decoded, match)
        return BatchNormStatistics(
            {path: moments.mean for path, moments in found.items()},
            {path: moments.variance for path, moments in found.items()},
        )

    def answers(self, network: MergedModel, taken: Mapping[Node, Tensor]) -> dict[str, Tensor]:
        """Return the comparable answers of a network that is `merged` but for its statistics.

        `taken` holds what the server takes, of as many frames as may run at once.
        """
        values, answers = dict(taken), dict[str, Tensor]()
        for step in self.server.steps:
            made = self._run_step(network, step, values)
            if step.makes:
                values[step.makes] = made
            else:
                answers[step.model] = made
            for node in step.frees:
                del values[node]
        return answers

    @torch.inference_mode(False)
    @torch.no_grad()
    def _run(self, network: MergedModel, taken: Mapping[Node, Tensor], watch: _Watch) -> None:
        """Run all frames; `watch` sees what the BatchNorms read of the first ones.

        These are all frames, unless the activations of a stage exceed `PASS_BYTES`.
        """
        values = dict(taken)
        for step in self.server.steps:
            size = self._frames_at_once(step)
            first, *others = in_batches({node: values[node] for node in step.reads}, size)
            with _watching(network, watch):
                outputs = [self._run_step(network, step, first)]
            if step.makes:
                outputs += [self._run_step(network, step, batch) for batch in others]
                values[step.makes] = torch.cat(outputs)
            for node in step.frees:
                del values[node]

    def _run_step(
        self, network: MergedModel, step: ExecutionStep, taken: Mapping[Node, Tensor]
    ) -> Tensor:
        gives = (step.makes,) if step.makes else ()
        entry = EntryPoint((replace(step, frees=()),), gives=gives)
        comparable = TASKS[self.facts[step.model].task].comparable
        made = network.run(entry, {}, taken, comparable)
        return made.representations[step.makes] if step.makes else made.answers[step.model]

    def _frames_at_once(self, step: ExecutionStep) -> int:
        facts = self.facts[step.model]
        stage = facts.stage(step.makes.ref.stage) if step.makes else None
        footprint = stage.footprint if stage else facts.head_footprint
        return max(FEWEST_FRAMES, PASS_BYTES // max(1, footprint.peak))


_Watch = Callable[[str, nn.Module, Tensor], None]
"""Is given the path of a BatchNorm, the BatchNorm, and what it is about to read."""


@contextmanager
def _watching(network: nn.Module, watch: _Watch) -> Iterator[None]:
    def watcher(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda norm, args: watch(path, norm, args[0])

    handles = [norm.register_forward_pre_hook(watcher(path)) for path, norm in batchnorms(network)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def in_batches(tensors: Mapping[Node, Tensor], size: int) -> list[dict[Node, Tensor]]:
    """Return the (frames, ...) tensors in batches of frames."""
    count = len(next(iter(tensors.values())))
    return [
        {node: tensor[start : start + size] for node, tensor in tensors.items()}
        for start in range(0, count, size)
    ]
