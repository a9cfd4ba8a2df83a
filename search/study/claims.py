"""Which plans are valued or being valued, by whom: how several processes never do one twice.

A process claims a plan by writing its hash on its own running trial, and then looks whether any
other trial has it too. Of two that claim the same at once at least the one that wrote last sees
the other; whoever sees another gives way. A claim ends with its trial: complete for good, or
failed, and then the plan is free again. Trials of processes that died are failed by the others.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

CLAIM = "claim"
"""The attribute of a trial that holds [plan hash, process]."""
BEAT = 5.0
"""Seconds between a process's signs of life."""
GRACE = 30.0
"""A process that gives none for so many seconds is taken for dead: it may run elsewhere."""


STARTED = 19
"""Fields between the name of a process and its start in /proc/PID/stat."""


class Claims:
    """The plans that the trials of a study hold, complete or running."""

    def __init__(self, storage: BaseStorage, study: int) -> None:
        self.storage = storage
        self.study = study
        self.me = f"{_place()}/{os.getpid()}/{_started(os.getpid())}"
        self.valued: set[str] = set()
        """Hashes of the plans of complete trials."""
        self.running: dict[str, set[int]] = {}
        """Hash of a plan -> numbers of the running trials that claim it."""
        self._settled = 0
        """All trials before this one are finished and counted."""
        self._taken: set[int] = set()
        """Numbers of the trials that are ours."""
        self._heard: dict[str, tuple[Any, float]] = {}
        """Process -> its last sign of life, and when we saw it first."""

    def refresh(self) -> None:
        """Read what all processes have written."""
        trials = self.storage.get_all_trials(self.study, deepcopy=False)
        self.running = {}
        settled = True
        for trial in trials[self._settled :]:
            plan = _claim(trial)[0]
            finished = trial.state.is_finished()
            settled = settled and finished
            self._settled += settled
            if trial.state == TrialState.COMPLETE:
                self.valued.add(plan)
            elif not finished:
                self.running.setdefault(plan, set()).add(trial.number)
        self.running.pop("", None)

    def __contains__(self, plan: str) -> bool:
        return plan in self.valued or plan in self.running

    def __len__(self) -> int:
        """How many plans are valued or being valued."""
        return len(self.valued | self.running.keys())

    def take(self, trial: optuna.Trial, plan: str) -> bool:
        """Claim the plan for a running trial of ours; False if another trial has it."""
        self._taken.add(trial.number)
        trial.set_user_attr(CLAIM, [plan, self.me])
        self.refresh()
        return plan not in self.valued and self.running[plan] == {trial.number}

    def fail_the_dead(self) -> None:
        """Fail the running trials of processes that live no more: their plans are free again."""
        beats = self.storage.get_study_user_attrs(self.study)
        for trial in self.storage.get_all_trials(self.study, deepcopy=False):
            ours = trial.number in self._taken
            running = trial.state == TrialState.RUNNING
            if running and not ours and self._is_dead(_claim(trial)[1], beats):
                number = self.storage.get_trial_id_from_study_id_trial_number(
                    self.study, trial.number
                )
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self.storage.set_trial_state_values(number, TrialState.FAIL)

    def _is_dead(self, process: str, beats: Mapping[str, Any]) -> bool:
        """At once if it ran where we do; else when its beat stood still for the grace period.

        That holds here too: a process that was stopped lives, and may never go on. What is ours
        by name alone was left by an earlier search of this very process.
        """
        if not process:
            return False
        if process == self.me or (process.startswith(f"{_place()}/") and not _lives(process)):
            return True
        beat, now = beats.get(process), time.monotonic()
        last, since = self._heard.setdefault(process, (beat, now))
        if beat != last:
            self._heard[process] = (beat, now)
            return False
        return now - since > GRACE

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Give signs of life to processes on other machines, for as long as the block runs."""
        stop = threading.Event()

        def beat() -> None:
            beats = 0
            while not stop.wait(BEAT):
                beats += 1
                with contextlib.suppress(Exception):  # the trials themselves will tell
                    self.storage.set_study_user_attr(self.study, self.me, beats)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _claim(trial: FrozenTrial) -> tuple[str, str]:
    """Plan hash and process; both empty for a trial that claims nothing yet."""
    plan, process = trial.user_attrs.get(CLAIM, ("", ""))
    return plan, process


def _place() -> str:
    """Names where process numbers mean the same: machine, its start, and container."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    started = boot.read_text().strip() if boot.is_file() else str(int(psutil.boot_time()))
    return f"{platform.node()}/{started}/{namespace.stat().st_ino if namespace.exists() else 0}"


def _lives(process: str) -> bool:
    """Whether the process of that identity, of this place, still runs."""
    *_, number, started = process.split("/")
    return _started(int(number)) == started


def _started(number: int) -> str:
    """When a process began, as its kernel counts; "gone" if it runs no more.

    One that nobody waits for stays a zombie: it has a number and a start, but it has ended. Times
    of day will not do: they change for processes that run already when the clock is put right.
    """
    try:
        process = psutil.Process(number)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return "gone"
        kernel = Path(f"/proc/{number}/stat")
        if not kernel.is_file():
            return f"{process.create_time():.2f}"
        return kernel.read_text().rpartition(")")[2].split()[STARTED]
    except (psutil.Error, OSError):
        return "gone"
