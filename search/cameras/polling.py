"""One round of asking all cameras for new frames, all at the same time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from threading import Event

from search.cameras.recordings import Recordings
from search.cameras.sources import Camera, CameraFault, StreamCamera, tell


@dataclass(frozen=True)
class Collected:
    """How many frames of a camera were kept now, and what was wrong with it."""

    frames: int
    fault: str | None


def collect(
    cameras: Mapping[str, Camera], footage: Mapping[str, Recordings], most: int, now: datetime
) -> dict[str, Collected]:
    """Ask each camera for frames until `most` of its frames wait, or it has no more.

    A camera whose pause after a fault is not over is not asked, and has no entry in the answer.
    What is wrong with one does not touch the others, nor do they wait for it but at the end.

    Raises:
        CannotWrite: frames cannot be kept; raised when all cameras have been asked.
    """
    stop = Event()
    due = [name for name in cameras if footage[name].may_ask(now)]
    with ThreadPoolExecutor(max_workers=max(len(due), 1)) as pool:
        asked = {
            name: pool.submit(_ask, cameras[name], footage[name], most, now, stop) for name in due
        }
        try:
            wait(asked.values())
        except BaseException:  # Ctrl-C: streams have no end of their own
            stop.set()
            raise
    return {name: future.result() for name, future in asked.items()}


def _ask(camera: Camera, footage: Recordings, most: int, now: datetime, stop: Event) -> Collected:
    before, end = footage.waiting, time.monotonic() + _longest(camera, most)
    if before >= most:
        return Collected(0, None)
    try:
        for seen in camera.look(footage.cursor):
            footage.well()
            footage.keep(seen)
            if footage.waiting >= most or time.monotonic() > end or stop.is_set():
                tell(seen.problems, seen.cursor)
                break
        else:
            footage.well()
    except CameraFault as fault:
        _note(footage, fault, now)
        return Collected(footage.waiting - before, str(fault))
    return Collected(footage.waiting - before, None)


def _longest(camera: Camera, most: int) -> float:
    """Seconds that a look may take: a stream has no end, and of a still scene nothing is kept."""
    if isinstance(camera, StreamCamera):
        return camera.every * most * 2 + camera.patience
    return math.inf


def _note(footage: Recordings, fault: CameraFault, now: datetime) -> None:
    """A camera that does not answer is put off; one that does goes on behind what was wrong."""
    if fault.passed is None:
        footage.failed(now)
    else:
        footage.well()
        footage.move(fault.passed)
