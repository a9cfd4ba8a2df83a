"""The public API: its names, its examples, and configs and models from Python."""

from __future__ import annotations

import doctest
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import (
    CLASSIFIER,
    SPLIT_SECTION,
    FinishedRun,
    Weights,
    config_data,
    with_changes,
    write_config,
)

import search
import spaces
from search.config.base import BadConfig
from search.config.run import RunConfig
from search.pipelines.deployment import load
from spaces import ModelSpec, load_model
from spaces.stages import StagedModel

ROOT = Path(__file__).parent.parent
PUBLIC = {
    "search": [
        "MergeSearchError", "Result", "RunConfig", "SplitResult", "correlate", "exact", "export",
        "load_config", "promote", "rollback", "run", "split_models", "verify",
    ],
    "spaces": ["MergeSearchError", "ModelSpec", "Share", "SharePlan", "load_bundle", "load_model"],
}  # fmt: skip
EXAMPLES = [
    *("search." + name for name in (
        "load_config", "RunConfig", "run", "Result", "verify", "export", "correlate", "exact",
        "split_models", "SplitResult", "promote", "rollback", "MergeSearchError",
    )),
    *("spaces." + name for name in
      ("ModelSpec", "load_model", "Share", "SharePlan", "load_bundle")),
]  # fmt: skip
"""Every public name, in an order in which the examples can use the files of earlier ones."""
DOCTEST_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public_object(name: str) -> Any:
    package, _, member = name.partition(".")
    return getattr(sys.modules[package], member)


# Names.


def test_the_public_names_are_these() -> None:
    assert sorted(search.__all__) == PUBLIC["search"]
    assert sorted(spaces.__all__) == PUBLIC["spaces"]


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_can_be_imported_and_has_an_example(package: str) -> None:
    for member in PUBLIC[package]:
        assert ">>> " in public_object(f"{package}.{member}").__doc__, member
    assert {name.partition(".")[2] for name in EXAMPLES} >= set(PUBLIC[package])


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'search' has no attribute 'sell'"):
        getattr(search, "sell")  # noqa: B009
    with pytest.raises(AttributeError, match="module 'spaces' has no attribute 'GPU'"):
        getattr(spaces, "GPU")  # noqa: B009


