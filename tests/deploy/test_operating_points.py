"""`export --points`: which plans a bundle gets, and what its card and `bench-bundle` say."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from safetensors.torch import load_file
from tiny import FinishedRun

from search.cli.main import main
from search.data.frames import RenderedScenes
from search.data.synthetic.scenes import SceneSettings
from search.deploy import benchmark
from search.deploy.benchmark import BundleMeasurement, benchmark_bundle
from search.deploy.operating_points import TooFewPlans, further_points
from search.results.search_result import CandidateRecord, Result
from search.utils.console import ConsoleReporter
from spaces.bundle import load_bundle
from spaces.bundle_files import bundle_id
from spaces.stages import total_bytes


@pytest.fixture(scope="module")
def points(tiny_run: FinishedRun) -> list[CandidateRecord]:
    """Return the chosen plan, then the other candidates by rising bytes."""
    records: list[CandidateRecord] = sorted(tiny_run.result.candidates, key=lambda r: r.bytes)
    return sorted(records, key=lambda record: record.hash != tiny_run.result.chosen)


@pytest.fixture(scope="module")
def folder(
    tiny_run: FinishedRun,
    points: list[CandidateRecord],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("points") / "bundle"
    result = export(tiny_run, folder, "--points", len(points))
    assert result.exit_code == 0, result.output
    sizes = ", ".join(f"{record.bytes:,}" for record in points)
    assert f"for {len(points)} operating points, which hold {sizes}, as pred" in result.output
    return folder


def export(run: FinishedRun, folder: Path, *options: object) -> Any:
    arguments = ["export", run.out, "--to", folder, *options]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def bytes_in_file(folder: Path) -> int:
    return total_bytes([*load_file(folder / "weights.safetensors").values()])


def test_an_exported_bundle_answers_at_each_point_as_the_bundle_of_that_plan(
    tiny_run: FinishedRun, points: list[CandidateRecord], folder: Path, tmp_path: Path
) -> None:
    bundle, frame = load_bundle(folder), RenderedScenes(SceneSettings(seed=5), 1)[0]
    assert len(points) > 1 and bundle.points == tuple(record.hash for record in points)
    for record in points[:2]:
        alone = tmp_path / record.hash
        assert export(tiny_run, alone, "--plan", record.hash).exit_code == 0
        bundle.use(record.hash)
        answers, expected = bundle(frame), load_bundle(alone)(frame)
        assert all(torch.equal(answers[name], expected[name]) for name in ("a", "b"))
    assert bundle_id(folder) != bundle_id(tiny_run.out / "bundle")


def test_the_card_says_what_each_point_and_all_together_cost(
    points: list[CandidateRecord], folder: Path
) -> None:
    card = (folder / "CARD.md").read_text().partition("## Operating points")[2]
    section = card.partition("\n## ")[0]
    for record in points:
        fidelity = sum(filter(None, record.fidelity.values())) / len(record.fidelity)
        assert record.quality_kept is not None
        assert (
            f"| {record.hash} | {record.bytes:,} | {record.macs:,} | "
            f"{100 * record.quality_kept:.1f}% | {100 * fidelity:.1f}% |"
        ) in section
    held = bytes_in_file(folder)
    more = held - max(record.bytes for record in points)
    apart = sum(record.bytes for record in points)
    assert f"take {held:,} bytes" in section and f" {more:,} more than" in section
    assert f"separate bundles take {apart:,}" in section and held < apart


def test_bench_bundle_compares_the_bytes_of_all_points(
    tiny_run: FinishedRun,
    points: list[CandidateRecord],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measure(kind: str, folder: Path) -> BundleMeasurement:
        return BundleMeasurement(bytes_in_file(folder), 1, 1, 1.0)

    monkeypatch.setattr(benchmark, "_measure_in_fresh_process", measure)
    output = io.StringIO()
    reporter = ConsoleReporter(Console(file=output, width=300, highlight=False))
    report = benchmark_bundle(folder, reporter, tiny_run.out)
    assert {"merged", "unmerged", "libraries"} <= report.keys()
    assert report["points"] == {record.hash: record.bytes for record in points}
    assert report["in_file_bytes"] == bytes_in_file(folder)
    assert "resident: equal" in output.getvalue()


def test_more_points_than_verified_plans_are_refused(
    tiny_run: FinishedRun, points: list[CandidateRecord], tmp_path: Path
) -> None:
    result = export(tiny_run, tmp_path / "new", "--points", len(points) + 1)
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 1 and f"verified only {len(points)} plans" in line
    assert "ask for fewer points" in line and not (tmp_path / "new").exists()


def with_candidates(result: Result, sizes: str, front: str) -> Result:
    """Return a result with a candidate for each letter, by rising bytes."""
    (template, *_) = result.candidates
    candidates = [
        replace(template, hash=name, bytes=100 * rank) for rank, name in enumerate(sizes, 1)
    ]
    return replace(result, candidates=candidates, verified_front=[*front])


@pytest.mark.parametrize(
    ("first", "count", "front", "expected"),
    [
        ("g", 1, "abcdefg", ""),
        ("g", 2, "abcdefg", "a"),
        ("g", 3, "abcdefg", "ad"),
        ("a", 3, "abcdefg", "dg"),
        ("c", 3, "abcdefg", "ag"),  # takes the place of d, the nearest
        ("d", 7, "abcdefg", "abcefg"),
        ("g", 3, "aeg", "ae"),
        ("g", 3, "ag", "ad"),  # the front is too small: of all candidates
        ("b", 3, "ag", "ag"),  # the first plan is not on the front, but belongs to the three
    ],
)
def test_points_are_spread_evenly_and_include_the_first(
    first: str, count: int, front: str, expected: str, tiny_run: FinishedRun
) -> None:
    result = with_candidates(tiny_run.result, "abcdefg", front)
    record = next(c for c in result.candidates if c.hash == first)
    assert "".join(c.hash for c in further_points(result, record, count)) == expected
    with pytest.raises(TooFewPlans, match=r"--points 8: .* verified only 7 plans"):
        further_points(result, record, 8)
