"""A real server of a split model, and real devices that send to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from commands import (
    Command,
    StartCommand,
    assert_fails_in_one_sentence,
    no_preparation,
    wait_until,
)
from PIL import Image
from split_bundles import COARSE, FINE, SPLITS, split_networks, write_own_split

from search.deploy.serving.answer_json import answers_as_json
from search.deploy.serving.batches import BatchQueue, QueueFull
from spaces.split.device import load_device
from spaces.split.operating_point import OperatingPoint
from spaces.split.server import ReceivedFrame, SplitServer, load_server

POINTS = [OperatingPoint(0, FINE, 6000, 0.99, 5, 5), OperatingPoint(0, COARSE, 600, 0.9, 5, 5)]


class RunningServer:
    """`merge-search serve` in a process of its own."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.command = Command(log, ("serve", str(folder), "--port", "0"), no_preparation)
        wait_until(lambda: "/v1/answers" in self.command.output or not self.command.is_running)
        assert self.command.is_running, self.command.output
        self.netloc = self.command.output.partition("http://")[2].partition("/")[0]

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        with contextlib.closing(http.client.HTTPConnection(self.netloc, timeout=600)) as link:
            link.request(method, path, body)
            response = link.getresponse()
            content = response.read()
        is_json = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(content) if is_json else content

    def post(self, message: bytes) -> tuple[int, Any]:
        return self.request("POST", "/v1/answers", message)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "bundle"
    write_own_split(folder, [SPLITS["one stream for both"], SPLITS["later, in int8"]], POINTS)
    return folder


@pytest.fixture(scope="module")
def running(bundle: Path) -> Iterator[RunningServer]:
    server = RunningServer(bundle, bundle.parent / "log")
    yield server
    server.command.kill()


@pytest.fixture(scope="module")
def messages(bundle: Path) -> list[bytes]:
    device = load_device(bundle / "device")
    return [device.encode(frame, COARSE, k % 2) for k, frame in enumerate(split_networks().frames)]


@pytest.fixture(scope="module")
def server(bundle: Path) -> SplitServer:
    return load_server(bundle / "server")


def expected(server: SplitServer, message: bytes) -> Any:
    (answers,) = server.answer([server.receive(message)])
    return json.loads(json.dumps(answers_as_json(server, answers)))


def test_answers_are_those_of_the_servers_part(
    running: RunningServer, messages: list[bytes], server: SplitServer
) -> None:
    status, answers = running.post(messages[0])
    assert status == 200 and answers == expected(server, messages[0])
    best = answers["cls"][0]
    assert best["name"] == "abcdefg"[best["class"]] and 0 < best["probability"] <= 1
    assert {"box", "score", "class"} <= answers["det"][0].keys()


def test_concurrent_devices_get_their_own_answers_in_fewer_batches(
    running: RunningServer, messages: list[bytes], server: SplitServer
) -> None:
    before = running.request("GET", "/v1/info")[1]["answered"]
    sent = messages * 8
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(running.post, sent))
    for message, (status, answers) in zip(sent, results, strict=True):
        right = expected(server, message)
        assert status == 200
        assert [row["class"] for row in answers["cls"]] == [row["class"] for row in right["cls"]]
        assert len(answers["det"]) == len(right["det"])
    after = running.request("GET", "/v1/info")[1]["answered"]
    assert after["frames"] - before["frames"] == len(sent)
    assert after["batches"] - before["batches"] <= len(sent)


def test_devices_that_keep_a_connection_open_take_no_place(running: RunningServer) -> None:
    """There are more of them than frames may wait."""
    with contextlib.ExitStack() as links:
        for _ in range(120):
            link = http.client.HTTPConnection(running.netloc, timeout=600)
            links.enter_context(contextlib.closing(link))
            link.request("GET", "/healthz")
            assert link.getresponse().read() == b"ok"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "are no message of a device"),
        (b"GET / HTTP/1.1", "are no message of a device"),
        (b"\xff" * 300, "are no message of a device"),
    ],
)
def test_what_is_no_message_gets_one_sentence(
    body: bytes, sentence: str, running: RunningServer
) -> None:
    status, answer = running.post(body)
    assert status == 400 and sentence in answer["error"]


def test_damaged_messages_harm_nothing(
    running: RunningServer, messages: list[bytes], server: SplitServer
) -> None:
    generator = np.random.default_rng(1)
    for _ in range(100):
        changed = bytearray(messages[0][: generator.integers(1, len(messages[0]) + 1)])
        changed[generator.integers(len(changed))] ^= 1 << int(generator.integers(8))
        status, answer = running.post(bytes(changed))
        assert status == 400 and answer["error"]
    assert running.post(messages[0]) == (200, expected(server, messages[0]))


