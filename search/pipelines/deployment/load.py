"""From the models of a config to a deployment."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence

import torch

from search.config.models import check_reloadable
from search.config.run import TOO_FEW_MODELS, RunConfig
from search.pipelines.open_data import check_frame_supply, select_device
from search.report.console_tables import print_stages
from search.utils.reporter import Reporter
from spaces.deployment import Deployment
from spaces.errors import MergeSearchError
from spaces.model_facts import collect_facts
from spaces.model_spec import ModelSpec
from spaces.plan import Precision
from spaces.shares import DIFFERENT_VIEWS, Pairs, find_pairs
from spaces.stages import StagedModel
from spaces.zoo import load_model


class NothingToShare(MergeSearchError):
    """No pair of stages of the models can be shared."""


def load_deployment(config: RunConfig, reporter: Reporter) -> Deployment:
    """Survey the models and report their stages as tables.

    Raises:
        NothingToShare: no representation may replace another.
        BadFrames: there are too few frames, which is cheaper to find out first.
    """
    check_frame_supply(config)
    deployment = survey_models(config, reporter)
    print_stages(deployment.facts, reporter)
    return deployment


def survey_models(config: RunConfig, reporter: Reporter) -> Deployment:
    """Load, cut and survey the models, and move them to their device.

    Raises:
        NothingToShare: no representation may replace another.
    """
    models = load_models(config, reporter)
    with reporter.working("stages"):
        return survey(config, models)


def load_models(config: RunConfig, reporter: Reporter) -> dict[str, StagedModel]:
    """Load and cut the models, and say where their weights come from."""
    device = select_device(config.device)
    reporter.step(f"Loading the models ({device})")
    models: dict[str, StagedModel] = {}
    with reporter.progress("models", len(config.models)) as progress:
        for name in config.models:
            models[name] = load_named_model(config, name)
            progress(1)
    for name, model in models.items():
        if model.source is not None and model.source.note:
            reporter.say(f"  {name}: {model.source.note}")
    return models


def load_named_model(config: RunConfig, name: str) -> StagedModel:
    """Load one model of the config, or copy the one that the caller has loaded.

    Raises:
        MergeSearchError: its weights, input or cut are not accepted.
    """
    return _copy_loaded(config, name) or _load(
        config.models[name].spec(name, config.base), config.seed
    )


def survey(config: RunConfig, models: Mapping[str, StagedModel]) -> Deployment:
    """Measure the stages of loaded models, move them to their device, and pair their stages.

    Raises:
        NothingToShare: no representation may replace another.
    """
    deployment = survey_without_shares(config, models, config.search.precision)
    if not deployment.pairs.legal:
        raise NothingToShare(_why_nothing(deployment.pairs))
    return deployment


def survey_without_shares(
    config: RunConfig, models: Mapping[str, StagedModel], precisions: Sequence[Precision]
) -> Deployment:
    """Measure the stages of loaded models, one or more, even if nothing can be shared.

    `precisions` are those in which a plan may store weights.
    """
    device = select_device(config.device)
    facts = collect_facts(models, config.dtype, precisions)
    return Deployment(
        {name: model.to(device) for name, model in models.items()}, facts, find_pairs(facts)
    )


def _why_nothing(pairs: Pairs) -> str:
    if not pairs.rejected:
        return TOO_FEW_MODELS
    pair, reason = next(iter(pairs.rejected.items()))
    advice = (
        "; set `fit: squash` (or `fit: letterbox`) for both models, so that they see the same "
        "part of a frame"
        if reason.startswith(DIFFERENT_VIEWS)
        else ""
    )
    return f"no representation may replace another; for example {pair}: {reason}{advice}"


def _copy_loaded(config: RunConfig, name: str) -> StagedModel | None:
    """Return a copy of the model if the caller has loaded it, unless its weights have changed."""
    model = config.loaded_models.get(name)
    if model is None:
        return None
    check_reloadable(name, model)
    return copy.deepcopy(model).eval().requires_grad_(False)


def _load(spec: ModelSpec, seed: int) -> StagedModel:
    """Load a model. Random weights (`weights: none`) depend on the seed and the name only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1_000_003 + zlib.crc32(spec.name.encode()))
        return load_model(spec)
