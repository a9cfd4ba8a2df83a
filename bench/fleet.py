"""Measure whether a fleet finds the groups of its cameras, and what their plans cost and keep.

    python bench/fleet.py [--seeds 10] [--cameras 3]

24 rendered cameras are of three kinds: over the street by day, on a mast by day, and over the
street at night. Within a kind, height, pitch and yaw of the mountings vary, and every camera sees
other road users. 20% of the frames are in the rain.

Grouping, for each seed: a window of 32 frames of each camera is described by the quickstart's
networks, at half of their input size to save time, and the cameras are placed. Then one camera of
each kind changes: a window of the next kind arrives from it.

Searches, for one seed and at full size: the quickstart's networks are searched as in
runs/street-watch.yaml, once for each of the first `--cameras` cameras (one of each kind in turn),
on its own window of 64, and once for the kind of each, on 64 frames of its eight cameras. The
camera's own plan and that of its kind are measured on 192 labelled frames of it. Times are those
of the processor, and the frames that all searches share are measured before. The last line is one
JSON object:

- grouping: the share of cameras in their true group, over all seeds and in the worst; the number
  of groups by seed; the share of changed cameras whose change was noticed, and that moved to
  the right group; the number of cameras that moved without a change; the largest distance
  within a kind and the smallest between kinds
- searches: quality kept on ground truth by camera, of its own plan and of its group's, and the
  mean difference in points; seconds of each search and of describing a window; the time of the
  fleet (24 windows described, three searches) relative to 24 cameras (24 windows described, 24
  searches), by the mean of the searches that were measured, and the same for the searches alone
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from search.cameras.recordings import JPEG_QUALITY
from search.config.data import FramesConfig, PartConfig
from search.config.loading import load_config
from search.config.run import RunConfig
from search.data.frames import RenderedScenes
from search.data.synthetic.scenes import SceneSettings
from search.drift.detection import compare
from search.drift.frame_features import Description, describe
from search.drift.reference import Reference
from search.evaluation.bundles import BundleAccuracy, BundleQuality
from search.evaluation.evaluate import EvaluationSetup
from search.fleet.group_frames import sample_windows
from search.fleet.placement import Arrival, Change, Fleet, place_cameras
from search.fleet.signature import Scale, Signature
from search.pipelines.deployment.load import load_deployment
from search.pipelines.open_data import open_frame_set
from search.pipelines.prepare import compute_similarities, observe, open_truth
from search.pipelines.run import run_without_logging
from search.pipelines.run_steps.records import PriorKnowledge
from search.results.search_result import BUNDLE_FOLDER
from search.utils.console import ConsoleReporter
from search.utils.files import make_folder
from search.utils.reporter import SILENT
from search.watch.windows import Window
from spaces.bundle import load_bundle
from spaces.deployment import Deployment

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "runs/street-watch.yaml"
HALF_SIZES = ["models.classifier.size=112", "models.detector.size=128"]
KINDS = {
    "street": {"camera_height": 3.2, "camera_pitch": 9.0},
    "mast": {"camera_height": 6.5, "camera_pitch": 24.0},
    "night": {"camera_height": 3.2, "camera_pitch": 9.0, "night": 1.0},
}
PER_KIND, SMALL_WINDOW, WINDOW = 8, 32, 64
GROUP_FRAMES, TOLERANCE = 64, 0.5
"""The defaults of `watch.fleet`."""
LABELLED, BATCH = 192, 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--cameras", type=int, default=3)
    options = parser.parse_args()
    report: dict[str, Any] = {}
    if options.seeds:
        report["grouping"] = measure_grouping(range(options.seeds))
    if options.cameras:
        with tempfile.TemporaryDirectory() as folder:
            report["searches"] = Searches(Path(folder)).measure(options.cameras)
    print(json.dumps(report))


@dataclass(frozen=True)
class FleetCamera:
    """A rendered camera of a known kind."""

    name: str
    kind: str
    settings: SceneSettings


def cameras_of(seed: int) -> list[FleetCamera]:
    """Return the cameras of a fleet, one of each kind in turn."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(PER_KIND):
        for row, (kind, mounting) in enumerate(KINDS.items()):
            settings = SceneSettings(
                seed=10_000 + 1000 * seed + 100 * row + number,
                camera_height=mounting["camera_height"] + rng.uniform(-0.4, 0.4),
                camera_pitch=mounting["camera_pitch"] + rng.uniform(-2, 2),
                camera_yaw=rng.uniform(-5, 5),
                night=mounting.get("night", 0.0),
                rain=0.2,
            )
            made.append(FleetCamera(f"{kind}-{number}", kind, settings))
    return made


# Grouping


@dataclass(frozen=True)
class Grouped:
    """The outcome of one seed."""

    right: float
    """Share of cameras in their true group."""
    groups: int
    noticed: int
    """Changed cameras whose change was noticed."""
    moved_right: int
    """Changed cameras that are in the group of their new kind."""
    strayed: int
    """Cameras that moved without a change."""
    within: float
    """Largest distance of two cameras of one kind."""
    between: float
    """Smallest distance of two cameras of different kinds."""


