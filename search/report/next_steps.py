"""The commands that a report suggests next, with the paths of its run."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from search.config.yaml_text import NotYaml, read_yaml
from search.evaluation.tasks.registry import SCORING
from search.results.search_result import Result


@dataclass(frozen=True)
class RunPaths:
    """The paths of a run, relative to the folder where it was started."""

    out: str
    config: str | None
    """The config file; None if no file in the config's folder has the name of the run."""

    @classmethod
    def find(cls, name: str, out: Path, config_folder: Path) -> RunPaths:
        """Return the paths relative to the current folder, and look up the config by its name."""
        file = _find_config(name, config_folder)
        return cls(os.path.relpath(out), None if file is None else os.path.relpath(file))


@dataclass(frozen=True)
class NextStep:
    """A command and its purpose."""

    purpose: str
    command: str


def next_steps(result: Result, paths: RunPaths) -> list[NextStep]:
    """Return the commands in the order in which a user may need them."""
    steps = []
    if result.chosen is not None:
        plan = os.path.join(paths.out, "plans", f"{result.chosen}.json")
        steps += [
            NextStep("Print the chosen plan", _command("plan", "show", plan)),
            NextStep(
                "Export it to deploy it (another plan with --plan HASH, ONNX with --format onnx)",
                _command("export", paths.out, "--to", f"{result.name}-bundle"),
            ),
        ]
    labels = [
        part
        for name, model in result.models.items()
        if (example := SCORING[model.task].labels_example)
        for part in ("--labels", f"{name}={example}")
    ]
    steps.append(NextStep("Measure it on your own labels", _command("verify", paths.out, *labels)))
    if paths.config is not None:
        steps.append(NextStep("Compare the candidates in MLflow", _command("ui", paths.config)))
    return steps


def _command(*words: str) -> str:
    return shlex.join(["merge-search", *words])


def _find_config(name: str, folder: Path) -> Path | None:
    """Return the config in the folder that has the name of the run."""
    files = [folder / f"{name}.yaml", *sorted(folder.glob("*.yaml"))]
    return next((file for file in files if _name_in(file) == name), None)


def _name_in(file: Path) -> str | None:
    try:
        data = read_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, NotYaml):
        return None
    return str(data.get("name")) if isinstance(data, dict) else None
