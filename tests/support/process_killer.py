"""Kill a process before a chosen step, or where it calls a function.

Steps are renames of files and folders and changes in MLflow's registry.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from mlflow.tracking import MlflowClient

NEVER = 10**9


def kill_before_step(step: int, steps: Path) -> Callable[[], None]:
    """Return a preparation that kills the process with SIGKILL before step number `step` (from 0).

    The file `steps` gets one line for each completed step.
    """
    return partial(_prepare, step, steps)


def _prepare(step: int, steps: Path) -> None:
    log = os.open(steps, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    completed_steps = 0

    def counted(call: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def counted_call(*args: Any, **kwargs: Any) -> Any:
            nonlocal completed_steps
            if completed_steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(log, f"{name(*args)}\n".encode())
            completed_steps += 1
            return call(*args, **kwargs)

        return counted_call

    os.replace = counted(os.replace, lambda source, target: str(target))
    os.rename = counted(os.rename, lambda source, target: str(target))
    for method in ("set_registered_model_alias", "delete_registered_model_alias",
                   "create_model_version", "set_model_version_tag"):  # fmt: skip
        call = getattr(MlflowClient, method)
        setattr(MlflowClient, method, counted(call, lambda *_, method=method: f"mlflow:{method}"))


def kill_in(function: str) -> Callable[[], None]:
    """Return a preparation that kills the process with SIGKILL where it calls a function.

    `function` is where it is looked up: the module that calls it, or its class, and its name.
    """
    return partial(_let_it_kill, function)


def _let_it_kill(function: str) -> None:
    owner, _, name = function.rpartition(".")
    setattr(resolve_name(owner), name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
