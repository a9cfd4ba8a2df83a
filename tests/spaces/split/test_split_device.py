"""A device codes a frame as finely as it may, in any coding and split, and computes it once."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from split_bundles import COARSE, FINE, SPLITS, TRUNK, split_networks, write_own_split

from spaces.bundle_files import BadBundle
from spaces.errors import BadInput
from spaces.split.coefficients import Coding
from spaces.split.device import COARSEST_STEP, SplitDevice, load_device
from spaces.split.message import Message
from spaces.split.operating_point import OperatingPoint
from spaces.split.recalibrated import BatchNormStatistics, StatisticsByCoding
from spaces.split.server import load_server
from spaces.split.split import Split

ONE = SPLITS["one stream for both"]
POINTS = [
    OperatingPoint(1, FINE, 9000, 0.99, 5, 5),
    OperatingPoint(0, COARSE, 600, 0.9, 5, 5, 0.1, 700.0),
    OperatingPoint(0, Coding(0, 4), 300, 0.5, 5, 5),
]
LIMITS = (60, 100, 333, 1000, 2500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device") / "bundle"
    splits = [*SPLITS.values()][:3]
    merged = split_networks().setup.merged(splits[0].plan)
    server = merged.restricted_to([split_networks().parts(splits[0]).server])
    coarse = StatisticsByCoding(
        np.full((1, 8), COARSE.step, np.int32), (BatchNormStatistics.of(server),)
    )
    write_own_split(folder, splits, POINTS, {0: coarse})
    return folder


@pytest.fixture(scope="module")
def device(folder: Path) -> SplitDevice:
    return load_device(folder / "device")


@pytest.mark.parametrize("limit", LIMITS)
def test_a_message_within_a_limit_is_the_finest_of_all_that_fit(
    limit: int, device: SplitDevice
) -> None:
    """Found by trying every step, where the device counts bits and bisects."""
    for split, frame in product(range(2), split_networks().frames[:2]):
        captured = device.capture(frame, split)
        message = device.message_within(captured, limit)
        assert len(message) <= limit
        step = Message.parse(message).coding.step
        finer = [len(device.message(captured, Coding(s, 255))) for s in range(step - 9, step)]
        # the count may be wrong by some bytes
        assert min(finer) > limit - 8
        assert device.encode_within(frame, limit, split) == message


def test_what_does_not_fit_at_all_is_refused(device: SplitDevice) -> None:
    captured = device.capture(split_networks().frames[0])
    smallest = len(device.message(captured, Coding(COARSEST_STEP, 255)))
    assert len(device.message_within(captured, smallest)) == smallest
    with pytest.raises(BadInput, match=f"fits into {smallest - 1} bytes; .* takes {smallest}"):
        device.message_within(captured, smallest - 1)


def test_without_a_coding_the_best_point_of_the_split_is_taken(device: SplitDevice) -> None:
    frame = split_networks().frames[0]
    assert device.encode(frame) == device.encode(frame, COARSE)
    assert device.encode(frame, split=1) == device.encode(frame, FINE, 1)
    with pytest.raises(BadInput, match="split 2 has no operating point in this bundle"):
        device.encode(frame, split=2)
    with pytest.raises(BadInput, match="no split 9; the bundle has 3"):
        device.encode(frame, split=9)


def test_points_keep_what_is_known_of_them(device: SplitDevice) -> None:
    assert [*device.points] == POINTS
    assert [point.bytes_p95 for point in device.points] == [None, 700.0, None]


def test_the_network_runs_once_for_any_number_of_codings(device: SplitDevice) -> None:
    runs = 0

    def count(*_: object) -> None:
        nonlocal runs
        runs += 1

    first_stage = next(
        m for n, m in device.named_modules() if n.endswith("stages.cls:trunk/body/0")
    )
    handle = first_stage.register_forward_hook(count)
    try:
        captured = device.capture(split_networks().frames[0])
        for limit in LIMITS:
            device.message_within(captured, limit)
        assert runs == 1
    finally:
        handle.remove()


def test_another_coding_or_split_needs_no_file(folder: Path, tmp_path: Path) -> None:
    device = load_device(shutil.copytree(folder / "device", tmp_path / "device"))
    server = load_server(shutil.copytree(folder / "server", tmp_path / "server"))
    shutil.rmtree(tmp_path / "device")
    shutil.rmtree(tmp_path / "server")
    tensors = {t.data_ptr() for t in (*device.parameters(), *device.buffers())}
    for split, coding in product((2, 0, 1), (COARSE, FINE)):
        message = device.encode(split_networks().frames[0], coding, split)
        (answers,) = server.answer([server.receive(message)])
        assert {*answers} == {"cls", "det"}
    assert tensors == {t.data_ptr() for t in (*device.parameters(), *device.buffers())}


@pytest.mark.parametrize("side", ["device", "server"])
def test_every_listed_tensor_file_is_needed(side: str, folder: Path, tmp_path: Path) -> None:
    load = load_device if side == "device" else load_server
    files = {file.name for file in (folder / side).glob("*.safetensors")}
    assert files - {"batchnorms.safetensors"} == {"weights.safetensors", "codecs.safetensors"}
    assert ("batchnorms.safetensors" in files) == (side == "server")
    for file in (folder / side / name for name in files):
        box = shutil.copytree(folder / side, tmp_path / file.stem)
        (box / file.name).unlink()
        with pytest.raises(BadBundle, match=f"not a complete bundle .*{file.name} is missing"):
            load(box)
        (box / file.name).write_bytes(file.read_bytes() + b"\0")
        with pytest.raises(BadBundle, match="has changed since the export; export the bundle aga"):
            load(box)


def test_splits_that_differ_in_precision_have_one_codec(tmp_path: Path) -> None:
    in_int8 = SPLITS["later, in int8"]
    exact = Split(TRUNK, in_int8.ends)
    alone = write_own_split(tmp_path / "one", [exact])
    sizes = write_own_split(tmp_path / "bundle", [exact, ONE, in_int8])
    write_own_split(tmp_path / "two", [exact, ONE])
    assert alone["device"] < sizes["device"]
    for side in ("device", "server"):
        two = (tmp_path / "two" / side / "codecs.safetensors").read_bytes()
        assert (tmp_path / "bundle" / side / "codecs.safetensors").read_bytes() == two
    device = load_device(tmp_path / "bundle" / "device")
    server = load_server(tmp_path / "bundle" / "server")
    assert (device.held_bytes, server.held_bytes) == (sizes["device"], sizes["server"])
    first, other, last = device.encoders
    assert first is last and first is not other
    frame = split_networks().frames[0]
    assert device.encode(frame, FINE, 0) != device.encode(frame, FINE, 2)
    received = [server.receive(device.encode(frame, FINE, number)) for number in range(3)]
    assert [{*answers} for answers in server.answer(received)] == [{"cls", "det"}] * 3


def test_statistics_that_two_splits_have_in_common_are_stored_once(
    tmp_path: Path,
) -> None:
    networks = split_networks()
    in_int8 = SPLITS["later, in int8"]
    splits = [Split(TRUNK, in_int8.ends), ONE, in_int8]
    part = networks.setup.merged(TRUNK).restricted_to([networks.parts(splits[0]).server])
    common = StatisticsByCoding(
        np.full((1, 8), COARSE.step, np.int32), (BatchNormStatistics.of(part),)
    )
    for name, having in (("once", [0]), ("twice", [0, 2])):
        write_own_split(tmp_path / name, splits, statistics=dict.fromkeys(having, common))
    once, twice = (tmp_path / n / "server" / "batchnorms.safetensors" for n in ("once", "twice"))
    assert once.read_bytes() == twice.read_bytes()
    loaded = load_server(tmp_path / "twice" / "server")._part
    assert {*loaded.statistics} == {0, 2} and loaded.statistics[0] is loaded.statistics[2]
    assert {*load_server(tmp_path / "once" / "server")._part.statistics} == {0}


@pytest.mark.parametrize("numbers", [[0, 1], [0, 1, 7], [0, 1, 2, 0], None, "012"])
def test_a_description_that_names_other_codecs_is_refused(
    numbers: object, folder: Path, tmp_path: Path
) -> None:
    box = shutil.copytree(folder / "device", tmp_path / "box")
    data = json.loads((box / "bundle.json").read_text())
    assert data["codecs"] == [0, 1, 2]
    (box / "bundle.json").write_text(json.dumps(data | {"codecs": numbers}))
    with pytest.raises(BadBundle, match="is not a complete bundle"):
        load_device(box)
