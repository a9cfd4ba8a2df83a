"""Plans of a finished run verified on its own data, on other labels, and without labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from PIL import Image
from servers import free_port
from tiny import (
    STREET,
    CapturedReporter,
    FinishedRun,
    Weights,
    capture_reporter,
    config_data,
    run_config,
    save_noise_image,
    with_changes,
    write_config,
)

from search.cli.main import main
from search.config.base import BadConfig
from search.config.loading import config_of
from search.data.frames import cached_scene
from search.data.ground_truth import BadTruth
from search.pipelines.deployment.load import load_deployment
from search.pipelines.finished_run import LoadedRun, NoSuchPlan
from search.pipelines.verify import verify
from search.pipelines.verify_inputs import BadData, VerificationInputs
from search.results.documents import content_id, read_document
from search.results.verification import Verification
from search.tracking.outbox import NotLogged, sync
from search.tracking.run_writer import PARENT_TAG
from search.tracking.target import Target

OTHERS = 10


@pytest.fixture(autouse=True)
def _short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def out(tiny_run: FinishedRun, tmp_path: Path) -> Path:
    """Return the folder of a copy of a finished run."""
    shutil.copytree(tiny_run.config.base, tmp_path / "copied")
    return tmp_path / "copied" / tiny_run.out.relative_to(tiny_run.config.base)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write frames that the run did not use; return their folder."""
    folder = tmp_path_factory.mktemp("photos")
    for k in range(OTHERS):
        Image.fromarray(cached_scene(replace(STREET, seed=77), k).image).save(
            folder / f"{k:02d}.png"
        )
    return folder


@pytest.fixture(scope="module")
def answers(tiny_run: FinishedRun, photos: Path) -> Path:
    """Write the answers of the unmerged networks as labels: a.csv and b.csv."""
    folder = photos.parent / "answers"
    folder.mkdir()
    deployment = load_deployment(tiny_run.config, capture_reporter().reporter)
    frames = sorted(photos.iterdir())
    with torch.inference_mode():
        for name, model in deployment.models.items():
            pictures = [cached_scene(replace(STREET, seed=77), k).image for k in range(OTHERS)]
            labels = model(model.prepare_frames(pictures)).argmax(1).tolist()
            rows = [f"{path},{label}\n" for path, label in zip(frames, labels, strict=True)]
            (folder / f"{name}.csv").write_text("path,label_index\n" + "".join(rows))
    return folder


def verify_run(
    out: Path, data: VerificationInputs, hash_prefixes: Sequence[str] = ()
) -> tuple[Verification, CapturedReporter]:
    captured = capture_reporter()
    return verify(out, hash_prefixes, data, captured.reporter), captured


def test_a_verification_on_the_data_of_the_run_has_the_numbers_of_the_run(
    tiny_run: FinishedRun, out: Path
) -> None:
    verification, captured = verify_run(out, VerificationInputs())
    assert verification.candidates == tiny_run.result.candidates
    assert verification.baseline == tiny_run.result.baseline
    assert verification.baseline_intervals == tiny_run.result.baseline_intervals
    assert verification.verified_front == tiny_run.result.verified_front
    assert verification.chosen == tiny_run.result.chosen
    assert verification.truth == tiny_run.result.truth and verification.truth["a"]["count"] == 12
    assert verification.frames["count"] == 12
    assert "Verified against ground truth on 12 frames (a)\n" in captured.text
    for candidate in verification.candidates:
        assert candidate.hash in captured.text


def test_accuracy_on_the_networks_own_answers_equals_fidelity(out: Path, answers: Path) -> None:
    data = VerificationInputs({"a": answers / "a.csv", "b": answers / "b.csv"}, outside=True)
    verification, captured = verify_run(out, data)
    assert all(
        {**verification.frames, "labels": t["labels"]} == t for t in verification.truth.values()
    )
    assert verification.frames["count"] == OTHERS
    for name in ("a", "b"):
        assert verification.baseline[name]["top1"] == 1
        for candidate in verification.candidates:
            assert candidate.accuracy[name]["top1"] == candidate.fidelity[name]
            assert candidate.kept[name] == candidate.fidelity[name]
    assert any(c.fidelity[name] != 1 for c in verification.candidates for name in ("a", "b"))
    assert f"Verified against ground truth on {OTHERS} frames (a, b)" in captured.text


def test_models_without_labels_count_by_fidelity(out: Path, answers: Path) -> None:
    verification, _ = verify_run(out, VerificationInputs({"b": answers / "b.csv"}, outside=True))
    assert set(verification.baseline) == set(verification.truth) == {"b"}, (
        "not the config's truth of a"
    )
    for candidate in verification.candidates:
        assert candidate.kept["a"] == candidate.fidelity["a"]


