"""Jobs done by the workers of a Dask cluster. Within this project only this module imports Dask.

A task is one piece of a job on one shard of frames. The tasks of a worker that dies are done again
by another one; a task that kills every worker that takes it is given up.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distributed import CancelledError, Client, Future, KilledWorker, wait

from search.data.frames import FrameSet
from search.execution.jobs import FrameJob, FrameShard, ResultT, shards_of
from search.execution.local_workers import start_workers
from search.utils.progress import Progress
from spaces.errors import MergeSearchError

CONNECT_SECONDS = 30
"""How long to wait for a scheduler, and for its first worker."""
TASK_POLL_SECONDS = 5
"""How long to wait for a task before asking whether there are workers."""
POLLS_WITHOUT_WORKERS = 24
"""How often in a row there may be none: a worker that was killed needs a while to come back."""


class ClusterFailed(MergeSearchError):
    """The cluster cannot be reached, has no workers, or loses every worker of a task."""


class TaskFunction(Protocol):
    """Does a job on a worker, which imports the function by its name."""

    def __call__(self, job: FrameJob[ResultT], shard: FrameShard) -> ResultT: ...


@dataclass(frozen=True)
class DaskEngine:
    """Does each job as tasks of a Dask cluster."""

    cluster: str | int
    """The address of a scheduler, or the number of workers to start on this machine."""
    run_task: TaskFunction

    def run(
        self, job: FrameJob[ResultT], frames: FrameSet, progress: Progress
    ) -> Iterator[ResultT]:
        """Yield the results of all tasks: shard by shard, each piece of the job.

        `progress` counts frames; a task counts as its part of all frames.

        Raises:
            ClusterFailed: the cluster cannot be reached, has no workers, or loses them.
            MergeSearchError: as the job raises it on a worker.
        """
        client = connect(self.cluster)
        # As tasks, which the scheduler keeps: data sent to a worker would be lost with the worker.
        pieces = [client.submit(_same, piece, key=_key()) for piece in job.pieces()]
        futures = [
            client.submit(self.run_task, piece, shard, key=_key())
            for shard in shards_of(frames, job.shard_size)
            for piece in pieces
        ]
        report = _Report(progress, len(frames), futures)
        try:
            for future in futures:
                with client.as_current():
                    _wait_for(future, client, report)
                yield _result(future)
                future.release()
        finally:
            client.cancel([*futures, *pieces])


def _same(job: FrameJob[ResultT]) -> FrameJob[ResultT]:
    return job


def _key() -> str:
    """Return the name of a new task; Dask takes tasks of one name for the same task."""
    return f"merge-search-{uuid.uuid4().hex}"


@dataclass
class _Report:
    """Progress in frames, from the number of tasks that have ended."""

    progress: Progress
    frames: int
    futures: Sequence[Future]
    reported: int = 0

    def update(self) -> None:
        ended = sum(future.done() for future in self.futures)
        frames = self.frames * ended // len(self.futures)
        self.progress(frames - self.reported)
        self.reported = frames


def _wait_for(future: Future, client: Client, report: _Report) -> None:
    """Wait until a task has ended.

    Raises:
        ClusterFailed: there have been no workers for a while.
    """
    without_workers = 0
    while not future.done():
        try:
            wait(future, timeout=TASK_POLL_SECONDS)
        except TimeoutError:
            without_workers = 0 if client.scheduler_info()["workers"] else without_workers + 1
            if without_workers == POLLS_WITHOUT_WORKERS:
                raise _no_workers(client) from None
        except CancelledError:
            return  # the scheduler has gone; the future's result says so
        report.update()
    report.update()


def _result(future: Future) -> Any:
    """Return the result of a task that has ended, or raise its error.

    Raises:
        ClusterFailed: the task has killed its workers, or the scheduler has gone.
    """
    try:
        return future.result()
    except CancelledError as error:
        raise ClusterFailed(
            "dask: the connection to the scheduler was lost, and the unfinished tasks with it: "
            "start the command again; what was measured before is cached"
        ) from error
    except KilledWorker as error:
        raise ClusterFailed(
            f"dask: the workers that took one of the tasks died each time, "
            f"{error.allowed_failures + 1} in all, last {error.last_worker.address}: read their "
            "logs; perhaps the memory of their machine is too small for the models"
        ) from error


_clients: dict[str | int, Client] = {}
"""The connections of this process."""


def connect(cluster: str | int) -> Client:
    """Return the client of a cluster that has a worker.

    It is opened once in this process, and again if the connection was lost.

    Raises:
        ClusterFailed: the scheduler does not answer, or has no worker.
    """
    client = _clients.get(cluster)
    if client is None or client.status != "running":
        address = _start(cluster) if isinstance(cluster, int) else cluster
        client = _clients[cluster] = _client(address)
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError:
        raise _no_workers(client) from None
    return client


def worker_count(cluster: str | int) -> int:
    """Return the number of workers of a cluster, at least one.

    Raises:
        ClusterFailed: the scheduler does not answer, or has no worker.
    """
    return len(connect(cluster).scheduler_info(n_workers=-1)["workers"])


def _start(count: int) -> str:
    try:
        return start_workers(count)
    except OSError as error:
        raise ClusterFailed(
            f"dask: {count} workers do not start on this machine ({error}): their messages above "
            "may say why; perhaps there is too little memory, and fewer start"
        ) from error


def _client(address: str) -> Client:
    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterFailed(
            f"dask: no scheduler answers at {address} ({error}): start one with `dask scheduler`, "
            "and give the address that it prints"
        ) from error


def _no_workers(client: Client) -> ClusterFailed:
    address = client.scheduler.address if client.scheduler else "the address"
    return ClusterFailed(
        f"dask: the scheduler at {address} has no workers: start them with "
        f"`dask worker {address} --nthreads 1` where merge-search is installed"
    )