def measure_grouping(seeds: Sequence[int]) -> dict[str, Any]:
    deployment = load_deployment(load_config(CONFIG, HALF_SIZES), SILENT)
    start, outcomes = time.process_time(), list[Grouped]()
    for seed in seeds:
        outcomes.append(group_seed(deployment, seed))
        print(f"seed {seed}: {outcomes[-1]}", flush=True)
    return {
        "right": round(mean(o.right for o in outcomes), 4),
        "worst": round(min(o.right for o in outcomes), 4),
        "groups": [o.groups for o in outcomes],
        "noticed": round(sum(o.noticed for o in outcomes) / (3 * len(outcomes)), 4),
        "moved_right": round(sum(o.moved_right for o in outcomes) / (3 * len(outcomes)), 4),
        "strayed": sum(o.strayed for o in outcomes),
        "within": round(max(o.within for o in outcomes), 3),
        "between": round(min(o.between for o in outcomes), 3),
        "cameras": PER_KIND * len(KINDS),
        "cpu_seconds": round(time.process_time() - start),
    }


def group_seed(deployment: Deployment, seed: int) -> Grouped:
    cameras = cameras_of(seed)
    looks = {c.name: window_features(deployment, c.settings, SMALL_WINDOW) for c in cameras}
    arrivals = [Arrival(name, Signature.of(look), 1, None) for name, look in looks.items()]
    fleet = place_cameras(Fleet(), arrivals, TOLERANCE, 1)
    kinds = list(KINDS)
    changing = {
        camera.name: kinds[(kinds.index(camera.kind) + 1) % len(kinds)]
        for camera in cameras[: len(kinds)]
    }
    changed, scale = list[Arrival](), Scale.of(fleet.signatures.values())
    for camera in cameras[: len(kinds)]:
        look = window_features(deployment, changed_settings(camera, changing), SMALL_WINDOW)
        drift = compare(Reference.of(looks[camera.name]), look, comparisons=len(cameras))
        distance = scale.distance(fleet.signatures[camera.name], Signature.of(look))
        change = Change(drift, distance)
        if change.is_noticed(TOLERANCE):
            changed.append(Arrival(camera.name, Signature.of(look), 2, change))
    after = place_cameras(fleet, changed, TOLERANCE, 2)
    within, between = extreme_distances(cameras, fleet.signatures)
    return Grouped(
        right=rightly_grouped(cameras, fleet),
        groups=len(fleet.groups),
        noticed=len(changed),
        moved_right=sum(
            after.members[name].group == main_group(cameras, fleet, kind)
            for name, kind in changing.items()
        ),
        strayed=sum(
            after.members[c.name].group != fleet.members[c.name].group
            for c in cameras
            if c.name not in changing
        ),
        within=within,
        between=between,
    )


def changed_settings(camera: FleetCamera, changing: Mapping[str, str]) -> SceneSettings:
    """Return the settings of a camera after it has become one of another kind."""
    mounting = KINDS[changing[camera.name]]
    return replace(
        camera.settings,
        seed=camera.settings.seed + 500,
        camera_height=mounting["camera_height"],
        camera_pitch=mounting["camera_pitch"],
        night=mounting.get("night", 0.0),
    )


def window_features(deployment: Deployment, settings: SceneSettings, count: int) -> Description:
    return describe(deployment, RenderedScenes(settings, count), BATCH)


def rightly_grouped(cameras: Sequence[FleetCamera], fleet: Fleet) -> float:
    """Return the share of cameras in the group of their kind, with the best matching of kinds and
    groups."""
    kinds, groups = list(KINDS), list(fleet.groups)
    counts = np.zeros((len(kinds), len(groups)))
    for camera in cameras:
        group = fleet.members[camera.name].group
        counts[kinds.index(camera.kind), groups.index(group)] += 1
    rows, columns = linear_sum_assignment(-counts)
    return float(counts[rows, columns].sum() / len(cameras))


def main_group(cameras: Sequence[FleetCamera], fleet: Fleet, kind: str) -> str:
    """Return the group that holds most cameras of a kind."""
    groups = [fleet.members[camera.name].group for camera in cameras if camera.kind == kind]
    return max(sorted(set(groups)), key=groups.count)


def extreme_distances(
    cameras: Sequence[FleetCamera], signatures: Mapping[str, Signature]
) -> tuple[float, float]:
    scale = Scale.of(signatures.values())
    within, between = [0.0], [float("inf")]
    for row, one in enumerate(cameras):
        for other in cameras[:row]:
            distances = within if one.kind == other.kind else between
            distances.append(scale.distance(signatures[one.name], signatures[other.name]))
    return max(within), min(between)


# Searches


