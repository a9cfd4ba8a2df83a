"""One round of a fleet, top to bottom: collect frames, place the cameras, do the groups' rounds.

A round may be killed at any moment. What is of record is written in one step each, in this order:
frames, the placement of the cameras, the round of each group, the round of the fleet. A round that
was cut short is repeated under its number and goes on from these records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from search.config.run import RunConfig
from search.deploy.champion import ChampionStore
from search.fleet.features import WindowFeatures
from search.fleet.group_files import group_champions, group_config, link_cameras
from search.fleet.group_round import GroupRequest, do_group_round
from search.fleet.placement import Fleet
from search.fleet.regroup import fleet_file, look_windows, regroup
from search.fleet.storage import load_fleet
from search.pipelines.deployment.load import survey_models
from search.results.rounds import CameraRound, Decision, GroupRound, Round, RoundHistory
from search.utils.reporter import Reporter
from search.utils.schedule import Due
from search.watch.inspection import Inspector
from search.watch.mlflow_sync import log_fleet_round
from search.watch.round import collect_frames
from search.watch.round_builder import RoundBuilder
from search.watch.windows import Window, WindowStore, of_camera
from search.watch.workspace import Workspace, watch_config
from spaces.errors import MergeSearchError

MOST_NOTEWORTHY: tuple[Decision, ...] = ("failed", "promoted", "searched", "unchanged", "waiting")
"""The decision of a round is the first of these among those of its groups."""


def do_fleet_round(config: RunConfig, due: Due, reporter: Reporter) -> Round:
    """Do one round of a fleet and record it.

    Errors that a user can fix end the round of a group, or of the fleet, as failed, with the
    reason; the plans in service stay, and the next round repeats what failed.

    Raises:
        Busy: another process does a round of this config.
        BadRound, DamagedChampion: a record of an earlier round cannot be read.
        CannotWrite: the round cannot be recorded.
    """
    watch = watch_config(config)
    workspace = Workspace(config.out_folder)
    history, store = RoundHistory(workspace.folder), WindowStore(workspace, tuple(watch.cameras))
    with workspace.round_lock():
        builder = RoundBuilder.start(due, history.last(), store.cameras)
        fleet_round = _FleetRound(config, store, builder, reporter)
        try:
            ended = fleet_round.run()
        except MergeSearchError as error:
            ended = builder.build("failed", str(error), None)
        history.write(ended)
        if ended.decision != "failed":
            fleet_round.remove_unused(ended)
        reporter.step(f"Round {ended.number}: {ended.decision}: {ended.reason}")
        for line in fleet_details(ended):
            reporter.say(f"  {line}")
        log_fleet_round(config, history, reporter)
        return ended


def fleet_details(ended: Round) -> list[str]:
    """Return the details of a round of a fleet: faults, moves, and the outcome in each group."""
    lines = [f"{name}: {camera.fault}" for name, camera in ended.cameras.items() if camera.fault]
    lines += [
        f"{name} is now in {camera.group}: {camera.moved}"
        for name, camera in ended.cameras.items()
        if camera.moved
    ]
    lines += [
        f"{name}: {group.decision}: {group.reason}"
        for name, group in ended.groups.items()
        if group.decision != "unchanged"
    ]
    if ended.missed:
        lines.append(f"{ended.missed} rounds before it were missed")
    return lines


@dataclass(frozen=True)
class _FleetRound:
    """The steps of a fleet's round."""

    config: RunConfig
    store: WindowStore
    builder: RoundBuilder
    reporter: Reporter

    def run(self) -> Round:
        """Do the round up to its record, and return the record."""
        watch, builder = watch_config(self.config), self.builder
        collect_frames(self.config, watch, self.store, builder, self.reporter)
        new_windows = self.store.uncompared(builder.last)
        if not new_windows:
            self._add_places(load_fleet(fleet_file(self.store.workspace)), {})
            return builder.build("waiting", self._too_few_frames(watch.window), None)
        deployment = survey_models(self.config, self.reporter)
        inspector = Inspector(self.config, watch, self.store.workspace, self.reporter)
        features = WindowFeatures(deployment, inspector)
        fleet = regroup(
            self.config, self.store, builder.number, new_windows, features, self.reporter
        )
        rounds = self._do_group_rounds(fleet, new_windows, features)
        link_cameras(self.config, fleet)
        self._add_places(fleet, rounds)
        decision = min((ended.decision for ended in rounds.values()), key=MOST_NOTEWORTHY.index)
        ended = builder.build(decision, self._summary(fleet), None)
        return replace(ended, groups={name: _outcome(done) for name, done in rounds.items()})

    def remove_unused(self, ended: Round) -> None:
        """Remove the windows that neither a group nor the placement of a camera needs."""
        fleet = load_fleet(fleet_file(self.store.workspace))
        used = [*look_windows(self.store, fleet), *self.store.uncompared(ended)]
        for group in fleet.occupied:
            of_group = self._store_of(group, fleet.cameras_of(group))
            used += of_group.searched(ended)
        self.store.keep_only(used)

    def _store_of(self, group: str, cameras: Sequence[str]) -> WindowStore:
        own = group_config(self.config, group)
        return WindowStore(Workspace(own.out_folder, self.config.out_folder), tuple(cameras))

    def _do_group_rounds(
        self, fleet: Fleet, new_windows: Sequence[Window], features: WindowFeatures
    ) -> dict[str, Round]:
        """Do the round of each group whose cameras have new windows.

        Windows that came after the placement, in a round that is repeated, wait for the next.
        """
        placed = [w for w in new_windows if w.number <= fleet.members[w.camera].window]
        looks = look_windows(self.store, fleet)
        rounds: dict[str, Round] = {}
        for group in fleet.occupied:
            cameras = fleet.cameras_of(group)
            own = [window for camera in cameras for window in of_camera(placed, camera)]
            if own:
                request = GroupRequest(
                    name=group,
                    due=self.builder.due,
                    number=self.builder.number,
                    last=self.builder.last,
                    cameras={name: self.builder.cameras[name] for name in cameras},
                    new_windows=own,
                    looks=[window for camera in cameras for window in of_camera(looks, camera)],
                )
                rounds[group] = do_group_round(self.config, request, features, self.reporter)
        return rounds

    def _add_places(self, fleet: Fleet, rounds: Mapping[str, Round]) -> None:
        """Add to the record of each camera its group, its plan, and its comparison."""
        plans = {group: _plan_in(group_champions(self.config, group)) for group in fleet.occupied}
        for name, member in fleet.members.items():
            record = self.builder.cameras.get(name)
            if record is None:
                continue  # the config has it no more
            compared = rounds[member.group].cameras.get(name) if member.group in rounds else None
            moved = member.reason if member.since == self.builder.number else ""
            self.builder.cameras[name] = replace(
                _with_comparison(record, compared),
                group=member.group, group_plan=plans[member.group], moved=moved,
            )  # fmt: skip

    def _too_few_frames(self, window: int) -> str:
        waiting = {name: camera.waiting for name, camera in self.store.recordings.items()}
        fullest = max(waiting, key=waiting.__getitem__)
        return f"too few new frames: {fullest} has most, {waiting[fullest]} of {window}"

    def _summary(self, fleet: Fleet) -> str:
        sizes = [f"{group} has {len(fleet.cameras_of(group))}" for group in fleet.occupied]
        return f"{len(fleet.members)} cameras in {len(sizes)} groups: {', '.join(sizes)}"


def _plan_in(champions: ChampionStore) -> str:
    champion = champions.champion()
    return "" if champion is None else champion.registered_plan.plan


def _with_comparison(record: CameraRound, compared: CameraRound | None) -> CameraRound:
    """Add what the round of a camera's group found out about it."""
    if compared is None:
        return record
    return replace(
        record, judged=compared.judged, p_value=compared.p_value, drifted=compared.drifted,
        window=compared.window,
    )  # fmt: skip


def _outcome(ended: Round) -> GroupRound:
    return GroupRound(ended.decision, ended.reason, ended.champion)