def test_without_labels_only_fidelity_is_measured(out: Path, photos: Path) -> None:
    verification, captured = verify_run(out, VerificationInputs(frames=photos))
    assert verification.truth == verification.baseline == {} and verification.verified_front == []
    assert verification.frames["count"] == OTHERS
    assert all(c.accuracy == {} and c.quality_kept is None for c in verification.candidates)
    assert all(c.mean_fidelity is not None for c in verification.candidates)
    assert "Fidelity only: without labels, accuracy is not measured" in captured.text
    assert "top-1" not in captured.text and "round truth" not in captured.text


def test_plans_of_the_front_are_selected_by_hash_prefix(tiny_run: FinishedRun, out: Path) -> None:
    unverified = {r.hash for r in tiny_run.result.front} - {
        c.hash for c in tiny_run.result.candidates
    }
    assert unverified, "the run verifies only some of its front"
    other = sorted(unverified)[0]
    verification, _ = verify_run(out, VerificationInputs(), [other, other[:8]])
    (candidate,) = verification.candidates
    record = next(r for r in tiny_run.result.front if r.hash == other)
    assert (candidate.hash, candidate.plan, candidate.bytes) == (other, record.plan, record.bytes)
    assert verification.chosen is None and verification.main_candidate == candidate
    assert set(candidate.accuracy) == {"a"}
    with pytest.raises(NoSuchPlan, match="no plan with a hash that begins with 'xyz'"):
        verify_run(out, VerificationInputs(), ["xyz"])


def test_the_verification_is_written_and_logged(out: Path, photos: Path) -> None:
    before = (out / "result.json").read_bytes()
    verification, _ = verify_run(out, VerificationInputs(frames=photos))
    file = out / "verify" / "verified.json"
    assert read_document(file) == verification
    assert (
        verification.result == content_id(before) and (out / "result.json").read_bytes() == before
    )
    client = MlflowClient(tracking_uri=Target.of(LoadedRun.from_folder(out).config).uri)
    experiment = client.get_experiment_by_name("merge-search")
    assert experiment is not None
    query = f"tags.`merge_search.result` = '{content_id(file.read_bytes())}'"
    (run,) = client.search_runs([experiment.experiment_id], query)
    assert run.data.tags["merge_search.kind"] == "verify"
    assert run.info.status == "FINISHED" and PARENT_TAG not in run.data.tags
    assert run.data.params["result"] == verification.result
    assert "accuracy is not measured" in run.data.params["against"]
    assert (
        verification.main_candidate
        and run.data.metrics["fidelity"] == verification.main_candidate.mean_fidelity
    )
    files = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert files == {"verified.json", "config.yaml", "candidates.json"}
    assert [line for line in sync(out) if "logged before" not in line] == []


def test_a_verification_is_logged_later_if_mlflow_was_unreachable(
    out: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = Target.of(LoadedRun.from_folder(out).config).uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(NotLogged, match="merge-search sync"):
        verify_run(out, VerificationInputs(frames=photos))
    (queued,) = (out / "unlogged").glob("*/verified.json")
    assert queued.read_bytes() == (out / "verify" / "verified.json").read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local)
    assert [line for line in sync(out) if "logged before" not in line]
    assert not (out / "unlogged").exists()
    assert all("logged before" in line for line in sync(out))


# Refusals, before any model runs.


