"""The points of a split as two folders, from the document and the frames alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import FinishedRun

from search.cli.main import main
from search.pipelines.finished_run import NoSuchPlan
from search.pipelines.split.export_split import (
    ExportedSplit,
    TooFewPoints,
    export_split,
    holds_split,
)
from search.results.documents import read_document
from search.results.split_result import SplitResult
from search.utils.reporter import SILENT
from spaces.split.device import load_device
from spaces.split.server import load_server


@pytest.fixture(scope="module")
def result(tiny_split: FinishedRun) -> SplitResult:
    document = read_document(tiny_split.out / "split" / "split.json")
    assert isinstance(document, SplitResult)
    return document


@pytest.fixture(scope="module")
def exported(tiny_split: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> ExportedSplit:
    folder = tmp_path_factory.mktemp("export") / "parts"
    return export_split(tiny_split.out / "split", None, 2, folder, SILENT)


def test_the_chosen_point_comes_first_and_the_messages_have_its_size(
    exported: ExportedSplit, result: SplitResult
) -> None:
    chosen = result.chosen_point
    assert chosen is not None and exported.points[0] == chosen.hash
    device = load_device(exported.folder / "device")
    server = load_server(exported.folder / "server")
    assert device.splits[0].to_dict() == chosen.split
    assert device.identity == server.identity
    point = next(p for p in device.points if p.coding == chosen.coding and p.split == 0)
    assert point.bytes == pytest.approx(chosen.bytes)
    assert point.quality == pytest.approx(chosen.quality)


def test_a_device_may_choose_coarser_and_finer_steps(exported: ExportedSplit) -> None:
    points = [p for p in load_device(exported.folder / "device").points if p.split == 0]
    assert len({point.coding.step for point in points}) > 3
    assert [p.quality for p in points] == sorted((p.quality for p in points), reverse=True)


def test_each_part_says_what_it_is_and_was_checked(exported: ExportedSplit) -> None:
    assert len(exported.checks) == 3
    for name in ("device", "server"):
        card = (exported.folder / name / "CARD.md").read_text()
        assert f"the {name}'s part" in card and "without the codec" in card
    assert (exported.folder / "device" / "example.py").is_file()


def test_the_command_writes_both_parts(tiny_split: FinishedRun, tmp_path: Path) -> None:
    out = tiny_split.out / "split"
    assert holds_split(out) and not holds_split(tiny_split.out)
    run = CliRunner().invoke(main, ["export", str(out), "--to", str(tmp_path / "parts")])
    assert run.exit_code == 0, run.output
    assert "merge-search serve" in run.output
    refused = CliRunner().invoke(
        main, ["export", str(out), "--to", str(tmp_path / "parts"), "--int8"]
    )
    assert refused.exit_code == 2 and "are for runs" in refused.output.replace("\n", " ")


def test_points_that_were_not_verified_are_refused(
    tiny_split: FinishedRun, tmp_path: Path
) -> None:
    out = tiny_split.out / "split"
    with pytest.raises(NoSuchPlan, match="begins with 'zz'"):
        export_split(out, "zz", 1, tmp_path / "parts", SILENT)
    with pytest.raises(TooFewPoints, match=r"raise split\.verify"):
        export_split(out, None, 99, tmp_path / "parts", SILENT)
