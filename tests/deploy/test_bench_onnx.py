"""`bench_onnx.py`, which an export puts beside its graphs, in processes of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import onnx
import pytest
from split_graphs import EARLY, FRAMES, write_graphs

from spaces.bundle_files import BUNDLE

PLAN = "0123456789ab"
RATES = {"a": 2, "b": 10}
WITH_RUNTIME_ALONE = (
    "import runpy, sys\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    "assert not {'torch', 'onnx', 'search', 'spaces'} & set(sys.modules)"
)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle with rates, its graphs whole and in parts, and the program."""
    folder = tmp_path_factory.mktemp("box")
    write_graphs(folder, "batch")
    inputs: dict[str, Any] = {name.removesuffix("_input"): {} for name in FRAMES}
    description = {"plan": PLAN, "inputs": inputs, "rates": RATES}
    (folder / BUNDLE).write_text(json.dumps(description))
    program = files("search.deploy").joinpath("examples", "bench_onnx.py").read_text()
    (folder / "bench_onnx.py").write_text(program)
    return folder


def bench(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", WITH_RUNTIME_ALONE, str(folder / "bench_onnx.py")]
    options = (*options, "--frames", "2", "--threads", "1")
    return subprocess.run([*program, *options], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def report(box: Path) -> dict[str, Any]:
    finished = bench(box)
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    assert "trunk.onnx" in finished.stderr and "ms per second of camera time" in finished.stderr
    answer: dict[str, Any] = json.loads(line)
    return answer


def test_every_graph_of_the_bundle_is_measured(report: dict[str, Any], box: Path) -> None:
    assert set(report["graphs"]) == {path.stem for path in box.glob("*.onnx")}
    assert all(value > 0 for value in report["graphs"].values())
    assert report["plan"] == PLAN and report["frames"] == 2 and report["threads"] == 1
    assert set(report["sets"]) == {"merged", "split", "a_alone", "b_alone"}
    for numbers in report["sets"].values():
        assert numbers["loaded_bytes"] > 0 and numbers["running_bytes"] > 0


def test_times_per_frame_and_per_second_are_sums_of_those_of_the_graphs(
    report: dict[str, Any],
) -> None:
    graph, close = report["graphs"], pytest.approx
    assert report["sets"]["split"]["milliseconds"] == close(
        graph["trunk"] + graph["a"] + graph["b"]
    )
    for name in RATES:
        assert report["models"][name] == close(
            {"split": graph["trunk"] + graph[name], "alone": graph[f"{name}_alone"]}
        )
    assert report["per_second"] == close(
        {
            "merged": 10 * graph["model"],
            "split": 10 * graph["trunk"] + 2 * graph["a"] + 10 * graph["b"],
            "alone": 2 * graph["a_alone"] + 10 * graph["b_alone"],
        }
    )


def test_the_opset_is_that_of_the_graphs(report: dict[str, Any], box: Path) -> None:
    (opset,) = {entry.version for entry in onnx.load(box / "model.onnx").opset_import}
    assert report["opset"] == opset


def without(box: Path, tmp_path: Path, *names: str) -> Path:
    """Return a copy of the bundle that lacks some files."""
    copy = shutil.copytree(box, tmp_path / "copy")
    for name in names:
        (copy / name).unlink()
    return copy


def test_the_graphs_of_a_target_lie_in_a_folder_of_the_bundle(box: Path, tmp_path: Path) -> None:
    copy = without(box, tmp_path, *(path.name for path in box.glob("*.onnx")))
    refused = bench(copy)
    assert "holds no ONNX graph of the bundle: export it with --format onnx" in refused.stderr
    (copy / "jetson").mkdir()
    write_graphs(copy / "jetson", 1)
    for path in (copy / "jetson").glob("?*_alone.onnx"):
        path.unlink()
    assert "one of its folders with --folder: jetson" in bench(copy).stderr
    report = json.loads(bench(copy, "--folder", "jetson").stdout)
    assert set(report["graphs"]) == {"model", "trunk", "a", "b"}
    assert report["folder"] == "jetson" and set(report["per_second"]) == {"merged", "split"}


def test_without_rates_there_are_no_times_per_second(box: Path, tmp_path: Path) -> None:
    copy = without(
        box, tmp_path, *(path.name for path in box.glob("*.onnx") if path.stem != "model")
    )
    description = json.loads((copy / BUNDLE).read_text())
    (copy / BUNDLE).write_text(json.dumps({**description, "rates": {"a": 2}}))
    report = json.loads(bench(copy).stdout)
    assert report["per_second"] == {} and report["models"] == {}
    assert report["sets"]["merged"]["milliseconds"] == report["graphs"]["model"]


@pytest.mark.parametrize(
    ("missing", "options", "message"),
    [
        ("trunk.onnx", [], f"a.onnx reads {EARLY}, an output of trunk.onnx, which is missing"),
        ("a.onnx", [], "a.onnx missing: copy all graphs of the bundle"),
        (BUNDLE, [], "bundle.json: cannot be read"),
        ("b.onnx", ["--provider", "NoProvider"], "--provider NoProvider: onnxruntime here has"),
        ("b.onnx", ["--folder", "none"], "none: there is no such folder"),
    ],
)
def test_a_missing_part_is_named_in_one_sentence(
    box: Path, tmp_path: Path, missing: str, options: list[str], message: str
) -> None:
    finished = bench(without(box, tmp_path, missing), *options)
    assert finished.returncode == 1 and finished.stdout == ""
    assert message in finished.stderr.splitlines()[-1]
