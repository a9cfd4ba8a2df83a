"""The networks that `split.py` splits, their codecs, and every setting of every method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from search.data.frames import FrameSet
from search.evaluation.per_frame import main_score
from search.evaluation.splits.codec_coder import CodecCoder
from search.evaluation.splits.comparison import PairedDifference
from search.evaluation.splits.link_scores import LinkScores, LinkSetup, ScoredLinks, ShownFrames
from search.evaluation.splits.pictures import PictureCoding, PictureFormat
from search.evaluation.splits.plain_statistics import SplitStatistics, split_statistics
from search.evaluation.splits.score_pictures import score_pictures
from search.evaluation.splits.score_splits import CrossingCoder, SplitCandidate, score_splits
from search.split.fit import FittedCodec, fit_codecs
from search.split.recalibrate import recalibrate_steps
from search.split.settings import CodecSettings
from search.split.setup import SplitSetup
from search.utils.progress import silent
from spaces.merged import LinearMaps
from spaces.model_facts import collect_facts
from spaces.plan import Precision, Ref, SharePlan
from spaces.split.coefficients import Coding
from spaces.split.recalibrated import BatchNormStatistics
from spaces.split.split import Split
from spaces.stages import StagedModel

PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
"""Of the weights of the device's part."""
PLAIN = ((1.0, 8), (1.0, 6), (1.0, 5), (0.99, 5), (1.0, 4), (0.98, 4), (1.0, 3))
"""Explained variance, and bits of each level."""


class Setting(NamedTuple):
    """One setting of a method that sends representations or pictures."""

    method: str
    label: str
    coder: CrossingCoder | PictureCoding
    split: Split | None = None
    """None for pictures."""
    statistics: BatchNormStatistics | None = None
    """Of the server's BatchNorms; None for their own."""


class Measured(NamedTuple):
    """One setting of one method, measured."""

    method: str
    label: str
    scores: LinkScores
    predicted: Mapping[str, float] = {}


@dataclass(frozen=True, eq=False)
class Networks:
    """Models with one plan, and the codecs of its splits."""

    models: Mapping[str, StagedModel]
    plan: SharePlan
    maps: LinearMaps
    ends: Sequence[str]
    unlabelled: FrameSet
    held_out: FrameSet
    """Unlabelled frames that decide whether BatchNorms are recalibrated."""

    @cached_property
    def setup(self) -> LinkSetup:
        facts = collect_facts(self.models, "float32", PRECISIONS)
        return LinkSetup(SplitSetup(self.models, facts, self.maps, "float32"), batch=10)

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
        """Return the codec of each split at several rates, recalibrated where frames gain by it.

        As in `merge-search split`, statistics are tried at each step on held-out frames.
        """
        found: list[Setting] = []
        for end, split in self.splits.items():
            codec = self.codecs[split]
            codings = [*dict.fromkeys(self.coding(split, limit) for limit in distortions)]
            recalibration = recalibrate_steps(
                self.setup.networks, split, codec, self.unlabelled, self.held_out,
                [coding.step for coding in codings],
            )  # fmt: skip
            found += [
                Setting(f"ours {end}", f"step {coding.step}", CodecCoder(codec, coding), split,
                        recalibration.by_coding.at(coding) if recalibration else None)
                for coding in codings
            ]  # fmt: skip
        return found

    def plain_settings(self) -> list[Setting]:
        return [
            Setting(f"PCA {end}", f"{self.plain[split].ranks(part)} components, {bits} bits",
                    self.plain[split].principal(part, bits), split)
            for end, split in self.splits.items()
            for part, bits in PLAIN
        ]  # fmt: skip

    def measure(self, settings: Sequence[Setting], shown: ShownFrames) -> list[Measured]:
        """Measure splits and pictures, each in the order of its kind."""
        candidates = [(s, SplitCandidate(s.split, s.coder, s.statistics)) for s in settings
                      if s.split and not isinstance(s.coder, PictureCoding)]  # fmt: skip
        pictures = [(s, s.coder) for s in settings if isinstance(s.coder, PictureCoding)]
        sent = score_splits(self.setup, [c for _, c in candidates], [shown], silent)
        seen = score_pictures(self.setup, self.plan, [p for _, p in pictures], [shown], silent)
        rows = [*zip([s for s, _ in candidates], sent.methods, strict=True),
                *zip([s for s, _ in pictures], seen.methods, strict=True)]  # fmt: skip
        return [Measured(s.method, s.label, scores, predicted(s)) for s, scores in rows]

    def unsplit(self, shown: ShownFrames) -> ScoredLinks:
        return score_pictures(self.setup, self.plan, [], [shown], silent)


def predicted(setting: Setting) -> dict[str, float]:
    """Return the predictions for a setting; empty where nothing is predicted."""
    coder = setting.coder
    if not isinstance(coder, CodecCoder):
        return {}
    curve = coder.codec.curve
    return {"bytes": curve.bytes(coder.coding), "distortion": curve.distortion(coder.coding)}


def picture_settings(pictures: Mapping[PictureFormat, Sequence[int]]) -> list[Setting]:
    return [
        Setting(coding.name.split(" ")[0], coding.name, coding)
        for name, qualities in pictures.items()
        for coding in (PictureCoding(name, quality) for quality in qualities)
    ]


def recalibrated_labels(settings: Iterable[Setting]) -> dict[str, list[str]]:
    """Return, by method, the settings whose BatchNorms are recalibrated."""
    labels: dict[str, list[str]] = {}
    for setting in settings:
        if setting.statistics:
            labels.setdefault(setting.method, []).append(setting.label)
    return labels


def described(point: Measured) -> dict[str, Any]:
    scores = point.scores
    return {
        "setting": point.label,
        "bytes": round(scores.mean_bytes),
        "p95": round(scores.high_bytes),
        "fidelity": scores.mean_fidelity,
        "scores": {name: main_score(own.scores) for name, own in scores.scores.items()},
    } | ({"predicted": dict(point.predicted)} if point.predicted else {})


def interval(found: PairedDifference) -> list[float]:
    return [round(number, 4) for number in (found.value, found.low, found.high)]
