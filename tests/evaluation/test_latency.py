"""Latency is the median time of the plan's merged model, per frame or second of camera time."""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from quick import QUICK
from tiny import CLASSIFIER, Weights, observe, shares_in

from search.evaluation.latency import Latency, Stopwatch, StopwatchSettings
from search.statistics.observed import Observed
from search.statistics.streaming import PassSettings
from spaces.cost import CostModel
from spaces.liveness import liveness
from spaces.merged import MergedModel
from spaces.model_spec import ModelSpec
from spaces.plan import IDENTITY, LINEAR, AdapterSpec, Share, SharePlan
from spaces.zoo import load_model

CPU = torch.device("cpu")


def same_stage(observed: Observed, stage: str, adapter: AdapterSpec = IDENTITY) -> Share:
    """Return the share of that stage from model a to model b."""
    return next(
        share
        for share in shares_in(observed, adapter)
        if share.donor.stage == share.recipient.stage == stage and share.donor.model == "a"
    )


class FakeTime:
    """A clock that advances only by assignment."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr("search.evaluation.latency.time", fake)
    return fake


def test_a_stopwatch_returns_the_median(clock: FakeTime) -> None:
    durations = iter([5.0, 0.25, 1.0, 0.5])

    def call(_: int) -> None:
        clock.now += next(durations)

    assert Stopwatch(QUICK, CPU).milliseconds(call) == 500


@pytest.mark.parametrize(("runs", "seconds", "expected"), [(7, 0.0, 7), (1, 4.5, 5), (9, 4.5, 9)])
def test_a_stopwatch_runs_at_least_as_often_and_as_long_as_set(
    clock: FakeTime, runs: int, seconds: float, expected: int
) -> None:
    runs_seen: list[int] = []

    def call(run: int) -> None:
        runs_seen.append(run)
        clock.now += 1

    Stopwatch(StopwatchSettings(2, runs, seconds), CPU).milliseconds(call)
    assert runs_seen == [0, 1, *range(expected)]


def test_garbage_collection_is_off_during_timing() -> None:
    collecting: list[bool] = []
    Stopwatch(QUICK, CPU).milliseconds(lambda _: collecting.append(gc.isenabled()))
    assert collecting == [False] * 4 and gc.isenabled()


def test_garbage_collection_is_on_again_after_a_failure() -> None:
    with pytest.raises(ZeroDivisionError):
        Stopwatch(QUICK, CPU).milliseconds(lambda _: 1 / 0)
    assert gc.isenabled()


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"warmup": -1}, {"seconds": -1.0}, {"frames": 0}])
def test_settings_without_any_timed_run_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="nothing can be timed"):
        StopwatchSettings(**wrong)


@contextmanager
def counted(observed: Observed) -> Iterator[Counter[str]]:
    """Count the runs of each stage of the running models."""
    ran: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., None]:
        return lambda *_: ran.update([name])

    handles = [
        stage.register_forward_hook(counting(f"{name}:{stage_name}"))
        for name, model in observed.deployment.fused_models.items()
        for stage_name, stage in zip(model.layout.stages, model.stages, strict=True)
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("adapter", [IDENTITY, LINEAR, AdapterSpec("linear", 3)], ids=str)
def test_only_live_stages_run_once_per_run(pair: Observed, adapter: AdapterSpec) -> None:
    plan = SharePlan((same_stage(pair, "blocks.3", adapter),))
    live = liveness(plan, CostModel(pair.deployment.facts).layouts)
    with counted(pair) as ran:
        milliseconds = Latency(pair, QUICK).milliseconds(plan)
    assert 0 < milliseconds < math.inf
    assert ran == Counter({str(ref): QUICK.warmup + QUICK.runs for ref in live.stages})


def test_a_second_of_camera_time_holds_the_time_of_each_frame_at_its_rate(
    pair: Observed, clock: FakeTime
) -> None:
    """Every stage and head takes one second by the clock."""

    def advance(*_: Any) -> None:
        clock.now += 1

    deployment, rates = pair.deployment, {"a": 4.0, "b": 1.0}
    plan = SharePlan((same_stage(pair, "blocks.3"),))
    live = liveness(plan, CostModel(deployment.facts).layouts)
    of_a, of_b = (1 + sum(ref.model == name for ref in live.stages) for name in rates)
    modules = [
        module
        for model in deployment.fused_models.values()
        for module in (*model.stages, model.head)
    ]
    handles = [module.register_forward_hook(advance) for module in modules]
    try:
        milliseconds = Latency(pair, QUICK).milliseconds_per_second(plan, rates)
    finally:
        for handle in handles:
            handle.remove()
    # one frame a second runs the parts of both, and three more those of a
    assert milliseconds == 1000 * (1 * (of_a + of_b) + 3 * of_a)


def test_with_equal_rates_each_frame_costs_its_latency(pair: Observed, clock: FakeTime) -> None:
    handle = pair.deployment.fused_models["a"].head.register_forward_hook(
        lambda *_: setattr(clock, "now", clock.now + 0.25)
    )
    latency = Latency(pair, QUICK)
    try:
        assert latency.milliseconds(SharePlan()) == 250
        assert latency.milliseconds_per_second(SharePlan(), {"a": 6.0, "b": 6.0}) == 6 * 250
    finally:
        handle.remove()


def test_a_classifier_and_a_detector_are_timed(mixed: Observed) -> None:
    shares = shares_in(mixed, LINEAR)
    latency = Latency(mixed, QUICK)
    for plan in (SharePlan(), SharePlan((shares[0],)), SharePlan((shares[-1],))):
        assert 0 < latency.milliseconds(plan) < math.inf


def fingerprint(observed: Observed) -> list[Any]:
    deployment = observed.deployment
    return [
        (key, tensor.data_ptr(), tensor._version)
        for models in (deployment.models, deployment.fused_models)
        for model in models.values()
        for key, tensor in model.state_dict().items()
    ]


def test_timing_does_not_change_the_models(pair: Observed) -> None:
    before = fingerprint(pair)
    plan = SharePlan((same_stage(pair, "conv_head", LINEAR),))
    Latency(pair, QUICK).milliseconds(plan)
    assert fingerprint(pair) == before


def test_the_map_of_a_share_is_fitted_once(
    pair: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[Share] = []
    fit = Observed.maps_for

    def record(self: Observed, plans: list[SharePlan]) -> Any:
        fitted.extend(share for plan in plans for share in plan.shares)
        return fit(self, plans)

    monkeypatch.setattr(Observed, "maps_for", record)
    latency = Latency(pair, QUICK)
    early, late = (same_stage(pair, stage, LINEAR) for stage in ("blocks.1", "blocks.4"))
    for shares in ((early,), (early,), (late,), (early, late)):
        latency.milliseconds(SharePlan(shares))
    assert fitted == [early, late], "early is dead behind late"


@torch.inference_mode()
def test_the_fused_models_that_are_timed_answer_as_the_originals(pair: Observed) -> None:
    deployment = pair.deployment
    for stage in ("blocks.2", "conv_head", "pool"):
        plan = SharePlan((same_stage(pair, stage, LINEAR),))
        maps = pair.maps_for([plan])
        timed = MergedModel(deployment.fused_models, deployment.facts, plan, maps)
        expected = MergedModel(deployment.models, deployment.facts, plan, maps)
        inputs = {name: model.example_input(1) for name, model in deployment.models.items()}
        for name, answer in timed(inputs).items():
            torch.testing.assert_close(answer, expected(inputs)[name], rtol=1e-3, atol=1e-3)


def test_half_the_work_takes_less_time(weights: Weights) -> None:
    """Two equal networks at 224 px. The best of three medians counts: the machine may be busy."""
    spec = {"weights": str(weights(CLASSIFIER, 1)), "num_classes": 7, "size": (224, 224)}
    models = {
        name: load_model(ModelSpec(name, CLASSIFIER, fit="squash", **spec))  # type: ignore[arg-type]
        for name in ("a", "b")
    }
    large = observe(models, count=20, settings=PassSettings(batch=4))
    plan = SharePlan((same_stage(large, "pool"),))
    costs = CostModel(large.deployment.facts)
    assert costs.macs(plan) == pytest.approx(costs.unmerged_macs / 2, rel=0.01)
    latency = Latency(large, StopwatchSettings(seconds=0.3))
    whole, half = (
        min(latency.milliseconds(timed) for _ in range(3)) for timed in (SharePlan(), plan)
    )
    assert half < 0.8 * whole
