"""The chosen bundle as an MLflow model, loaded in an environment without merge-search."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel
from mlflow.models import get_model_info
from mlflow.tracking import MlflowClient
from PIL import Image
from servers import Server
from tiny import FinishedRun
from torch import Tensor

from search.data.frames import RenderedScenes
from search.data.synthetic.scenes import SceneSettings
from search.tracking.client import log_document
from search.tracking.outbox import queue_document
from search.tracking.target import Target
from search.utils.records import write_record
from spaces.bundle import load_bundle
from spaces.inputs import Frame

PREDICT = """
import json, sys
try:
    import spaces
except ImportError:
    pass
else:
    sys.exit(f"this is no fresh environment: {spaces.__file__}")
import mlflow, numpy
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
answers = model.predict(numpy.load(sys.argv[3]))
assert not {"search", "optuna"} & set(sys.modules)
print(json.dumps({name: answer.tolist() for name, answer in answers.items()}))
"""

SERVE = """
import json, sys
import mlflow
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import invocations
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
schema, answers = model.metadata.get_input_schema(), []
for request in json.load(open(sys.argv[3])):
    try:
        response = invocations(json.dumps(request), "application/json", model, schema)
        answers.append(json.loads(response.response)["predictions"])
    except MlflowException as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


PREDICT_SEVERAL_SIZES = """
import base64, json, sys
import mlflow, numpy, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
files = [base64.b64decode(text) for text in json.load(open(sys.argv[3]))]
frames = numpy.empty(len(files), dtype=object)
frames[:] = files
inputs = [frames, pandas.DataFrame({"image": files})]
answers = [model.predict(given) for given in inputs]
print(json.dumps([{name: a.tolist() for name, a in answer.items()} for answer in answers]))
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with all packages except this project."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Packages in this folder can be imported. This project is only linked from it, and cannot.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


@pytest.fixture
def out(tiny_run: FinishedRun, tmp_path: Path) -> Path:
    """Return a copy of a finished run's folder, to log from."""
    return Path(shutil.copytree(tiny_run.out, tmp_path / "out"))


def models(target: Target) -> list[LoggedModel]:
    client = MlflowClient(tracking_uri=target.uri)
    experiment = client.get_experiment_by_name(target.experiment)
    assert experiment is not None
    return list(client.search_logged_models([experiment.experiment_id]))


def served_answers(
    bare_python: Path, uri: str, model: LoggedModel, tmp_path: Path
) -> dict[str, object]:
    """Return the answers of a logged model to two frames, from a process without this project."""
    frames = RenderedScenes(SceneSettings(seed=5), 2)
    np.save(tmp_path / "frames.npy", np.stack([frames[0], frames[1]]))
    answers: dict[str, object] = run_there(
        bare_python, PREDICT, uri, model, tmp_path / "frames.npy"
    )
    return answers