def test_importing_the_packages_and_the_commands_imports_no_heavy_library() -> None:
    heavy = ["torch", "timm", "optuna", "mlflow", "scipy", "pydantic", "matplotlib"]
    code = (
        "import sys, search, spaces, search.cli.main; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


# Examples.


@pytest.fixture
def example_folder(
    tiny_run: FinishedRun, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder of the examples: a config, weights, and a finished run."""
    folder = Path(shutil.copytree(tiny_run.config.base, tmp_path / "examples"))
    for name, seed in (("a", 1), ("b", 2)):
        shutil.copy(weights(CLASSIFIER, seed), folder / f"{name}.safetensors")
    changes = {
        "promotion.slack": 1.0, "mlflow.experiment": "examples", "verify.shortlist": 2,
        "verify.candidates": 1, "split": SPLIT_SECTION,
    }  # fmt: skip
    write_config(folder, with_changes(config_data(weights), changes))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)
    return folder


def test_the_examples_in_the_docstrings_work_and_print_nothing_else(
    example_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = {
        name: getattr(package, name) for package in (search, spaces) for name in package.__all__
    }
    for name in EXAMPLES:
        text = public_object(name).__doc__
        test = doctest.DocTestParser().get_doctest(text, dict(names), name, None, None)
        report: list[str] = []
        doctest.DocTestRunner(optionflags=DOCTEST_OPTIONS).run(test, out=report.append)
        assert report == [], "".join(report)
    assert capfd.readouterr().out == ""


# Configs from Python.


def python_config(weights: Weights, **changes: Any) -> RunConfig:
    return RunConfig(**{**config_data(weights), **changes})


def test_a_config_from_python_starts_in_the_current_folder(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = python_config(weights, out=Path("results"))
    assert config.out_folder == tmp_path / "results"
    assert python_config(weights, base=str(tmp_path / "b")).out_folder == tmp_path / "b/out/tiny"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": "65 parrots"}, "budget: write it as 65%"),
        ({"colour": 1}, "colour: unknown key"),
        ({"models": {}}, "models: name at least two"),
        ({"models": 3}, "models: must be a mapping"),
        ({"frames": {"count": 3}}, "frames: give exactly one of folder, scenes, parts"),
        ({"seed": -1, "name": "a/b"}, "; "),
    ],
)
def test_a_bad_config_from_python_is_refused_on_one_line(
    weights: Weights, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadConfig) as caught:
        python_config(weights, **changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# Models that the caller has loaded.


def loaded(weights: Weights, name: str, seed: int) -> StagedModel:
    return load_model(
        ModelSpec(name, CLASSIFIER, str(weights(CLASSIFIER, seed)), 7, (64, 64), "squash")
    )


def test_loaded_models_give_the_result_of_their_specs(
    tiny_run: FinishedRun, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"a": loaded(weights, "a", 1), "b": loaded(weights, "b", 2)}
    models["a"].train()

    def fail(spec: ModelSpec) -> StagedModel:
        raise AssertionError(f"{spec.name} is loaded again")

    monkeypatch.setattr(load, "load_model", fail)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    result = search.run(python_config(weights, models=models, base=tmp_path))
    assert [record.hash for record in result.front] == [r.hash for r in tiny_run.result.front]
    assert result.baseline == tiny_run.result.baseline
    written = json.loads((tmp_path / "out" / "tiny" / "result.json").read_text())
    assert written["config"]["models"]["a"] == {
        "arch": CLASSIFIER, "weights": str(weights(CLASSIFIER, 1)), "num_classes": 7,
        "size": [64, 64], "fit": "squash", "cut": "stages",
    }  # fmt: skip
    assert models["a"].training  # the run works on copies


def test_a_loaded_model_that_could_not_be_loaded_again_is_refused(weights: Weights) -> None:
    changed, built, random = (loaded(weights, "a", 1) for _ in range(3))
    next(changed.parameters()).data += 1
    built.source = None
    assert random.source is not None
    random.source = replace(random.source, spec=replace(random.source.spec, weights="none"))
    reasons = {
        "the weights of the model have changed since it was loaded": changed,
        "the model was not loaded with spaces.load_model": built,
        "the weights of the model are random": random,
        "the model was loaded under the name 'b'": loaded(weights, "b", 1),
    }
    others = config_data(weights)["models"]
    for reason, model in reasons.items():
        with pytest.raises(BadConfig) as caught:
            python_config(weights, models=others | {"a": model})
        assert str(caught.value).startswith(f"models.a: {reason}, so verify and export could not")


def test_weights_that_change_after_the_config_was_made_are_refused(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = loaded(weights, "a", 1)
    config = python_config(weights, models=config_data(weights)["models"] | {"a": model})
    next(model.parameters()).data += 1
    with pytest.raises(BadConfig, match=r"^models\.a: the weights of the model have changed"):
        search.run(config)


def test_a_loaded_model_may_have_a_rate(weights: Weights) -> None:
    model = loaded(weights, "a", 1)
    others = config_data(weights)["models"]
    config = python_config(
        weights, models={"a": {"model": model, "rate": 10}, "b": others["b"] | {"rate": 1}}
    )
    assert config.rates() == {"a": 10.0, "b": 1.0}
    assert config.loaded_models == {"a": model}
    plain = python_config(weights, models=others | {"a": model})
    assert config.model_specs() == plain.model_specs() and plain.rates() == {}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rate": 0}, "models.a.rate: must be greater than 0"),
        ({"rate": 1, "size": 64}, "models.a.size: not a key of a loaded model"),
        ({}, "models: give a rate to every model or to none; a has none"),
    ],
)
def test_the_keys_beside_a_loaded_model_are_checked(
    weights: Weights, keys: dict[str, Any], message: str
) -> None:
    other = config_data(weights)["models"]["b"] | {"rate": 1}
    with pytest.raises(BadConfig) as caught:
        python_config(
            weights, models={"a": {"model": loaded(weights, "a", 1), **keys}, "b": other}
        )
    assert message in str(caught.value)


# Another package named `spaces`.


@pytest.fixture
def other_spaces(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python finds another package named `spaces` first."""
    package = tmp_path / "other" / "spaces"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def GPU(function): return function\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), str(ROOT)])}


@pytest.mark.parametrize(
    "arguments",
    [
        [str(ROOT / "search" / "deploy" / "examples" / "example.py"), "picture.jpg"],
        [str(ROOT / "search" / "tracking" / "served.py")],
        ["-c", "import search"],
        ["-m", "search", "--help"],
    ],
    ids=["example", "served", "search", "command"],
)
def test_another_package_named_spaces_is_reported_in_one_sentence(
    arguments: list[str], other_spaces: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, env=other_spaces, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.splitlines()[-1].removeprefix("ImportError: ")
    file = tmp_path / "other" / "spaces" / "__init__.py"
    assert last.startswith(f"{file} is another package named `spaces`, not that of merge-search: ")
    assert "AttributeError" not in done.stderr
