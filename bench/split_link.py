"""Send frames from a process to another over a shaped link: a controller, fixed points, pictures.

    python bench/link_points.py OUT
    python bench/split_link.py OUT [--kind 5G] [--mbit RATE] [--fps N] [--deadline-ms MS]

The device is a process that loads OUT/split/device, and `merge-search serve` answers in another
one, over HTTP. Pictures are answered by a third one, which runs the unsplit network. Device and
servers are in two network namespaces (root only); the kernel limits what the device sends to the
rate of a trace, which changes every 100 ms. Without namespaces, a relay throttles. Where the
kernel cannot delay packets, the device waits for the round trip after each answer.

The controller runs first. Then the same frames go over the same trace at the smallest fixed point
that is at least as good as the controller's answers in time, and as JPEG files: at the smallest
quality that is as good, and as a controller chooses. A message that is not answered at its
deadline is given up. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from shaped_links import ShapedLink, shaped_link

from search.data.frames import Sampling, folder_frames
from search.split.streaming.traces import TRACE_KINDS, LinkTrace
from spaces.bundle import load_bundle
from spaces.inputs import Frame
from spaces.split.coefficients import Coding
from spaces.split.controller import ControllerSettings, RateController
from spaces.split.device import load_device
from spaces.split.link_estimate import EstimateSettings
from spaces.split.operating_point import OperatingPoint

SPLIT_PORT, PICTURE_PORT = 8641, 8642
PATH = "/v1/answers"
LONGEST_START = 120.0
"""Seconds until a server takes connections."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", default="5G", choices=[kind.name for kind in TRACE_KINDS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--mbit", type=float, default=0.3)
    parser.add_argument("--fps", type=float, default=4)
    parser.add_argument("--deadline-ms", type=float, default=400)
    arguments = parser.parse_args()
    (kind,) = (kind for kind in TRACE_KINDS if kind.name == arguments.kind)
    trace = kind.trace(arguments.seed, arguments.seconds, arguments.mbit)
    data = json.loads((arguments.out / "link_points.json").read_text(encoding="utf-8"))
    with shaped_link(trace.rtt_ms) as link, servers(arguments.out, link):
        run = Run(arguments.out, link, trace, arguments.fps, arguments.deadline_ms)
        result: dict[str, Any] = {"link": link.name, "controller": run.of("splits", None)}
        quality = result["controller"]["quality_in_time"]
        for name in ("splits", "pictures"):
            points = [OperatingPoint.from_dict(point) for point in data[name]["points"]]
            result[f"fixed {name}"] = run.of(name, smallest_of(points, quality))
        result["controlled pictures"] = run.of("pictures", None)
    print(json.dumps(result))


def smallest_of(points: Sequence[OperatingPoint], quality: float) -> int:
    """Return the number of the smallest point of a quality, else of the best."""
    best = max(point.quality for point in points)
    able = [n for n, point in enumerate(points) if point.quality >= min(quality, best)]
    return min(able, key=lambda n: points[n].bytes)


@contextlib.contextmanager
def servers(out: Path, link: ShapedLink) -> Iterator[None]:
    """Run both servers until the block ends."""
    host = link.server_host
    served = [sys.executable, "-m", "search", "serve", str(out / "split"), "--host", host]
    commands = (
        [*served, "--port", str(SPLIT_PORT)],
        [sys.executable, __file__, "--serve-pictures", str(out / "whole"), host],
    )
    running = [
        subprocess.Popen([*link.server_prefix, *c], stdout=subprocess.DEVNULL) for c in commands
    ]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(20)


@dataclass(frozen=True)
class Run:
    """The frames, the link and the trace that all ways to send have in common."""

    out: Path
    link: ShapedLink
    trace: LinkTrace
    fps: float
    deadline_ms: float

    def of(self, sent: str, fixed: int | None) -> dict[str, Any]:
        """Send the frames from a process of their own; return what came of them."""
        wait_ms = 0.0 if self.link.has_delay else self.trace.rtt_ms
        frames = round(self.trace.period_ms / 1000 * self.fps)
        job = json.dumps(
            {"out": str(self.out), "sent": sent, "fixed": fixed, "frames": frames,
             "address": self.link.address_of(SPLIT_PORT if sent == "splits" else PICTURE_PORT),
             "period_ms": 1000 / self.fps, "deadline_ms": self.deadline_ms, "wait_ms": wait_ms}
        )  # fmt: skip
        self.link.change_rate(10.0)
        command = [*self.link.device_prefix, sys.executable, __file__, "--device", job]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as device:
            assert device.stdin and device.stdout
            device.stdout.readline()  # it is ready
            with self.link.following(self.trace):
                device.stdin.write("go\n")
                device.stdin.flush()
                result: dict[str, Any] = json.loads(device.stdout.readline())
        print(f"{sent}, {'controlled' if fixed is None else 'fixed'}: {result}", flush=True)
        return result


class Sender(Protocol):
    """What the device does for a frame."""

    def capture(self, frame: Frame, point: OperatingPoint) -> Any: ...

    def message(
        self, captured: Any, point: OperatingPoint, most_bytes: float | None
    ) -> tuple[bytes, float]:
        """Return a message, of at most so many bytes if given, and its quality."""


class SplitSender:
    """Runs the device's part, and codes as finely as fits."""

    def __init__(self, out: Path, points: Sequence[OperatingPoint]) -> None:
        self._device = load_device(out / "split" / "device")
        self._points = points

    def capture(self, frame: Frame, point: OperatingPoint) -> Any:
        return self._device.capture(frame, point.split)

    def message(
        self, captured: Any, point: OperatingPoint, most_bytes: float | None
    ) -> tuple[bytes, float]:
        if most_bytes is None:
            return self._device.message(captured, point.coding), point.quality
        own = sorted((p for p in self._points if p.split == point.split), key=lambda p: p.coding)
        finest, coarsest = own[0].coding, own[-1].coding
        found = self._device.finest_within(captured, most_bytes, coarsest.step)
        coding = Coding(max(found.step, finest.step), finest.bands)
        steps = [p.coding.step for p in own]
        quality = np.interp(coding.step, steps, [p.quality for p in own])
        return self._device.message(captured, coding), float(quality)


class PictureSender:
    """Sends JPEG files, whose quality stands in the place of the step."""

    def capture(self, frame: Frame, point: OperatingPoint) -> Any:
        return Image.fromarray(frame)

    def message(
        self, captured: Any, point: OperatingPoint, most_bytes: float | None
    ) -> tuple[bytes, float]:
        file = io.BytesIO()
        captured.save(file, "jpeg", quality=-point.coding.step, optimize=True)
        return file.getvalue(), point.quality


def send_frames(job: dict[str, Any]) -> dict[str, Any]:
    """Send frames at their times, and return shares and means."""
    torch.set_num_threads(1)
    out, fixed = Path(job["out"]), job["fixed"]
    data = json.loads((out / "link_points.json").read_text(encoding="utf-8"))[job["sent"]]
    points = [OperatingPoint.from_dict(point) for point in data["points"]]
    sender: Sender = SplitSender(out, points) if job["sent"] == "splits" else PictureSender()
    photos = folder_frames(out / "frames", Sampling())
    frames = [photos[k] for k in range(len(photos))]
    controller = RateController(points, job["deadline_ms"], settings_of(job))
    connection = Connection(tuple(job["address"]), job["wait_ms"] / 1000)
    connection.wait_for_server()
    for frame in frames[:3]:
        for split in {point.split: point for point in points}.values():
            connection.post(sender.message(sender.capture(frame, split), split, None)[0], 60)
    controller.observe_round_trip(connection.round_trip_ms())
    print("ready", flush=True)
    sys.stdin.readline()
    start, fates = time.perf_counter(), []
    for number in range(job["frames"]):
        arrived = start + number * job["period_ms"] / 1000
        time.sleep(max(0.0, arrived - time.perf_counter()))
        frame = frames[number % len(frames)]
        point = controller.choose(since(arrived)) if fixed is None else points[fixed]
        fates.append(send_frame(connection, sender, controller, frame, point, arrived, fixed))
    return summary(fates)


def settings_of(job: dict[str, Any]) -> ControllerSettings:
    return ControllerSettings(
        period_ms=job["period_ms"],
        estimate=EstimateSettings(rtt_ms=job["wait_ms"]),
    )


@dataclass(frozen=True)
class Fate:
    bytes: int
    quality: float
    total_ms: float
    """Infinite if the message was given up, or the deadline had passed before."""


def send_frame(
    connection: Connection,
    sender: Sender,
    controller: RateController,
    frame: Frame,
    point: OperatingPoint,
    arrived: float,
    fixed: int | None,
) -> Fate:
    if since(arrived) >= controller.deadline_ms:
        return Fate(0, 0.0, float("inf"))
    captured = sender.capture(frame, point)
    budget = controller.byte_budget(point, since(arrived)) if fixed is None else None
    message, quality = sender.message(captured, point, budget)
    left = controller.deadline_ms - since(arrived)
    if left <= 0:
        return Fate(0, 0.0, float("inf"))
    sent = time.perf_counter()
    try:
        server_ms = connection.post(message, left / 1000)
    except OSError:
        controller.observe_timeout(len(message), since(sent))
        return Fate(len(message), quality, float("inf"))
    total = since(arrived)
    transfer = max(0.0, since(sent) - server_ms)
    controller.observe(len(message), transfer, server_ms - point.server_ms)
    return Fate(len(message), quality, total if total <= controller.deadline_ms else float("inf"))


def since(moment: float) -> float:
    """Return the milliseconds since a moment."""
    return 1000 * (time.perf_counter() - moment)


def summary(fates: Sequence[Fate]) -> dict[str, Any]:
    in_time = [fate for fate in fates if fate.total_ms < float("inf")]
    sent = [fate.bytes for fate in fates if fate.bytes]
    return {
        "frames": len(fates),
        "met": round(len(in_time) / len(fates), 4),
        "mean_bytes": round(float(np.mean(sent or [0]))),
        "quality_in_time": round(float(np.mean([f.quality for f in in_time] or [0.0])), 4),
        "quality": round(sum(f.quality for f in in_time) / len(fates), 4),
        "median_ms": round(float(np.median([f.total_ms for f in in_time] or [0.0])), 1),
    }


class Connection:
    """One HTTP connection, which is opened again after a message was given up."""

    def __init__(self, address: tuple[str, int], wait: float) -> None:
        self._address, self._wait = address, wait
        self._open: http.client.HTTPConnection | None = None

    def wait_for_server(self) -> None:
        """Return as soon as the server takes connections: it has a bundle to load first."""
        end = time.perf_counter() + LONGEST_START
        while True:
            try:
                self._connected(1)
                return
            except OSError:
                if time.perf_counter() > end:
                    raise
                time.sleep(0.2)

    def post(self, message: bytes, seconds: float) -> float:
        """Send a message; return the milliseconds of the server.

        Raises:
            OSError: there is no answer within so many seconds.
        """
        end = time.perf_counter() + seconds
        try:
            connection = self._connected(seconds)
            connection.request("POST", PATH, message)
            connection.sock.settimeout(max(0.001, end - time.perf_counter()))
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise TimeoutError from error
        if response.status != 200:
            raise SystemExit(f"the server answers {response.status}")
        time.sleep(max(0.0, min(self._wait, end - time.perf_counter())))
        return float(response.headers["Server-Timing"].partition("dur=")[2])

    def round_trip_ms(self) -> float:
        """Return the time to open a connection."""
        self._drop()
        start = time.perf_counter()
        self._connected(10)
        return since(start) + 1000 * self._wait

    def _connected(self, seconds: float) -> http.client.HTTPConnection:
        if self._open is None:
            connection = http.client.HTTPConnection(*self._address, timeout=seconds)
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open = connection
        self._open.sock.settimeout(seconds)
        return self._open

    def _drop(self) -> None:
        """Close at once: what is still to be sent is thrown away."""
        if self._open is not None and self._open.sock:
            linger = struct.pack("ii", 1, 0)
            self._open.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._open.close()
        self._open = None


def serve_pictures(folder: Path, host: str) -> None:
    """Answer JPEG files with the whole network."""
    torch.set_num_threads(1)
    bundle = load_bundle(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            start = time.perf_counter()
            answers = bundle(np.asarray(Image.open(io.BytesIO(data))))
            body = json.dumps({name: int(a.argmax()) for name, a in answers.items()}).encode()
            with contextlib.suppress(ConnectionError):  # given up
                self._reply(start, body)

        def _reply(self, start: float, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Server-Timing", f"answer;dur={since(start):.1f}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    ThreadingHTTPServer((host, PICTURE_PORT), Handler).serve_forever()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--device"]:
        print(json.dumps(send_frames(json.loads(sys.argv[2]))), flush=True)
    elif sys.argv[1:2] == ["--serve-pictures"]:
        serve_pictures(Path(sys.argv[2]), sys.argv[3])
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends servers and namespaces
        main()
