"""A split is exported as it was verified: same codecs, promised bytes, parts that run alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from commands import StartCommand
from safetensors.torch import load_file
from tiny import STREET, FinishedRun, capture_reporter

from search.cli.main import main
from search.data.frames import BadFrames, RenderedScenes
from search.pipelines.finished_run import NoSuchPlan
from search.pipelines.split.export_split import (
    CodecChanged,
    ExportedSplit,
    TooFewPoints,
    export_split,
    holds_split,
)
from search.utils.files import CannotWrite
from spaces.split.device import load_device
from spaces.split.server import load_server
from spaces.stages import total_bytes

Change = Callable[[dict[str, Any]], None]


def export(out: Path, folder: Path, point: str | None = None, count: int = 1) -> ExportedSplit:
    return export_split(out, point, count, folder, capture_reporter().reporter)


@pytest.fixture(scope="module")
def exported(tiny_split: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the bundle of each verified point by its hash, and that of all as `all`."""
    folder, result = tmp_path_factory.mktemp("exported"), tiny_split.result
    folders = {point.hash: folder / point.hash for point in result.points}
    for point, path in folders.items():
        assert export(tiny_split.out / "split", path, point).points == (point,)
    count = len(result.points)
    export(tiny_split.out / "split", folder / "all", result.chosen, count)
    return folders | {"all": folder / "all"}


def test_the_device_holds_the_bytes_that_the_split_promised(
    tiny_split: FinishedRun, exported: dict[str, Path]
) -> None:
    for point in tiny_split.result.points:
        device = exported[point.hash] / "device"
        in_files = [tensors_in(file) for file in device.glob("*.safetensors")]
        assert sum(in_files) == point.device_bytes == load_device(device).held_bytes
        assert tensors_in(device / "codecs.safetensors") == point.codec_bytes
        server = load_server(exported[point.hash] / "server")
        files = (exported[point.hash] / "server").glob("*.safetensors")
        assert sum(map(tensors_in, files)) == server.held_bytes
        assert "as predicted" in (device / "CARD.md").read_text()


def tensors_in(file: Path) -> int:
    return total_bytes([*load_file(file).values()])


def test_codecs_do_not_depend_on_what_else_is_exported(
    tiny_split: FinishedRun, exported: dict[str, Path]
) -> None:
    together = load_device(exported["all"] / "device")
    by_split = {split.hash: number for number, split in enumerate(together.splits)}
    frame = RenderedScenes(STREET, 1)[0]
    for point in tiny_split.result.points:
        alone = load_device(exported[point.hash] / "device")
        number = by_split[alone.splits[0].hash]
        one, other = alone.capture(frame), together.capture(frame, number)
        assert (one.coefficients == other.coefficients).all()
        (listed,) = (p for p in alone.points if p.coding == point.coding)
        assert (listed.bytes, listed.bytes_p95) == (point.bytes, point.bytes_p95)
        assert listed.quality == point.quality


def test_what_two_points_have_in_common_is_once_in_their_bundle(
    tiny_split: FinishedRun, exported: dict[str, Path]
) -> None:
    held, apart = 0, 0
    for side in ("device", "server"):
        weights = [
            exported[p.hash] / side / "weights.safetensors" for p in tiny_split.result.points
        ]
        together = tensors_in(exported["all"] / side / "weights.safetensors")
        union = {content for file in weights for content in contents_of(file)}
        assert sum(len(content) for *_, content in union) == together
        held, apart = held + together, apart + sum(map(tensors_in, weights))
    assert held < apart


def contents_of(file: Path) -> set[tuple[str, str, bytes]]:
    """Return the place, the type and the bytes of every tensor."""
    tensors = load_file(file).items()
    return {(name, str(tensor.dtype), tensor.numpy().tobytes()) for name, tensor in tensors}


def test_each_part_answers_where_the_other_is_not(
    tiny_split: FinishedRun, exported: dict[str, Path], tmp_path: Path
) -> None:
    device = load_device(shutil.move(shutil.copytree(exported["all"] / "device", tmp_path / "d"),
                                     tmp_path / "edge"))  # fmt: skip
    server = load_server(shutil.copytree(exported["all"] / "server", tmp_path / "far"))
    for number in range(len(device.splits)):
        captured = device.capture(RenderedScenes(STREET, 1)[0], number)
        coding = next(point.coding for point in device.points if point.split == number)
        (answers,) = server.answer([server.receive(device.message(captured, coding))])
        assert answers and not {*answers} & {*captured.answers}
        both = captured.answers | answers
        assert {*both} == {"a", "b"} and both["a"].shape == (1, 7)


