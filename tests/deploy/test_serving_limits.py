"""Queue and batches of the server, driven without sockets so that nothing depends on time."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup
from split_bundles import COARSE, SPLITS, split_networks, write_own_split
from starlette.applications import Starlette

from search.deploy.serving.app import SPARE_REQUESTS, build_app
from search.deploy.serving.batches import BatchQueue
from spaces.split.device import load_device
from spaces.split.server import SplitServer, load_server

Sent = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits") / "bundle"
    write_own_split(folder, [SPLITS["one stream for both"], SPLITS["two streams"]])
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> SplitServer:
    return load_server(folder / "server")


@pytest.fixture(scope="module")
def messages(folder: Path) -> list[bytes]:
    device = load_device(folder / "device")
    return [device.encode(frame, COARSE, k % 2) for k, frame in enumerate(split_networks().frames)]


async def post(app: Starlette, *chunks: bytes) -> Sent:
    """Post a body in chunks; return what the application sends back."""
    return await post_list(app, [*chunks])


async def post_list(
    app: Starlette, waiting: list[bytes], may_end: anyio.Event | None = None
) -> Sent:
    """Post a body in chunks, of which those that are not read stay in the list.

    The last one comes once it may.
    """
    sent: Sent = []

    async def receive() -> dict[str, Any]:
        if may_end and len(waiting) == 1:
            await may_end.wait()
        body = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/answers", "headers": [],
        "query_string": b"", "root_path": "", "scheme": "http", "server": ("test", 80),
        "http_version": "1.1", "app": app,
    }  # fmt: skip
    await app(scope, receive, send)
    return sent


def in_group(body: Callable[[TaskGroup], Awaitable[None]]) -> None:
    """Run a body, and then end what it has started."""

    async def run() -> None:
        async with anyio.create_task_group() as group:
            await body(group)
            group.cancel_scope.cancel()

    anyio.run(run)


def test_a_full_queue_says_when_to_come_back(server: SplitServer, messages: list[bytes]) -> None:
    """Nothing takes frames out of the queue: the application has not been started."""

    async def body(group: TaskGroup) -> None:
        app = build_app(server, batch=1, most_waiting=2)
        for _ in range(2):
            group.start_soon(post, app, messages[0])
        with anyio.fail_after(600):
            head, content = await refused(app)
        headers = {name.decode(): value.decode() for name, value in head["headers"]}
        assert int(headers["retry-after"]) >= 1
        assert "send fewer, or later" in json.loads(content["body"])["error"]
        # what is damaged is told so, also by a server that is busy
        assert (await post(app, messages[0][:-1]))[0]["status"] == 400

    async def refused(app: Starlette) -> Sent:
        """Post until both frames of before wait: they are decoded by other threads."""
        while True:
            with anyio.move_on_after(1):
                sent = await post(app, messages[1])
                assert sent[0]["status"] == 503
                return sent

    in_group(body)


@pytest.mark.parametrize(("frames", "batch", "batches"), [(5, 4, 2), (4, 4, 1), (3, 1, 3)])
def test_frames_that_wait_are_answered_together(
    frames: int, batch: int, batches: int, server: SplitServer, messages: list[bytes]
) -> None:
    received = [server.receive(messages[k % len(messages)]) for k in range(frames)]
    expected = [server.answer([frame])[0]["cls"].argmax() for frame in received]

    async def body(group: TaskGroup) -> None:
        queue, answered = BatchQueue(server, batch, frames), dict[int, Any]()

        async def ask(number: int) -> None:
            answered[number] = (await queue.answer(received[number]))["cls"].argmax()

        async with anyio.create_task_group() as asking:
            for number in range(frames):
                asking.start_soon(ask, number)
            await anyio.wait_all_tasks_blocked()
            async with queue.running():
                with anyio.fail_after(600):
                    while len(answered) < frames:
                        await anyio.sleep(0.01)
        assert [answered[number] for number in range(frames)] == expected
        assert (queue.frames, queue.batches) == (frames, batches)

    in_group(body)


def test_bodies_that_are_received_at_a_time_are_bounded(
    server: SplitServer, messages: list[bytes]
) -> None:
    """Devices that send very slowly: a further one is refused, and served when one has gone."""

    async def body(group: TaskGroup) -> None:
        app, slow = build_app(server, batch=1, most_waiting=1), anyio.Event()

        async def send_slowly() -> None:
            await post_list(app, [messages[0][:9], messages[0][9:12]], slow)

        for _ in range(1 + 1 + SPARE_REQUESTS):
            group.start_soon(send_slowly)
        await anyio.wait_all_tasks_blocked()
        unread = [messages[1]]
        head, content = await post_list(app, unread)
        assert head["status"] == 503 and unread == [messages[1]]
        assert (
            b"retry-after" in dict(head["headers"])
            and "later" in json.loads(content["body"])["error"]
        )
        slow.set()
        with anyio.fail_after(600):
            while (await post(app, messages[1][:-1]))[0]["status"] != 400:
                await anyio.sleep(0.01)

    in_group(body)


def test_a_body_is_read_up_to_the_largest_message_only(server: SplitServer) -> None:
    chunk, endless = b"m" * 65_536, 1000
    assert endless * len(chunk) > 20 * server.most_bytes

    async def body(group: TaskGroup) -> None:
        chunks = [chunk] * endless
        sent = await post_list(build_app(server, 1, 1), chunks)
        assert sent[0]["status"] == 413
        read = (endless - len(chunks)) * len(chunk)
        assert server.most_bytes < read <= server.most_bytes + len(chunk)

    in_group(body)
