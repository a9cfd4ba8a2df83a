"""Made-up outcomes of `merge-search split` with the sizes and times of real networks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from search.results.search_result import ModelRecord
from search.results.split_result import (
    BaselineKind,
    SplitBaselineRecord,
    SplitConditions,
    SplitPointRecord,
    SplitPrediction,
    SplitResult,
    SplitTimes,
    UnsplitRecord,
)
from spaces.plan import Share, SharePlan
from spaces.split.split import Split
from spaces.tasks.task import TaskName

_STAGES: dict[str, list[tuple[str, list[int], int, int]]] = {
    "classifier": [
        ("stem", [32, 112, 112], 3976, 10_838_016),
        ("blocks.0", [16, 112, 112], 3984, 10_035_200),
        ("blocks.1", [24, 56, 56], 60_144, 54_942_720),
        ("blocks.2", [40, 28, 28], 165_680, 37_933_056),
        ("blocks.3", [80, 14, 14], 815_112, 43_512_000),
        ("blocks.4", [112, 14, 14], 1_819_080, 86_007_936),
        ("blocks.5", [192, 7, 7], 6_682_848, 91_158_816),
        ("blocks.6", [320, 7, 7], 2_442_776, 29_409_408),
        ("conv_head", [1280, 7, 7], 1_658_888, 20_070_400),
        ("pool", [1280], 0, 0),
    ],
    "detector": [
        ("stem", [32, 128, 128], 3976, 14_155_776),
        ("blocks.0", [16, 128, 128], 3984, 13_107_200),
        ("blocks.1", [24, 64, 64], 60_144, 71_761_920),
        ("blocks.2", [40, 32, 32], 165_680, 49_545_216),
        ("blocks.3", [80, 16, 16], 815_112, 56_832_000),
        ("blocks.4", [112, 16, 16], 1_819_080, 112_336_896),
        ("blocks.5", [192, 8, 8], 6_682_848, 119_064_576),
        ("blocks.6", [320, 8, 8], 2_442_776, 38_412_288),
    ],
}
"""Name, shape, bytes and MACs of each stage of EfficientNet-Lite0 and EfficientDet-Lite0."""
_TAPS = {"classifier": ("pool",), "detector": ("blocks.2", "blocks.4", "blocks.6")}
_HEADS = {"classifier": (35_868, 8960), "detector": (1_169_544, 81_714_432)}
_ARCHS = {"classifier": "timm/tf_efficientnet_lite0", "detector": "effdet/tf_efficientdet_lite0"}
_SCORES = {"classifier": {"top1": 0.96, "top5": 1.0}, "detector": {"map": 0.566, "ap50": 0.856}}
UNMERGED = SharePlan()
MERGED = SharePlan((Share.between("detector:blocks.3", "classifier:blocks.3"),))
CREATED = "2026-11-20T09:30:00+00:00"


@dataclass(frozen=True)
class MadeUpSplit:
    """A split whose bytes and quality follow a curve over steps."""

    split: Split
    share: float
    """Of the MACs, on the device."""
    device_bytes: int
    finest: float
    """Bytes of a message at step 0."""
    loss: float
    """Quality that step 0 loses."""

    def prediction(
        self, step: int, models: Sequence[str], link: SplitConditions
    ) -> SplitPrediction:
        """Return what a study predicts: each step sends 6% less and loses 15% more."""
        size = self.finest * 0.94**step
        digits = hashlib.sha256(f"{self.split.to_dict()}{step}".encode()).hexdigest()[:8]
        time = made_up_times(link, size, self.share).total_ms
        return SplitPrediction(
            hash=digits,
            label=self.split.label,
            plan=self.split.plan.hash,
            precision="float32",
            split=self.split.to_dict(),
            step=step,
            bands=8,
            predicted_bytes=size * 1.01,
            distortion=self.loss * 1.15**step / 2,
            device_macs=int(self.share * _macs(models)),
            device_share=self.share,
            device_bytes=self.device_bytes,
            codec_bytes=30_000,
            device_memory=self.device_bytes + 1_400_000,
            predicted_ms=time,
            feasible=link.deadline_ms is None or time <= link.deadline_ms,
        )

    def point(self, step: int, models: Sequence[str], link: SplitConditions) -> SplitPointRecord:
        """Return the verified point of a step."""
        prediction = self.prediction(step, models, link)
        size = self.finest * 0.94**step
        return SplitPointRecord(
            **vars(prediction),
            bytes=size,
            bytes_p95=1.3 * size,
            times=made_up_times(link, size, self.share),
            **_quality(models, 1 - self.loss * 1.15**step),
        )


def made_up_times(
    link: SplitConditions, size: float, share: float, encode: float = 1.8, decode: float = 0.9
) -> SplitTimes:
    """Return the times of a message of that many bytes, of networks that take 30 ms here."""
    parts = {
        "device_ms": 30 * share / link.device_speed,
        "encode_ms": encode / link.device_speed,
        "link_ms": link.rtt_ms + size * 8 / (link.mbit * 1000) if size else 0.0,
        "decode_ms": decode,
        "server_ms": 30 * (1 - share) / link.server_speed,
    }
    return SplitTimes(**parts, total_ms=sum(parts.values()))


def conditions(**changes: Any) -> SplitConditions:
    """Return a slow link, a device at a fifth of the server's speed, and a deadline."""
    values: dict[str, Any] = {
        "mbit": 2.0, "rtt_ms": 30.0, "loss": 0.0, "device_speed": 0.2, "server_speed": 1.0,
        "deadline_ms": 200.0, "memory": 8_000_000, "macs": 560_000_000,
    }  # fmt: skip
    return SplitConditions(**values | changes)


