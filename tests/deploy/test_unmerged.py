"""The original weights of a bundle are found through its run, or beside the bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import FinishedRun

from search.deploy.run_folder import NoSuchRun
from search.deploy.unmerged import NoWeights, OtherRun, find_specs, specs_of_run
from spaces.bundle import read_bundle_contents


def test_a_bundle_in_the_folder_of_its_run_finds_the_weights(tiny_run: FinishedRun) -> None:
    contents = read_bundle_contents(tiny_run.out / "bundle")
    specs = tiny_run.config.model_specs()
    assert find_specs(contents, tiny_run.out / "bundle") == specs
    assert specs_of_run(contents, tiny_run.out) == specs
    assert all(Path(spec.weights).is_file() for spec in specs.values())


def test_weights_beside_a_bundle_are_found_without_its_run(
    tiny_run: FinishedRun, tmp_path: Path
) -> None:
    contents = read_bundle_contents(tiny_run.out / "bundle")
    with pytest.raises(NoWeights, match=r"^a: .* does not exist; name .* with --run"):
        find_specs(contents, tmp_path / "bundle")
    for spec in tiny_run.config.model_specs().values():
        shutil.copy(spec.weights, tmp_path)
    found = find_specs(contents, tmp_path / "bundle")
    assert {Path(spec.weights).parent for spec in found.values()} == {tmp_path}


def test_a_run_of_other_models_is_refused_and_never_taken_by_itself(
    tiny_run: FinishedRun, tmp_path: Path
) -> None:
    contents = read_bundle_contents(tiny_run.out / "bundle")
    data = json.loads((tiny_run.out / "result.json").read_text())
    data["config"]["models"]["a"]["num_classes"] = 9
    (tmp_path / "result.json").write_text(json.dumps(data))
    with pytest.raises(OtherRun, match="are not those of the bundle"):
        specs_of_run(contents, tmp_path)
    with pytest.raises(NoWeights):
        find_specs(contents, tmp_path / "bundle")
    with pytest.raises(NoSuchRun, match=r"no result\.json"):
        specs_of_run(contents, tmp_path / "nowhere")
