"""Pseudo-terminals for commands, to test their output at a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import threading
import time
from collections.abc import Callable, Mapping

CONTROL_C = b"\x03"
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])(?:;\d+)*m")
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"
SETTINGS = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


class Terminal:
    """A terminal window of 40 lines."""

    def __init__(self, columns: int = 100) -> None:
        self._leader, self._follower = pty.openpty()
        size = struct.pack("HHHH", 40, columns, 0, 0)
        fcntl.ioctl(self._follower, termios.TIOCSWINSZ, size)
        self.name = os.ttyname(self._follower)
        self._received = b""
        self._closing = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def output(self) -> str:
        """Everything written to the terminal, with its control sequences."""
        return self._received.decode(errors="replace")

    @property
    def text(self) -> str:
        """The output without control sequences; each redrawn line is on its own line."""
        return SEQUENCE.sub("", self.output).replace("\r\n", "\n").replace("\r", "\n")

    def type(self, keys: bytes) -> None:
        """Send key presses to the terminal."""
        os.write(self._leader, keys)

    def wait_for(self, reached: Callable[[], object], seconds: float = 900) -> None:
        """Poll until `reached()` is true; fail with the text after that many seconds."""
        end = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < end, self.text
            time.sleep(0.01)

    def close(self) -> None:
        """Read the remaining output of commands that have ended, and close the terminal."""
        self._closing.set()
        self._listener.join(300)
        os.close(self._follower)
        os.close(self._leader)

    def _listen(self) -> None:
        while True:
            ready, _, _ = select.select([self._leader], [], [], 0.05)
            if ready:
                self._received += os.read(self._leader, 65536)
            elif self._closing.is_set():
                return


def attach_terminal(terminal: str, settings: Mapping[str, str]) -> None:
    """Make the terminal of that name the controlling terminal and all three streams."""
    os.setsid()
    stream = os.open(terminal, os.O_RDWR)  # the first terminal that a session opens controls it
    for number in (0, 1, 2):
        os.dup2(stream, number)
    set_plain_environment({"TERM": "xterm-256color", **settings})
    signal.signal(signal.SIGINT, signal.default_int_handler)


def set_plain_environment(settings: Mapping[str, str]) -> None:
    """Set environment variables after removing those about colours and sizes."""
    for name in SETTINGS:
        os.environ.pop(name, None)
    os.environ.update(settings)


def redirect_stderr(file: str) -> None:
    """Redirect standard error to a file."""
    set_plain_environment({})
    os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
