"""Claims on plans: how several processes never evaluate the same plan.

A process claims a plan by writing its hash on its own running trial, and then reads whether
another trial has it too. If two processes claim a plan at the same moment, at least the one that
wrote last sees the other; a process that sees another one gives way. A claim ends with its trial:
if the trial completes, the plan is done; if it fails, the plan is free again. The trials of a
process that died are failed by the others.
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

CLAIM_ATTRIBUTE = "claim"
"""The attribute of a trial that holds [plan hash, process]."""
HEARTBEAT_SECONDS = 5.0
"""Time between two heartbeats of a process."""
GRACE_SECONDS = 30.0
"""A process on another machine counts as dead after this time without a heartbeat."""
START_FIELD = 19
"""Index of a process's start time in /proc/PID/stat, after the field with its name."""


class Claims:
    """The plans of a study's trials, complete or running."""

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self.storage = storage
        self.study_id = study_id
        self.process = f"{_host_identity()}/{os.getpid()}/{_start_time(os.getpid())}"
        """Identity of this process, which it writes on its trials."""
        self.evaluated: set[str] = set()
        """Hashes of the plans of complete trials."""
        self.running: dict[str, set[int]] = {}
        """Numbers of the running trials that claim each plan, by its hash."""
        self._settled_trials = 0
        """All trials before this number have finished and are counted."""
        self._own_trials: set[int] = set()
        self._heartbeats: dict[str, tuple[Any, float]] = {}
        """The last heartbeat of each process, and when this process first saw it."""

    def refresh(self) -> None:
        """Read the claims of all processes."""
        trials = self.storage.get_all_trials(self.study_id, deepcopy=False)
        self.running = {}
        settled = True
        for trial in trials[self._settled_trials :]:
            plan = _claim_of(trial)[0]
            finished = trial.state.is_finished()
            settled = settled and finished
            self._settled_trials += settled
            if trial.state == TrialState.COMPLETE:
                self.evaluated.add(plan)
            elif not finished:
                self.running.setdefault(plan, set()).add(trial.number)
        self.running.pop("", None)

    def __contains__(self, plan: str) -> bool:
        return plan in self.evaluated or plan in self.running

    def __len__(self) -> int:
        """Number of plans that are evaluated or claimed."""
        return len(self.evaluated | self.running.keys())

    def claim(self, trial: optuna.Trial, plan: str) -> bool:
        """Claim the plan of this hash for an own trial; return False if another trial has it."""
        self._own_trials.add(trial.number)
        trial.set_user_attr(CLAIM_ATTRIBUTE, [plan, self.process])
        self.refresh()
        return plan not in self.evaluated and self.running[plan] == {trial.number}

    def fail_dead_trials(self) -> None:
        """Fail the running trials of dead processes, which makes their plans free again."""
        heartbeats = self.storage.get_study_user_attrs(self.study_id)
        for trial in self.storage.get_all_trials(self.study_id, deepcopy=False):
            own = trial.number in self._own_trials
            running = trial.state == TrialState.RUNNING
            if running and not own and self._is_dead(_claim_of(trial)[1], heartbeats):
                trial_id = self.storage.get_trial_id_from_study_id_trial_number(
                    self.study_id, trial.number
                )
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self.storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def _is_dead(self, process: str, heartbeats: Mapping[str, Any]) -> bool:
        """Return whether a process is dead.

        On this machine that is known immediately; elsewhere a process is dead if its heartbeat has
        not changed for the grace period. The latter counts on this machine, too: a stopped process
        exists, but may never continue. A trial with this process's identity that is not its own
        was left by an earlier study of this process.
        """
        if not process:
            return False
        local = process.startswith(f"{_host_identity()}/")
        if process == self.process or (local and not _is_running(process)):
            return True
        heartbeat, now = heartbeats.get(process), time.monotonic()
        last, since = self._heartbeats.setdefault(process, (heartbeat, now))
        if heartbeat != last:
            self._heartbeats[process] = (heartbeat, now)
            return False
        return now - since > GRACE_SECONDS

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Write heartbeats for processes on other machines while the block runs."""
        stop = threading.Event()

        def beat() -> None:
            count = 0
            while not stop.wait(HEARTBEAT_SECONDS):
                count += 1
                with contextlib.suppress(Exception):  # a broken store also fails the trials
                    self.storage.set_study_user_attr(self.study_id, self.process, count)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _claim_of(trial: FrozenTrial) -> tuple[str, str]:
    """Return plan hash and process; both are empty for a trial without a claim."""
    plan, process = trial.user_attrs.get(CLAIM_ATTRIBUTE, ("", ""))
    return plan, process


def _host_identity() -> str:
    """Identify where process numbers are unique: machine, its boot, and container."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    booted = boot.read_text().strip() if boot.is_file() else str(int(psutil.boot_time()))
    return f"{platform.node()}/{booted}/{namespace.stat().st_ino if namespace.exists() else 0}"


def _is_running(process: str) -> bool:
    """Return whether the process of this identity, on this host, is still running."""
    *_, number, start_time = process.split("/")
    return _start_time(int(number)) == start_time


def _start_time(number: int) -> str:
    """Return when a process started, in the kernel's ticks; "gone" if it is not running.

    A zombie has a number and a start time, but has ended. The time of day would not do: it changes
    for running processes when the clock is set.
    """
    try:
        process = psutil.Process(number)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return "gone"
        kernel = Path(f"/proc/{number}/stat")
        if not kernel.is_file():
            return f"{process.create_time():.2f}"
        return kernel.read_text().rpartition(")")[2].split()[START_FIELD]
    except (psutil.Error, OSError):
        return "gone"
