"""What to type next: commands with the paths of a run."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from search.config.run import RunConfig
from search.results.search_result import Result


@dataclass(frozen=True)
class Places:
    """Where a run lies, as somebody types it who stands where the run was started."""

    out: str
    config: str | None
    """The file that the run was asked with; None if it is not there under the run's name."""

    @classmethod
    def of(cls, config: RunConfig) -> Places:
        file = _config_file(config)
        return cls(_from_here(config.out_folder), None if file is None else _from_here(file))


@dataclass(frozen=True)
class Step:
    """A command, and what it is good for."""

    purpose: str
    command: str


def next_steps(result: Result, places: Places) -> list[Step]:
    """In the order in which somebody may want them."""
    out = places.out
    steps = []
    if result.chosen is not None:
        plan = os.path.join(out, "plans", f"{result.chosen}.json")
        steps += [
            Step("Look at the chosen plan", _line("plan", "show", plan)),
            Step(
                "Write it out to deploy (another plan with --plan HASH, ONNX with --format onnx)",
                _line("export", out, "--to", f"{result.name}-bundle"),
            ),
        ]
    labels = [
        part
        for name, model in result.models.items()
        for part in ("--labels", f"{name}={_labels(model.task)}")
    ]
    steps.append(Step("Measure it on labels of your own", _line("verify", out, *labels)))
    if places.config is not None:
        steps.append(Step("Compare the candidates in MLflow", _line("ui", places.config)))
    return steps


def _labels(task: str) -> str:
    return "instances.json" if task == "detection" else "labels.csv"


def _line(*words: str) -> str:
    return shlex.join(["merge-search", *words])


def _from_here(path: Path) -> str:
    return os.path.relpath(path)


def _config_file(config: RunConfig) -> Path | None:
    """The config in its folder that has the run's name."""
    files = [config.base / f"{config.name}.yaml", *sorted(config.base.glob("*.yaml"))]
    return next((file for file in files if _name_in(file) == config.name), None)


def _name_in(file: Path) -> str | None:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return str(data.get("name")) if isinstance(data, dict) else None
