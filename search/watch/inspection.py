"""Inspect new frames without labels: has a camera changed, and does the plan in service hold?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from search.config.run import RunConfig
from search.config.watch import WatchConfig
from search.data.frames import FrameSet, JoinedFrames, Sampling, Subset
from search.deploy.champion import ChampionStore
from search.drift.detection import Drift, compare
from search.drift.frame_features import Description, describe, models_key
from search.drift.reference import BadReference, Reference
from search.drift.reference_storage import load, save
from search.evaluation.bundles import BundleFidelity, BundleQuality
from search.evaluation.evaluate import EvaluationSetup
from search.pipelines.deployment.load import survey_models
from search.pipelines.open_data import select_device
from search.pipelines.prepare import open_frames
from search.utils.reporter import Reporter
from search.watch.windows import Window, join_frames, of_camera
from search.watch.workspace import Workspace
from spaces.bundle import load_bundle
from spaces.deployment import Deployment

BASE = "base"
"""Name of the part of a search's frames that the config itself names."""
MAX_BASE_FRAMES = 512
"""Limit on the frames of that part: more frames add little to the power of the test."""


@dataclass(frozen=True)
class NearestPart:
    """The part of the last search's frames that a camera's new frames resemble most."""

    part: str
    reference: Reference
    drift: Drift
    """Of the new frames against the reference."""


@dataclass(frozen=True)
class ServiceFidelity:
    """How well the plan in service does on the new frames."""

    reference: BundleFidelity
    """The unmerged models' answers to the new frames."""
    quality: BundleQuality
    """Fidelity of the plan in service."""


@dataclass(frozen=True)
class Inspection:
    """Result of inspecting new windows."""

    deployment: Deployment
    windows: Sequence[Window]
    """New windows of all cameras."""
    frames: FrameSet
    """All frames that no search has used: those of the new windows, and those that wait for the
    next window of their camera."""
    features_by_camera: Mapping[str, Description]
    """Of all new frames of a camera."""
    nearest_by_camera: Mapping[str, NearestPart]
    service: ServiceFidelity | None
    """Of the plan in service on the new frames; None if no plan is in service."""

    @property
    def fidelity(self) -> BundleQuality | None:
        """Fidelity of the plan in service on the new frames; None if no plan is in service."""
        return None if self.service is None else self.service.quality

    @property
    def drift_by_camera(self) -> dict[str, Drift]:
        return {camera: nearest.drift for camera, nearest in self.nearest_by_camera.items()}

    def window_features(self, camera: str) -> Iterator[tuple[Window, Description]]:
        """Yield the new windows of a camera with their features."""
        start, features = 0, self.features_by_camera[camera]
        for window in of_camera(self.windows, camera):
            stop = start + len(window.frames)
            yield window, features.part(start, stop)
            start = stop


@dataclass(frozen=True)
class Inspector:
    """Compares new frames with those of the last search, and the plan in service with the
    unmerged models."""

    config: RunConfig
    watch: WatchConfig
    workspace: Workspace
    reporter: Reporter

    def inspect(
        self,
        searched: Sequence[Window],
        new_windows: Sequence[Window],
        waiting: FrameSet,
        champions: ChampionStore,
    ) -> Inspection:
        """Inspect new windows.

        `searched` are the windows that the last search used, `waiting` the frames that are in no
        window yet; on these too the plan in service is measured.

        Raises:
            MergeSearchError: models, frames or the bundle in service cannot be read.
        """
        deployment = survey_models(self.config, self.reporter)
        base_part, base = self.base_reference(deployment)
        features = {
            camera: self.describe(deployment, join_frames(of_camera(new_windows, camera)), camera)
            for camera in dict.fromkeys(window.camera for window in new_windows)
        }
        nearest = {}
        for camera, description in features.items():
            references = {base_part: base} | {
                window.name: self.reference(deployment, window.name, window.frames)
                for window in of_camera(searched, camera)
            }
            nearest[camera] = self.nearest(references, description, len(features))
        frames = JoinedFrames((join_frames(new_windows), *([waiting] if len(waiting) else [])))
        service = self.service_fidelity(deployment, frames, champions)
        return Inspection(deployment, new_windows, frames, features, nearest, service)

    def base_reference(self, deployment: Deployment) -> tuple[str, Reference]:
        """Return the name and the reference of the config's own frames."""
        frames = open_frames(self.config, self.reporter)
        sample = Subset(frames, tuple(Sampling(MAX_BASE_FRAMES).indices(len(frames))))
        part = f"{BASE}-{frames.hash}"
        return part, self.reference(deployment, part, sample)

    def reference(self, deployment: Deployment, part: str, frames: FrameSet) -> Reference:
        """Load the reference of a part; build it if it is missing or from other models.

        It is missing in the first round, and if the last round was cut short.
        """
        path = self.workspace.reference_file(part)
        try:
            stored = load(path)
            if stored.models == models_key(deployment):
                return stored
        except BadReference:
            pass
        reference = Reference.of(self.describe(deployment, frames, part))
        save(path, reference)
        return reference

    def describe(self, deployment: Deployment, frames: FrameSet, source: str) -> Description:
        """Compute the features of frames; `source` names them for the reader."""
        self.reporter.step(f"Representations of {len(frames)} frames of {source}")
        with self.reporter.progress("frames", len(frames)) as progress:
            return describe(deployment, frames, self.config.verify.batch, progress)

    def nearest(
        self, references: Mapping[str, Reference], features: Description, cameras: int
    ) -> NearestPart:
        """Return the part that the frames resemble most.

        A camera that returns to an earlier state has not changed. Parts whose comparison cannot
        detect any change count only if there are no others.
        """
        rate = self.watch.false_alarms
        parts = [
            NearestPart(part, reference, compare(reference, features, rate, cameras))
            for part, reference in references.items()
        ]
        conclusive = [nearest for nearest in parts if not nearest.drift.blind]
        return max(
            conclusive or parts,
            key=lambda nearest: (nearest.drift.p_value, -nearest.drift.distance),
        )

    def service_fidelity(
        self, deployment: Deployment, frames: FrameSet, champions: ChampionStore
    ) -> ServiceFidelity | None:
        """Measure the plan in service on these frames; None if there is no plan."""
        champion = champions.champion()
        if champion is None:
            return None
        setup = EvaluationSetup(
            deployment.deployed_models, deployment.facts, {}, self.config.verify.batch
        )
        device = select_device(self.config.device)
        bundle = load_bundle(champions.bundle_folder(champion.bundle)).to(device)
        self.reporter.step(f"The plan in service and its models on {len(frames)} new frames")
        with self.reporter.progress("frames", 2 * len(frames)) as progress:
            reference = BundleFidelity.prepare(setup, frames, progress)
            return ServiceFidelity(reference, reference.measure(bundle, progress))