def run_there(bare_python: Path, script: str, uri: str, model: LoggedModel, file: Path) -> Any:
    """Return the JSON that a script prints of a model and a file, without this project."""
    process = subprocess.run(
        [bare_python, "-W", "ignore", "-c", script, uri, model.model_uri, file],
        cwd=file.parent, capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def bundle_answers(tiny_run: FinishedRun, tmp_path: Path) -> dict[str, object]:
    frames = np.load(tmp_path / "frames.npy")
    answers = load_bundle(tiny_run.out / "bundle")([*frames])
    assert len(answers) == 2 and all(len(answer) == 2 for answer in answers.values())
    return {
        name: answer.tolist() for name, answer in answers.items() if isinstance(answer, Tensor)
    }


def test_a_run_writes_the_bundle_of_the_chosen_plan(tiny_run: FinishedRun) -> None:
    plan = json.loads((tiny_run.out / "bundle" / "plan.json").read_text())
    chosen = next(c for c in tiny_run.result.candidates if c.hash == tiny_run.result.chosen)
    assert plan == chosen.plan
    assert "Bundle of the chosen plan" in tiny_run.output and "as predicted" in tiny_run.output


def test_a_logged_model_answers_as_the_bundle_does(
    tiny_run: FinishedRun, bare_python: Path, tmp_path: Path
) -> None:
    target = Target.of(tiny_run.config)
    (model,) = models(target)
    assert served_answers(bare_python, target.uri, model, tmp_path) == bundle_answers(
        tiny_run, tmp_path
    )


def test_a_model_from_a_server_answers_as_the_bundle_does(
    tiny_run: FinishedRun, out: Path, server: Server, bare_python: Path, tmp_path: Path
) -> None:
    target = Target(server.uri, "served", None)
    log_document(tiny_run.result, out, target)
    (model,) = models(target)
    assert served_answers(bare_python, target.uri, model, tmp_path) == bundle_answers(
        tiny_run, tmp_path
    )


SMALL = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
LARGE = np.random.default_rng(1).integers(0, 256, (70, 60, 3), dtype=np.uint8)


def encoded(frame: Frame) -> str:
    """Return the base64 text of a PNG file of the frame."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


REQUESTS: tuple[tuple[dict[str, Any], list[Frame]], ...] = (
    ({"inputs": [SMALL.tolist(), SMALL.tolist()]}, [SMALL, SMALL]),
    ({"instances": [SMALL.tolist(), SMALL.tolist()]}, [SMALL, SMALL]),
    ({"inputs": SMALL.tolist()}, [SMALL]),
    ({"inputs": [SMALL.tolist(), LARGE.tolist()]}, [SMALL, LARGE]),
    ({"inputs": [encoded(SMALL), encoded(LARGE)]}, [SMALL, LARGE]),
    ({"inputs": "data:image/png;base64," + encoded(LARGE)}, [LARGE]),
    ({"dataframe_split": {"columns": ["image"], "data": [[encoded(SMALL)]]}}, [SMALL]),
    ({"dataframe_records": [{"x": encoded(SMALL)}, {"x": encoded(LARGE)}]}, [SMALL, LARGE]),
    ({"inputs": [encoded(SMALL), LARGE.tolist()]}, [SMALL, LARGE]),
    ({"inputs": SMALL[:, :, 0].tolist()}, [SMALL[:, :, :1].repeat(3, 2)]),
)
"""Requests to the served model, and the frames that they hold."""

REFUSALS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"inputs": [(SMALL / 255).tolist()]}, "frame 0: float64 of shape (40, 50, 3); "),
    ({"inputs": (SMALL - 300.0).tolist()}, "as it was before it was normalised"),
    ({"inputs": SMALL.transpose(2, 0, 1).tolist()}, "give frame.transpose(1, 2, 0)"),
    ({"inputs": ["no image"]}, "frame 0: a text of 8 characters that is not base64"),
    ({"inputs": [encoded(SMALL), encoded(SMALL)[:400]]}, "frame 1: 300 bytes that are no comp"),
    ({"inputs": [[[[1, 2, 3]], [[1, 2]]]]}, "frame 0: its rows or pixels have different lengths"),
    ({"inputs": [1, 2]}, "frame 0: int of shape ()"),
)
"""Requests that no model answers, and a part of what it says."""


def test_the_server_takes_stacks_single_frames_several_sizes_and_encoded_images(
    tiny_run: FinishedRun, bare_python: Path, tmp_path: Path
) -> None:
    target = Target.of(tiny_run.config)
    (model,) = models(target)
    requests = [request for request, _ in (*REQUESTS, *REFUSALS)]
    (tmp_path / "requests.json").write_text(json.dumps(requests))
    responses = run_there(bare_python, SERVE, target.uri, model, tmp_path / "requests.json")
    bundle = load_bundle(tiny_run.out / "bundle")
    for (request, frames), response in zip(REQUESTS, responses, strict=False):
        for name, answer in bundle(frames).items():
            assert isinstance(answer, Tensor), name
            np.testing.assert_allclose(response[name], answer, atol=1e-5, err_msg=str([*request]))
    for (_, message), response in zip(REFUSALS, responses[len(REQUESTS) :], strict=True):
        assert message in response


def test_predict_takes_arrays_and_tables_of_encoded_images(
    tiny_run: FinishedRun, bare_python: Path, tmp_path: Path
) -> None:
    target = Target.of(tiny_run.config)
    (model,) = models(target)
    file = tmp_path / "images.json"
    file.write_text(json.dumps([encoded(SMALL), encoded(LARGE)]))
    answers = run_there(bare_python, PREDICT_SEVERAL_SIZES, target.uri, model, file)
    expected = load_bundle(tiny_run.out / "bundle")([SMALL, LARGE])
    assert len(answers) == 2
    for answer in answers:
        for name, output in expected.items():
            assert isinstance(output, Tensor)
            np.testing.assert_allclose(answer[name], output, atol=1e-5)


def test_the_signature_names_the_output_of_every_model(
    tiny_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target.of(tiny_run.config)
    (model,) = models(target)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", target.uri)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signature = get_model_info(model.model_uri).signature
    assert signature is not None and signature.inputs is not None
    assert signature.outputs is not None
    assert [spec.type for spec in signature.inputs.inputs] == [np.dtype(object)]
    outputs = {spec.name: (spec.type, spec.shape) for spec in signature.outputs.inputs}
    assert outputs == {name: (np.dtype(np.float32), (-1, 7)) for name in ("a", "b")}


def test_the_model_has_its_metrics_requirements_and_files(
    tiny_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, result = Target.of(tiny_run.config), tiny_run.result
    (model,) = models(target)
    chosen = next(c for c in result.candidates if c.hash == result.chosen)
    assert str(model.status) == "READY" and model.name == result.name
    client = MlflowClient(tracking_uri=target.uri)
    run = client.get_run(str(model.source_run_id))
    assert run.outputs is not None
    assert run.data.tags["merge_search.plan"] == chosen.hash
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert model.params["bytes"] == str(chosen.bytes) and model.params["dtype"] == "float32"
    metrics = {metric.key: metric.value for metric in model.metrics or []}
    assert metrics == run.data.metrics and metrics["top1_a"] == chosen.accuracy["a"]["top1"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", target.uri)
    folder = Path(download_artifacts(model.model_uri, dst_path=str(tmp_path)))
    requirements = (folder / "requirements.txt").read_text().split()
    assert f"torch=={version('torch').partition('+')[0]}" in requirements
    assert not any("optuna" in line or "merge" in line for line in requirements)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"code/spaces/bundle.py", "artifacts/bundle/weights.safetensors"} <= files
    assert not any("__pycache__" in name or name.startswith("code/search") for name in files)


def test_a_bundle_of_another_run_is_not_logged_with_a_result(
    tiny_run: FinishedRun, out: Path, tmp_path: Path
) -> None:
    other = replace(tiny_run.result, bundle="0" * 12)
    write_record(out / "result.json", other)
    store = shutil.copy(tiny_run.config.base / "out" / "mlflow.db", tmp_path / "mlflow.db")
    target = Target(f"sqlite:///{store}", "other", (tmp_path / "artifacts").as_uri())
    log_document(other, out, target)
    assert models(target) == []


def test_a_queued_result_has_its_bundle_although_out_changes(
    tiny_run: FinishedRun, out: Path
) -> None:
    queued = queue_document((out / "result.json").read_bytes(), out / "result.json", out)
    expected = (out / "bundle" / "weights.safetensors").read_bytes()
    shutil.rmtree(out / "bundle")
    assert (queued / "bundle" / "weights.safetensors").read_bytes() == expected
