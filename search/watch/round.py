"""One round of a watch, read top to bottom: look, decide, search again if need be, write it down.

It may be killed anywhere. What is of record is written in one step each, in this order: frames,
the champion, what its search looked back on, the round. A round that was cut short is done again
under its number, and finds what it had done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from search.cameras.polling import poll_cameras
from search.config.run import RunConfig
from search.results.rounds import CameraRound, Decision, PromotionRecord, Round
from search.utils.format import percent, percents
from search.utils.reporter import Reporter
from search.utils.schedule import Due
from search.utils.timing import this_moment
from search.watch.history_table import sentences
from search.watch.inspection import Inspection, remember, sight, take_up
from search.watch.mlflow_sync import hear_from_mlflow, tell_mlflow
from search.watch.open_camera import open_camera
from search.watch.search_again import search_again
from search.watch.workspace import Window, Workspace, judged, of_camera
from spaces.errors import MergeSearchError


def do_round(config: RunConfig, due: Due, reporter: Reporter) -> Round:
    """Look at the cameras once, and do what is called for.

    What a person can put right ends the round as failed, with the reason; the plan in service
    stays.

    Raises:
        Busy: another process does a round of this config.
        BadRound, DamagedChampion: what was kept of earlier rounds cannot be read.
        CannotWrite: the round cannot be written down.
    """
    post = Workspace(config)
    with post.round_of_ones_own():
        post.service.mend()
        round_ = Underway.begin(post, due)
        hear_from_mlflow(post, reporter)
        try:
            ended = round_.go(reporter)
        except MergeSearchError as error:
            ended = round_.ended("failed", str(error))
        post.history.keep(ended)
        post.keep_only([*post.known(ended), *post.unjudged(ended)], ended.number)
        reporter.step(f"Round {ended.number}: {ended.decision}: {ended.reason}")
        for sentence in sentences(ended):
            reporter.say(f"  {sentence}")
        tell_mlflow(post, ended, reporter)
        return ended


@dataclass
class Underway:
    """A round that has begun, and what is known of it so far."""

    post: Workspace
    due: Due
    last: Round | None
    began: str
    cameras: dict[str, CameraRound]
    fidelity: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def begin(cls, post: Workspace, due: Due) -> Underway:
        """
        Raises:
            BadRound: the last round cannot be read.
        """
        last = post.history.last()
        # Whatever happens, it stays known which windows were compared.
        cameras = {name: CameraRound(0, window=judged(last, name)) for name in post.asked.cameras}
        return cls(post, due, last, this_moment(), cameras)

    @property
    def number(self) -> int:
        return 1 if self.last is None else self.last.number + 1

    def go(self, reporter: Reporter) -> Round:
        """All of it but to write it down."""
        self.collect(reporter)
        new = self.post.unjudged(self.last)
        if not new:
            return self.ended("waiting", self._too_few())
        seen = sight(self.post, self.post.known(self.last), new, reporter)
        self.fidelity = {} if seen.faithful is None else seen.faithful.by_model
        reasons = [*self._unserved(), *_drifted(seen), *self._unfaithful(seen)]
        if not reasons:
            take_up(self.post, seen)
            self._judge(seen)
            return self.ended("unchanged", _as_it_was(seen))
        for reason in reasons:
            reporter.warn(reason)
        return self.search(seen, "; ".join(reasons), reporter)

    def collect(self, reporter: Reporter) -> None:
        """Ask the cameras; close a window of each that has frames enough."""
        asked, footage = self.post.asked, self.post.footage
        reporter.step(f"Looking at {', '.join(asked.cameras)}")
        cameras = {
            name: open_camera(camera, self.post.config.base)
            for name, camera in asked.cameras.items()
        }
        with reporter.working("cameras"):
            collected = poll_cameras(cameras, footage, asked.window, datetime.now(UTC))
        for name in asked.cameras:
            known = collected.get(name)
            self.cameras[name] = replace(
                self.cameras[name],
                frames=0 if known is None else known.frames,
                fault="not asked: it rests after a fault" if known is None else known.fault,
            )
            if footage[name].waiting >= asked.window:
                footage[name].close_window()
            if self.cameras[name].fault:
                reporter.warn(f"{name}: {self.cameras[name].fault}")

    def search(self, seen: Inspection, reason: str, reporter: Reporter) -> Round:
        """Search again on what was known and on the windows that are new to it."""
        parts = self._parts(seen)
        outcome = search_again(self.post, self.number, parts, seen, reporter)
        remember(self.post, parts, seen)
        self._judge(seen)
        if outcome.verdict is None:
            nothing = f"{reason}; the search found no plan that is good enough"
            return self.ended("searched", nothing)
        decision: Decision = "promoted" if outcome.verdict.promoted else "searched"
        ended = self.ended(decision, reason, outcome.verdict)
        return replace(
            ended, expected=ended.expected if outcome.fidelity is None else outcome.fidelity
        )

    def ended(
        self, decision: Decision, reason: str, verdict: PromotionRecord | None = None
    ) -> Round:
        """The round as it is written down."""
        champion = self.post.service.champion()
        return Round(
            number=self.number,
            due=self.due.at.isoformat(timespec="seconds"),
            began=self.began,
            ended=this_moment(),
            cameras=self.cameras,
            decision=decision,
            reason=reason,
            champion=None if champion is None else champion.standing.plan,
            fidelity=self.fidelity,
            verdict=verdict,
            missed=self.due.missed,
            expected=self.expected,
        )

    @property
    def expected(self) -> float | None:
        """Mean fidelity that the plan in service showed when it was searched."""
        champion = self.post.service.champion()
        if champion is None:
            return None
        if self.last is not None and self.last.champion == champion.standing.plan:
            return self.last.expected
        return champion.standing.fidelity

    def _unserved(self) -> list[str]:
        """The first search of all; a plan that the rule then refuses waits for a person."""
        served = self.post.service.champion() is not None
        if served or any(known.verdict is not None for known in self.post.history.rounds()):
            return []
        return ["no plan is in service yet"]

    def _unfaithful(self, seen: Inspection) -> list[str]:
        """Only a drop that the frames' own chance does not explain counts."""
        expected, agreed = self.expected, seen.faithful
        if expected is None or agreed is None or agreed.mean is None or agreed.interval is None:
            return []
        if agreed.interval[1] + self.post.asked.fidelity_drop >= expected:
            return []
        return [
            f"the plan in service agrees with its models on {percent(agreed.mean)} "
            f"({percents(agreed.interval)}) of what they answer, it was {percent(expected)}"
        ]

    def _parts(self, seen: Inspection) -> list[Window]:
        """The windows that a search looks back on: those that looked new when they came, of each
        camera the last few."""
        changed = [w for w in seen.windows if seen.drifts[w.camera].noticed]
        new = changed or seen.windows
        looked_back = [*self.post.known(self.last), *new]
        parts: list[Window] = []
        for camera in self.post.asked.cameras:
            parts += of_camera(looked_back, camera)[-self.post.asked.remember :]
        return parts

    def _judge(self, seen: Inspection) -> None:
        """Write down what the comparison said of each camera: these windows are done with."""
        for name, drift in seen.drifts.items():
            own = of_camera(seen.windows, name)
            self.cameras[name] = replace(
                self.cameras[name],
                judged=sum(len(window.frames) for window in own),
                p_value=drift.p_value,
                drifted=drift.noticed,
                window=own[-1].number,
            )

    def _too_few(self) -> str:
        waiting = [f"{name} has {kept.waiting}" for name, kept in self.post.footage.items()]
        return f"too few new frames: {', '.join(waiting)} of {self.post.asked.window}"


def _drifted(seen: Inspection) -> list[str]:
    return [
        f"{name} has changed (p = {drift.p_value:.1g}, in {drift.view})"
        for name, drift in seen.drifts.items()
        if drift.noticed
    ]


def _as_it_was(seen: Inspection) -> str:
    told = [
        f"{name}: its frames are too few or too much alike to tell"
        if drift.blind
        else f"{name} as it was (p = {drift.p_value:.2g})"
        for name, drift in seen.drifts.items()
    ]
    if seen.faithful is not None and seen.faithful.mean is not None:
        told.append(f"the plan in service agrees with its models on {percent(seen.faithful.mean)}")
    return "; ".join(told)
