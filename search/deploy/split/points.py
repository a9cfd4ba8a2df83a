"""The operating points of a split bundle: what was verified, and codings near it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from search.results.split_result import SplitPointRecord
from search.split.fit import FittedCodec
from search.split.rate_curve import RateCurve
from spaces.split.coefficients import Coding
from spaces.split.operating_point import OperatingPoint
from spaces.split.split import Split

NEAREST_STEPS = 12
"""A device may choose steps up to this many below and above each verified one: three octaves."""
STEP_STRIDE = 2
"""Every second step is listed: half an octave apart."""


def operating_points(
    splits: Sequence[Split],
    codecs: Mapping[Split, FittedCodec],
    verified: Sequence[SplitPointRecord],
) -> list[OperatingPoint]:
    """Return what a device may choose from, the best quality first.

    Besides the verified points there are coarser and finer steps of the same splits. Their quality
    is predicted: that of the nearest verified point, less what the codec distorts more.
    """
    points: list[OperatingPoint] = []
    for number, split in enumerate(splits):
        curve = codecs[split].curve
        records = {r.coding: r for r in verified if Split.from_dict(r.split) == split}
        points += [_measured(number, curve, record) for record in records.values()]
        points += [
            _predicted(number, coding, curve, nearest)
            for coding in _neighbours(records, curve)
            for nearest in [_nearest(coding, records.values())]
        ]
    return sorted(points, key=lambda point: (-point.quality, point.bytes))


def _neighbours(verified: Collection[Coding], curve: RateCurve) -> list[Coding]:
    """Return the useful codings around verified ones, without these."""
    offsets = range(-NEAREST_STEPS, NEAREST_STEPS + 1, STEP_STRIDE)
    around = dict.fromkeys(
        Coding(coding.step + offset, coding.bands) for coding in verified for offset in offsets
    )
    return [c for c in around if c not in verified and c.step in curve.steps]


def _nearest(coding: Coding, records: Iterable[SplitPointRecord]) -> SplitPointRecord:
    same_bands = (record for record in records if record.bands == coding.bands)
    return min(same_bands, key=lambda record: abs(record.step - coding.step))


def _measured(number: int, curve: RateCurve, record: SplitPointRecord) -> OperatingPoint:
    return OperatingPoint(
        split=number,
        coding=record.coding,
        bytes=record.bytes,
        quality=record.quality or 0.0,
        device_ms=record.times.device_ms + record.times.encode_ms,
        server_ms=record.times.decode_ms + record.times.server_ms,
        distortion=curve.distortion(record.coding),
        bytes_p95=record.bytes_p95,
    )


def _predicted(
    number: int, coding: Coding, curve: RateCurve, nearest: SplitPointRecord
) -> OperatingPoint:
    """Return a point near a verified one.

    Its bytes are predicted from those that were measured there, whose frames may be harder to code
    than the frames of the fit.
    """
    measured, distortion = _measured(number, curve, nearest), curve.distortion(coding)
    worse = distortion - curve.distortion(nearest.coding)
    return replace(
        measured,
        coding=coding,
        bytes=nearest.bytes * curve.bytes(coding) / curve.bytes(nearest.coding),
        quality=max(0.0, measured.quality - worse),
        distortion=distortion,
        bytes_p95=None,
    )