class Searches:
    """The searches of single cameras and of their kinds, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = load_config(CONFIG).model_copy(update={"cache": str(folder / "cache")})
        self.deployment = load_deployment(self.config, SILENT)
        self.cameras = cameras_of(0)
        self.seconds: dict[str, float] = {}

    def measure(self, count: int) -> dict[str, Any]:
        measured = self.cameras[:count]
        self.measure_shared_frames()
        described = self.describing_seconds(measured[0])
        windows = {c.name: self.write_window(c, c in measured) for c in self.cameras}
        quality: dict[str, dict[str, float]] = {}
        for camera in measured:
            if camera.kind not in self.seconds:
                self.search_kind(camera.kind, windows)
            self.search(camera.name, windows[camera.name].folder)
            quality[camera.name] = self.quality_of_both(camera)
            print(camera.name, quality[camera.name], flush=True)
        differences = [100 * (q["group"] - q["own"]) for q in quality.values()]
        of_camera = mean(self.seconds[camera.name] for camera in measured)
        searched = [kind for kind in KINDS if kind in self.seconds]
        of_groups = len(KINDS) * mean(self.seconds[kind] for kind in searched)
        cameras = len(self.cameras)
        describing = cameras * described
        return {
            "quality": quality,
            "points": round(mean(differences), 2),
            "seconds": self.seconds,
            "describing": round(described, 2),
            "time": round((describing + of_groups) / (describing + cameras * of_camera), 4),
            "time_of_searches": round(of_groups / (cameras * of_camera), 4),
        }

    def measure_shared_frames(self) -> None:
        """Fill the cache with what all searches share: the config's own frames."""
        observed = observe(self.config, self.deployment, open_frame_set(self.config), SILENT)
        compute_similarities(self.config, observed, self.config.search.adapter_specs, SILENT)

    def describing_seconds(self, camera: FleetCamera) -> float:
        frames = [RenderedScenes(camera.settings, WINDOW)[index] for index in range(WINDOW)]
        assert len(frames) == WINDOW  # rendered, and so cached: a camera brings its frames
        start = time.process_time()
        window_features(self.deployment, camera.settings, WINDOW)
        return time.process_time() - start

    def write_window(self, camera: FleetCamera, is_whole: bool) -> Window:
        """Write a window as a watch records it; as many frames as a sample needs, or all."""
        folder = self.folder / camera.name
        folder.mkdir()
        count = WINDOW if is_whole else WINDOW // 2
        frames = RenderedScenes(camera.settings, count)
        for index in range(count):
            picture = Image.fromarray(frames[index])
            picture.save(folder / f"{index:04d}.jpg", quality=JPEG_QUALITY)
        return Window(camera.name, 1, folder)

    def search_kind(self, kind: str, windows: Mapping[str, Window]) -> None:
        own = [windows[camera.name] for camera in self.cameras if camera.kind == kind]
        sample = self.folder / f"{kind}-frames"
        sample_windows(sample, own, GROUP_FRAMES)
        self.search(kind, sample)

    def search(self, name: str, frames: Path) -> None:
        own = PartConfig(**self.config.frames.model_dump(include=set(PartConfig.model_fields)))
        parts = FramesConfig(parts=[own, PartConfig(folder=str(frames))])
        config = self.config_of(name, {"frames": parts})
        make_folder(config.out_folder)
        start = time.process_time()
        run_without_logging(config, SILENT, PriorKnowledge(None, self.deployment))
        self.seconds[name] = round(time.process_time() - start, 1)
        print(f"search of {name}: {self.seconds[name]} s", flush=True)

    def config_of(self, name: str, changes: Mapping[str, Any]) -> RunConfig:
        out = {"name": name, "out": str(self.folder / "out" / name)}
        return self.config.model_copy(update=out | dict(changes))

    def quality_of_both(self, camera: FleetCamera) -> dict[str, float]:
        """Return the quality kept of a camera's own plan and of its group's, on its own labels."""
        scenes = {
            "seed": camera.settings.seed + 700, "night": camera.settings.night,
            "rain": camera.settings.rain, "camera_height": camera.settings.camera_height,
            "camera_pitch": camera.settings.camera_pitch, "camera_yaw": camera.settings.camera_yaw,
        }  # fmt: skip
        labelled = {"scenes": scenes, "count": LABELLED}
        config = load_config(
            CONFIG, [f"truth={json.dumps(dict.fromkeys(self.config.models, labelled))}"]
        )
        frames = open_frame_set(config)
        truth = open_truth(config, self.deployment, frames, ConsoleReporter())
        setup = EvaluationSetup(self.deployment.deployed_models, self.deployment.facts, {}, BATCH)
        accuracy = BundleAccuracy.prepare(setup, truth)
        return {
            whose: self.quality_kept(accuracy, name)
            for whose, name in {"own": camera.name, "group": camera.kind}.items()
        }

    def quality_kept(self, accuracy: BundleAccuracy, name: str) -> float:
        bundle = load_bundle(self.folder / "out" / name / BUNDLE_FOLDER)
        kept = accuracy.measure(bundle, BundleQuality({}, None)).mean
        assert kept is not None
        return round(kept, 4)


if __name__ == "__main__":
    main()
