"""What new frames say, without labels: has a camera changed, does the plan still hold?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from search.data.frames import FrameSet, JoinedFrames, Sampling, Subset
from search.drift.detection import Drift, compare
from search.drift.frame_features import Description, describe, models_key
from search.drift.reference import BadReference, Reference
from search.drift.reference_storage import load, save
from search.evaluation.bundles import BundleQuality, ByAnswers
from search.evaluation.evaluate import EvaluationSetup
from search.pipelines.open_data import select_device
from search.pipelines.prepare import drop_cached_statistics, open_frames, survey_models
from search.utils.reporter import Reporter
from search.watch.workspace import Window, Workspace, of_camera
from spaces.bundle import load_bundle
from spaces.deployment import Deployment

BASE = "base"
"""The part of a search's frames that the config itself names."""
MOST = 512
"""Frames of it that are looked at: more tell a test hardly more."""


@dataclass(frozen=True)
class Likeness:
    """A camera's new frames beside one part of the last search."""

    part: str
    reference: Reference
    drift: Drift


@dataclass(frozen=True)
class Inspection:
    """What was seen in new windows."""

    deployment: Deployment
    windows: Sequence[Window]
    seen: Mapping[str, Description]
    """By camera, all its new frames."""
    nearest: Mapping[str, Likeness]
    """By camera, the part of the last search that it resembles most."""
    faithful: BundleQuality | None
    """Of the plan in service; None if there is none."""

    @property
    def drifts(self) -> dict[str, Drift]:
        """By camera, whether it has changed."""
        return {camera: likeness.drift for camera, likeness in self.nearest.items()}

    def one_by_one(self, camera: str) -> Iterator[tuple[Window, Description]]:
        """A camera's new windows."""
        start, known = 0, self.seen[camera]
        for window in of_camera(self.windows, camera):
            stop = start + len(window.frames)
            yield window, known.part(start, stop)
            start = stop


def sight(
    post: Workspace, known: Sequence[Window], new: Sequence[Window], reporter: Reporter
) -> Inspection:
    """Compare the frames of new windows with those of the last search, and the plan in service
    with its models on them.

    `known` are the windows that the last search looked back on.
    """
    deployment = survey_models(post.config, reporter)
    base = _base(post, deployment, reporter)
    seen = {
        camera: _described(post, deployment, _frames(of_camera(new, camera)), camera, reporter)
        for camera in dict.fromkeys(window.camera for window in new)
    }
    nearest = {}
    for camera, description in seen.items():
        references = dict([base]) | {
            window.name: _reference(post, deployment, window.name, window.frames, reporter)
            for window in of_camera(known, camera)
        }
        nearest[camera] = _nearest(references, description, len(seen), post)
    return Inspection(deployment, new, seen, nearest, _agreed(post, deployment, new, reporter))


def take_up(post: Workspace, sight: Inspection, parts: Sequence[Window] = ()) -> None:
    """Make the references that new windows look like larger by them; `parts` of a search are
    references of their own.

    Raises:
        CannotWrite: the folder does not take it.
    """
    grown: dict[str, Reference] = {}  # cameras may resemble the same part
    for camera, nearest in sight.nearest.items():
        if nearest.drift.noticed:
            continue
        for window, seen in sight.one_by_one(camera):
            known = grown.get(nearest.part, nearest.reference)
            larger = known if window in parts else known.grown(window.name, seen)
            if larger is not known:
                grown[nearest.part] = larger
    for part, reference in grown.items():
        save(post.reference(part), reference)


def remember(post: Workspace, parts: Sequence[Window], sight: Inspection) -> None:
    """Write down what the parts of a search look like, and forget those of earlier ones.

    Raises:
        CannotWrite: the folder does not take it.
    """
    take_up(post, sight, parts)
    for camera in sight.seen:
        for window, seen in sight.one_by_one(camera):
            if window in parts:
                save(post.reference(window.name), Reference.of(seen))
    for window in post.known(post.history.last()):
        if window not in parts:
            post.reference(window.name).unlink(missing_ok=True)
            drop_cached_statistics(post.config, sight.deployment, window.frames)


def _base(post: Workspace, deployment: Deployment, reporter: Reporter) -> tuple[str, Reference]:
    """What the config's own frames look like, and the name of that part."""
    frames = open_frames(post.config, reporter)
    few = Subset(frames, tuple(Sampling(MOST).indices(len(frames))))
    part = f"{BASE}-{frames.hash}"
    return part, _reference(post, deployment, part, few, reporter)


def _reference(
    post: Workspace, deployment: Deployment, part: str, frames: FrameSet, reporter: Reporter
) -> Reference:
    """What a part looks like, kept from one round to the next; described anew in the first round,
    if the end of it was cut short, and where the models are others now."""
    path = post.reference(part)
    try:
        known = load(path)
        if known.models == models_key(deployment):
            return known
    except BadReference:
        pass
    reference = Reference.of(_described(post, deployment, frames, part, reporter))
    save(path, reference)
    return reference


def _described(
    post: Workspace, deployment: Deployment, frames: FrameSet, what: str, reporter: Reporter
) -> Description:
    reporter.step(f"Representations of {len(frames)} frames of {what}")
    with reporter.progress("frames", len(frames)) as progress:
        return describe(deployment, frames, post.config.verify.batch, progress)


def _nearest(
    references: Mapping[str, Reference], seen: Description, cameras: int, post: Workspace
) -> Likeness:
    """What the frames resemble most: a camera that has come back to what it was before has not
    changed. What could tell nothing is no comparison."""
    rate = post.asked.false_alarms
    found = [
        Likeness(part, reference, compare(reference, seen, rate, cameras))
        for part, reference in references.items()
    ]
    telling = [likeness for likeness in found if not likeness.drift.blind]
    return max(telling or found, key=lambda one: (one.drift.p_value, -one.drift.distance))


def _agreed(
    post: Workspace, deployment: Deployment, new: Sequence[Window], reporter: Reporter
) -> BundleQuality | None:
    champion = post.service.champion()
    if champion is None:
        return None
    frames = _frames(new)
    bench = EvaluationSetup(
        deployment.deployed_models, deployment.facts, {}, post.config.verify.batch
    )
    device = select_device(post.config.device)
    bundle = load_bundle(post.service.bundle(champion.bundle)).to(device)
    reporter.step(f"The plan in service and its models on {len(frames)} new frames")
    with reporter.progress("frames", 2 * len(frames)) as progress:
        return ByAnswers.on(bench, frames, progress).measure(bundle, progress)


def _frames(windows: Sequence[Window]) -> FrameSet:
    return JoinedFrames(tuple(window.frames for window in windows))
