"""Measure how often an unchanged camera raises an alarm, and how soon a change is noticed.

    MERGE_SEARCH_DATA=/path/to/data python bench/drift.py

The quickstart's networks describe frames of its rendered street camera; its frames are independent
of each other. Each of 4 references of 240 frames is compared with 3200 new frames of the same
camera, as windows of 32 and as windows of 64. Then the camera changes: 1280 frames after each
change, as 40 windows of 32 and as 20 of 64, are each compared with another reference from before
the change. All is repeated with smaller references: a window of 64 frames, as a search leaves it,
and one that has grown since. The real cameras are clips of half a minute, so windows follow the
reference within seconds; they are skipped if there is no data. Descriptions are cached in the
temporary folder; remove them after changing the features. The last line is one JSON object, each
entry by the frames of a window:

- unchanged: by kind of reference: the number of alarms and of windows, the rate with its exact 95%
  interval (Clopper and Pearson), the alarms by reference, and two_sample: the alarms by reference
  if SciPy's two-sample test were used as it is
- noticed: by kind of reference and change, the fraction of windows that are noticed
- clips: by camera, the alarms on its own later windows, the same if its frames were treated as
  independent, and the windows of the other camera that are noticed
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from scipy.stats import binomtest, ks_2samp

from search.config.loading import load_config
from search.data.frames import (
    FrameSet,
    RenderedScenes,
    Sampling,
    Subset,
    batch_ranges,
    folder_frames,
)
from search.data.synthetic.scenes import SceneSettings
from search.drift.detection import RATE, compare
from search.drift.frame_features import VIEWS, Description, describe, models_key
from search.drift.reference import LARGE_REFERENCE, Reference, Sample
from search.pipelines.deployment.load import load_deployment
from search.utils.console import ConsoleReporter
from search.utils.files import replace_file
from search.utils.reporter import Reporter
from spaces.deployment import Deployment

ROOT = Path(__file__).parent.parent
CLIPS = Path(os.environ.get("MERGE_SEARCH_DATA", "../shared/data")) / "cameras"
CACHE = Path(tempfile.gettempdir()) / "merge-search-drift"
REFERENCES = 4
UNCHANGED, CHANGED = 3200, 1280
"""Number of new frames of each unchanged camera, and of every change."""
WINDOWS = (32, 64)
WINDOW = 64
"""Frames that a search leaves as a reference."""
BATCH, PIECE, PROCESSES = 16, 320, 2

STREET = SceneSettings(seed=0, night=0.3, rain=0.25)
"""The quickstart's camera."""
CHANGES = {
    "night": replace(STREET, seed=200, night=1.0),
    "angle": replace(STREET, seed=201, camera_pitch=16.0, camera_yaw=15.0),
    "camera": replace(STREET, seed=202, camera_height=5.5, camera_pitch=14.0, camera_yaw=-20.0),
    "rain": replace(STREET, seed=203, rain=1.0),
    "more nights": replace(STREET, seed=204, night=0.5),
}
NAMES = ("pets2009_s2l1_view1", "street_traffic_ckuhn")


def main() -> None:
    reporter, start = ConsoleReporter(), time.perf_counter()
    describer = Describer.of_quickstart(reporter)
    unchanged = [
        describer.describe(
            RenderedScenes(replace(STREET, seed=100 + k), LARGE_REFERENCE + UNCHANGED)
        )
        for k in range(REFERENCES)
    ]
    before = join(unchanged)
    after = {
        change: describer.describe(RenderedScenes(settings, CHANGED))
        for change, settings in CHANGES.items()
    }
    report: dict[str, Any] = {
        "stated_rate": RATE,
        "unchanged": {
            kind: {size: count_false_alarms(unchanged, build, size) for size in WINDOWS}
            for kind, build in KINDS.items()
        },
        "noticed": {
            kind: {
                change: noticed_fractions(before, build, frames)
                for change, frames in after.items()
            }
            for kind, build in KINDS.items()
        },
        "clips": compare_clips(describer),
        "reference": LARGE_REFERENCE,
        "seconds": round(time.perf_counter() - start),
    }
    reporter.table("Drift", ["what", "value"], [[k, str(v)] for k, v in report.items()])
    print(json.dumps(report))


# Kinds of references, each from at most LARGE_REFERENCE frames.

BuildReference = Callable[[Description], Reference]


def window_reference(description: Description) -> Reference:
    return Reference.of(description.part(0, WINDOW))


def grown_reference(description: Description) -> Reference:
    reference = window_reference(description)
    for number, window in enumerate(windows(description, WINDOW, WINDOW)):
        reference = reference.grown(str(number), window)
    return reference


KINDS: dict[str, BuildReference] = {
    "of 240": Reference.of,
    "of 64": window_reference,
    "of 64, grown": grown_reference,
}


# Measurements.


