"""The HTTP interface of the server's part of a split model.

POST /v1/answers   a message of the device -> the answers of all models as JSON; the header
                   Server-Timing has the milliseconds from the message to the answers
GET  /v1/info      the bundle, its splits and models, and what was answered so far
GET  /healthz      200 as long as the server runs
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from search.deploy.serving.answer_json import answers_as_json
from search.deploy.serving.batches import BatchQueue, QueueFull
from spaces.split.damaged import DamagedMessage
from spaces.split.server import SplitServer

RETRY_SECONDS = 1
SPARE_REQUESTS = 16
"""Beyond those whose frames run or wait: their messages are received and decoded meanwhile."""
LOG = logging.getLogger("merge-search.serve")


class BodyTooLarge(Exception):
    """A request has more bytes than any message."""


class AnswerService:
    """Answers the requests of devices, `most_requests` of them at a time."""

    def __init__(self, server: SplitServer, queue: BatchQueue, most_requests: int) -> None:
        self._server = server
        self._queue = queue
        self._most_requests = most_requests
        self._requests = 0

    async def answers(self, request: Request) -> Response:
        """Return the answers to the message in the body of a request."""
        # Bodies take memory, and decoding a thread: both are bounded. An idle connection is free.
        if self._requests >= self._most_requests:
            return _busy()
        self._requests += 1
        try:
            return await self._answered(request)
        finally:
            self._requests -= 1

    async def _answered(self, request: Request) -> Response:
        try:
            body = await self._body(request)
            start = time.perf_counter()
            frame = await run_in_threadpool(self._server.receive, body)
            answers = await self._queue.answer(frame)
        except BodyTooLarge:
            return _problem(413, f"no message takes over {self._server.most_bytes:,} bytes")
        except DamagedMessage as error:
            return _problem(400, str(error))
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it: the device has given up
        except QueueFull:
            return _busy()
        except Exception:
            LOG.exception("a frame could not be answered")
            return _problem(500, "the network failed on this frame; see the log of the server")
        taken = f"answer;dur={1000 * (time.perf_counter() - start):.1f}"
        return JSONResponse(
            answers_as_json(self._server, answers), headers={"Server-Timing": taken}
        )

    async def info(self, request: Request) -> Response:
        """Return what is served, and how many frames were answered in how many batches."""
        server = self._server
        return JSONResponse(
            {
                "bundle": server.identity,
                "models": server.contents.tasks,
                "splits": [split.label for split in server.splits],
                "most_bytes": server.most_bytes,
                "answered": {"frames": self._queue.frames, "batches": self._queue.batches},
            }
        )

    async def health(self, request: Request) -> Response:
        """Return that the server runs."""
        return PlainTextResponse("ok")

    async def _body(self, request: Request) -> bytes:
        """Read a body, up to the largest that a message may have."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._server.most_bytes:
                raise BodyTooLarge
        return bytes(body)


def build_app(server: SplitServer, batch: int, most_waiting: int) -> Starlette:
    """Return the application; `most_waiting` frames may wait while a batch is answered."""
    queue = BatchQueue(server, batch, most_waiting)
    service = AnswerService(server, queue, batch + most_waiting + SPARE_REQUESTS)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with queue.running():
            yield

    return Starlette(
        routes=[
            Route("/v1/answers", service.answers, methods=["POST"]),
            Route("/v1/info", service.info),
            Route("/healthz", service.health),
        ],
        lifespan=lifespan,
    )


def _busy() -> JSONResponse:
    response = _problem(503, "as many frames wait as are allowed: send fewer, or later")
    response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response


def _problem(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)
