"""`verify --measured`: what a box measured, beside the candidates of the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from html_pages import read_page
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from servers import free_port
from tiny import FinishedRun, Weights, config_data, run_config, write_config

from search.cli.main import main
from search.pipelines.finished_run import LoadedRun
from search.results.documents import content_id
from search.results.measured import DeviceMeasurement, add_measurement
from search.tracking.target import Target
from search.utils.records import load_record

BOARD, CREATED = "Jetson <Orin> Nano", "2026-05-04T12:00:00+00:00"


@pytest.fixture(scope="module")
def own_run(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """One complete run with an MLflow store of its own: measurements change what is logged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = tmp_path_factory.mktemp("measured-run")
        return run_config(write_config(folder, config_data(weights)))


@pytest.fixture
def out(own_run: FinishedRun, tmp_path: Path) -> Path:
    """Return the folder of a copy of a finished run."""
    shutil.copytree(own_run.config.base, tmp_path / "copied")
    return tmp_path / "copied" / own_run.out.relative_to(own_run.config.base)


def measurement(plan: str, milliseconds: float = 12.5, **changes: Any) -> dict[str, Any]:
    sizes = {"loaded_bytes": 20_000_000, "running_bytes": 31_400_000}
    return {
        "version": 1, "plan": plan, "bundle": "ab" * 32, "folder": "", "device": BOARD,
        "cores": 6, "system": "Linux aarch64", "provider": "CPUExecutionProvider", "threads": 6,
        "runtime": "onnxruntime 1.31.1", "opset": 17, "frames": 30, "created": CREATED,
        "graphs": {"model": milliseconds},
        "sets": {"merged": {"milliseconds": milliseconds, **sizes}},
        "models": {"a": {"split": 7.5}}, "rates": {}, "per_second": {},
        **changes,
    }  # fmt: skip


def verify(out: Path, *measurements: dict[str, Any], options: tuple[str, ...] = ()) -> Result:
    arguments = []
    for number, content in enumerate(measurements):
        file = out.parent / f"box-{number}.json"
        file.write_text(json.dumps(content))
        arguments += ["--measured", str(file)]
    return CliRunner().invoke(main, ["verify", str(out), *arguments, *options])


def candidate_cells(out: Path) -> dict[str, list[str]]:
    """Return the cells of the report's table of candidates, by the first cell of the row."""
    (table, *_) = read_page(out / "report.html").all("table")
    return {row[0].split()[0]: row[1:] for row in table.rows()}


def candidate_run(out: Path, plan: str) -> Run:
    client = MlflowClient(tracking_uri=Target.of(LoadedRun.from_folder(out).config).uri)
    experiment = client.get_experiment_by_name("merge-search")
    assert experiment is not None
    query = f"tags.`merge_search.plan` = '{plan}' and tags.`merge_search.kind` = 'candidate'"
    (run,) = client.search_runs([experiment.experiment_id], query)
    return run


def test_measurements_stand_beside_the_candidates(own_run: FinishedRun, out: Path) -> None:
    first, second = (c.hash for c in own_run.result.candidates[:2])
    page, identity = (
        (out / "report.html").read_text(),
        content_id((out / "result.json").read_bytes()),
    )
    result = verify(out, measurement(first), measurement(second, 20.25))
    assert result.exit_code == 0, result.output
    assert f"{first} on {BOARD}: 12.50 ms per frame, 31.40 MB resident" in result.stdout
    assert not (out / "verify").exists()
    assert content_id((out / "result.json").read_bytes()) == identity
    loaded = LoadedRun.from_folder(out).result
    assert [m.plan for m in loaded.measured] == [first, second]
    cells = candidate_cells(out)
    assert cells["Plan"][-2:] == [f"ms per frame on {BOARD}", f"Resident MB on {BOARD}"]
    assert cells[first][-2:] == ["12.50 6 threads, onnxruntime 1.31.1", "31.4"]
    assert cells[second][-2].startswith("20.25") and cells["unmerged"][-2:] == ["", ""]
    renewed = (out / "report.html").read_text()
    assert renewed.partition("</table>")[2] == page.partition("</table>")[2]
    assert renewed.partition("<table")[0] == page.partition("<table")[0]


