"""One round of a watch, top to bottom: collect frames, inspect them, decide, search again.

A round may be killed at any moment. Everything of record is written in one step each, in this
order: frames, the champion, the references of its search, the round. A round that was cut short
is repeated under the same number and continues from these records.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from search.cameras.polling import poll_cameras
from search.config.run import RunConfig
from search.config.watch import WatchConfig
from search.deploy.champion import ChampionStore
from search.results.rounds import Round, RoundHistory
from search.utils.reporter import Reporter
from search.utils.schedule import Due
from search.watch.decision import reasons_to_search, too_few_frames, unchanged
from search.watch.history_table import details
from search.watch.inspection import Inspection, Inspector
from search.watch.mlflow_sync import import_champion, log_round
from search.watch.open_camera import open_camera
from search.watch.references import extend_references, replace_references
from search.watch.round_builder import RoundBuilder
from search.watch.search_again import SearchRequest, search_again
from search.watch.windows import Window, WindowStore, of_camera
from search.watch.workspace import Workspace, watch_config
from spaces.errors import MergeSearchError


def do_round(config: RunConfig, due: Due, reporter: Reporter) -> Round:
    """Do one round and record it.

    Errors that a user can fix end the round as failed, with the reason; the plan in service
    stays.

    Raises:
        Busy: another process does a round of this config.
        BadRound, DamagedChampion: a record of an earlier round cannot be read.
        CannotWrite: the round cannot be recorded.
    """
    watch = watch_config(config)
    workspace = Workspace(config.out_folder)
    history, champions = RoundHistory(workspace.folder), ChampionStore(workspace.service_folder)
    windows = WindowStore(workspace, tuple(watch.cameras))
    with workspace.round_lock():
        champions.finish_interrupted_switch()
        builder = RoundBuilder.start(due, history.last(), windows.cameras)
        import_champion(config, champions, reporter)
        try:
            ended = _run(config, windows, history, champions, builder, reporter)
        except MergeSearchError as error:
            ended = builder.build("failed", str(error), champions.champion())
        history.write(ended)
        workspace.remove_other_trials(ended.number)
        windows.keep_only([*windows.searched(ended), *windows.uncompared(ended)])
        reporter.step(f"Round {ended.number}: {ended.decision}: {ended.reason}")
        for line in details(ended):
            reporter.say(f"  {line}")
        log_round(config, history, champions, ended, reporter)
        return ended


def _run(
    config: RunConfig,
    windows: WindowStore,
    history: RoundHistory,
    champions: ChampionStore,
    builder: RoundBuilder,
    reporter: Reporter,
) -> Round:
    """Do a round up to its record, and return the record."""
    watch, workspace, last = watch_config(config), windows.workspace, builder.last
    collect_frames(config, watch, windows, builder, reporter)
    new_windows = windows.uncompared(last)
    if not new_windows:
        reason = too_few_frames(windows.recordings, watch.window)
        return builder.build("waiting", reason, champions.champion())

    searched = windows.searched(last)
    inspection = Inspector(config, watch, workspace, reporter).inspect(
        searched, new_windows, windows.waiting_frames(), champions
    )
    builder.add_fidelity(inspection)

    reasons = reasons_to_search(inspection, builder, champions.champion(), history, watch)
    if not reasons:
        extend_references(workspace, inspection)
        builder.add_comparison(inspection)
        return builder.build("unchanged", unchanged(inspection), champions.champion())
    for reason in reasons:
        reporter.warn(reason)

    search_windows = select_windows(inspection, searched, watch)
    request = SearchRequest(builder.number, search_windows, inspection)
    outcome = search_again(config, workspace, champions, request, reporter)
    replace_references(config, workspace, inspection, searched, search_windows)
    builder.add_comparison(inspection)
    return builder.build_searched(outcome, "; ".join(reasons), champions.champion())


def collect_frames(
    config: RunConfig,
    watch: WatchConfig,
    windows: WindowStore,
    builder: RoundBuilder,
    reporter: Reporter,
) -> None:
    """Poll the cameras, and close a window of each camera that has enough frames."""
    reporter.step(f"Polling {', '.join(watch.cameras)}")
    cameras = {name: open_camera(camera, config.base) for name, camera in watch.cameras.items()}
    recordings = windows.recordings
    with reporter.working("cameras"):
        results = poll_cameras(cameras, recordings, watch.window, datetime.now(UTC))
    builder.add_poll_results(results)
    for name in cameras:
        if recordings[name].waiting >= watch.window:
            recordings[name].close_window()
    for name, fault in builder.faults().items():
        reporter.warn(f"{name}: {fault}")


def select_windows(
    inspection: Inspection, searched: Sequence[Window], watch: WatchConfig
) -> list[Window]:
    """Return the windows for a search: of each camera the last few that looked new on arrival.

    If no camera has changed, all new windows count.
    """
    drift = inspection.drift_by_camera
    changed = [window for window in inspection.windows if drift[window.camera].noticed]
    candidates = [*searched, *(changed or inspection.windows)]
    selected: list[Window] = []
    for camera in watch.cameras:
        selected += of_camera(candidates, camera)[-watch.remember :]
    return selected
