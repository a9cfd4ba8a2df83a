"""The linear maps of plans, refined where a plan says so; refined maps are cached in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from search.data.frames import Sampling, Subset
from search.refinement.recorded import bytes_per_frame, record_representations
from search.refinement.storage import read_refined_maps, write_refined_maps
from search.refinement.training import EPOCHS, train_maps
from search.refinement.views import FRAME_VIEWS
from search.statistics.observed import Observed
from search.utils.progress import Progress, silent
from spaces.adapters import LinearMap
from spaces.plan import Ref, Share, SharePlan
from spaces.precision import round_map
from spaces.trainable_maps import TrainableMaps

REFINEMENT_FRAMES = 512
"""Frames that maps are refined on, at most."""
REFINEMENT_BYTES = 2**29
"""Bytes of their recorded representations, at most."""
Maps = dict[Share, LinearMap]


def maps_of(observed: Observed, plans: Sequence[SharePlan], progress: Progress = silent) -> Maps:
    """Return the map of each linear share of some plans, by the shares of `with_own_maps`.

    Maps are at the deployment's precision. Plans are in canonical form. `progress` counts the
    steps of `refinement_steps`.
    """
    maps = observed.maps_for([plan for plan in plans if not plan.refined])
    refined = [plan for plan in dict.fromkeys(plans) if plan.refined]
    cached = {plan: read_refined_maps(observed, plan) for plan in refined}
    missing = [plan for plan, own in cached.items() if own is None]
    trained = dict(zip(missing, _refine(observed, missing, progress), strict=True))
    for plan in refined:
        own = cached[plan] or trained[plan]
        if plan in trained:
            write_refined_maps(observed, plan, own)
        for share in plan.with_own_maps().mapped_shares:
            linear = own[replace(share, refined_in="")]
            maps[share] = round_map(linear, observed.deployment.dtype)
    return maps


def refinement_steps(observed: Observed, plans: Sequence[SharePlan]) -> int:
    """Return how many steps `maps_of` reports for plans whose maps are not cached."""
    counts = [_frame_count(observed, maps) for maps in _trainable(observed, plans)]
    return FRAME_VIEWS * (max(counts, default=0) + EPOCHS * sum(counts))


def _refine(observed: Observed, plans: Sequence[SharePlan], progress: Progress) -> list[Maps]:
    """Record the representations that any plan needs in one pass, then train plan by plan."""
    trainable = _trainable(observed, plans)
    if not trainable:
        return []
    frame_counts = [_frame_count(observed, maps) for maps in trainable]
    counts: dict[Ref, int] = {}
    for maps, count in zip(trainable, frame_counts, strict=True):
        for ref in maps.reads:
            counts[ref] = max(counts.get(ref, 0), count)
    models = observed.deployment.fused_models
    recorded = record_representations(models, counts, _frames(observed), progress)
    trained = []
    for maps, count in zip(trainable, frame_counts, strict=True):
        own = {ref: recorded[ref][: count * FRAME_VIEWS] for ref in maps.reads}
        trained.append(train_maps(maps, own, progress))
    return trained


def _trainable(observed: Observed, plans: Sequence[SharePlan]) -> list[TrainableMaps]:
    deployment = observed.deployment
    return [
        TrainableMaps(
            deployment.fused_models,
            deployment.facts,
            plan,
            observed.statistics.linear_maps(plan.mapped_shares),
        )
        for plan in plans
    ]


def _frames(observed: Observed) -> Subset:
    """Return frames of the statistics, of which any first ones are spread over all of them."""
    frames = observed.statistics_frames
    sampled = np.array(Sampling(REFINEMENT_FRAMES).indices(len(frames)))
    return Subset(frames, tuple(np.random.default_rng(0).permutation(sampled).tolist()))


def _frame_count(observed: Observed, maps: TrainableMaps) -> int:
    fit = REFINEMENT_BYTES // bytes_per_frame(observed.deployment.facts, maps.reads)
    return max(1, min(len(_frames(observed)), fit))
