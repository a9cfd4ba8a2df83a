"""Milliseconds of every stage, map and head on this machine, from which parts are added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from search.data.frames import FrameSet
from search.evaluation import latency
from search.evaluation.latency import Stopwatch
from spaces.deployment import Deployment
from spaces.execution import EntryPoint, ExecutionStep
from spaces.merged import LinearMaps, MergedModel
from spaces.node import Node, Output
from spaces.plan import SharePlan

STEP_RUNS, STEP_SECONDS = 5, 0.03
"""A step is timed this often, and for this long together, at least."""
StepKey = Node | Output
"""What a step computes: equal ones of several plans take the same time."""


class StageTimes:
    """Times the steps of plans one by one, with fused BatchNorms, and each of them once."""

    def __init__(self, deployment: Deployment, maps: LinearMaps, frames: FrameSet) -> None:
        self._deployment, self._maps = deployment, maps
        self._frame = frames[0]
        self._milliseconds: dict[StepKey, float] = {}
        self._whole: dict[SharePlan, EntryPoint] = {}
        settings = replace(
            latency.DEFAULT_STOPWATCH, runs=STEP_RUNS, seconds=STEP_SECONDS, frames=1
        )
        device = next(iter(deployment.models.values())).device
        self._stopwatch = Stopwatch(settings, device)

    @torch.inference_mode()
    def measure(self, plan: SharePlan) -> None:
        """Time the steps of a plan that no earlier plan had."""
        models = self._deployment.fused_models
        with torch.inference_mode(False):
            merged = MergedModel(models, self._deployment.facts, plan, self._maps)
        values: dict[Node, Tensor] = {}
        inputs = {name: models[name].prepare_frames([self._frame]) for name in merged.inputs_read}
        self._whole[plan] = merged.whole
        for step in merged.whole.steps:
            part = EntryPoint((replace(step, frees=()),), step.reads, _given(step))
            taken = {node: values[node] for node in step.reads}

            def run(
                number: int, part: EntryPoint = part, taken: Mapping[Node, Tensor] = taken
            ) -> object:
                return merged.run(part, inputs, taken, lambda head, taps: head(taps))

            values |= merged.run(part, inputs, taken, lambda head, taps: None).representations
            key = _key(step)
            if key not in self._milliseconds:
                self._milliseconds[key] = self._stopwatch.milliseconds(run)

    def milliseconds(self, steps: Sequence[ExecutionStep]) -> float:
        """Return the time of some steps of a measured plan for one frame."""
        return sum(self._milliseconds[_key(step)] for step in steps)

    def whole(self, plan: SharePlan) -> float:
        """Return the time of all steps of a measured plan."""
        return self.milliseconds(self._whole[plan].steps)


def _given(step: ExecutionStep) -> tuple[Node, ...]:
    return (step.makes,) if step.makes else ()


def _key(step: ExecutionStep) -> StepKey:
    key = step.makes or step.output
    assert key is not None, "a step makes a node or an answer"
    return key
