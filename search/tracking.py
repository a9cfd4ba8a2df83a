"""The only door to MLflow: what a command has found becomes runs, read from its result.

A search becomes a parent and children, a league of guides one run. The tracker decides nothing
and holds nothing: all it sends lies in OUT already.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from search.accuracy import Scores
from search.config import RunConfig, without_credentials
from search.files import make_folder
from search.league import GROUPS, League
from search.result import CandidateRecord, Result
from spaces.errors import MergeSearchError
from spaces.plan import SharePlan

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

ENVIRONMENT = "MLFLOW_TRACKING_URI"
STORE = "mlflow.db"
ARTIFACTS = "mlartifacts"
DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
PARENT_TAG = "mlflow.parentRunId"
KIND_TAG, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
"""Without it the UI opens an experiment as one of language-model traces."""
BATCH = 500


class TrackerUnreachable(MergeSearchError):
    """The MLflow store or server did not take the run."""


@dataclass(frozen=True)
class Target:
    """Where runs go: a tracking URI, and where a local store keeps its artifacts."""

    uri: str
    experiment: str
    artifacts: str | None

    @classmethod
    def of(cls, config: RunConfig) -> Target:
        """MLFLOW_TRACKING_URI, else the config's, else sqlite beside the run outputs.

        A server places its artifacts itself. A database used directly would have MLflow put them
        into the folder where the user happens to stand, so they are told to go to the outputs.
        """
        given = os.environ.get(ENVIRONMENT) or config.mlflow.tracking_uri
        if given and not given.startswith(DATABASES):
            return cls(given, config.mlflow.experiment, None)
        folder = make_folder(config.base / "out")
        uri = given or f"sqlite:///{folder / STORE}"
        return cls(uri, config.mlflow.experiment, (folder / ARTIFACTS).resolve().as_uri())


class Outcome(Protocol):
    """What every result says of where it comes from."""

    @property
    def name(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def frames(self) -> Mapping[str, Any]: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def created(self) -> str: ...
    @property
    def versions(self) -> Mapping[str, str]: ...


def record(result: Result, out: Path, target: Target) -> str:
    """Log a run; returns a sentence that says where it is.

    Raises:
        TrackerUnreachable: the store did not take it. OUT holds everything all the same.
    """
    with _speaking_for_mlflow(target, out):
        client = MlflowClient(tracking_uri=target.uri)
        experiment = _experiment(client, target)
        parent = _start(client, experiment, result, "search", result.name)
        _log_parent(client, parent, result, out)
        _log_baseline(client, experiment, parent, result)
        for candidate in result.candidates:
            _log_candidate(client, experiment, parent, result, candidate)
        client.set_terminated(parent)
    children = len(result.candidates) + 1
    return f"experiment {target.experiment!r}, run {parent}: 1 parent, {children} children"


def record_league(league: League, out: Path, target: Target) -> str:
    """Log a league of guides as one run; returns a sentence that says where it is.

    Raises:
        TrackerUnreachable: the store did not take it. OUT holds everything all the same.
    """
    with _speaking_for_mlflow(target, out):
        client = MlflowClient(tracking_uri=target.uri)
        experiment = _experiment(client, target)
        run = _start(client, experiment, league, "correlate", f"{league.name} guides")
        parameters = {
            "models": ", ".join(f"{name}={arch}" for name, arch in league.models.items()),
            "adapters": ", ".join(league.adapters),
            "shares": league.shares["all"],
            "winner": str(league.winner),
        }
        _log_outcome(client, run, league, parameters, out)
        _log_metrics(client, run, _league_metrics(league))
        client.log_table(run, _league_columns(league), "guides.json")
        client.log_artifact(run, str(out / "guides.csv"))
        client.log_artifact(run, str(out / "league.json"))
        client.set_terminated(run)
    return f"experiment {target.experiment!r}, run {run}"


def serve(target: Target, port: int) -> int:
    """Run MLflow's own UI on the store until it is stopped; returns its exit code."""
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # a dozen processes nobody needs here
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", target.uri,
               "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    if target.artifacts:
        command += ["--default-artifact-root", target.artifacts]
    return subprocess.call(command, env={**os.environ, **quiet})


def page(target: Target, port: int) -> str:
    """Where the UI shows the experiment's runs."""
    address = f"http://127.0.0.1:{port}/"
    with _speaking_for_mlflow(target, Path()):
        known = MlflowClient(tracking_uri=target.uri).get_experiment_by_name(target.experiment)
    return f"{address}#/experiments/{known.experiment_id}/runs" if known else address


