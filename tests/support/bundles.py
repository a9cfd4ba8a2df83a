"""Write plans of the tiny deployments as bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from tiny import CLASSES, CLASSIFIER, DETECTOR, SIZE, Weights

from search.statistics.observed import Observed
from spaces.bundle import BundleContents, write_bundle
from spaces.merged import LinearMaps, MergedModel
from spaces.model_facts import ModelFacts, collect_model_facts
from spaces.model_spec import ModelSpec
from spaces.plan import PRECISIONS, SharePlan
from spaces.precision import Dtype
from spaces.stages import StagedModel

ARCHS = {"cls": (CLASSIFIER, 1), "det": (DETECTOR, 3), "a": (CLASSIFIER, 1), "b": (CLASSIFIER, 2)}


def model_specs(weights: Weights) -> dict[str, ModelSpec]:
    """Return the spec of every model in the fixtures `pair` and `mixed`, by name."""
    return {
        name: ModelSpec(name, arch, str(weights(arch, seed)), CLASSES[arch],
                        (SIZE[arch], SIZE[arch]), "squash")
        for name, (arch, seed) in ARCHS.items()
    }  # fmt: skip


def facts_at_any_precision(
    models: Mapping[str, StagedModel], dtype: Dtype = "float32"
) -> dict[str, ModelFacts]:
    """Return the facts of models by name, with every precision that a plan may choose."""
    return {name: _facts(model, dtype) for name, model in models.items()}


@lru_cache(maxsize=32)  # the same models are written many times
def _facts(model: StagedModel, dtype: Dtype) -> ModelFacts:
    return collect_model_facts(model, dtype, PRECISIONS)


def write_plan_bundle(
    observed: Observed,
    plan: SharePlan,
    specs: Mapping[str, ModelSpec],
    folder: Path,
    dtype: Dtype = "float32",
    maps: LinearMaps | None = None,
) -> tuple[MergedModel, BundleContents, int]:
    """Write a bundle into a new folder; return its merged model, contents and size in bytes."""
    merged = _merge(observed, plan, maps)
    contents = _contents(observed, specs, (merged.plan,), dtype)
    folder.mkdir()
    return merged, contents, write_bundle(folder, contents, merged)


def write_points_bundle(
    observed: Observed,
    plans: Sequence[SharePlan],
    specs: Mapping[str, ModelSpec],
    folder: Path,
    dtype: Dtype = "float32",
) -> int:
    """Write a bundle of several plans into a new folder; return its size in bytes."""
    merged = [_merge(observed, plan, None) for plan in plans]
    contents = _contents(observed, specs, tuple(model.plan for model in merged), dtype)
    folder.mkdir()
    return write_bundle(folder, contents, *merged)


def _merge(observed: Observed, plan: SharePlan, maps: LinearMaps | None) -> MergedModel:
    deployment = observed.deployment
    if maps is None:
        maps = observed.maps_for([plan])
    return MergedModel(deployment.models, deployment.facts, plan, maps)


def _contents(
    observed: Observed,
    specs: Mapping[str, ModelSpec],
    plans: tuple[SharePlan, ...],
    dtype: Dtype,
) -> BundleContents:
    models = observed.deployment.models
    facts = facts_at_any_precision(models, dtype)
    return BundleContents(
        specs={name: specs[name] for name in facts},
        inputs={name: model.input for name, model in models.items()},
        facts=facts,
        plan=plans[0],
        dtype=dtype,
        points=plans[1:],
    )
