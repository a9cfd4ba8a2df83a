"""A bounded queue of frames, which one thread answers in batches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from spaces.split.server import ReceivedFrame, SplitServer


class QueueFull(Exception):
    """As many frames wait as are allowed."""


class BatchQueue:
    """Frames that wait for their answers.

    All frames that wait when the network is free are answered together, at most `batch` of them:
    nobody waits for a batch to fill.
    """

    def __init__(self, server: SplitServer, batch: int, most_waiting: int) -> None:
        self._server = server
        self._batch = batch
        self._waiting: asyncio.Queue[tuple[ReceivedFrame, asyncio.Future[dict[str, Any]]]]
        self._waiting = asyncio.Queue(most_waiting)
        self.batches = 0
        """Batches that were answered."""
        self.frames = 0
        """Frames that were answered."""

    async def answer(self, frame: ReceivedFrame) -> dict[str, Any]:
        """Return the answers to a frame, by model.

        Raises:
            QueueFull: as many frames wait as are allowed.
        """
        answers = asyncio.get_running_loop().create_future()
        try:
            self._waiting.put_nowait((frame, answers))
        except asyncio.QueueFull as error:
            raise QueueFull from error
        return dict(await answers)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer while the context is open."""
        with ThreadPoolExecutor(1) as thread:
            task = asyncio.create_task(self._run(thread))
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _run(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            waiting = [await self._waiting.get()]
            while len(waiting) < self._batch and not self._waiting.empty():
                waiting.append(self._waiting.get_nowait())
            frames = [frame for frame, _ in waiting]
            outcomes = await loop.run_in_executor(thread, self._outcomes, frames)
            self.batches += 1
            self.frames += len(frames)
            for (_, future), outcome in zip(waiting, outcomes, strict=True):
                _settle(future, outcome)

    def _outcomes(self, frames: Sequence[ReceivedFrame]) -> Sequence[dict[str, Any] | Exception]:
        """Return the answers to frames; if a batch fails, each of them by itself."""
        try:
            return self._server.answer(frames)
        except Exception as error:
            if len(frames) == 1:
                return [error]
        return [outcome for frame in frames for outcome in self._outcomes([frame])]


def _settle(future: asyncio.Future[dict[str, Any]], outcome: dict[str, Any] | Exception) -> None:
    """Give a future its outcome, unless who waited for it has gone."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
