"""Losses of roundings against a slow twin that rounds one stage of a copied model at a time."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from search.data.frames import Sampling
from search.metrics import rounding
from search.metrics.rounding import ROUNDING_FRAMES, rounding_losses
from search.statistics.observed import FramePart, Observed
from search.study.precision.profiles import weight_owners
from spaces.model_facts import collect_facts
from spaces.plan import HEAD, Precision, Ref
from spaces.precision import round_weights
from spaces.stages import StagedModel

PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")


def with_precisions(observed: Observed) -> Observed:
    deployment = observed.deployment
    facts = collect_facts(deployment.models, precisions=PRECISIONS)
    return replace(observed, deployment=replace(deployment, facts=facts))


@torch.no_grad()
def slow_loss(observed: Observed, owner: Ref, precision: Precision) -> float:
    """Return 1 minus the mean closeness of a model and a copy with one part rounded."""
    model = observed.deployment.models[owner.model]
    rounded = copy.deepcopy(model)
    part = (
        rounded.head
        if owner.stage == HEAD
        else rounded.stages[model.layout.stages.index(owner.stage)]
    )
    round_weights(part, precision, "twin")
    held_out = observed.held_out
    sampled = Sampling(ROUNDING_FRAMES).indices(len(held_out))
    inputs = model.prepare_frames([held_out[k] for k in sampled])
    closeness = model.closeness(probabilities(rounded, inputs), probabilities(model, inputs))
    return 1 - float(closeness.mean())


def probabilities(model: StagedModel, inputs: torch.Tensor) -> torch.Tensor:
    representations = dict(model.walk(inputs))
    return model.comparable([representations[tap] for tap in model.layout.taps])


@pytest.mark.parametrize("which", ["pair", "mixed"])
def test_losses_are_those_of_a_model_with_one_part_rounded(
    which: str, request: pytest.FixtureRequest
) -> None:
    observed = with_precisions(request.getfixturevalue(which))
    done: list[int] = []
    losses = rounding_losses(observed, PRECISIONS, done.append)
    owners = [*weight_owners(observed.deployment.facts)]
    assert set(losses) == {(o, p) for o in owners for p in ("float16", "int8")}
    assert sum(done) == len(losses)
    for (owner, precision), loss in losses.items():
        assert loss == pytest.approx(slow_loss(observed, owner, precision), rel=0.05, abs=2e-6)


def test_fewer_bits_lose_more(mixed: Observed) -> None:
    losses = rounding_losses(with_precisions(mixed), PRECISIONS)
    by_precision = {
        precision: sum(loss for (_, p), loss in losses.items() if p == precision)
        for precision in ("float16", "int8")
    }
    assert 0 < 4 * by_precision["float16"] < by_precision["int8"]


def test_the_precision_of_the_deployment_is_not_measured(
    mixed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "_measure", None)
    assert rounding_losses(mixed, ["float32"]) == {}


def test_losses_of_a_part_are_measured_once_and_a_damaged_file_again(
    mixed: Observed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed = with_precisions(mixed)
    parts = tuple(
        FramePart(observed.held_out, lambda: observed.statistics, tmp_path / name)
        for name in ("first", "second")
    )
    in_parts = replace(observed, parts=parts)
    losses = rounding_losses(in_parts, ["int8"])
    assert losses == pytest.approx(rounding_losses(observed, ["int8"]))
    (tmp_path / "second").rename(tmp_path / "third")
    renamed = (parts[0], replace(parts[1], cache_folder=tmp_path / "third"))
    with monkeypatch.context() as patch:
        patch.setattr(rounding, "_measure", None)
        assert rounding_losses(replace(in_parts, parts=renamed), ["int8"]) == losses
    (file,) = (tmp_path / "third").iterdir()
    file.write_text("{}")
    assert rounding_losses(replace(in_parts, parts=renamed), ["int8"]) == pytest.approx(losses)
    assert file.read_text() != "{}"
