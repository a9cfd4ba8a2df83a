"""Real Dask clusters of processes on this machine, and jobs that only tests need."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import free_port

from search.execution.jobs import FrameJob, FrameShard, ResultT
from search.utils.progress import Progress, silent
from spaces.deployment import Deployment


@dataclass
class DaskCluster:
    """A scheduler, and workers that start and end when a test says so."""

    folder: Path
    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]
    prefix: tuple[str, ...] = ()
    """What its commands begin with."""

    def start_worker(self, *options: str) -> subprocess.Popen[bytes]:
        worker = start(
            self.folder, self.prefix, "worker", self.address, "--nthreads", "1", "--no-dashboard",
            *options,
        )  # fmt: skip
        self.workers.append(worker)
        return worker


@contextmanager
def dask_cluster(
    folder: Path, workers: int, host: str = "127.0.0.1", prefix: tuple[str, ...] = ()
) -> Iterator[DaskCluster]:
    """Run a scheduler and workers as `dask scheduler` and `dask worker` start them."""
    port = free_port()
    scheduler = start(
        folder, prefix, "scheduler", "--host", host, "--port", str(port), "--no-dashboard"
    )
    cluster = DaskCluster(folder, f"tcp://{host}:{port}", scheduler, [], prefix)
    try:
        for _ in range(workers):
            cluster.start_worker()
        yield cluster
    finally:
        for process in (*cluster.workers, scheduler):
            end(process)


def start(folder: Path, prefix: tuple[str, ...], *arguments: str) -> subprocess.Popen[bytes]:
    """Start a command of Dask in a process group of its own; it finds the modules of tests."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
        ),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
    }
    with (folder / "dask.log").open("ab") as log:
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "dask", *arguments],
            stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True,
        )  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with its children."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(600)


@dataclass(frozen=True)
class SizesJob:
    """The index and height of every frame: it shows which frames each task gets."""

    shard_size: int
    parts: int = 1

    def pieces(self) -> Sequence[SizesJob]:
        return [self] * self.parts

    def run(
        self, deployment: Deployment, shard: FrameShard, progress: Progress
    ) -> list[tuple[int, int]]:
        progress(len(shard.frames))
        return [(index, shard.frames[k].shape[0]) for k, index in enumerate(shard.indices)]


@dataclass(frozen=True)
class KillingJob(SizesJob):
    """Kills every worker that takes it, as a task does that needs too much memory."""

    def pieces(self) -> Sequence[KillingJob]:
        return [self]

    def run(
        self, deployment: Deployment, shard: FrameShard, progress: Progress
    ) -> list[tuple[int, int]]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []


def run_without_models(job: FrameJob[ResultT], shard: FrameShard) -> ResultT:
    """Do a job that needs no models on a worker."""
    no_models: Any = None
    return job.run(no_models, shard, silent)