def count_false_alarms(
    cameras: Sequence[Description], build: BuildReference, size: int
) -> dict[str, Any]:
    """Return the alarms on windows of unchanged cameras, each compared with its own reference."""
    alarms, two_sample_alarms, count = [], [], 0
    for camera in cameras:
        reference = build(camera.part(0, LARGE_REFERENCE))
        own_windows = windows(camera, LARGE_REFERENCE, size)
        alarms.append(sum(compare(reference, window).noticed for window in own_windows))
        two_sample_alarms.append(
            sum(two_sample_p_value(reference, window) <= RATE for window in own_windows)
        )
        count += len(own_windows)
    interval = binomtest(sum(alarms), count).proportion_ci(0.95, method="exact")
    return {
        "alarms": sum(alarms),
        "windows": count,
        "rate": sum(alarms) / count,
        "interval": [round(float(interval.low), 4), round(float(interval.high), 4)],
        "by_reference": alarms,
        "two_sample": two_sample_alarms,
    }


def two_sample_p_value(reference: Reference, window: Description) -> float:
    """Return the p-value of the plain test, which treats all frames as independent."""
    p_values = [
        ks_2samp(reference_scores, window_scores).pvalue
        for view, sample in reference.samples.items()
        for reference_scores, window_scores in zip(
            sample.scores.T, sample.projection.scores(window.rows[view]).T, strict=True
        )
    ]
    return float(min(p_values) * len(p_values))


def noticed_fractions(
    before: Description, build: BuildReference, after: Description
) -> dict[int, float]:
    """Return the fraction of windows after the change that are noticed, by their size.

    Each window is compared with another reference.
    """
    fractions = {}
    for size in WINDOWS:
        new_windows = windows(after, 0, size)
        pairs = zip(windows(before, 0, LARGE_REFERENCE), new_windows, strict=False)
        alarms = sum(compare(build(frames), window).noticed for frames, window in pairs)
        fractions[size] = alarms / len(new_windows)
    return fractions


def compare_clips(describer: Describer) -> dict[str, Any]:
    """Compare two real cameras, each with its own first half and with the other camera."""
    folders = {name: CLIPS / name / "frames" for name in NAMES}
    if not all(folder.is_dir() for folder in folders.values()):
        return {}
    first, second = (describer.describe(folder_frames(f, Sampling())) for f in folders.values())
    results = (compare_clip(first, second), compare_clip(second, first))
    return dict(zip(NAMES, results, strict=True))


def compare_clip(camera: Description, other: Description) -> dict[int, dict[str, str]]:
    """Return the alarms of one camera's reference on its own and on the other's windows."""
    half = len(camera) // 2
    reference = Reference.of(camera.part(0, half))

    def alarms(reference: Reference, compared: Sequence[Description]) -> str:
        count = sum(compare(reference, window).noticed for window in compared)
        return f"{count} of {len(compared)}"

    return {
        size: {
            "own": alarms(reference, windows(camera, half, size)),
            "own_if_independent": alarms(
                without_autocorrelation(reference), windows(camera, half, size)
            ),
            "other": alarms(reference, windows(other, 0, size)),
        }
        for size in WINDOWS
    }


def without_autocorrelation(reference: Reference) -> Reference:
    """Return the reference as if its frames were independent of each other."""

    def uncorrelated(sample: Sample) -> Sample:
        return replace(sample, times=np.ones_like(sample.times))

    samples = {view: uncorrelated(sample) for view, sample in reference.samples.items()}
    return replace(reference, samples=samples)


# Descriptions.


def join(parts: Sequence[Description]) -> Description:
    """Join the descriptions of consecutive frames."""
    rows = {view: np.concatenate([part.rows[view] for part in parts]) for view in VIEWS}
    return Description(parts[0].models, rows)


def windows(description: Description, start: int, size: int) -> list[Description]:
    """Return consecutive windows of `size` frames, from frame `start` on."""
    starts = range(start, len(description) - size + 1, size)
    return [description.part(first, first + size) for first in starts]


@dataclass(frozen=True)
class Describer:
    """Describe frames with the quickstart's networks in several processes; cache the results."""

    deployment: Deployment
    reporter: Reporter

    @classmethod
    def of_quickstart(cls, reporter: Reporter) -> Describer:
        config = load_config(ROOT / "runs" / "quickstart.yaml")
        deployment = load_deployment(config, reporter)
        assert deployment.fused_models  # built once here, then sent to all processes
        return cls(deployment, reporter)

    def describe(self, frames: FrameSet) -> Description:
        pieces = [Subset(frames, tuple(piece)) for piece in batch_ranges(len(frames), PIECE)]
        work = [joblib.delayed(cached_description)(self.deployment, piece) for piece in pieces]
        descriptions: list[Description] = []
        with self.reporter.progress("frames", len(frames)) as progress:
            for description in joblib.Parallel(PROCESSES, return_as="generator")(work):
                descriptions.append(description)
                progress(len(description))
        return join(descriptions)


def cached_description(deployment: Deployment, frames: Subset) -> Description:
    """Return a description: from the cache, or computed and cached."""
    path = CACHE / f"{frames.hash}.safetensors"
    if not path.is_file():
        torch.set_num_threads(1)
        rows = describe(deployment, frames, BATCH).rows
        with replace_file(path) as temporary:
            save_file(dict(rows), temporary)
    return Description(models_key(deployment), load_file(path))


if __name__ == "__main__":
    main()