@pytest.fixture(scope="module")
def photo_run(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run on image files."""
    folder = tmp_path_factory.mktemp("photo-run")
    for k in range(28):
        save_noise_image(folder / "frames" / f"{k:02d}.png", seed=k)
    changes = {"frames": {"folder": "frames"}, "truth": {}, "search.trials": 5,
               "verify.shortlist": 2, "verify.candidates": 1}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return run_config(write_config(folder, with_changes(config_data(weights), changes)))


def test_frames_of_the_search_are_refused(photo_run: FinishedRun, tmp_path: Path) -> None:
    searched_frames = photo_run.config.base / "frames"
    labels = tmp_path / "seen.csv"
    labels.write_text(
        f"path,label_index\n{searched_frames / '03.png'},1\n{searched_frames / '04.png'},2\n"
    )
    with pytest.raises(BadTruth, match=r"truth\.a: 2 of its frames are also among"):
        verify_run(photo_run.out, VerificationInputs({"a": labels}, outside=True))
    with pytest.raises(BadTruth, match=r"28 of its images are also among the frames of the sea"):
        verify_run(photo_run.out, VerificationInputs(frames=searched_frames))
    assert not (photo_run.out / "verify").exists()


def test_a_run_without_truth_in_its_config_can_be_verified(
    photo_run: FinishedRun,
) -> None:
    verification, captured = verify_run(photo_run.out, VerificationInputs())
    assert verification.candidates == photo_run.result.candidates and verification.truth == {}
    assert "Fidelity only" in captured.text


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"], "--labels a: write it as MODEL="),
        (["=x.csv"], "--labels =x.csv: write it as MODEL="),
        (["a="], "--labels a=: write it as MODEL="),
        (["a=x.csv", "a=y.csv"], "a already has x.csv"),
        (["c=x.csv"], "--labels c=x.csv: the run has no such model; it has a, b"),
        (["a=x.txt"], "--labels a=x.txt: must be a .csv file, a folder with a sub-folder"),
    ],
)
def test_labels_of_unknown_form_are_refused(
    tiny_run: FinishedRun, texts: list[str], message: str
) -> None:
    with pytest.raises(BadData) as failure:
        VerificationInputs.parse(texts, [], [], None).config_for(
            LoadedRun.from_folder(tiny_run.out)
        )
    assert message in str(failure.value)


@pytest.mark.parametrize("option", ["images", "classes"])
def test_options_about_labels_require_labels(tiny_run: FinishedRun, option: str) -> None:
    options = {option: ["a=x"]}
    data = VerificationInputs.parse(
        [], options.get("images", []), options.get("classes", []), None
    )
    with pytest.raises(BadData, match=f"--{option} a=...: goes with --labels a="):
        data.config_for(LoadedRun.from_folder(tiny_run.out))
    data = VerificationInputs.parse(
        ["a=x.csv"], options.get("images", []), options.get("classes", []), None
    )
    if option == "images":
        with pytest.raises(BadConfig, match=r"truth\.a.*: "):
            data.config_for(LoadedRun.from_folder(tiny_run.out))
    else:  # the classes of a CSV file
        section = data.config_for(LoadedRun.from_folder(tiny_run.out)).truth["a"]
        assert section.classes is not None


def test_classes_that_are_not_yaml_are_refused() -> None:
    with pytest.raises(BadData, match=r"--classes b=\[car: write it as \[person, car\]"):
        VerificationInputs.parse([], [], ["b=[car"], None)


def with_detector(tiny_run: FinishedRun, truth: dict[str, Any]) -> LoadedRun:
    """Return the run as if its model b were a detector."""
    loaded = LoadedRun.from_folder(tiny_run.out)
    models = {**loaded.result.models, "b": replace(loaded.result.models["b"], task="detection")}
    config = config_of(
        {**loaded.config.as_written(), "truth": truth}, loaded.config.base, loaded.document
    )
    return replace(loaded, config=config, result=replace(loaded.result, models=models))


def test_the_format_of_labels_follows_from_file_and_task(
    tiny_run: FinishedRun, tmp_path: Path
) -> None:
    loaded = with_detector(tiny_run, {})
    (tmp_path / "classes").mkdir()
    texts = [f"a={tmp_path / 'l.csv'}", f"b={tmp_path / 'i.JSON'}"]
    truth = VerificationInputs.parse(texts, [f"b={tmp_path}"], [], None).config_for(loaded).truth
    assert truth["a"].csv == str(tmp_path / "l.csv")
    assert (truth["b"].coco, truth["b"].images) == (str(tmp_path / "i.JSON"), str(tmp_path))
    truth = (
        VerificationInputs.parse([f"a={tmp_path / 'real.json'}"], [], [], None)
        .config_for(loaded)
        .truth
    )
    assert truth["a"].real == str(tmp_path / "real.json") and "b" not in truth
    truth = (
        VerificationInputs.parse([f"a={tmp_path / 'classes'}"], [], [], None)
        .config_for(loaded)
        .truth
    )
    assert truth["a"].image_folder == str(tmp_path / "classes")


def test_a_detector_uses_the_classes_of_the_run_by_default(tiny_run: FinishedRun) -> None:
    loaded = with_detector(tiny_run, {"b": {"coco": "old.json", "classes": {1: "car", 3: 7}}})
    data = VerificationInputs.parse(["b=new.json"], [], [], None)
    assert data.config_for(loaded).truth["b"].classes == {1: "car", 3: 7}
    data = VerificationInputs.parse(["b=new.json"], [], ["b=[bus, 4]"], None)
    assert data.config_for(loaded).truth["b"].classes == ["bus", 4]


def test_the_command_prints_the_path_of_its_file(out: Path, photos: Path) -> None:
    result = CliRunner().invoke(main, ["verify", str(out), "--frames", str(photos)])
    assert result.exit_code == 0, result.output
    assert f"Wrote {out}/verify/verified.json" in result.stdout
    assert json.loads((out / "verify" / "verified.json").read_text())["schema"] == 1
    failed = CliRunner().invoke(main, ["verify", str(photos)])
    assert failed.exit_code == 1 and "no result.json; give the folder" in failed.stderr
