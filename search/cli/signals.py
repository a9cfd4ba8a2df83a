"""Ctrl-C and SIGTERM: the first one unwinds the command, the second one ends it immediately."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = b"\x1b[?25h"


class Stopped(KeyboardInterrupt):
    """The user or a service manager stopped the command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` within the block at the first signal; end the process at the second."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def stop(number: int, frame: object) -> NoReturn:
        for other in STOP_SIGNALS:
            signal.signal(other, _end_process)
        raise Stopped(number)

    for number, handler in handlers.items():
        if handler != signal.SIG_IGN:  # shells ignore SIGINT for their background jobs
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is stop:  # after a first signal, a second may still come
                signal.signal(number, handler)


def _end_process(number: int, frame: object) -> NoReturn:
    for stream in (1, 2):
        if os.isatty(stream):
            os.write(stream, SHOW_CURSOR)
    os._exit(128 + number)
