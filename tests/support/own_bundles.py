"""Write bundles of small networks of a user's own."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import torch
from networks import randomise_batchnorms
from own_networks import CHANNELS

from spaces.adapters import LinearMap
from spaces.bundle import Bundle, BundleContents, load_bundle, write_bundle
from spaces.merged import MergedModel
from spaces.model_facts import collect_facts
from spaces.model_spec import ModelSpec
from spaces.plan import HEAD, PRECISIONS, Precision, Ref, Share, SharePlan
from spaces.zoo import load_model

SHARE = Share.between("cls:trunk.body.2", "det:trunk.body.2")


def own_bundle(folder: Path, *shares: Share) -> Bundle:
    """Write and load a bundle of a classifier and a detector with weights in all precisions."""
    models = {
        name: load_model(ModelSpec(name, f"python:own_networks:{function}", "none"))
        for name, function in (("cls", "classifier"), ("det", "detector"))
    }
    for model in models.values():
        randomise_batchnorms(model)
    facts = collect_facts(models, precisions=PRECISIONS)
    owners = [Ref(name, stage) for name in models for stage in (*facts[name].layout.stages, HEAD)]
    stored: tuple[Precision, ...] = ("int8", "float16", "float32", "int8")
    precisions = dict(zip(owners, cycle(stored), strict=False))
    plan = SharePlan(shares).with_precisions(precisions)
    merged = MergedModel(models, facts, plan, {share: random_map() for share in shares})
    specs = {name: model.source.spec for name, model in models.items() if model.source}
    inputs = {name: model.input for name, model in models.items()}
    folder.mkdir()
    write_bundle(folder, BundleContents(specs, inputs, facts, merged.plan, "float32"), merged)
    return load_bundle(folder)


def random_map() -> LinearMap:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(CHANNELS, CHANNELS, generator=generator) / CHANNELS**0.5
    return LinearMap(weight, torch.randn(CHANNELS, generator=generator))
