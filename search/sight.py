"""What new frames say, without labels: has a camera changed, does the plan still hold?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.console import Reporter
from search.description import Description, describe, models_key
from search.drift import Drift, compare
from search.frames import FrameSet, Joined, Sampling, Subset
from search.observed import Deployment
from search.post import Post, Window, of_camera
from search.prepare import forget, open_frames, surveyed
from search.reference import BadReference, Reference
from search.reference_file import load, save
from search.serving import Faithful, Originals
from search.verify import Bench
from spaces.bundle import load_bundle

BASE = "base"
"""The part of a search's frames that the config itself names."""
MOST = 512
"""Frames of it that are looked at: more tell a test hardly more."""


@dataclass(frozen=True)
class Sight:
    """What was seen in new windows."""

    deployment: Deployment
    windows: Sequence[Window]
    seen: Mapping[str, Description]
    """By camera, all its new frames."""
    drifts: Mapping[str, Drift]
    """By camera, the comparison with what it resembles most."""
    faithful: Faithful | None
    """Of the plan in service; None if there is none."""


def sight(post: Post, known: Sequence[Window], new: Sequence[Window], reporter: Reporter) -> Sight:
    """Compare the frames of new windows with those of the last search, and the plan in service
    with its models on them.

    `known` are the windows that the last search looked back on.
    """
    deployment = surveyed(post.config, reporter)
    base = _base(post, deployment, reporter)
    seen = {
        camera: _described(post, deployment, _frames(of_camera(new, camera)), camera, reporter)
        for camera in dict.fromkeys(window.camera for window in new)
    }
    drifts = {}
    for camera, description in seen.items():
        windows = [
            _reference(post, deployment, window.name, window.frames, reporter)
            for window in of_camera(known, camera)
        ]
        drifts[camera] = _nearest([base, *windows], description, len(seen), post)
    return Sight(deployment, new, seen, drifts, _agreed(post, deployment, new, reporter))


def remember(post: Post, parts: Sequence[Window], sight: Sight) -> None:
    """Write down what the parts of a search look like, and forget those of earlier ones.

    Raises:
        CannotWrite: the folder does not take it.
    """
    for camera, description in sight.seen.items():
        start = 0
        for window in of_camera(sight.windows, camera):
            stop = start + len(window.frames)
            if window in parts:
                save(post.reference(window.name), Reference.of(_cut(description, start, stop)))
            start = stop
    for window in post.known(post.history.last()):
        if window not in parts:
            post.reference(window.name).unlink(missing_ok=True)
            forget(post.config, sight.deployment, window.frames)


def _base(post: Post, deployment: Deployment, reporter: Reporter) -> Reference:
    """What the config's own frames look like."""
    frames = open_frames(post.config, reporter)
    few = Subset(frames, tuple(Sampling(MOST).indices(len(frames))))
    return _reference(post, deployment, f"{BASE}-{frames.hash}", few, reporter)


def _reference(
    post: Post, deployment: Deployment, part: str, frames: FrameSet, reporter: Reporter
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
    post: Post, deployment: Deployment, frames: FrameSet, what: str, reporter: Reporter
) -> Description:
    reporter.step(f"Representations of {len(frames)} frames of {what}")
    with reporter.progress("frames", len(frames)) as progress:
        return describe(deployment, frames, post.config.verify.batch, progress)


def _nearest(
    references: Sequence[Reference], seen: Description, cameras: int, post: Post
) -> Drift:
    """The comparison with what the frames resemble most: a camera that has come back to what it
    was before has not changed. What could tell nothing is no comparison."""
    rate = post.asked.false_alarms
    found = [compare(reference, seen, rate, cameras) for reference in references]
    telling = [drift for drift in found if not drift.blind]
    return max(telling or found, key=lambda drift: drift.p_value)


def _agreed(
    post: Post, deployment: Deployment, new: Sequence[Window], reporter: Reporter
) -> Faithful | None:
    champion = post.service.champion()
    if champion is None:
        return None
    frames = _frames(new)
    bench = Bench(deployment.served, deployment.facts, {}, post.config.verify.batch)
    bundle = load_bundle(post.service.bundle(champion.bundle)).to(post.config.torch_device)
    reporter.step(f"The plan in service and its models on {len(frames)} new frames")
    with reporter.progress("frames", 2 * len(frames)) as progress:
        return Originals.on(bench, frames, progress).against(bundle, progress)


def _cut(known: Description, start: int, stop: int) -> Description:
    """Of some of the frames."""
    return Description(known.models, {view: rows[start:stop] for view, rows in known.rows.items()})


def _frames(windows: Sequence[Window]) -> FrameSet:
    return Joined(tuple(window.frames for window in windows))
