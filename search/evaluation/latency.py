"""Latency of a plan's merged model, on the machine that runs the search."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from search.statistics.observed import Observed
from spaces.adapters import LinearMap
from spaces.execution import EntryPoint, ticks
from spaces.liveness import canonical
from spaces.merged import MergedModel
from spaces.model_facts import layouts_by_model
from spaces.node import Node
from spaces.plan import Share, SharePlan
from spaces.stored_modules import stored_copy


@dataclass(frozen=True)
class StopwatchSettings:
    """When timing stops: after at least `runs` runs that took at least `seconds` together."""

    warmup: int = 3
    """Untimed runs before the timed ones."""
    runs: int = 10
    """Timed runs, at least."""
    seconds: float = 0.5
    frames: int = 4
    """Different frames; the runs cycle through them."""

    def __post_init__(self) -> None:
        if self.warmup < 0 or self.runs < 1 or self.seconds < 0 or self.frames < 1:
            raise ValueError(f"nothing can be timed with {self}")


DEFAULT_STOPWATCH = StopwatchSettings()


class Stopwatch:
    """Times repeated calls, with garbage collection switched off."""

    def __init__(self, settings: StopwatchSettings, device: torch.device) -> None:
        self.settings = settings
        self.device = device

    def milliseconds(self, call: Callable[[int], object]) -> float:
        """Return the median time of `call(run)`, in milliseconds; `run` counts from 0."""
        seconds: list[float] = []
        with _no_collection():
            for run in range(self.settings.warmup):
                self._seconds(call, run)
            while len(seconds) < self.settings.runs or sum(seconds) < self.settings.seconds:
                seconds.append(self._seconds(call, len(seconds)))
        return 1000 * statistics.median(seconds)

    def _seconds(self, call: Callable[[int], object], run: int) -> float:
        self._wait()
        start = time.perf_counter()
        call(run)
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        """Wait for the GPU, whose calls return before their work is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def default_stopwatch(device: torch.device) -> Stopwatch:
    return Stopwatch(DEFAULT_STOPWATCH, device)


@dataclass(frozen=True)
class PartTimer:
    """Times parts of a merged model on prepared frames."""

    stopwatch: Stopwatch
    merged: MergedModel
    inputs: Sequence[Mapping[str, Tensor]]
    """By frame, the input of each model in `merged.inputs_read`; the runs cycle through them."""

    def milliseconds(self, entry: EntryPoint, trunk: EntryPoint | None = None) -> float:
        """Return the median milliseconds of a part; a tail takes what the trunk gives."""
        taken = [self._run(trunk, frame, {}) if trunk else {} for frame in self.inputs]
        count = len(self.inputs)
        return self.stopwatch.milliseconds(
            lambda run: self._run(entry, self.inputs[run % count], taken[run % count])
        )

    def milliseconds_per_second(self, rates: Mapping[str, float]) -> float:
        """Return the milliseconds per second of camera time, see `spaces.execution.ticks`."""
        return sum(
            per_second * self.milliseconds(self.merged.answering(models))
            for models, per_second in ticks(rates)
        )

    @torch.inference_mode()
    def _run(
        self, entry: EntryPoint, inputs: Mapping[str, Tensor], taken: Mapping[Node, Tensor]
    ) -> dict[Node, Tensor]:
        run = self.merged.run(entry, inputs, taken, lambda head, taps: head(taps))
        return run.representations


class Latency:
    """Measures plans: stages, adapters and heads of the fused models, one frame at a time.

    The inputs are prepared beforehand, so decoding and resizing are not included.
    """

    def __init__(self, observed: Observed, settings: StopwatchSettings | None = None) -> None:
        self._observed = observed
        self._settings = settings or DEFAULT_STOPWATCH
        self._maps: dict[Share, LinearMap] = {}

    def milliseconds(self, plan: SharePlan) -> float:
        """Return the median milliseconds per frame of the plan's merged model.

        Raises:
            BadPlan: the plan does not fit the deployment.
        """
        timer = self._timer(plan)
        return timer.milliseconds(timer.merged.whole)

    def milliseconds_per_second(self, plan: SharePlan, rates: Mapping[str, float]) -> float:
        """Return the milliseconds of the plan's merged model per second of camera time.

        `rates` are the frames a second that each model answers for, by name.

        Raises:
            BadPlan: the plan does not fit the deployment.
        """
        return self._timer(plan).milliseconds_per_second(rates)

    def _timer(self, plan: SharePlan) -> PartTimer:
        deployment = self._observed.deployment
        plan = canonical(plan, layouts_by_model(deployment.facts))
        merged = MergedModel(
            deployment.deployed_models, deployment.facts, plan, self._fitted_maps(plan)
        )
        device = next(iter(deployment.deployed_models.values())).device
        return PartTimer(
            Stopwatch(self._settings, device),
            stored_copy(merged) if plan.precisions else merged,
            self._inputs,
        )

    def _fitted_maps(self, plan: SharePlan) -> Mapping[Share, LinearMap]:
        """Return all maps fitted so far; fit the maps that the plan still lacks first."""
        missing = tuple(share for share in plan.shares if share not in self._maps)
        self._maps |= self._observed.maps_for([SharePlan(missing)])
        return self._maps

    @cached_property
    def _inputs(self) -> list[dict[str, Tensor]]:
        """Each frame as every model's input, a batch of one."""
        models, frames = self._observed.deployment.deployed_models, self._observed.frames
        return [
            {name: model.prepare_frames([frames[index]]) for name, model in models.items()}
            for index in range(min(self._settings.frames, len(frames)))
        ]


@contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
