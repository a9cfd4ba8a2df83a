"""Write plans of the tiny deployments as bundles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tiny import CLASSES, CLASSIFIER, DETECTOR, SIZE, Weights

from search.statistics.observed import Observed
from spaces.bundle import BundleContents, write_bundle
from spaces.merged import LinearMaps, MergedModel
from spaces.model_facts import collect_facts
from spaces.model_spec import ModelSpec
from spaces.plan import PRECISIONS, SharePlan
from spaces.precision import Dtype

ARCHS = {"cls": (CLASSIFIER, 1), "det": (DETECTOR, 3), "a": (CLASSIFIER, 1), "b": (CLASSIFIER, 2)}


def model_specs(weights: Weights) -> dict[str, ModelSpec]:
    """Return the spec of every model in the fixtures `pair` and `mixed`, by name."""
    return {
        name: ModelSpec(name, arch, str(weights(arch, seed)), CLASSES[arch],
                        (SIZE[arch], SIZE[arch]), "squash")
        for name, (arch, seed) in ARCHS.items()
    }  # fmt: skip


def write_plan_bundle(
    observed: Observed,
    plan: SharePlan,
    specs: Mapping[str, ModelSpec],
    folder: Path,
    dtype: Dtype = "float32",
    maps: LinearMaps | None = None,
) -> tuple[MergedModel, BundleContents, int]:
    """Write a bundle into a new folder; return its merged model, contents and size in bytes."""
    deployment = observed.deployment
    facts = collect_facts(deployment.models, dtype, PRECISIONS)
    if maps is None:
        maps = observed.maps_for([plan])
    merged = MergedModel(deployment.models, deployment.facts, plan, maps)
    contents = BundleContents(
        specs={name: specs[name] for name in facts},
        inputs={name: model.input for name, model in deployment.models.items()},
        facts=facts,
        plan=merged.plan,
        dtype=dtype,
    )
    folder.mkdir()
    return merged, contents, write_bundle(folder, contents, merged)
