"""The round of one group: the watch of its cameras.

All searches of a fleet share one cache, so the config's own frames are measured once.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.config.fleet import FleetConfig
from search.config.run import RunConfig
from search.config.watch import WatchConfig
from search.data.frames import Sampling, Subset, folder_frames
from search.deploy.champion import ChampionStore
from search.drift.reference import Reference
from search.drift.reference_storage import load, save
from search.fleet.features import WindowFeatures
from search.fleet.group_files import (
    group_champions,
    group_config,
    group_history,
    sample_folder,
)
from search.fleet.group_frames import sample_windows
from search.pipelines.prepare import drop_cached_statistics
from search.results.rounds import CameraRound, Round, RoundHistory
from search.utils.reporter import Reporter
from search.utils.schedule import Due
from search.utils.timing import utc_now
from search.watch.decision import reasons_to_search, unchanged
from search.watch.history_table import details
from search.watch.inspection import Inspection, Inspector, NearestPart
from search.watch.mlflow_sync import import_champion, log_round
from search.watch.references import extend_references
from search.watch.round_builder import RoundBuilder
from search.watch.search_again import SearchRequest, search_again
from search.watch.windows import Window, WindowStore, join_frames, of_camera
from search.watch.workspace import Workspace, watch_config
from spaces.errors import MergeSearchError


@dataclass(frozen=True)
class GroupRequest:
    """The part of a fleet's round that concerns one group."""

    name: str
    due: Due
    number: int
    """Of the round of the fleet, and so of the group's."""
    last: Round | None
    """The last round of the fleet that ended."""
    cameras: Mapping[str, CameraRound]
    """The record so far of each camera of the group."""
    new_windows: Sequence[Window]
    looks: Sequence[Window]
    """The windows that placed its cameras."""


def do_group_round(
    fleet_config: RunConfig, request: GroupRequest, features: WindowFeatures, reporter: Reporter
) -> Round:
    """Do and record the round of a group; return the record, also if it ended earlier already.

    Raises:
        BadRound, DamagedChampion: a record of an earlier round cannot be read.
        CannotWrite: the round cannot be recorded.
    """
    config = group_config(fleet_config, request.name)
    history = group_history(fleet_config, request.name)
    champions = group_champions(fleet_config, request.name)
    last = history.last()
    if last is not None and last.number == request.number:
        return last  # the fleet's round was cut short after this one
    reporter.step(f"{request.name}: {', '.join(request.cameras)}")
    champions.finish_interrupted_switch()
    import_champion(config, champions, reporter)
    cameras = dict(request.cameras)
    builder = RoundBuilder(request.due, last, request.number, utc_now(), cameras)
    group = _GroupWatch(config, fleet_config.out_folder, request, features, reporter)
    try:
        ended = group.run(builder, history, champions)
    except MergeSearchError as error:
        ended = builder.build("failed", str(error), champions.champion())
    history.write(ended)
    group.workspace.remove_other_trials(ended.number)
    reporter.step(f"{request.name}: {ended.decision}: {ended.reason}")
    for line in details(ended):
        reporter.say(f"  {line}")
    log_round(config, history, champions, ended, reporter)
    return ended


