"""The lines of a split's charts: the points of each split, and the codings of each picture format.

A split has a letter, so that charts, legends and tables name it alike, and not by colour alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from string import ascii_uppercase

from search.report.split.texts import shown_quality
from search.results.split_result import (
    BaselineKind,
    SplitBaselineRecord,
    SplitPointRecord,
    SplitPrediction,
    SplitResult,
)
from spaces.plan import SharePlan

_QUALITY = re.compile(r" q\d+")


@dataclass(frozen=True)
class SplitLine:
    """A split of one plan with one precision on the device, at several codings."""

    index: int
    points: tuple[SplitPointRecord, ...]
    """By rising bytes."""

    @property
    def letter(self) -> str:
        """A, B, ... Z, AA, BB and so on."""
        repeated, letter = divmod(self.index, len(ascii_uppercase))
        return ascii_uppercase[letter] * (1 + repeated)

    @property
    def name(self) -> str:
        """The split in words."""
        point = self.points[0]
        shares = SharePlan.from_dict(point.split["plan"]).shares
        plan = f"merged by {point.plan}" if shares else "unmerged"
        return f"{point.label}, {plan}, {point.precision} on the device"


@dataclass(frozen=True)
class PictureLine:
    """A picture format at one size, at several qualities."""

    name: str
    """Without the quality, such as `JPEG at 160 px`."""
    codings: tuple[SplitBaselineRecord, ...]
    """By rising bytes."""

    @property
    def format(self) -> str:
        return self.name.split()[0]


def split_lines(result: SplitResult) -> tuple[SplitLine, ...]:
    """Return the verified splits, those with the fewest MACs on the device first."""
    by_split: dict[tuple[str, str, str], list[SplitPointRecord]] = {}
    for point in sorted(result.points, key=lambda p: (p.device_macs, p.label, p.plan, p.bytes)):
        by_split.setdefault(_split_key(point), []).append(point)
    return tuple(
        SplitLine(index, tuple(sorted(points, key=lambda p: p.bytes)))
        for index, points in enumerate(by_split.values())
    )


def line_of_point(lines: Iterable[SplitLine], point: SplitPrediction) -> SplitLine | None:
    """Return the line of a point, by its split."""
    key = _split_key(point)
    return next((line for line in lines if _split_key(line.points[0]) == key), None)


def picture_lines(result: SplitResult) -> tuple[PictureLine, ...]:
    """Return the codings of pictures by format and size."""
    by_name: dict[str, list[SplitBaselineRecord]] = {}
    for coding in baselines_of(result, "picture"):
        by_name.setdefault(_QUALITY.sub("", coding.name), []).append(coding)
    return tuple(
        PictureLine(name, tuple(sorted(codings, key=lambda coding: coding.bytes)))
        for name, codings in by_name.items()
    )


def picture_front(result: SplitResult) -> list[SplitBaselineRecord]:
    """Return the codings of pictures that keep more than every one of fewer bytes."""
    front: list[SplitBaselineRecord] = []
    best = -1.0
    for coding in sorted(baselines_of(result, "picture"), key=lambda coding: coding.bytes):
        quality = shown_quality(result, coding)
        if quality is not None and quality > best:
            front.append(coding)
            best = quality
    return front


def baselines_of(result: SplitResult, kind: BaselineKind) -> list[SplitBaselineRecord]:
    """Return the other ways to answer that are of a kind."""
    return [record for record in result.baselines if record.kind == kind]


def _split_key(point: SplitPrediction) -> tuple[str, str, str]:
    return point.plan, point.label, point.precision
