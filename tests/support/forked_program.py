"""A program `merge-search` for scripts, whose processes are forked instead of started.

A shell script that calls the program ten times would spend most of its time on imports. So the
program on its path only hands its arguments, its working directory and its environment to a
server in the test, which runs the command in a fork (`commands.Command`).
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from threading import Thread

from commands import Command

PROGRAM = """#!{python} -I
import os, sys
from multiprocessing.connection import Client

with Client({address!r}, "AF_UNIX") as server:
    server.send((sys.argv[1:], os.getcwd(), dict(os.environ)))
    output, code = server.recv()
(sys.stderr if code else sys.stdout).write(output)
sys.exit(code)
"""


@contextmanager
def forked_program() -> Iterator[Path]:
    """Yield a folder with the program `merge-search`, which works until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="merge-search-program-") as folder:
        address = os.path.join(folder, "socket")
        program = Path(folder, "merge-search")
        program.write_text(PROGRAM.format(python=sys.executable, address=address))
        program.chmod(0o755)
        with Listener(address, "AF_UNIX") as listener:
            server = Thread(target=_serve, args=(listener, Path(folder, "output")))
            server.start()
            try:
                yield Path(folder)
            finally:
                with Client(address, "AF_UNIX") as last:
                    last.send(None)
                server.join()


def _serve(listener: Listener, log: Path) -> None:
    """Run one command after the other, until there is none left."""
    while True:
        with listener.accept() as caller:
            if not _run(caller, log):
                return


def _run(caller: Connection, log: Path) -> bool:
    request = caller.recv()
    if request is None:
        return False
    log.unlink(missing_ok=True)
    arguments, folder, environment = request
    command = Command(log, tuple(arguments), partial(_enter, folder, environment))
    code = command.exit_code()
    caller.send((command.output, code))
    return True


def _enter(folder: str, environment: Mapping[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
