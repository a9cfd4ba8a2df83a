"""The runs of one result in one experiment of MLflow, and what is put into each."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from search.results.documents import DOCUMENTS, Document, identity, span
from search.tracking.models import RegisteredModels
from search.tracking.payloads import common
from search.tracking.payloads.search_run import DatasetFacts
from search.tracking.registry import Registry
from search.tracking.system_metrics import Sample
from search.tracking.target import Target
from search.utils.records import read_record
from search.utils.timing import format_minute

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

RESULT_TAG, PARENT_TAG = "merge_search.result", "mlflow.parentRunId"
PLAN_TAG, NOTE_TAG = "merge_search.plan", "mlflow.note.content"
CONTEXT_TAG, SOURCE_TAG = "mlflow.data.context", "mlflow.source.name"
KIND_TAG, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
"""Without it the UI opens an experiment as one of language-model traces."""
SOURCE = "merge-search"
BESIDE_RESULT = ("report.html", "explore.html", "trials.csv")
"""What is logged with a result as it is, if it is there."""
METRICS_AT_ONCE, PARAMETERS_AT_ONCE = 500, 100


@dataclass(frozen=True)
class ResultRuns:
    """The runs of one result in one experiment. All of them carry its identity."""

    client: MlflowClient
    experiment: str
    outcome: Document
    identity: str

    @property
    def models(self) -> RegisteredModels:
        return RegisteredModels(self.client, self.experiment, {RESULT_TAG: self.identity})

    @property
    def registry(self) -> Registry:
        return Registry(self.client, self.outcome.name)

    @classmethod
    def of(cls, outcome: Document, folder: Path, target: Target) -> ResultRuns:
        client = MlflowClient(tracking_uri=target.uri)
        document = folder / DOCUMENTS[type(outcome)]
        known = experiment_of(client, target)
        return cls(client, known, outcome, identity(document.read_bytes()))

    def finished(self) -> str | None:
        """The run that says that all is there."""
        for run in self._runs():
            if run.info.status == "FINISHED" and PARENT_TAG not in run.data.tags:
                return str(run.info.run_id)
        return None

    def keep_only(self, parent: str | None) -> None:
        """Delete every run of this result but this parent and its finished children, and the
        models of the runs that are deleted.

        The others were left by a logging that was interrupted, or made twice: MLflow asks again
        when an answer is lost, although the server may have done what it was asked for.
        """
        kept = set()
        for run in self._runs():
            done, above = run.info.status == "FINISHED", run.data.tags.get(PARENT_TAG)
            if run.info.run_id == parent or (done and above and above == parent):
                kept.add(run.info.run_id)
            else:
                self.client.delete_run(run.info.run_id)
        self.registry.keep_only(self.models.keep_only(kept), self.identity)

    def start(self, kind: str, name: str, tags: Mapping[str, str]) -> str:
        """A new run, dated like the result whenever it is logged."""
        known = {"merge_search.kind": kind, RESULT_TAG: self.identity, SOURCE_TAG: SOURCE}
        run = self.client.create_run(
            self.experiment,
            run_name=name,
            start_time=span(self.outcome)[0],
            tags={**known, **common.tags(self.outcome), **tags},
        )
        return str(run.info.run_id)

    def start_parent(self, kind: str, title: str) -> str:
        """`title`, and when it was: to the minute, in UTC."""
        return self.start(kind, f"{title} {format_minute(self.outcome.created)}", {})

    def finish(self, run: str) -> None:
        self.client.set_terminated(run, end_time=span(self.outcome)[1])

    def finish_parent(self, run: str) -> None:
        """Say that all is there; what was made twice is gone by then."""
        self.keep_only(run)
        self.finish(run)

    def log_parameters(self, run: str, parameters: Mapping[str, Any]) -> None:
        params = [Param(key, str(value)) for key, value in parameters.items()]
        for start in range(0, len(params), PARAMETERS_AT_ONCE):
            self.client.log_batch(run, params=params[start : start + PARAMETERS_AT_ONCE])

    def log_metrics(
        self, run: str, metrics: Mapping[str, float], model: str | None = None
    ) -> None:
        """`model` is the id of a model that they are of, too."""
        self._log_points(run, [(name, value, 0) for name, value in metrics.items()], model)

    def log_steps(self, run: str, name: str, values: Sequence[float]) -> None:
        self._log_points(run, [(name, value, step) for step, value in enumerate(values)])

    def log_files(self, run: str, folder: Path) -> None:
        """What every result has: its document, its config and its pictures."""
        config = yaml.safe_dump(self.outcome.config, sort_keys=False)
        self.client.log_text(run, config, "config.yaml")
        for picture in sorted([*folder.glob("*.png"), *folder.glob("*.svg")]):
            self.client.log_artifact(run, str(picture), "pictures")
        for name in BESIDE_RESULT:
            if (folder / name).is_file():
                self.client.log_artifact(run, str(folder / name))
        self.client.log_artifact(run, str(folder / DOCUMENTS[type(self.outcome)]))

    def log_system(self, run: str, samples: Path) -> None:
        """What was seen of the machine, at the times it was seen; a run from before has none."""
        if not samples.is_file():
            return
        metrics = [
            Metric(name, value, int(sample["time"]), step)
            for step, sample in enumerate(read_record(list[Sample], samples))
            for name, value in sample.items()
            if name != "time"
        ]
        self._log_all(run, metrics)

    def log_datasets(self, run: str, found: Sequence[DatasetFacts]) -> None:
        """What the run's page calls its datasets."""
        inputs = [
            DatasetInput(
                Dataset(
                    facts.name, facts.digest, "local", json.dumps(facts.source),
                    profile=json.dumps(facts.profile),
                ),
                [InputTag(CONTEXT_TAG, facts.context)],
            )
            for facts in found
        ]  # fmt: skip
        self.client.log_inputs(run, inputs)

    def _log_points(
        self, run: str, points: Sequence[tuple[str, float, int]], model: str | None = None
    ) -> None:
        moment = span(self.outcome)[1]
        self._log_all(
            run, [Metric(name, value, moment, step, model) for name, value, step in points]
        )

    def _log_all(self, run: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self.client.log_batch(run, metrics=metrics[start : start + METRICS_AT_ONCE])

    def _runs(self) -> list[Run]:
        wanted = f"tags.`{RESULT_TAG}` = '{self.identity}'"
        return list(self.client.search_runs([self.experiment], wanted))


def experiment_of(client: MlflowClient, target: Target) -> str:
    """The id of the target's experiment, which is made if it is not there."""
    if client.get_experiment_by_name(target.experiment) is None:
        with contextlib.suppress(MlflowException):  # another process has made it just now
            client.create_experiment(
                target.experiment,
                artifact_location=target.artifacts,
                tags={KIND_TAG: MODEL_TRAINING},
            )
    found = client.get_experiment_by_name(target.experiment)
    if found is None:
        raise MlflowException(f"experiment {target.experiment!r} cannot be made")
    return str(found.experiment_id)


def last_candidates(client: MlflowClient, experiment: str, name: str) -> list[str]:
    """The runs of the last search of that name: the unmerged models, then by rising bytes."""
    wanted = f"tags.`merge_search.search` = '{name}' and tags.`merge_search.kind` = "
    searches = client.search_runs([experiment], f"{wanted}'search'", max_results=1)
    if not searches:
        return []
    above = f"tags.`{PARENT_TAG}` = '{searches[0].info.run_id}'"
    children = client.search_runs([experiment], above, order_by=["metrics.bytes_mb DESC"])
    return [str(run.info.run_id) for run in children]