def test_a_message_of_another_bundle_is_named(running: RunningServer, tmp_path: Path) -> None:
    write_own_split(tmp_path / "other", [SPLITS["two streams"]])
    message = load_device(tmp_path / "other" / "device").encode(split_networks().frames[0], COARSE)
    status, answer = running.post(message)
    assert status == 400 and "export both parts together" in answer["error"]


def test_a_body_that_is_too_large_is_not_read(running: RunningServer, server: SplitServer) -> None:
    status, answer = running.post(b"m" * (server.most_bytes + 1))
    assert status == 413 and "no message takes over" in answer["error"]


def test_the_time_of_the_server_is_told(running: RunningServer, messages: list[bytes]) -> None:
    with contextlib.closing(http.client.HTTPConnection(running.netloc, timeout=600)) as link:
        start = time.perf_counter()
        link.request("POST", "/v1/answers", messages[0])
        told = link.getresponse().headers["Server-Timing"]
        waited = 1000 * (time.perf_counter() - start)
    name, _, milliseconds = told.partition(";dur=")
    assert name == "answer" and 0 < float(milliseconds) <= waited + 0.1


def test_a_device_that_gives_up_in_the_middle_leaves_no_trace(
    running: RunningServer, messages: list[bytes]
) -> None:
    host, _, port = running.netloc.partition(":")
    with socket.create_connection((host, int(port))) as link:
        head = f"POST /v1/answers HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999\r\n\r\n"
        link.sendall(head.encode() + messages[0])
    assert running.post(messages[0])[0] == 200
    assert "Traceback" not in running.command.output


def test_what_is_served_can_be_asked(running: RunningServer, server: SplitServer) -> None:
    assert running.request("GET", "/healthz") == (200, b"ok")
    status, info = running.request("GET", "/v1/info")
    assert status == 200 and info["bundle"] == server.identity
    assert info["models"] == {"cls": "classification", "det": "detection"}
    assert len(info["splits"]) == 2


def test_a_full_queue_refuses_and_recovers(server: SplitServer, messages: list[bytes]) -> None:
    """One frame runs, one waits, and the third is refused."""
    frame = server.receive(messages[0])

    async def scenario() -> int:
        queue = BatchQueue(server, batch=1, most_waiting=1)
        refused = 0

        async def ask() -> None:
            nonlocal refused
            try:
                assert (await queue.answer(frame)).keys() == {"cls", "det"}
            except QueueFull:
                refused += 1

        async with queue.running(), anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)
        async with queue.running():
            await ask()
        return refused

    assert anyio.run(scenario) >= 1


def test_a_failing_batch_is_the_error_of_its_frames_only(
    server: SplitServer, messages: list[bytes]
) -> None:
    good = server.receive(messages[0])
    bad = ReceivedFrame(0, good.coding, good.coefficients[:-1], good.frame_size)

    async def scenario() -> set[str]:
        queue = BatchQueue(server, batch=4, most_waiting=4)
        async with queue.running():
            with pytest.raises(RuntimeError):
                await queue.answer(bad)
            return set(await queue.answer(good))

    assert anyio.run(scenario) == {"cls", "det"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server(
    number: signal.Signals, bundle: Path, tmp_path: Path, messages: list[bytes]
) -> None:
    running = RunningServer(bundle / "server", tmp_path / "log")
    assert running.post(messages[0])[0] == 200
    running.command.send(number)
    assert running.command.exit_code() == 128 + number
    assert "Traceback" not in running.command.output


def test_a_folder_without_the_servers_part_is_one_sentence(
    start: StartCommand, bundle: Path, tmp_path: Path
) -> None:
    for folder, sentence in (
        (tmp_path, "is not a complete bundle"),
        (bundle / "device", "the folder of the server's part is needed"),
    ):
        assert sentence in assert_fails_in_one_sentence(start("serve", folder))


def test_a_port_in_use_is_one_sentence(
    start: StartCommand, bundle: Path, running: RunningServer
) -> None:
    port = running.netloc.rpartition(":")[2]
    failed = start("serve", bundle, "--port", port)
    assert "choose another --port" in assert_fails_in_one_sentence(failed)


def test_the_example_of_the_device_runs_as_a_user_runs_it(
    running: RunningServer, bundle: Path, tmp_path: Path
) -> None:
    example = Path(__file__).parents[2] / "search/deploy/examples/device_example.py"
    (bundle / "device" / "example.py").write_text(example.read_text())
    pictures = []
    for number, frame in enumerate(split_networks().frames):
        pictures.append(tmp_path / f"{number}.png")
        Image.fromarray(np.asarray(frame)).save(pictures[-1])
    run = subprocess.run(
        [sys.executable, bundle / "device" / "example.py", f"http://{running.netloc}", *pictures],
        capture_output=True, text=True, check=False,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("bytes at step") == len(pictures)
    assert "cls: " in run.stdout and "det: " in run.stdout