def baseline(
    kind: BaselineKind,
    name: str,
    size: float,
    kept: float,
    models: Sequence[str],
    link: SplitConditions,
    split: str | None = None,
) -> SplitBaselineRecord:
    """Return another way to answer."""
    whole = kind == "device"
    share = 1.0 if whole else 0.3 if kind == "plain" else 0.0
    encode = {"picture": 2.0, "plain": 6.0}.get(kind, 0.0)
    return SplitBaselineRecord(
        kind=kind,
        name=name,
        split=split,
        bytes=size,
        bytes_p95=1.4 * size,
        device_macs=int(share * _macs(models)),
        device_bytes=int(share * 26_851_500) or 0,
        times=made_up_times(link, size, share, encode, encode / 2),
        **_quality(models, kept),
    )  # fmt: skip


def model_records(models: Sequence[str]) -> dict[str, ModelRecord]:
    """Return the stages of the networks as a result holds them."""
    return {name: _model_record(name) for name in models}


def two_model_split(**changes: Any) -> SplitResult:
    """Return splits of a classifier and a detector: unmerged, and merged at `blocks.3`."""
    models = ("classifier", "detector")
    apart = ("classifier:blocks.4", "detector:blocks.4")
    splits = (
        MadeUpSplit(_split(UNMERGED, *apart), 0.55, 5_800_000, 6200.0, 0.004),
        MadeUpSplit(_split(MERGED, "detector:blocks.3"), 0.22, 1_100_000, 5200.0, 0.006),
        MadeUpSplit(_split(MERGED, "classifier:blocks.4", "detector:blocks.4"), 0.43, 4_710_000,
                    4100.0, 0.005),
    )  # fmt: skip
    return _result("street", models, splits, conditions(), changes)


def one_model_split(**changes: Any) -> SplitResult:
    """Return splits of a classifier alone."""
    splits = (
        MadeUpSplit(_split(UNMERGED, "classifier:blocks.2"), 0.3, 264_000, 5400.0, 0.01),
        MadeUpSplit(_split(UNMERGED, "classifier:blocks.4"), 0.63, 2_900_000, 1900.0, 0.006),
    )
    return _result("one", ("classifier",), splits, conditions(), changes)


