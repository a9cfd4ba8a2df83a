"""A Dask cluster on this machine that lives as long as the process that has started it.

It is a program of its own, so that neither a killed run nor a script that is no module leaves
workers behind: it ends when its standard input does.
"""

from __future__ import annotations

import subprocess
import sys

ALLOWED_FAILURES = 2
"""How many workers a task may kill before it is given up, less one."""


def start_workers(count: int) -> str:
    """Start workers on this machine, and return the address of their scheduler.

    Raises:
        OSError: they do not start.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process: it ends the workers
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    if not address:
        with process:
            code = process.wait()
        raise OSError(f"they ended with code {code}")
    _started.append(process)
    return address


_started: list[subprocess.Popen[str]] = []
"""Kept, since their standard input would be closed with them."""


def main(count: int) -> None:
    """Print the address of a cluster's scheduler, and keep the cluster until the input ends."""
    import dask
    from distributed import LocalCluster

    dask.config.set({"distributed.scheduler.allowed-failures": ALLOWED_FAILURES})
    with LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        memory_limit=0,  # the system's own limit; Dask's would end workers at their share
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]))
