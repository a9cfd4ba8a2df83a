"""Links between two processes of this machine whose rate follows a trace.

`namespace_link` joins two network namespaces by a pair of virtual Ethernet devices, and the kernel
shapes what the device sends (`tc`, class `htb`). It needs root. `relay_link` is a TCP
relay that forwards no faster than the trace says, for machines that refuse namespaces.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from search.split.streaming.traces import STEP_MS, LinkTrace

DEVICE_ADDRESS, SERVER_ADDRESS = "10.86.0.1", "10.86.0.2"
BURST = 1600
"""Bytes that a shaped link lets through at once: one packet."""
LEAST_KBIT = 8.0
CHUNK = 1024
UP, DOWN = "ms-device", "ms-server"
"""Names of the two ends of a link."""


@dataclass(eq=False)
class ShapedLink:
    """Where both processes run, and how the device reaches the server."""

    name: str
    device_prefix: Sequence[str]
    """What a command of the device begins with."""
    server_prefix: Sequence[str]
    server_host: str
    """Where servers listen."""
    has_delay: bool
    """Whether the link delays packets by the round trip; else, the server has to."""
    set_kbit: list[float] = field(default_factory=lambda: [1000.0])
    """The rate of a relay, in one entry."""
    shaper: subprocess.Popen[str] | None = None
    relays: dict[int, socket.socket] | None = None
    """By port of the server, where the relay listens; None without a relay."""

    def address_of(self, port: int) -> tuple[str, int]:
        """Return where the device reaches the server of a port."""
        if self.relays is None:
            return self.server_host, port
        if port not in self.relays:
            self.relays[port] = _relay((self.server_host, port), self)
        address: tuple[str, int] = self.relays[port].getsockname()
        return address

    def change_rate(self, mbit: float) -> None:
        kbit = max(LEAST_KBIT, 1000 * mbit)
        self.set_kbit[0] = kbit
        if self.shaper and self.shaper.stdin:
            self.shaper.stdin.write(_rate("change", kbit) + "\n")
            self.shaper.stdin.flush()

    @contextlib.contextmanager
    def following(self, trace: LinkTrace) -> Iterator[None]:
        """Follow a trace from its start on, as long as the block runs."""
        stop = threading.Event()

        def follow() -> None:
            start, step = time.monotonic(), 0
            while not stop.is_set():
                self.change_rate(float(trace.mbit[step % len(trace.mbit)]))
                step += 1
                stop.wait(max(0.0, start + step * STEP_MS / 1000 - time.monotonic()))

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def shaped_link(rtt_ms: float) -> Iterator[ShapedLink]:
    """Yield a link of namespaces or, where the machine refuses them, a relay."""
    try:
        with namespace_link(rtt_ms) as link:
            yield link
    except NamespacesRefused as error:
        print(f"no network namespaces here ({error}): a relay throttles instead", flush=True)
        with relay_link() as link:
            yield link


class NamespacesRefused(Exception):
    """This process may not make namespaces, or the kernel cannot shape links."""


@contextlib.contextmanager
def namespace_link(rtt_ms: float) -> Iterator[ShapedLink]:
    device, server = f"msd{os.getpid()}", f"mss{os.getpid()}"
    with contextlib.ExitStack() as stack:
        for name in (device, server):
            _run("ip", "netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        _run("ip", "-n", device, "link", "add", UP, "type", "veth", "peer", "name", DOWN,
             "netns", server)  # fmt: skip
        for name, end, address in ((device, UP, DEVICE_ADDRESS), (server, DOWN, SERVER_ADDRESS)):
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", end)
            _run("ip", "-n", name, "link", "set", end, "up")
        _run("tc", "-n", device, *f"qdisc add dev {UP} root handle 1: htb default 1".split())
        _run("tc", "-n", device, *_rate("add", 1000.0).split())
        has_delay = _delay_answers(server, rtt_ms)
        batch = ["tc", "-n", device, "-batch", "-"]
        shaper = subprocess.Popen(batch, stdin=subprocess.PIPE, text=True)
        stack.callback(_end, shaper)
        enter = ("ip", "netns", "exec")
        yield ShapedLink(
            "network namespaces, token buckets",
            (*enter, device),
            (*enter, server),
            SERVER_ADDRESS,
            has_delay,
            shaper=shaper,
        )


def _rate(verb: str, kbit: float) -> str:
    """Return the command for the rate. A change keeps the tokens, unlike that of a `tbf`."""
    limits = f"rate {kbit:.0f}kbit burst {BURST} cburst {BURST}"
    return f"class {verb} dev {UP} parent 1: classid 1:1 htb {limits}"


def _delay_answers(namespace: str, rtt_ms: float) -> bool:
    """Delay all that the server sends; return whether this kernel can."""
    command = ["tc", "-n", namespace, *f"qdisc add dev {DOWN} root netem delay {rtt_ms}ms".split()]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(*command: str) -> None:
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NamespacesRefused(str(error)) from error
    if run.returncode:
        raise NamespacesRefused(run.stderr.strip() or " ".join(command))


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin:
        process.stdin.close()
    process.wait(10)


@contextlib.contextmanager
def relay_link() -> Iterator[ShapedLink]:
    link = ShapedLink("relay", (), (), "127.0.0.1", has_delay=False, relays={})
    try:
        yield link
    finally:
        for listener in (link.relays or {}).values():
            listener.close()


def _relay(server: tuple[str, int], link: ShapedLink) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * CHUNK)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    threading.Thread(target=_accept, args=(listener, server, link), daemon=True).start()
    return listener


def _accept(listener: socket.socket, server: tuple[str, int], link: ShapedLink) -> None:
    with contextlib.suppress(OSError):
        while True:
            device, _ = listener.accept()
            upstream = socket.create_connection(server)
            for source, target, throttled in ((device, upstream, link), (upstream, device, None)):
                pair = (source, target, throttled)
                threading.Thread(target=_forward, args=pair, daemon=True).start()


def _forward(source: socket.socket, target: socket.socket, link: ShapedLink | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            if link:
                time.sleep(len(data) * 8 / link.set_kbit[0] / 1000)
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