@contextlib.contextmanager
def _speaking_for_mlflow(target: Target, out: Path) -> Iterator[None]:
    """MLflow's own messages stay out of the terminal; its failures become one sentence."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    waits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
    for name, value in waits.items():
        os.environ.setdefault(name, value)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except (MlflowException, OSError, ImportError) as error:
        reason = without_credentials(" ".join(str(error).split()))[:200]
        raise TrackerUnreachable(
            f"the MLflow store {without_credentials(target.uri)} did not take the run "
            f"({reason}); everything is kept in {out}"
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _experiment(client: MlflowClient, target: Target) -> str:
    known = client.get_experiment_by_name(target.experiment)
    if known is not None:
        return str(known.experiment_id)
    return str(
        client.create_experiment(
            target.experiment, artifact_location=target.artifacts, tags={KIND_TAG: MODEL_TRAINING}
        )
    )


def _start(client: MlflowClient, experiment: str, outcome: Outcome, kind: str, title: str) -> str:
    name, tags = f"{title} {outcome.created}", _tags(outcome, kind)
    return str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)


def _tags(outcome: Outcome, kind: str) -> dict[str, str]:
    return {
        "merge_search.kind": kind,
        "merge_search.search": outcome.name,
        "merge_search.frames": str(outcome.frames["hash"]),
    }


def _log_outcome(
    client: MlflowClient, run: str, outcome: Outcome, parameters: dict[str, Any], out: Path
) -> None:
    """What is logged of every result: where it comes from, its config and its pictures."""
    origin = {
        "seed": outcome.seed,
        "frames": outcome.frames["count"],
        "frames_hash": outcome.frames["hash"],
        **{f"version_{name}": number for name, number in outcome.versions.items()},
    }
    _log_parameters(client, run, {**parameters, **origin})
    client.log_text(run, yaml.safe_dump(outcome.config, sort_keys=False), "config.yaml")
    for picture in sorted(out.glob("*.png")):
        client.log_artifact(run, str(picture), "pictures")


def _log_parent(client: MlflowClient, run: str, result: Result, out: Path) -> None:
    parameters = {
        "budget_mb": f"{result.budget_bytes / 1e6:.2f}",
        "models": ", ".join(f"{name}={m.arch}" for name, m in result.models.items()),
        "metric": result.metric,
        "sampler": result.study["sampler"],
        "trials": result.study["trials"],
    }
    _log_outcome(client, run, result, parameters, out)
    chosen = next((c for c in result.candidates if c.hash == result.chosen), None)
    if chosen is not None:
        _log_metrics(client, run, _metrics_of(chosen))
    _log_progress(client, run, result.study["hypervolume"])
    client.log_text(run, _stage_table(result), "stages.md")
    client.log_table(run, _front_columns(result), "front.json")
    client.log_artifact(run, str(out / "result.json"))


def _log_progress(client: MlflowClient, run: str, hypervolume: list[float]) -> None:
    now = int(time.time() * 1000)
    points = [Metric("hypervolume", value, now, step) for step, value in enumerate(hypervolume)]
    for start in range(0, len(points), BATCH):
        client.log_batch(run, metrics=points[start : start + BATCH])


def _log_baseline(client: MlflowClient, experiment: str, parent: str, result: Result) -> None:
    run = _child(client, experiment, parent, result, "baseline", "unmerged")
    _log_parameters(client, run, {"shares": 0, "plan": "nothing shared"})
    metrics = {
        "bytes_mb": result.unmerged_bytes / 1e6,
        "macs_m": result.unmerged_macs / 1e6,
        "saved_pct": 0.0,
        "proxy": 1.0,
        "fidelity": 1.0,
        **_accuracy_metrics(result.baseline),
    }
    if result.baseline:
        metrics["quality_kept"] = 1.0
    _log_metrics(client, run, metrics)
    client.set_terminated(run)


def _log_candidate(
    client: MlflowClient, experiment: str, parent: str, result: Result, candidate: CandidateRecord
) -> None:
    name = f"{candidate.saved_pct:.0f}% saved, plan {candidate.hash[:6]}"
    run = _child(client, experiment, parent, result, "candidate", name)
    client.set_tag(run, "merge_search.plan", candidate.hash)
    client.set_tag(run, "merge_search.chosen", str(candidate.hash == result.chosen).lower())
    plan = SharePlan.from_dict(candidate.plan)
    parameters: dict[str, Any] = {"shares": len(plan.shares), "plan": str(plan)[:500]}
    for index, share in enumerate(plan.shares, start=1):
        parameters[f"share_{index}"] = str(share)
    _log_parameters(client, run, parameters)
    _log_metrics(client, run, _metrics_of(candidate))
    client.log_dict(run, candidate.plan, "plan.json")
    client.set_terminated(run)


def _child(
    client: MlflowClient, experiment: str, parent: str, result: Result, kind: str, name: str
) -> str:
    tags = {**_tags(result, kind), PARENT_TAG: parent}
    return str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)


def _metrics_of(candidate: CandidateRecord) -> dict[str, float]:
    metrics = {
        "bytes_mb": candidate.bytes / 1e6,
        "macs_m": candidate.macs / 1e6,
        "saved_pct": candidate.saved_pct,
        "proxy": candidate.proxy,
        **_accuracy_metrics(candidate.accuracy),
    }
    if candidate.quality_kept is not None:
        metrics["quality_kept"] = candidate.quality_kept
    if candidate.mean_fidelity is not None:
        metrics["fidelity"] = candidate.mean_fidelity
    for name, value in candidate.fidelity.items():
        if value is not None:
            metrics[f"fidelity_{name}"] = value
    return metrics


def _accuracy_metrics(accuracy: dict[str, Scores]) -> dict[str, float]:
    return {
        f"{score}_{name}": value
        for name, scores in accuracy.items()
        for score, value in scores.items()
        if score in ("top1", "top5", "map", "ap50")
    }


def _log_parameters(client: MlflowClient, run: str, parameters: dict[str, Any]) -> None:
    for key, value in parameters.items():
        client.log_param(run, key, value)


def _log_metrics(client: MlflowClient, run: str, metrics: dict[str, float]) -> None:
    now = int(time.time() * 1000)
    client.log_batch(run, metrics=[Metric(key, value, now, 0) for key, value in metrics.items()])


def _front_columns(result: Result) -> dict[str, list[Any]]:
    return {
        "plan": [record.hash for record in result.front],
        "bytes_mb": [record.bytes / 1e6 for record in result.front],
        "saved_pct": [record.saved_pct for record in result.front],
        "proxy": [record.proxy for record in result.front],
        "shares": [str(SharePlan.from_dict(record.plan)) for record in result.front],
    }


def _league_metrics(league: League) -> dict[str, float]:
    """`r_GUIDE` over all shares, `r_same_GUIDE` and so on; what is not defined is not logged."""
    metrics = {f"seconds_{name}": taken for name, taken in league.guide_seconds.items()}
    metrics["seconds_statistics"] = league.seconds["statistics"]
    for name, groups in league.reporting.guides.items():
        for group, found in groups.items():
            prefix = "" if group == "all" else f"{group}_"
            for coefficient, symbol in (("pearson", "r"), ("spearman", "rho"), ("kendall", "tau")):
                value = found[coefficient].value
                if value is not None:
                    metrics[f"{symbol}_{prefix}{name}"] = value
    return metrics


def _league_columns(league: League) -> dict[str, list[Any]]:
    """The league table, best guide first; NaN where a correlation is not defined."""
    ranking, measured = league.deciding.ranking, league.reporting
    columns: dict[str, list[Any]] = {
        "guide": ranking,
        "decided": [league.deciding.pearson(name).value for name in ranking],
        "seconds": [league.guide_seconds[name] for name in ranking],
    }
    for group in GROUPS:
        found = [measured.pearson(name, group) for name in ranking]
        columns[f"r_{group}"] = [entry.value for entry in found]
        columns[f"r_{group}_low"] = [entry.low for entry in found]
        columns[f"r_{group}_high"] = [entry.high for entry in found]
    return columns


def _stage_table(result: Result) -> str:
    lines = ["| model | stage | shape | bytes | MACs | tap |", "|---|---|---|---|---|---|"]
    for name, model in result.models.items():
        for stage in model.stages:
            shape = "x".join(str(side) for side in stage["shape"])
            tap = "tap" if stage["tap"] else ""
            lines.append(
                f"| {name} | {stage['name']} | {shape} | {stage['bytes']} | {stage['macs']} "
                f"| {tap} |"
            )
        lines.append(f"| {name} | head | | {model.head_bytes} | {model.head_macs} | |")
    return "\n".join(lines) + "\n"
