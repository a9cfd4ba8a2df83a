"""Folders of images on real servers: the same frames as in a copy of the folder here."""

from __future__ import annotations

import base64
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from called import error_of
from commands import wait_until
from fsspec.registry import _registry
from servers import free_port, is_listening
from tiny import (
    Weights,
    capture_reporter,
    config_data,
    save_noise_image,
    with_changes,
    write_config,
)

from search.config.base import BadConfig
from search.config.loading import load_config
from search.data.damaged_images import intact_frames
from search.data.frames import BadFrames, ImageFiles, Sampling, folder_frames, remarks_of
from search.data.remote import file_system
from search.data.remote.folders import remote_frames
from search.pipelines.deployment.load import load_deployment
from search.pipelines.open_data import open_frame_set
from search.pipelines.prepare import observe

NAMES = ("b.png", "a/z.jpg", "a b/x.png", "a/é#1%20.png", "c.JPEG")
ACCESS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "s3cret-word",
          "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip


class QuietHandler(SimpleHTTPRequestHandler):
    """Python's own server of a folder and its listings, without its log."""

    def log_message(self, format: str, *args: Any) -> None: ...


class GuardedHandler(QuietHandler):
    """Asks for a user and a password."""

    def do_GET(self) -> None:
        expected = "Basic " + base64.b64encode(b"someone:s3cret-word").decode()
        if self.headers.get("Authorization") == expected:
            super().do_GET()
        else:
            self.send_error(401)


class FailingHandler(QuietHandler):
    """Fails on every request."""

    def do_GET(self) -> None:
        self.send_error(503)


Serve = Callable[[Path, type[QuietHandler]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve folders on loopback; return the address of each."""
    servers: list[ThreadingHTTPServer] = []

    def start(folder: Path, handler: type[QuietHandler] = QuietHandler) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _own_file_systems(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Open connections anew: they keep what the environment said."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    file_system._file_system.cache_clear()
    yield
    file_system._file_system.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a folder of images in sub-folders, and of files that are none."""
    root = tmp_path / "served" / "frames"
    for seed, name in enumerate(NAMES):
        save_noise_image(root / name, seed)
    save_noise_image(root / ".hidden" / "h.png", 9)
    save_noise_image(root / "a" / ".part.png", 9)
    (root / "notes.txt").write_text("no image")
    return root


def assert_same_frames(there: ImageFiles, here: ImageFiles) -> None:
    assert len(there) == len(here) == len(NAMES)
    assert there.hash == here.hash and there.content_keys() == here.content_keys()
    assert all(np.array_equal(there[k], here[k]) for k in range(len(here)))
    assert len(set(there.identities())) == len(NAMES)
    (note,) = remarks_of(there).notes
    assert note.endswith("1 file of another type left out: .txt 1")


def test_a_folder_on_a_web_server_has_the_frames_of_the_folder(folder: Path, serve: Serve) -> None:
    address = f"{serve(folder.parent, QuietHandler)}/frames"
    there, here = remote_frames(address, Sampling()), folder_frames(folder, Sampling())
    assert_same_frames(there, here)
    assert_same_frames(remote_frames(f"{address}/", Sampling()), here)
    checked = intact_frames(there, 0.0, "frames")
    assert checked.hash == here.hash
    some = remote_frames(address, Sampling(count=2, offset=1))
    assert some.hash == folder_frames(folder, Sampling(count=2, offset=1)).hash


@contextmanager
def running(command: Sequence[str], port: int, log: Path) -> Iterator[None]:
    """Run a server that listens on a port of this machine."""
    with log.open("wb") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        wait_until(lambda: is_listening(port) or server.poll() is not None)
        assert server.poll() is None, log.read_text()
        yield
    finally:
        server.kill()
        server.wait()


def s3_bucket(port: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let this process find a server that speaks S3 at a port; return its command."""
    for name, value in {**ACCESS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
        monkeypatch.setenv(name, value)
    return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]


def gs_bucket(port: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let this process find a server that speaks Google Cloud Storage; return its command."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    # else gcsfs asks for the kind of bucket by another protocol, which this server lacks
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    program = Path(sys.executable).with_name("gcp-storage-emulator")
    return [str(program), "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"]


@pytest.fixture(params=["s3", "gs"])
def bucket(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Return the address of an empty bucket on a server of each protocol."""
    port, scheme = free_port(), request.param
    command = {"s3": s3_bucket, "gs": gs_bucket}[scheme](port, monkeypatch)
    with running(command, port, tmp_path / "server.log"):
        file_system._file_system(scheme).mkdir("cameras")
        yield f"{scheme}://cameras"


def test_a_folder_in_a_bucket_has_the_frames_of_the_folder(folder: Path, bucket: str) -> None:
    scheme, _, name = bucket.partition("://")
    files = file_system._file_system(scheme)
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe_file(f"{name}/frames/{path.relative_to(folder)}", path.read_bytes())
    address = f"{bucket}/frames"
    assert_same_frames(remote_frames(address, Sampling()), folder_frames(folder, Sampling()))
    for missing in (f"{bucket}/none", f"{scheme}://no-such-bucket/frames"):
        with pytest.raises(BadFrames, match=f"frames folder {missing}: there is no such folder"):
            remote_frames(missing, Sampling())


def test_statistics_of_frames_at_an_address_are_those_of_the_folder(
    weights: Weights, tmp_path: Path, serve: Serve
) -> None:
    for seed in range(20):
        save_noise_image(tmp_path / "served" / "frames" / f"{seed:02}.png", seed)
    address = f"{serve(tmp_path / 'served', QuietHandler)}/frames"
    texts = []
    for place in (str(tmp_path / "served" / "frames"), address):
        changes = {"frames": {"folder": place}, "verify.fidelity_frames": 4}
        path = write_config(tmp_path, with_changes(config_data(weights), changes))
        config, captured = load_config(path), capture_reporter()
        deployment = load_deployment(config, captured.reporter)
        observe(config, deployment, open_frame_set(config), captured.reporter)
        texts.append(captured.text)
    assert "cached" not in texts[0] and "cached" in texts[1]
    assert config.as_written()["frames"]["folder"] == address


# What goes wrong ends in one sentence.


def refusal(address: str) -> str:
    with pytest.raises(BadFrames) as caught:
        remote_frames(address, Sampling())
    text = str(caught.value)
    assert text.startswith(f"frames folder {address}: ") and "\n" not in text
    return text


def test_a_missing_folder_and_one_without_images_are_named(folder: Path, serve: Serve) -> None:
    address = serve(folder.parent, QuietHandler)
    assert "there is no such folder" in refusal(f"{address}/gone")
    (folder.parent / "empty").mkdir()
    assert "holds no images" in refusal(f"{address}/empty")


def test_a_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the server does not answer" in refusal(f"http://127.0.0.1:{free_port()}/frames")
    monkeypatch.setattr(file_system, "READ_SECONDS", 0.2)
    file_system._file_system.cache_clear()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert "the server does not answer" in refusal(f"http://127.0.0.1:{port}/frames")


def test_google_cloud_storage_that_does_not_answer_is_named_without_a_stack_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def no_pause(seconds: float) -> None:
        pass

    messages = StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(messages)])
    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=no_pause))
    gs_bucket(free_port(), monkeypatch)
    assert "the server does not answer: Cannot connect to host" in refusal("gs://cameras/frames")
    assert messages.getvalue() == ""


