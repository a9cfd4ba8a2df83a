"""Another machine, as far as the network can tell: a network namespace behind a virtual cable."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class OtherMachine:
    """A namespace, reached at an address of its own."""

    name: str
    cable: str
    """The end of the cable on this machine."""
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command begins with to run there."""
        return ("ip", "netns", "exec", self.name)

    def unplug(self) -> None:
        """Let no packet pass any more."""
        _ip("link", "set", self.cable, "down")

    def plug_in(self) -> None:
        """Let packets pass again."""
        _ip("link", "set", self.cable, "up")


@contextlib.contextmanager
def other_machine() -> Iterator[OtherMachine]:
    """Yield a machine on the other end of a cable; skip the test where root may not make one."""
    number = os.getpid() % 250 + 1
    name, cable, far = f"other{number}", f"here{number}", f"there{number}"
    here, there = f"10.87.{number}.1", f"10.87.{number}.2"
    try:
        _ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces: {error}")
    try:
        _ip("link", "add", cable, "type", "veth", "peer", "name", far)
        _ip("link", "set", far, "netns", name)
        _ip("address", "add", f"{here}/24", "dev", cable)
        _ip("-n", name, "address", "add", f"{there}/24", "dev", far)
        _ip("link", "set", cable, "up")
        for device in (far, "lo"):
            _ip("-n", name, "link", "set", device, "up")
        yield OtherMachine(name, cable, there)
    finally:
        _ip("netns", "del", name)  # removes the cable with it


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