def _result(
    name: str,
    models: tuple[str, ...],
    splits: Sequence[MadeUpSplit],
    link: SplitConditions,
    changes: Mapping[str, Any],
) -> SplitResult:
    steps = ((2, 12, 20), (4, 14, 22), (8, 18, 25))
    points = [
        made_up.point(step, models, link)
        for made_up, chosen in zip(splits, steps, strict=False)
        for step in chosen
    ]
    points.sort(key=lambda point: point.bytes)
    values: dict[str, Any] = {
        "name": name,
        "seed": 0,
        "link": link,
        "models": model_records(models),
        "frames": {"hash": "fedcba987654", "count": 250},
        "truth": {model: {"hash": "0123456789ab", "count": 240} for model in models},
        "plans": {plan.hash: plan.to_dict() for plan in (UNMERGED, MERGED)},
        "study": {"space": 5400, "trials": 600, "splits": 31, "exhausted": False,
                  "sampler": "nsga2"},
        "unsplit": UnsplitRecord(
            accuracy={model: _SCORES[model] for model in models},
            intervals=_intervals({model: _SCORES[model] for model in models}),
            bytes=26_851_500,
            macs=_macs(models),
        ),
        "front": [
            made_up.prediction(step, models, link)
            for made_up in splits
            for step in range(0, 30, 2)
        ],
        "points": points,
        "baselines": _baselines(models, link, points),
        "chosen": points[2].hash,
        "rank_agreement": {"proxy_truth": 0.93, "proxy_fidelity": 0.96, "bytes": 1.0},
        "config": {"name": name, "dtype": "float32", "split": {"link": {"mbit": 2.0}}},
        "base": "../..",
        "seconds": {"models": 2.0, "statistics": 31.0, "study": 6.5, "verify": 92.0},
        "created": CREATED,
    }  # fmt: skip
    return SplitResult(**values | dict(changes))


def _baselines(
    models: Sequence[str], link: SplitConditions, points: Sequence[SplitPointRecord]
) -> list[SplitBaselineRecord]:
    codecs = {"JPEG": 1.0, "WebP": 0.72, "AVIF": 0.6}
    kept = {10: 0.62, 30: 0.88, 50: 0.94, 75: 0.975, 90: 0.992}
    pictures = [
        baseline("picture", f"{codec} q{quality}{side}", factor * scale * size, kept_ * loss,
                 models, link)
        for codec, factor in codecs.items()
        for side, scale, loss in (("", 1.0, 1.0), (" at 160 px", 0.55, 0.9))
        for (quality, kept_), size in zip(
            kept.items(), (3600, 6900, 9800, 15_600, 29_000), strict=True)
    ]  # fmt: skip
    plain = [
        baseline("plain", f"PCA, {kept_} of 112 components, {bits} bits, zstd", size, quality,
                 models, link, points[0].hash)
        for kept_, bits, size, quality in ((32, 4, 3100, 0.93), (64, 6, 9200, 0.985))
    ]  # fmt: skip
    return [
        *pictures,
        *plain,
        baseline("device", "whole networks on the device", 0.0, 1.0, models, link),
        replace(
            baseline("device", "whole networks on the device, int8", 0.0, 0.97, models, link),
            device_bytes=7_100_000,
        ),
        baseline("server", "whole networks on the server, PNG", 95_528.0, 1.0, models, link),
    ]


def _split(plan: SharePlan, *ends: str) -> Split:
    return Split.from_dict({"plan": plan.to_dict(), "ends": ends})


def _model_record(name: str) -> ModelRecord:
    stages = [
        {
            "name": stage,
            "shape": shape,
            "bytes": size,
            "macs": macs,
            "tap": stage in _TAPS[name],
            "footprint": {"peak": 1_400_000, "held": 87_808},
        }
        for stage, shape, size, macs in _STAGES[name]
    ]
    task: TaskName = "detection" if name == "detector" else "classification"
    return ModelRecord(_ARCHS[name], task, stages, *_HEADS[name])


def _macs(models: Sequence[str]) -> int:
    stages = sum(macs for name in models for *_, macs in _STAGES[name])
    return stages + sum(_HEADS[name][1] for name in models)


def _quality(models: Sequence[str], kept: float) -> dict[str, Any]:
    """Return accuracy, fidelity and quality kept with intervals of two and a half per cent."""
    accuracy = {
        name: {score: value * kept for score, value in _SCORES[name].items()} for name in models
    }
    return {
        "accuracy": accuracy,
        "intervals": _intervals(accuracy),
        "differences": {
            name: {
                score: [value - _SCORES[name][score], value - _SCORES[name][score] - 0.012,
                        value - _SCORES[name][score] + 0.006]
                for score, value in scores.items()
            }
            for name, scores in accuracy.items()
        },
        "fidelity": {name: max(0.0, kept - 0.01) for name in models},
        "kept": dict.fromkeys(models, kept),
        "quality_kept": kept,
        "quality_interval": [kept - 0.015, kept + 0.01],
    }  # fmt: skip


def _intervals(accuracy: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, list[float]]]:
    return {
        name: {score: [0.97 * value, min(1.0, 1.02 * value)] for score, value in scores.items()}
        for name, scores in accuracy.items()
    }
