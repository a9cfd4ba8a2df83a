"""Poll all cameras at once for new frames, and store them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event

from search.cameras.recordings import Recordings
from search.cameras.sources import Camera, CameraFault, StreamCamera, raise_if_any
from search.cameras.video import Monotonic


@dataclass(frozen=True)
class PollResult:
    """Outcome of polling one camera."""

    frames: int
    """New frames stored; near-identical ones are skipped."""
    fault: str | None


def poll_cameras(
    cameras: Mapping[str, Camera],
    recordings: Mapping[str, Recordings],
    max_waiting: int,
    now: datetime,
    clock: Monotonic = time.monotonic,
) -> dict[str, PollResult]:
    """Poll each camera until `max_waiting` of its frames wait for a window, or it has no more.

    Cameras are polled in parallel, and a fault of one does not affect the others. A camera that
    still pauses after a fault is skipped and missing from the result. `clock` limits how long a
    stream is polled.

    Raises:
        CannotWrite: frames cannot be stored; raised when all cameras have been polled.
    """
    poll = _Poll(max_waiting, now, clock)
    due = [name for name in cameras if recordings[name].may_poll(now)]
    with ThreadPoolExecutor(max_workers=max(len(due), 1)) as pool:
        futures = {name: pool.submit(poll.run, cameras[name], recordings[name]) for name in due}
        try:
            wait(futures.values())
        except BaseException:  # Ctrl-C: streams do not end by themselves
            poll.stop.set()
            raise
    return {name: future.result() for name, future in futures.items()}


@dataclass(frozen=True)
class _Poll:
    """One poll of several cameras."""

    max_waiting: int
    now: datetime
    clock: Monotonic
    stop: Event = field(default_factory=Event)

    def run(self, camera: Camera, recordings: Recordings) -> PollResult:
        """Poll one camera."""
        waiting_before = recordings.waiting
        if waiting_before >= self.max_waiting:
            return PollResult(0, None)
        try:
            self._store_frames(camera, recordings)
        except CameraFault as fault:
            self._record(fault, recordings)
            return PollResult(recordings.waiting - waiting_before, str(fault))
        return PollResult(recordings.waiting - waiting_before, None)

    def _store_frames(self, camera: Camera, recordings: Recordings) -> None:
        end = self.clock() + self._time_limit(camera)
        for new_frame in camera.poll(recordings.cursor):
            recordings.clear_fault()
            recordings.add(new_frame)
            enough = recordings.waiting >= self.max_waiting
            if enough or self.clock() > end or self.stop.is_set():
                raise_if_any(new_frame.problems, new_frame.cursor)
                return
        recordings.clear_fault()

    def _time_limit(self, camera: Camera) -> float:
        """Seconds that a poll may take: a stream never ends, and a still scene stores nothing."""
        if isinstance(camera, StreamCamera):
            return camera.every * self.max_waiting * 2 + camera.patience
        return math.inf

    def _record(self, fault: CameraFault, recordings: Recordings) -> None:
        """Pause a camera that does not answer; a camera that answers resumes behind the fault."""
        if fault.resume_from is None:
            recordings.record_fault(self.now)
        else:
            recordings.clear_fault()
            recordings.set_cursor(fault.resume_from)