@dataclass(frozen=True)
class _GroupWatch:
    """The steps of a group's round."""

    config: RunConfig
    """Of the group."""
    fleet_out: Path
    """OUT of the fleet."""
    request: GroupRequest
    features: WindowFeatures
    reporter: Reporter

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.config.out_folder, self.fleet_out)

    @property
    def watch(self) -> WatchConfig:
        return watch_config(self.config)

    @property
    def _fleet(self) -> FleetConfig:
        assert self.watch.fleet is not None
        return self.watch.fleet

    def run(self, builder: RoundBuilder, history: RoundHistory, champions: ChampionStore) -> Round:
        """Do the round up to its record, and return the record."""
        inspection = self._inspect(champions)
        builder.add_fidelity(inspection)
        reasons = reasons_to_search(inspection, builder, champions.champion(), history, self.watch)
        if not reasons:
            extend_references(self.workspace, inspection)
            builder.add_comparison(inspection)
            return builder.build("unchanged", unchanged(inspection), champions.champion())
        for reason in reasons:
            self.reporter.warn(reason)
        windows = self._select(inspection)
        sample = sample_folder(self.workspace, builder.number)
        sample_windows(sample, windows, self._fleet.frames)
        request = SearchRequest(builder.number, windows, inspection, sample)
        outcome = search_again(self.config, self.workspace, champions, request, self.reporter)
        self._replace_references(inspection, windows)
        self._drop_other_samples(inspection, sample)
        builder.add_comparison(inspection)
        return builder.build_searched(outcome, "; ".join(reasons), champions.champion())

    @property
    def _windows(self) -> WindowStore:
        return WindowStore(self.workspace, tuple(self.request.cameras))

    def _inspect(self, champions: ChampionStore) -> Inspection:
        """Compare the new windows with all parts of the group's last search, of any camera."""
        deployment, new_windows = self.features.deployment, self.request.new_windows
        inspector = Inspector(self.config, self.watch, self.workspace, self.reporter)
        described = {
            camera: self.features.of(of_camera(new_windows, camera))
            for camera in dict.fromkeys(window.camera for window in new_windows)
        }
        references = self._references()
        nearest: dict[str, NearestPart] = {
            camera: inspector.nearest(references, features, len(described))
            for camera, features in described.items()
        }
        # As many frames as a camera alone would have: enough to compare two plans.
        frames = join_frames(new_windows)
        compared = Subset(frames, tuple(Sampling(self.watch.window).indices(len(frames))))
        service = inspector.service_fidelity(deployment, compared, champions)
        return Inspection(deployment, new_windows, compared, described, nearest, service)

    def _references(self) -> dict[str, Reference]:
        """Return the references of the last search: of windows, and of the config's own frames.

        They also describe windows of cameras that have left, which are no longer stored. A window
        of this round has none, unless a round that was cut short stored it.
        """
        part, base = self.features.base
        own = self.workspace.reference_file(part)
        if not own.is_file() or load(own).models != base.models:
            save(own, base)  # from here on, it grows in each group by itself
        new = {window.name for window in self.request.new_windows}
        files = {n: path for n, path in self.workspace.window_references().items() if n not in new}
        references = {name: load(path) for name, path in {part: own, **files}.items()}
        return {name: r for name, r in references.items() if r.models == base.models}

    def _select(self, inspection: Inspection) -> list[Window]:
        """Return the windows for a search: those that placed the cameras, those of the last search
        and those that resemble nothing in it; of each camera the last few."""
        drift, searched = inspection.drift_by_camera, self._windows.searched(self.request.last)
        changed = [window for window in inspection.windows if drift[window.camera].noticed]
        new = changed or inspection.windows
        candidates = {window.name: window for window in (*searched, *self.request.looks, *new)}
        selected: list[Window] = []
        for camera in self.request.cameras:
            own = sorted(of_camera(candidates.values(), camera), key=lambda w: w.number)
            selected += own[-self.watch.remember :]
        return selected

    def _replace_references(self, inspection: Inspection, windows: Sequence[Window]) -> None:
        """Store references for the windows of the new search and remove all others.

        The reference of a window that placed a camera is that of the fleet.
        """
        extend_references(self.workspace, inspection, windows)
        for window in windows:
            path = self.workspace.reference_file(window.name)
            if not path.is_file():
                save(path, self.features.reference(window))
        self.workspace.remove_other_references({window.name for window in windows})

    def _drop_other_samples(self, inspection: Inspection, sample: Path) -> None:
        """Remove the frames of earlier searches, and their statistics from the cache."""
        for folder in sample.parent.glob("[0-9]*"):
            if folder != sample:
                frames = folder_frames(folder, Sampling())
                drop_cached_statistics(self.config, inspection.deployment, frames)
                shutil.rmtree(folder, ignore_errors=True)
