"""The two parts of `split.py` on rendered scenes: a detector, and two networks over one trunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from samplers import ROOT
from split_device import describe_device
from split_networks import (
    Measured,
    Networks,
    described,
    interval,
    picture_settings,
    recalibrated_labels,
)
from split_predictions import mean_closeness, predictions

from search.data.frames import RenderedScenes
from search.data.ground_truth import Truth, scenes_truth
from search.data.synthetic.scenes import SceneSettings
from search.evaluation.evaluate import quality_kept_by_model
from search.evaluation.per_frame import main_score, scores_by_model
from search.evaluation.splits.comparison import SentPoint, byte_ratio, cheapest_keeping
from search.evaluation.splits.link_scores import ShownFrames
from search.evaluation.splits.pictures import PictureFormat
from search.statistics.similarity import Statistics
from search.statistics.streaming import PassSettings, accumulate_moments
from spaces.model_facts import collect_facts
from spaces.model_spec import ModelSpec
from spaces.plan import Share, SharePlan
from spaces.shares import Pair
from spaces.stages import StagedModel
from spaces.zoo import load_model

SCENES = SceneSettings(seed=11, night=0.3, rain=0.25)
HELD_OUT = SceneSettings(seed=13, night=0.3, rain=0.25)
LABELLED = SceneSettings(seed=12, night=0.3, rain=0.25)
SCENE_FRAMES, HELD_OUT_FRAMES, LABELLED_FRAMES = 160, 60, 120
SCENE_DISTORTIONS = (0.01, 0.03, 0.06, 0.12)
SCENE_PICTURES: Mapping[PictureFormat, Sequence[int]] = {
    "jpeg": (92, 80, 60, 30), "webp": (95, 85, 60, 30), "avif": (80, 65, 50, 35),
}  # fmt: skip
KEPT = (0.98, 0.95, 0.9)
"""Of the unsplit quality, at which methods on scenes are compared."""


def detector_part() -> dict[str, Any]:
    ends = [f"detector:blocks.{number}" for number in (1, 2, 4)]
    models = {"detector": load_quickstart("detector")}
    return scenes_part(Networks(models, SharePlan(), {}, ends, *unlabelled_scenes()))


def trunk_part() -> dict[str, Any]:
    models = {name: load_quickstart(name) for name in ("classifier", "detector")}
    share = Share.between("detector:blocks.4", "classifier:blocks.4", "linear")
    frames, held_out = unlabelled_scenes()
    facts = collect_facts(models)
    pair = Pair(share.donor, share.recipient)
    moments = accumulate_moments(models, facts, [pair], frames, PassSettings())
    maps = Statistics(moments, facts).linear_maps([share])
    ends = ["detector:blocks.2", "detector:blocks.4"]
    return scenes_part(Networks(models, SharePlan((share,)), maps, ends, frames, held_out))


def unlabelled_scenes() -> tuple[RenderedScenes, RenderedScenes]:
    """Return the scenes that codecs are fitted to, and those that recalibration must help."""
    return RenderedScenes(SCENES, SCENE_FRAMES), RenderedScenes(HELD_OUT, HELD_OUT_FRAMES)


def load_quickstart(name: str) -> StagedModel:
    arch, classes, side = {
        "classifier": ("timm/tf_efficientnet_lite0", 7, 224),
        "detector": ("effdet/tf_efficientdet_lite0", 6, 256),
    }[name]
    weights = ROOT / "runs" / "quickstart" / f"{name}.safetensors"
    return load_model(ModelSpec(name, arch, str(weights), classes, (side, side), "squash"))


def scenes_part(networks: Networks) -> dict[str, Any]:
    """Compare splits with pictures at several parts of the unsplit quality."""
    truth: dict[str, Truth] = {
        name: scenes_truth(LABELLED, LABELLED_FRAMES, model.task)
        for name, model in networks.models.items()
    }
    frames = next(iter(truth.values())).frames
    shown = ShownFrames(frames, tuple(networks.models), truth)
    settings = [*networks.settings(SCENE_DISTORTIONS), *picture_settings(SCENE_PICTURES)]
    measured = networks.measure(settings, shown)
    unsplit = scores_by_model(networks.unsplit(shown).unsplit[networks.plan])
    kept = {
        point.method + point.label: float(np.mean([*quality_kept_by_model(
            scores_by_model(point.scores.scores), unsplit, {}).values()]))
        for point in measured
    }  # fmt: skip
    return {
        "unsplit": {name: main_score(scores) for name, scores in unsplit.items()},
        "points": [{"method": p.method, "kept": kept[p.method + p.label], **described(p)}
                   for p in measured],
        "recalibrated": recalibrated_labels(settings),
        "device": {end: describe_device(networks, s) for end, s in networks.splits.items()},
        "predictions": predictions(measured, mean_closeness(networks, settings, frames)),
        "at": {str(target): at_target(measured, kept, target) for target in KEPT},
    }  # fmt: skip


def cheapest(
    measured: Sequence[Measured], target: float, kept: Mapping[str, float]
) -> dict[str, Measured]:
    """Return the cheapest point of each method that keeps the target."""
    by_label = {point.method + point.label: point for point in measured}
    points = (
        SentPoint(point.method, key, point.scores.mean_bytes, kept[key])
        for key, point in by_label.items()
    )
    return {m: by_label[best.label] for m, best in cheapest_keeping(points, target).items()}


def at_target(
    measured: Sequence[Measured], kept: Mapping[str, float], target: float
) -> dict[str, Any]:
    """Compare the cheapest split that keeps a part of the quality with the cheapest picture."""
    best = cheapest(measured, target, kept)
    splits = [point for method, point in best.items() if method.startswith("ours ")]
    pictures = [point for method, point in best.items() if not method.startswith("ours ")]
    found: dict[str, Any] = {
        f"{point.method}, {point.label}": round(point.scores.mean_bytes)
        for point in (*splits, *pictures)
    }
    if splits and pictures:
        ours, theirs = (min(points, key=lambda point: point.scores.mean_bytes)
                        for points in (splits, pictures))  # fmt: skip
        found["ratio"] = interval(byte_ratio(ours.scores, theirs.scores))
    return found