def test_the_run_of_a_candidate_in_mlflow_has_its_measurement(
    own_run: FinishedRun, out: Path
) -> None:
    plan = own_run.result.candidates[0].hash
    before = candidate_run(out, plan)
    later = {
        "created": "2026-05-05T12:00:00+00:00", "device": "Other board",
        "per_second": {"merged": 150.0, "split": 120.5, "alone": 90.0},
    }  # fmt: skip
    result = verify(out, measurement(plan, 3.0, **later), measurement(plan))
    assert "with its measurements on devices" in result.stdout
    assert "onnxruntime 1.31.1; 120 ms per second of camera time)" in result.stdout
    data = candidate_run(out, plan).data
    assert data.metrics == before.data.metrics | {
        "measured_ms": 3.0, "measured_resident_mb": 31.4, "measured_ms_a": 7.5,
        "measured_ms_per_second": 120.5,
    }  # fmt: skip
    assert data.tags == before.data.tags | {
        "merge_search.measured_device": "Other board",
        "merge_search.measured_runtime": "6 threads, onnxruntime 1.31.1",
    }
    assert CliRunner().invoke(main, ["sync", str(out)]).exit_code == 0
    assert candidate_run(out, plan).data.metrics == data.metrics


def test_a_measurement_in_the_same_place_replaces_the_earlier_one(
    own_run: FinishedRun, out: Path
) -> None:
    plan = own_run.result.candidates[0].hash
    on_gpu = measurement(plan, 1.5, provider="CUDAExecutionProvider")
    verify(out, measurement(plan), on_gpu)
    verify(out, measurement(plan, 11.0, threads=1))
    assert candidate_cells(out)["Plan"][-4::2] == [
        f"ms per frame on {BOARD}, CUDA", f"ms per frame on {BOARD}",
    ]  # fmt: skip
    assert [m.whole.milliseconds for m in LoadedRun.from_folder(out).result.measured] == [1.5, 11]
    shown = CliRunner().invoke(main, ["plan", "show", str(out / "plans" / f"{plan}.json")])
    assert f"measured {plan} on {BOARD}, CUDA: 1.50 ms per frame" in shown.stdout


def test_plans_that_were_not_verified_can_be_measured(own_run: FinishedRun, out: Path) -> None:
    verified = {c.hash for c in own_run.result.candidates}
    other = next(r.hash for r in own_run.result.front if r.hash not in verified)
    result = verify(out, measurement(other), options=("--json",))
    assert result.exit_code == 0, result.output
    assert result.stdout_bytes == (out / "result.json").read_bytes()
    assert json.loads(result.stdout)["measured"][0]["plan"] == other


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ms: 12", "box.json: invalid JSON"),
        ("[]", "box.json: input should be an object"),
        ('{"plan": "0123456789ab"}', "box.json: version: field required (and 14 more); give the "),
        (json.dumps(measurement("ffffffffffff")), "measures plan ffffffffffff, which the run in"),
        (json.dumps(measurement("a", sets={})), "neither model.onnx nor trunk and tails"),
    ],
)
def test_a_file_without_a_measurement_of_the_run_is_refused_in_one_sentence(
    own_run: FinishedRun, tmp_path: Path, content: str, message: str
) -> None:
    before = (own_run.out / "result.json").read_bytes()
    (tmp_path / "box.json").write_text(content)
    arguments = ["verify", str(own_run.out), "--measured", str(tmp_path / "box.json")]
    result = CliRunner().invoke(main, arguments)
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 1 and message in line
    assert (own_run.out / "result.json").read_bytes() == before
    refused = CliRunner().invoke(main, [*arguments, "--outside"])
    assert refused.exit_code == 2 and "--measured goes alone" in refused.stderr


def test_measurements_wait_while_mlflow_is_away(
    own_run: FinishedRun, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, local = own_run.result.candidates[0].hash, Target.of(LoadedRun.from_folder(out).config)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert verify(out, measurement(plan, 9.0)).exit_code == 3
    assert verify(out, measurement(plan, 8.0)).exit_code == 3
    (waiting,) = (out / "unlogged").iterdir()
    assert (waiting / "report.html").read_bytes() == (out / "report.html").read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local.uri)
    (out / "result.json").unlink()
    synchronised = CliRunner().invoke(main, ["sync", str(out)])
    assert synchronised.exit_code == 0, synchronised.output
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    client = MlflowClient(tracking_uri=local.uri)
    experiment = client.get_experiment_by_name("merge-search")
    assert experiment is not None
    query = f"tags.`merge_search.plan` = '{plan}' and metrics.measured_ms = 8"
    assert len(client.search_runs([experiment.experiment_id], query)) == 1


def test_adding_a_measurement_twice_changes_nothing() -> None:
    contents = [measurement("0123456789ab"), measurement("0123456789ab", device="Pi 5")]
    first, second = (
        load_record(DeviceMeasurement, json.dumps(content), "box") for content in contents
    )
    both = add_measurement(add_measurement([], first), second)
    assert both == [first, second] and add_measurement(both, second) == both
    assert add_measurement(both, first) == [second, first]
