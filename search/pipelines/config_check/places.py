"""Where a run writes: its folders, the store of the study, and MLflow."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from search.config.run import RunConfig
from search.study.storage import check_store
from search.tracking.client import check_tracker
from search.tracking.target import Target
from search.utils.files import CannotWrite
from search.utils.format import MEGABYTE, megabytes
from search.utils.locks import describe_local_locks
from search.utils.redact import without_credentials

COPIES_OF_THE_MODELS = 4
"""The bundle and its copy in MLflow, of this run and, until it is replaced, of the last one."""
OTHER_FILES = 200 * MEGABYTE
"""Statistics, trials, reports and MLflow's database of an ordinary run."""


def check_disk_space(config: RunConfig, unmerged_bytes: int | None) -> str:
    """Return in words how much space is free where the run writes.

    Raises:
        CannotWrite: a folder cannot be written to, or has too little space.
    """
    folder = _existing(config.out_folder)
    for output in (config.out_folder, config.cache_folder):
        if not os.access(_existing(output), os.W_OK):
            raise CannotWrite(
                f"{output}: {_existing(output)} cannot be written to; the run writes its "
                "results and statistics there"
            )
    free = shutil.disk_usage(folder).free
    needed = COPIES_OF_THE_MODELS * (unmerged_bytes or 0) + OTHER_FILES
    if free < needed:
        raise CannotWrite(
            f"{folder}: {megabytes(free)} are free, and a run needs about {megabytes(needed)}"
        )
    return f"{megabytes(free)} are free, a run needs about {megabytes(needed)}"


def check_study_store(config: RunConfig) -> str:
    """Return in words where the trials are stored.

    Raises:
        StoreFailed, DamagedStudy: the store cannot be reached or read.
    """
    check_store(config.store)
    warning = describe_local_locks(Path(config.store)) if config.stores_trials_in_file else ""
    return f"trials go to {without_credentials(config.store)}" + (warning and f"; {warning}")


def check_tracking_store(config: RunConfig) -> str:
    """Return in words where runs are logged.

    Raises:
        TrackerUnreachable: the store cannot be reached.
    """
    target = Target.of(config)
    check_tracker(target)
    return f"runs go to the experiment {target.experiment!r} of {without_credentials(target.uri)}"


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest folder above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())