def test_a_server_that_fails_is_named(folder: Path, serve: Serve) -> None:
    assert "the server answers 503" in refusal(f"{serve(folder, FailingHandler)}/frames")


def test_damaged_and_deleted_images_are_named(folder: Path, serve: Serve) -> None:
    address = f"{serve(folder.parent, QuietHandler)}/frames"
    frames = remote_frames(address, Sampling())
    path = folder / "b.png"
    content = path.read_bytes()
    path.write_bytes(content[:-60])
    with pytest.raises(BadFrames, match=rf"1 of 5 images cannot be read: {address}/b\.png"):
        intact_frames(frames, 0.1, "frames")
    assert len(intact_frames(frames, 0.2, "frames")) == 4
    path.write_bytes(content)
    checked = intact_frames(frames, 0.0, "frames")
    path.unlink()
    index = [str(image) for image in checked.paths].index(f"{address}/b.png")
    with pytest.raises(BadFrames, match=r"b\.png: could be read when the frames were checked"):
        checked[index]
    with pytest.raises(BadFrames, match=r"b\.png: cannot be read \(there is no such file"):
        _ = frames.hash


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(_registry, "gs", raising=False)  # fsspec keeps what it has imported
    assert "pip install 'merge-search[remote]'" in refusal("gs://bucket/frames")


# Secrets.


def test_a_password_comes_from_a_file_of_the_user(
    folder: Path, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{serve(folder.parent, GuardedHandler)}/frames"
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert "the server answers 401" in refusal(address)
    file_system._file_system.cache_clear()
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password s3cret-word\n")
    os.chmod(netrc, 0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    there = remote_frames(address, Sampling())
    assert there.hash == folder_frames(folder, Sampling()).hash
    assert "s3cret-word" not in f"{there!r} {there.identities()}"


@pytest.mark.parametrize(
    "address",
    [
        "http://someone:s3cret-word@host/frames", "https://host/frames?token=s3cret-word",
        "s3://someone:s3cret-word@bucket/frames", "http://host/frames#s3cret-word",
        "http://a-user-with-a-name-that-is-quite-long:s3cret-word-that-is-longer@host/frames",
    ],
)  # fmt: skip
def test_an_address_with_a_secret_is_refused_without_showing_it(
    weights: Weights, tmp_path: Path, address: str
) -> None:
    data = with_changes(config_data(weights), {"frames": {"folder": address}})
    message = error_of("run", write_config(tmp_path, data))
    assert "frames.folder: must hold no user, password" in message
    assert "s3cret" not in message


@pytest.mark.parametrize("address", ["ftp://host/frames", "http://", "s3:///", "file:///frames"])
def test_other_addresses_are_refused(weights: Weights, tmp_path: Path, address: str) -> None:
    data = with_changes(config_data(weights), {"frames": {"parts": [{"folder": address}]}})
    with pytest.raises(BadConfig, match=r"folder: must be a folder, or an address such as"):
        load_config(write_config(tmp_path, data))
