"""Update the references of a watch after a round: they grow, or are replaced after a search."""

from __future__ import annotations

from collections.abc import Sequence

from search.config.run import RunConfig
from search.drift.reference import Reference
from search.drift.reference_storage import save
from search.pipelines.prepare import drop_cached_statistics
from search.watch.inspection import Inspection
from search.watch.windows import Window
from search.watch.workspace import Workspace


def extend_references(
    workspace: Workspace, inspection: Inspection, search_windows: Sequence[Window] = ()
) -> None:
    """Add new windows to the references that they resemble.

    `search_windows` are left out: the search that uses them gives each its own reference.

    Raises:
        CannotWrite: the folder cannot be written to.
    """
    extended: dict[str, Reference] = {}  # several cameras may resemble the same part
    for camera, nearest in inspection.nearest_by_camera.items():
        if nearest.drift.noticed:
            continue
        for window, features in inspection.window_features(camera):
            if window in search_windows:
                continue
            current = extended.get(nearest.part, nearest.reference)
            larger = current.grown(window.name, features)
            if larger is not current:
                extended[nearest.part] = larger
    for part, reference in extended.items():
        save(workspace.reference_file(part), reference)


def replace_references(
    config: RunConfig,
    workspace: Workspace,
    inspection: Inspection,
    searched: Sequence[Window],
    search_windows: Sequence[Window],
) -> None:
    """Store references for the windows of a new search and remove those of the last one.

    `searched` are the windows of the last search, `search_windows` those of the new one.

    Raises:
        CannotWrite: the folder cannot be written to.
    """
    extend_references(workspace, inspection, search_windows)
    for camera in inspection.features_by_camera:
        for window, features in inspection.window_features(camera):
            if window in search_windows:
                save(workspace.reference_file(window.name), Reference.of(features))
    for window in searched:
        if window not in search_windows:
            workspace.reference_file(window.name).unlink(missing_ok=True)
            drop_cached_statistics(config, inspection.deployment, window.frames)
