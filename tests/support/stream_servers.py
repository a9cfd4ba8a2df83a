"""Network cameras on loopback: HTTP and RTSP servers that send as fast as the client reads."""

from __future__ import annotations

import hashlib
import io
import socket
import socketserver
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from camera_files import flat, jpeg, steady_times, write_video

FRAMES = 60
"""Frames of every stream that ends or stalls."""
LEVEL_STEP = 4
"""Grey levels from one frame of /mjpeg to the next."""
HANG = 60
"""Seconds after which a server stops waiting for a client to leave."""


def transport_stream(seconds: float) -> list[bytes]:
    """Return MPEG-TS in chunks of 7 x 188 bytes, which fit into a network packet."""
    file = io.BytesIO()
    write_video(file, steady_times(seconds, 25), "mpeg4", "mpegts")
    content = file.getvalue()
    return [content[k : k + 7 * 188] for k in range(0, len(content), 7 * 188)]


def mjpeg_part(level: int) -> bytes:
    content = jpeg(flat(level))
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content + b"\r\n"


class _OpenConnections:
    """A mixin for servers whose connections stay open until the client leaves."""

    def hold_open(self) -> None:
        """Send nothing until the test is over; record a client that waits longer than `HANG`."""
        if not self.over.wait(HANG):
            self.client_hung = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.over = threading.Event()
        self.client_hung = False


class HttpServer(_OpenConnections, ThreadingHTTPServer):
    daemon_threads = True


class TcpServer(_OpenConnections, socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


class HttpCamera(BaseHTTPRequestHandler):
    """Serve /ts and /mjpeg, which end after 60 frames, and /still, which repeats one image.

    /ts-stall and /mjpeg-stall stop sending after 60 frames.
    """

    protocol_version = "HTTP/1.1"
    server: HttpServer

    def do_GET(self) -> None:
        try:
            if self.path.startswith("/ts"):
                self._begin("video/mp2t")
                self._send(transport_stream(FRAMES / 25))
            elif self.path.startswith("/mjpeg"):
                self._begin("multipart/x-mixed-replace; boundary=--frame")
                self._send([mjpeg_part(LEVEL_STEP * k) for k in range(FRAMES)])
            elif self.path == "/still":
                self._begin("multipart/x-mixed-replace; boundary=--frame")
                self._send_without_end(mjpeg_part(90))
            elif self.path == "/text":
                self._begin("text/plain")
                self.wfile.write(b"no video")
            else:
                self.send_error(404 if self.path == "/gone" else 401)
            if self.path.endswith("stall"):
                self.server.hold_open()
        except OSError:
            pass  # the client has left
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()

    def _send(self, parts: list[bytes]) -> None:
        for part in parts:
            self.wfile.write(part)

    def _send_without_end(self, part: bytes) -> None:
        while not self.server.over.wait(0.01):  # leaves the processor to the client
            self.wfile.write(part)


class RtspCamera(socketserver.StreamRequestHandler):
    """Speak RTSP 1.0 over TCP and send MPEG-TS in RTP (RFC 2250).

    The stream stalls after four seconds of video.
    """

    rbufsize = 0
    authentication = ""
    """How `user` proves the password `secret`: "", "Basic" (RFC 7617) or "Digest" (RFC 2069)."""
    server: TcpServer

    def handle(self) -> None:
        try:
            while request := self._request():
                method, address, headers = request
                if not self._admitted(method, address, headers.get("Authorization", "")):
                    self._refuse(headers["CSeq"])
                    continue
                self._answer(method, headers["CSeq"])
                if method == "PLAY":
                    return self._play()
        except OSError:
            pass  # the client has left

    def _request(self) -> tuple[str, str, dict[str, str]] | None:
        lines = list(iter(lambda: self.rfile.readline().decode().strip(), ""))
        if not lines:
            return None
        method, address, _ = lines[0].split()
        headers = dict(line.split(": ", 1) for line in lines[1:])
        return method, address, headers

    def _admitted(self, method: str, address: str, proof: str) -> bool:
        if self.authentication == "Digest":
            expected = md5(md5("user:street:secret") + ":once:" + md5(f"{method}:{address}"))
            return f'response="{expected}"' in proof
        return not self.authentication or proof == f"Basic {b64encode(b'user:secret').decode()}"

    def _refuse(self, number: str) -> None:
        nonce = ', nonce="once"' if self.authentication == "Digest" else ""
        head = f'WWW-Authenticate: {self.authentication} realm="street"{nonce}\r\n'
        self.wfile.write(f"RTSP/1.0 401 Unauthorized\r\nCSeq: {number}\r\n{head}\r\n".encode())

    def _answer(self, method: str, number: str) -> None:
        head, body = {
            "OPTIONS": ("Public: DESCRIBE, SETUP, PLAY\r\n", ""),
            "DESCRIBE": (
                "Content-Type: application/sdp\r\n",
                "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=street\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n",
            ),
            "SETUP": ("Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n", ""),
        }.get(method, ("Session: 1\r\n", ""))
        self.wfile.write(
            f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}"
            .encode()
        )  # fmt: skip

    def _play(self) -> None:
        for k, part in enumerate(transport_stream(4)):
            header = bytes((0x80, 33)) + k.to_bytes(2, "big") + (k * 1800).to_bytes(4, "big")
            packet = header + b"strt" + part
            self.wfile.write(b"$\0" + len(packet).to_bytes(2, "big") + packet)
        self.server.hold_open()


class BasicRtspCamera(RtspCamera):
    authentication = "Basic"


class DigestRtspCamera(RtspCamera):
    authentication = "Digest"


class SilentCamera(socketserver.BaseRequestHandler):
    """Accept connections and never answer."""

    server: TcpServer

    def handle(self) -> None:
        self.server.hold_open()


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@contextmanager
def serving(server: HttpServer | TcpServer) -> Iterator[int]:
    """Run a server in a thread and yield its port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
    assert not server.client_hung, "the client waited for a stalled stream without end"


def http_camera(port: int = 0) -> HttpServer:
    return HttpServer(("127.0.0.1", port), HttpCamera)


def tcp_camera(kind: type[socketserver.BaseRequestHandler]) -> TcpServer:
    return TcpServer(("127.0.0.1", 0), kind)


def closed_port() -> int:
    """Return a port on loopback that refuses connections."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
