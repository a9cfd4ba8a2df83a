"""Simulate a device on links whose rate varies: a controller, fixed points, and pictures.

    python bench/link_traces.py [POINTS] [--seeds N] [--mbit RATE]... [--fps N] [--deadline-ms MS]

POINTS is a file like bench/link_points.json, by default that one: operating points of a split
bundle and of JPEG files, with measured bytes, qualities and times. For each kind of trace and
each median rate, the numbers are means over the seeds:

- `bytes`: the controller chooses the split, and the device the finest coding that fits
- `points`: the controller chooses the point
- `equal_fixed`: of all points at least as good as the answers in time of `bytes`, the one with the
  most frames in time, chosen in hindsight for each trace
- `best_fixed`: the point of the best quality in hindsight, where a late frame counts 0
- `oracle`: the most frames in time that any policy can have, and the best quality at that
- `jpeg_fixed`, `jpeg_controlled`: likewise with JPEG files

Then it counts the traces on which a fixed point meets at most 80% of the deadlines, and those of
them on which any policy could meet 95%, and on which the controller does at no less quality (late
frames count 0). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.split.streaming.comparison import PolicyComparison, compare_policies
from search.split.streaming.simulation import FrameStream
from search.split.streaming.traces import TRACE_KINDS, TraceKind
from spaces.split.controller import ControllerSettings
from spaces.split.link_estimate import EstimateSettings
from spaces.split.operating_point import OperatingPoint

POINTS = Path(__file__).parent / "link_points.json"
COLUMNS = ("met", "quality_in_time", "quality", "mean_bytes")
LATE_MET, AIM = 0.8, 0.95
"""A trace is hard if a fixed point meets no more of the deadlines; the controller aims at more."""


@dataclass(frozen=True, eq=False)
class Sent:
    """What a device can send, and how the bytes of its messages vary."""

    points: Sequence[OperatingPoint]
    message_bytes: Sequence[int]
    """Of the frames, at one of the points."""

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Sent:
        return cls([OperatingPoint.from_dict(p) for p in data["points"]], data["message_bytes"])


@dataclass(frozen=True)
class Conditions:
    """The frames of a device, and how long its traces are."""

    fps: float
    deadline_ms: float
    seconds: float

    def compare(self, kind: TraceKind, mbit: float, seed: int, sent: Sent) -> PolicyComparison:
        period, frames = 1000 / self.fps, round(self.seconds * self.fps)
        stream = FrameStream.measured(period, self.deadline_ms, frames, seed, sent.message_bytes)
        settings = ControllerSettings(
            period_ms=period, estimate=EstimateSettings(rtt_ms=kind.rtt_ms)
        )
        trace = kind.trace(seed, self.seconds, mbit)
        return compare_policies(trace, stream, sent.points, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("points", nargs="?", default=POINTS, type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--mbit", type=float, action="append")
    parser.add_argument("--fps", type=float, default=10)
    parser.add_argument("--deadline-ms", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    arguments = parser.parse_args()
    data = json.loads(arguments.points.read_text(encoding="utf-8"))
    splits, pictures = Sent.read(data["splits"]), Sent.read(data["pictures"])
    conditions = Conditions(arguments.fps, arguments.deadline_ms, arguments.seconds)
    result: dict[str, Any] = {}
    traces: list[dict[str, Any]] = []
    for kind in TRACE_KINDS:
        for mbit in arguments.mbit or (0.25, 0.5, 1.0):
            rows = [
                row_of(
                    conditions.compare(kind, mbit, seed, splits),
                    conditions.compare(kind, mbit, seed, pictures),
                )
                for seed in range(arguments.seeds)
            ]
            traces += rows
            means = mean_rows(rows)
            result[f"{kind.name} {mbit:g} Mbit/s"] = means
            print(f"{kind.name}, median {mbit:g} Mbit/s", *map(show, means.items()), sep="\n  ")
    for fixed in ("best_fixed", "equal_fixed"):
        result[f"traces by {fixed}"] = counts = count_hard(traces, fixed)
        print(f"{fixed}: {counts}")
    print(json.dumps(result))


def row_of(sent: PolicyComparison, pictures: PolicyComparison) -> dict[str, Any]:
    seen = pictures.to_dict()
    return {
        **sent.to_dict(),
        "jpeg_fixed": seen["best_fixed"],
        "jpeg_controlled": seen["points"],
    }


def mean_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return means over the seeds; a policy that some seed lacks is left out."""
    return {
        name: {c: round(float(np.mean([row[name][c] for row in rows])), 4) for c in COLUMNS}
        for name in rows[0]
        if all(row[name] for row in rows)
    }


def count_hard(rows: Sequence[Mapping[str, Any]], fixed: str) -> dict[str, int]:
    """Count the traces on which a fixed point is often late, and what is reached on them."""
    hard = [row for row in rows if row[fixed] and row[fixed]["met"] <= LATE_MET]
    possible = [row for row in hard if row["oracle"]["met"] >= AIM]
    reached = [
        row
        for row in possible
        if row["bytes"]["met"] >= AIM and row["bytes"]["quality"] >= row[fixed]["quality"]
    ]
    return {"hard": len(hard), "possible": len(possible), "reached": len(reached)}


def show(item: tuple[str, Mapping[str, float]]) -> str:
    name, row = item
    return (
        f"{name:<16} in time {row['met']:6.1%}  quality of these {row['quality_in_time']:.3f}  "
        f"of all {row['quality']:.3f}  {row['mean_bytes']:7.0f} bytes"
    )


if __name__ == "__main__":
    main()
