"""A bundle knows its files, says nothing of the machine, and keeps its identity."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bundles import model_specs, write_plan_bundle
from tiny import STREET, Weights

from search.data.frames import RenderedScenes
from search.statistics.observed import Observed
from spaces.bundle import load_bundle, read_bundle_contents, write_bundle
from spaces.bundle_files import BadBundle, bundle_id, holds_bundle, seal_bundle
from spaces.plan import SharePlan


@pytest.fixture(scope="module")
def exported(pair: Observed, weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle with a card, a graph and a file in a sub-folder."""
    folder = tmp_path_factory.mktemp("files") / "bundle"
    write_plan_bundle(pair, SharePlan(), model_specs(weights), folder)
    (folder / "parts").mkdir()
    for name in ("CARD.md", "model.onnx", "parts/trunk.onnx"):
        (folder / name).write_text(f"this is {name}")
    seal_bundle(folder)
    return folder


@pytest.fixture
def sealed(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def described(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "bundle.json").read_text())
    return data


def describe(folder: Path, data: dict[str, Any], **style: Any) -> None:
    (folder / "bundle.json").write_text(json.dumps(data, **style))


def textbook_hash(*contents: bytes) -> str:
    joined = b"".join(hashlib.sha256(content).digest() for content in contents)
    return hashlib.sha256(joined).hexdigest()[:12]


def test_every_other_file_is_listed_with_its_hash(sealed: Path) -> None:
    names = ("CARD.md", "model.onnx", "parts/trunk.onnx", "plan.json", "weights.safetensors")
    assert described(sealed)["files"] == {
        name: hashlib.sha256((sealed / name).read_bytes()).hexdigest() for name in names
    }
    seal_bundle(sealed)
    assert tuple(described(sealed)["files"]) == names


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("weights.safetensors", "export the bundle again, or copy it again"),
        ("plan.json", "export the bundle again, or copy it again"),
        ("CARD.md", "restore it, or delete it: loading does not need it"),
        ("parts/trunk.onnx", "restore it, or delete it: loading does not need it"),
    ],
)
def test_a_file_that_changed_after_the_export_is_refused(
    sealed: Path, name: str, cure: str
) -> None:
    with (sealed / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(BadBundle, match=f"{sealed / name}: has changed since the export; {cure}"):
        load_bundle(sealed)


@pytest.mark.parametrize("name", ["weights.safetensors", "plan.json"])
def test_a_missing_file_that_loading_needs_is_named(sealed: Path, name: str) -> None:
    (sealed / name).unlink()
    with pytest.raises(BadBundle, match=rf"not a complete bundle \({name} is missing\)"):
        load_bundle(sealed)


def test_other_files_may_be_deleted_and_added(sealed: Path) -> None:
    shutil.rmtree(sealed / "parts")
    for name in ("CARD.md", "model.onnx"):
        (sealed / name).unlink()
    (sealed / "notes.txt").write_text("of mine")
    assert load_bundle(sealed).tasks == {"a": "classification", "b": "classification"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../other": "0"}, "lists the file ../other, which lies outside the folder"),
        ({"/etc/hosts": "0"}, "lists the file /etc/hosts, which lies outside the folder"),
        ([1], "is not a complete bundle"),
    ],
)
def test_a_list_that_is_none_of_this_folder_is_refused(
    sealed: Path, files: object, message: str
) -> None:
    describe(sealed, {**described(sealed), "files": files})
    with pytest.raises(BadBundle, match=message):
        load_bundle(sealed)


def test_the_identity_is_that_of_the_merged_model(sealed: Path) -> None:
    """Graphs, cards, the list of files and the layout of bundle.json play no part in it."""
    identity, data = bundle_id(sealed), described(sealed)
    (sealed / "model.onnx").unlink()
    assert bundle_id(sealed) == identity
    del data["files"]
    describe(sealed, dict(reversed(data.items())), indent=3)
    assert bundle_id(sealed) == identity
    parts = [(sealed / name).read_bytes() for name in ("plan.json", "weights.safetensors")]
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    assert identity == textbook_hash(canonical, *parts)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(dtype="float16"),
        lambda data: data["classes"].update(a=["person"]),
        lambda data: data["inputs"]["a"].update(height=65),
    ],
)
def test_what_changes_the_answers_changes_the_identity(
    sealed: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    data, identity = described(sealed), bundle_id(sealed)
    change(data)
    describe(sealed, data)
    assert not holds_bundle(sealed, identity)


def test_a_bundle_of_version_1_is_loaded_and_keeps_its_identity(sealed: Path) -> None:
    frame = RenderedScenes(STREET, 1)[0]
    expected = load_bundle(sealed)(frame)["a"]
    data = {key: v for key, v in described(sealed).items() if key not in ("files", "classes")}
    for spec in data["models"].values():
        spec["weights"] = f"/home/somebody/{spec['weights']}"
    describe(sealed, {**data, "version": 1}, indent=1)
    assert bundle_id(sealed) == textbook_hash(
        *((sealed / n).read_bytes() for n in ("bundle.json", "plan.json", "weights.safetensors"))
    )
    assert torch.equal(load_bundle(sealed)(frame)["a"], expected)
    contents = read_bundle_contents(sealed)
    assert contents.classes == {} and contents.specs["a"].weights.startswith("/home/somebody/")


def test_a_bundle_names_files_without_their_folders(
    pair: Observed, weights: Weights, tmp_path: Path
) -> None:
    specs = model_specs(weights)
    _, contents, _ = write_plan_bundle(pair, SharePlan(), specs, tmp_path / "x")
    text = (tmp_path / "x" / "bundle.json").read_text()
    for name, spec in contents.specs.items():
        file = Path(spec.weights)
        assert file.is_absolute() and str(file.parent) not in text
        assert read_bundle_contents(tmp_path / "x").specs[name].weights == file.name


def test_a_bundle_calls_classes_by_their_names(
    pair: Observed, weights: Weights, tmp_path: Path
) -> None:
    merged, contents, _ = write_plan_bundle(
        pair, SharePlan(), model_specs(weights), tmp_path / "x"
    )
    named = replace(contents, classes={"a": [f"kind {k}" for k in range(6)] + [""]})
    write_bundle(tmp_path / "x", named, merged)
    bundle, logits = load_bundle(tmp_path / "x"), torch.zeros(1, 7)
    logits[0, 4], logits[0, 6] = 3.0, 2.0
    assert bundle.describe("a", logits)[0].startswith("kind 4 62%, class 6 23%, kind ")
    assert bundle.describe("b", logits)[0].startswith("class 4 62%")
