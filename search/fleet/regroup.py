"""Place the cameras of a round: compare each with the frames that placed it, and place the changed
ones again.

The references of the cameras lie in OUT/watch/references, under the names of the windows that
placed them. The fleet's file names these windows and is replaced last, in one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from search.config.run import RunConfig
from search.drift.detection import compare
from search.drift.frame_features import models_key
from search.drift.reference import Reference
from search.drift.reference_storage import save
from search.fleet.features import WindowFeatures
from search.fleet.group_files import last_founded
from search.fleet.placement import Arrival, Change, Fleet, Member, place_cameras
from search.fleet.signature import Scale, Signature
from search.fleet.storage import FLEET_FILE, load_fleet, save_fleet
from search.utils.reporter import Reporter
from search.watch.windows import Window, WindowStore, of_camera
from search.watch.workspace import Workspace, watch_config


def fleet_file(workspace: Workspace) -> Path:
    """Return the path of the fleet's file."""
    return workspace.folder / FLEET_FILE


def regroup(
    config: RunConfig,
    store: WindowStore,
    number: int,
    new_windows: Sequence[Window],
    features: WindowFeatures,
    reporter: Reporter,
) -> Fleet:
    """Place the cameras of round `number` and store the fleet; return it.

    A round that was cut short after that keeps its placement when it is repeated.

    Raises:
        BadFleet: the fleet's file is damaged.
        MergeSearchError: frames or a reference cannot be read.
    """
    watch = watch_config(config)
    assert watch.fleet is not None
    workspace = store.workspace
    fleet = load_fleet(fleet_file(workspace)).without_others(watch.cameras)
    if fleet.round == number:
        return fleet
    models = models_key(features.deployment)
    if fleet.members and fleet.models != models:
        reporter.warn("the networks have changed: all cameras are grouped anew")
    if fleet.models != models:
        fleet = Fleet(founded=last_founded(config))
    unplaced = [w for w in new_windows if _is_after(w, fleet.members.get(w.camera))]
    scale = Scale.of(fleet.signatures.values()) if fleet.members else None
    arrivals, unchanged = list[Arrival](), dict[str, int]()
    cameras = list(dict.fromkeys(window.camera for window in unplaced))
    for camera in cameras:
        windows = of_camera(unplaced, camera)
        described, last = features.of(windows), windows[-1].number
        member = fleet.members.get(camera)
        change = None
        if member is not None and scale is not None:
            look = store.window(camera, member.look)
            reference = features.reference(look)
            change = Change(
                compare(reference, described, watch.false_alarms, len(cameras)),
                scale.distance(fleet.signatures[camera], Signature.of(described)),
            )
            if not change.is_noticed(watch.fleet.tolerance):
                _extend_reference(workspace, look, reference, windows, features)
                unchanged[camera] = last
                continue
        save(workspace.reference_file(windows[-1].name), Reference.of(described))
        arrivals.append(Arrival(camera, Signature.of(described), last, change))
    placed = place_cameras(
        replace(fleet, models=models), arrivals, watch.fleet.tolerance, number
    ).compared(unchanged)
    save_fleet(fleet_file(workspace), placed)
    return placed


def look_windows(store: WindowStore, fleet: Fleet) -> list[Window]:
    """Return the windows that placed the cameras."""
    return [store.window(camera, member.look) for camera, member in fleet.members.items()]


def _is_after(window: Window, member: Member | None) -> bool:
    return member is None or window.number > member.window


def _extend_reference(
    workspace: Workspace,
    look: Window,
    reference: Reference,
    windows: Sequence[Window],
    features: WindowFeatures,
) -> None:
    """Add windows to the reference that they resemble, unless it is large."""
    larger = reference
    for window in windows:
        larger = larger.grown(window.name, features.of([window]))
    if larger is not reference:
        save(workspace.reference_file(look.name), larger)
