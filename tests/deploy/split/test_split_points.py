"""What a device may choose from: measured points, and codings near them whose order is right."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from split_bundles import SPLITS, split_networks
from split_results import UNMERGED, MadeUpSplit, conditions

from search.deploy.split.points import NEAREST_STEPS, operating_points
from search.results.split_result import SplitPointRecord
from spaces.plan import Ref
from spaces.split.coefficients import Coding
from spaces.split.operating_point import OperatingPoint
from spaces.split.split import Split

ONE, TWO = SPLITS["one stream for both"], SPLITS["two streams"]
BY_PLAN = 0.3
"""Change of the answers by shares and rounding, which no coding undoes."""


def record(split: Split, step: int, bands: int = 8, quality: float = 0.9) -> SplitPointRecord:
    """Return a verified point whose frames take a third more than those of the fit."""
    curve = split_networks().codecs[split].curve
    made_up = MadeUpSplit(Split(UNMERGED, (Ref("classifier", "stem"),)), 0.3, 1000, 600.0, 0.01)
    point = made_up.point(step, ("classifier", "detector"), conditions())
    coding = Coding(step, bands)
    return replace(
        point,
        split=split.to_dict(),
        bands=bands,
        bytes=curve.bytes(coding) * 4 / 3,
        distortion=curve.distortion(coding) + BY_PLAN,
        quality_kept=quality,
    )


def points_of(split: Split, *records: SplitPointRecord) -> dict[Coding, OperatingPoint]:
    points = operating_points([split], split_networks().codecs, records)
    assert len({point.coding for point in points}) == len(points)
    return {point.coding: point for point in points}


def test_a_verified_point_is_as_it_was_measured() -> None:
    verified = record(ONE, -20)
    point = points_of(ONE, verified)[Coding(-20, 8)]
    assert (point.bytes, point.quality) == (verified.bytes, 0.9)
    assert point.bytes_p95 == verified.bytes_p95
    assert point.distortion == pytest.approx(verified.distortion - BY_PLAN)
    times = verified.times
    assert point.device_ms == times.device_ms + times.encode_ms
    assert point.server_ms == times.decode_ms + times.server_ms


def test_coarser_codings_keep_less_and_send_less() -> None:
    """Also next to the verified point, whatever the plan itself changes."""
    points = points_of(ONE, record(ONE, -20))
    ordered = [points[coding] for coding in sorted(points)]
    assert len(ordered) == NEAREST_STEPS + 1
    for finer, coarser in pairwise(ordered):
        assert finer.quality > coarser.quality and finer.bytes > coarser.bytes


def test_a_coding_is_predicted_from_the_nearest_verified_one() -> None:
    far, near = record(ONE, -30, quality=0.5), record(ONE, -18, quality=0.9)
    curve = split_networks().codecs[ONE].curve
    for records in ((far, near), (near, far)):
        point = points_of(ONE, *records)[Coding(-20, 8)]
        gained = curve.distortion(near.coding) - curve.distortion(Coding(-20, 8))
        assert point.quality == pytest.approx(0.9 + gained) and point.bytes_p95 is None
        assert point.bytes == pytest.approx(curve.bytes(Coding(-20, 8)) * 4 / 3)


def test_every_split_has_points_of_its_own_and_the_best_comes_first() -> None:
    records = [record(TWO, -16, 5, 0.8), record(ONE, -20), record(ONE, -22, 3, 0.7)]
    points = operating_points([ONE, TWO], split_networks().codecs, records)
    assert {(p.split, p.coding.bands) for p in points} == {(0, 8), (0, 3), (1, 5)}
    assert all(a.quality >= b.quality for a, b in pairwise(points))
    useful = [split_networks().codecs[split].curve.steps for split in (ONE, TWO)]
    assert all(p.coding.step in useful[p.split] for p in points if p.bytes_p95 is None)


def test_points_survive_their_json() -> None:
    for point in points_of(ONE, record(ONE, -20)).values():
        assert OperatingPoint.from_dict(point.to_dict()) == point
