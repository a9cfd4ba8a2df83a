"""Both parts of a split bundle: each alone, each tensor once, and together the whole."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from split_bundles import COARSE, FINE, SPLITS, split_networks, write_own_split

from spaces.bundle import Bundle
from spaces.bundle_files import BadBundle
from spaces.errors import BadInput
from spaces.merged import prepare_inputs, run_head
from spaces.split.coefficients import Coding
from spaces.split.damaged import DamagedMessage
from spaces.split.device import SplitDevice, load_device
from spaces.split.message import Message
from spaces.split.operating_point import OperatingPoint
from spaces.split.recalibrated import (
    BatchNormStatistics,
    StatisticsByCoding,
    with_statistics,
)
from spaces.split.server import ForeignMessage, load_server
from spaces.split.split import Split
from spaces.stages import total_bytes, unique_tensors

ALL = [*SPLITS.values()]
ONE = SPLITS["one stream for both"]
POINT = OperatingPoint(0, COARSE, 812.5, 0.93, 11.0, 4.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with all splits."""
    path = tmp_path_factory.mktemp("split") / "bundle"
    write_own_split(path, ALL, [POINT])
    return path


@pytest.fixture(scope="module")
def one_split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("split") / "one"
    write_own_split(path, [ONE])
    return path


@pytest.mark.parametrize("number", range(len(ALL)), ids=list(SPLITS))
@torch.inference_mode()
def test_device_and_server_without_a_codec_give_the_answers_of_the_whole(
    number: int, folder: Path
) -> None:
    split, networks = ALL[number], split_networks()
    merged = networks.setup.merged(split.plan)
    inputs = prepare_inputs(networks.setup.models, networks.frames)
    device, server = load_device(folder / "device")._part, load_server(folder / "server")._part
    sent = device.merged[split.plan.hash].run(device.entries[number], inputs, {}, run_head)
    rest = server.merged[split.plan.hash].run(
        server.entries[number], {}, sent.representations, run_head
    )
    answers = sent.answers | rest.answers
    for name, answer in merged(inputs).items():
        torch.testing.assert_close(answers[name], answer, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("number", range(len(ALL)), ids=list(SPLITS))
def test_a_fine_coding_gives_nearly_the_answers_of_the_bundle(number: int, folder: Path) -> None:
    networks = split_networks()
    expected = whole(ALL[number])(networks.frames[0])
    device, server = load_device(folder / "device"), load_server(folder / "server")
    captured = device.capture(networks.frames[0], number)
    message = device.message(captured, FINE)
    answers = captured.answers | server.answer([server.receive(message)])[0]
    assert answers.keys() == expected.keys()
    torch.testing.assert_close(answers["cls"], expected["cls"], rtol=0, atol=0.02)
    (found,), (right,) = answers["det"], expected["det"]
    torch.testing.assert_close(found.scores[:5], right.scores[:5], rtol=0, atol=0.02)


def test_a_batch_of_several_splits_is_answered_in_order(folder: Path) -> None:
    device, server = load_device(folder / "device"), load_server(folder / "server")
    messages = [
        device.encode(frame, COARSE, number)
        for number, frame in zip((2, 0, 1, 0), split_networks().frames, strict=True)
    ]
    received = [server.receive(message) for message in messages]
    for frame, answers in zip(received, server.answer(received), strict=True):
        (alone,) = server.answer([frame])
        torch.testing.assert_close(answers["cls"], alone["cls"], rtol=1e-5, atol=1e-5)


def test_with_one_split_the_parts_share_no_weight(one_split: Path) -> None:
    names = {part: stored_names(one_split / part) for part in ("device", "server")}
    assert names["device"] and names["server"]
    assert not names["device"] & names["server"]
    assert not any("(head)" in name for name in names["device"])


def test_a_stage_between_two_ends_is_on_both_sides(tmp_path: Path) -> None:
    write_own_split(tmp_path / "bundle", ALL[:2])
    for part in ("device", "server"):
        names = stored_names(tmp_path / "bundle" / part)
        assert any("body/2" in name for name in names)
        assert any("(head)" in name for name in names) == (part == "server")


def test_a_part_holds_the_bytes_that_were_written(tmp_path: Path) -> None:
    sizes = write_own_split(tmp_path / "bundle", ALL)
    for name, load in (("device", load_device), ("server", load_server)):
        loaded: torch.nn.Module = load(tmp_path / "bundle" / name)
        models = total_bytes(unique_tensors(loaded.get_submodule("merged_by_plan")))
        codecs = sum(
            tensor.numel() * tensor.element_size()
            for codec in loaded._part.codecs  # type: ignore[union-attr]
            for tensor in codec.stored().values()
        )
        assert models + codecs == sizes[name]  # type: ignore[index]


@pytest.mark.parametrize(("kept", "load"), [("device", load_device), ("server", load_server)])
def test_each_part_loads_alone(
    kept: str, load: Callable[[Path], object], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / kept, tmp_path / "box")
    load(tmp_path / "box")


@pytest.mark.parametrize(
    ("part", "load", "message"),
    [
        ("server", load_device, "holds the server's part of a split; the folder of the device's"),
        ("device", load_server, "holds the device's part of a split; the folder of the server's"),
        ("", load_device, "not a complete bundle"),
    ],
)
def test_the_wrong_folder_is_named(
    part: str, load: Callable[[Path], object], message: str, folder: Path
) -> None:
    with pytest.raises(BadBundle, match=message):
        load(folder / part)


def test_a_changed_file_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("weights.safetensors", "codecs.safetensors"):
        box = tmp_path / name
        shutil.copytree(folder / "device", box)
        content = bytearray((box / name).read_bytes())
        content[-1] ^= 1
        (box / name).write_bytes(content)
        with pytest.raises(BadBundle, match="has changed since the export"):
            load_device(box)


def test_a_message_of_another_bundle_is_refused_by_name(folder: Path, one_split: Path) -> None:
    device, server = load_device(one_split / "device"), load_server(folder / "server")
    assert device.identity != server.identity
    message = device.encode(split_networks().frames[0], COARSE)
    with pytest.raises(ForeignMessage, match=f"{device.identity}.*{server.identity}"):
        server.receive(message)


def test_a_message_of_a_split_that_is_not_there_is_refused(one_split: Path) -> None:
    server = load_server(one_split / "server")
    message = Message(int(server.identity, 16), 7, COARSE, (72, 96), b"")
    with pytest.raises(DamagedMessage, match="names split 7; there are 1, from 0"):
        server.receive(message.to_bytes())


def test_ten_thousand_changed_messages_are_refused(one_split: Path) -> None:
    device, server = load_device(one_split / "device"), load_server(one_split / "server")
    message = device.encode(split_networks().frames[0], COARSE)
    generator = np.random.default_rng(1)
    for _ in range(10_000):
        changed = bytearray(message[: generator.integers(1, len(message) + 1)])
        changed[generator.integers(len(changed))] ^= 1 << int(generator.integers(8))
        with pytest.raises(DamagedMessage):
            server.receive(bytes(changed))


def test_recalibrated_statistics_serve_the_coarse_codings_of_their_split(tmp_path: Path) -> None:
    networks = split_networks()
    merged = networks.setup.merged(ONE.plan)
    own = BatchNormStatistics.of(merged.restricted_to([networks.parts(ONE).server]))
    shifted = BatchNormStatistics({k: m + 0.5 for k, m in own.means.items()}, own.variances)
    by_coding = StatisticsByCoding(np.full((1, 8), COARSE.step, np.int32), (shifted,))
    write_own_split(tmp_path / "bundle", [ONE], statistics={0: by_coding})
    device = load_device(tmp_path / "bundle" / "device")
    server = load_server(tmp_path / "bundle" / "server")
    captured = device.capture(networks.frames[0])
    finer = Coding(COARSE.step - 1, 8)
    received = [server.receive(device.message(captured, c)) for c in (FINE, COARSE, finer)]
    answers = [answer["cls"] for answer in server.answer(received)]
    recalibrated = with_statistics(merged, shifted)
    for frame, answer, network in zip(
        received, answers, (merged, recalibrated, merged), strict=True
    ):
        crossing = networks.codecs[ONE].decoder(torch.from_numpy(frame.coefficients)[None])
        taken = dict(zip(networks.parts(ONE).crossing, crossing, strict=True))
        right = network.run(networks.parts(ONE).server, {}, taken, run_head).answers["cls"]
        torch.testing.assert_close(answer, right, rtol=1e-5, atol=1e-5)
    assert float((answers[1] - answers[2]).abs().max()) > 0.01


def test_another_process_decodes_the_same_coefficients(one_split: Path) -> None:
    device, server = load_device(one_split / "device"), load_server(one_split / "server")
    message = device.encode(split_networks().frames[1], COARSE)
    script = (
        "import sys\n"
        "from spaces.split.server import load_server\n"
        f"frame = load_server({str(one_split / 'server')!r}).receive(sys.stdin.buffer.read())\n"
        "sys.stdout.buffer.write(frame.coefficients.tobytes())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], input=message, capture_output=True, check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )  # fmt: skip
    assert np.array_equal(
        np.frombuffer(run.stdout, np.float32), server.receive(message).coefficients
    )


def test_the_finest_coding_that_fits_is_found(folder: Path) -> None:
    device = load_device(folder / "device")
    captured = device.capture(split_networks().frames[2])
    for most_bytes in (200, 500, 2000):
        coding = device.finest_within(captured, most_bytes)
        assert device.count_bytes(captured, coding) <= most_bytes
        assert device.count_bytes(captured, Coding(coding.step - 1, 255)) > most_bytes
        assert len(device.message(captured, coding)) <= most_bytes + 8
    assert device.finest_within(captured, 0, coarsest=4).step == 4


def test_the_points_come_with_the_device(folder: Path) -> None:
    device = load_device(folder / "device")
    assert device.points == (POINT,)
    assert [split.hash for split in device.splits] == [split.hash for split in ALL]


@pytest.mark.parametrize("coding", [Coding(-129, 8), Coding(128, 8), Coding(0, 0)])
def test_a_coding_that_no_message_can_name_is_refused(coding: Coding, one_split: Path) -> None:
    device: SplitDevice = load_device(one_split / "device")
    captured = device.capture(split_networks().frames[0])
    with pytest.raises(BadInput, match="1 to 255 bands are possible"):
        device.message(captured, coding)
    with pytest.raises(BadInput, match="no split 3; the bundle has 1"):
        device.capture(split_networks().frames[0], 3)


def whole(split: Split) -> Bundle:
    """Return the bundle of the plan of a split, unsplit."""
    setup = split_networks().setup
    inputs = {name: model.input for name, model in setup.models.items()}
    tasks = {name: facts.task for name, facts in setup.facts.items()}
    return Bundle(setup.merged(split.plan), inputs, tasks)


def stored_names(part: Path) -> set[str]:
    with safe_open(part / "weights.safetensors", "pt") as file:
        return set(file.keys())