def test_the_command_writes_the_same_bundle_and_says_how_to_go_on(
    tiny_split: FinishedRun, exported: dict[str, Path], start: StartCommand, tmp_path: Path
) -> None:
    """In another process, so that nothing of a bundle depends on one."""
    done = start("export", tiny_split.out / "split", "--to", tmp_path / "gate")
    assert done.exit_code() == 0, done.output
    assert f"merge-search serve {tmp_path}/gate/server" in done.output
    files = {path.relative_to(tmp_path / "gate").as_posix() for path in tmp_path.rglob("gate/*/*")}
    both = ("bundle.json", "weights.safetensors", "codecs.safetensors", "CARD.md")
    assert {f"{side}/{name}" for side in ("device", "server") for name in both} <= files
    assert "device/example.py" in files and "server/example.py" not in files
    chosen = load_device(exported[str(tiny_split.result.chosen)] / "device").identity
    assert load_device(tmp_path / "gate" / "device").identity == chosen
    assert load_server(tmp_path / "gate" / "server").identity == chosen


@pytest.mark.parametrize("option", [["--int8"], ["--split"], ["--format", "onnx"]])
def test_options_for_runs_are_refused(
    option: list[str], tiny_split: FinishedRun, tmp_path: Path
) -> None:
    out, folder = str(tiny_split.out / "split"), tmp_path / "gate"
    refused = CliRunner().invoke(main, ["export", out, "--to", str(folder), *option])
    assert refused.exit_code == 2 and "are for runs" in refused.output.replace("\n", " ")
    assert not folder.exists()


def test_points_that_were_not_verified_are_refused(
    tiny_split: FinishedRun, tmp_path: Path
) -> None:
    out = tiny_split.out / "split"
    assert holds_split(out) and not holds_split(tiny_split.out)
    with pytest.raises(NoSuchPlan, match="begins with 'zz'; there are"):
        export(out, tmp_path / "gate", "zz")
    with pytest.raises(TooFewPoints, match=r"99 points are asked for.*raise split\.verify"):
        export(out, tmp_path / "gate", count=99)


def test_a_device_may_choose_coarser_and_finer_steps(exported: dict[str, Path]) -> None:
    points = [p for p in load_device(exported["all"] / "device").points if p.split == 0]
    assert len({point.coding.step for point in points}) > 3
    assert [p.quality for p in points] == sorted((p.quality for p in points), reverse=True)


def test_each_part_says_what_it_is_and_was_checked(exported: dict[str, Path]) -> None:
    for name in ("device", "server"):
        card = (exported["all"] / name / "CARD.md").read_text()
        assert f"the {name}'s part" in card and "without the codec" in card


def test_a_folder_with_other_files_stays(tiny_split: FinishedRun, tmp_path: Path) -> None:
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / "note.txt").write_text("mine")
    with pytest.raises(CannotWrite, match="holds other files"):
        export(tiny_split.out / "split", tmp_path / "gate")
    assert [path.name for path in tmp_path.iterdir()] == ["gate"]
    assert (tmp_path / "gate" / "note.txt").read_text() == "mine"


def change_frames(data: dict[str, Any]) -> None:
    data["frames"]["hash"] = "0" * 8


def change_bytes(data: dict[str, Any]) -> None:
    for point in data["points"]:
        point["predicted_bytes"] *= 1.01


def change_plan(data: dict[str, Any]) -> None:
    for point in data["points"]:
        point["plan"] = "0" * 12


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (change_frames, BadFrames, "the frames of the split have changed since"),
        (change_bytes, CodecChanged, "the codec that is fitted again takes .* bytes a frame"),
        (change_plan, NoSuchPlan, "is no longer among the verified plans of the run"),
    ],
)
def test_what_would_be_another_bundle_is_not_written(
    change: Change,
    error: type[Exception],
    sentence: str,
    tiny_split: FinishedRun,
    tmp_path: Path,
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_split.config.base, base)
    out = base / tiny_split.out.relative_to(tiny_split.config.base) / "split"
    data = json.loads((out / "split.json").read_text())
    change(data)
    (out / "split.json").write_text(json.dumps(data))
    with pytest.raises(error, match=sentence):
        export(out, tmp_path / "gate")
    assert not (tmp_path / "gate").exists()
