"""Write the runs of one document into an experiment of MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.tracking import MlflowClient

from search.results.documents import DOCUMENT_NAMES, Document, content_id, work_period
from search.tracking.experiment import experiment_id
from search.tracking.models import ResultModels
from search.tracking.payloads import common
from search.tracking.payloads.search_run import DatasetFacts
from search.tracking.registry import Registry
from search.tracking.system_metrics import SystemSample
from search.tracking.target import Target
from search.utils.records import read_record
from search.utils.timing import format_minute

RESULT_TAG, PARENT_TAG = "merge_search.result", "mlflow.parentRunId"
PLAN_TAG, NOTE_TAG = "merge_search.plan", "mlflow.note.content"
CONTEXT_TAG, SOURCE_TAG = "mlflow.data.context", "mlflow.source.name"
SOURCE = "merge-search"
BESIDE_RESULT = ("report.html", "explore.html", "trials.csv", "split.html")
"""Files of the result's folder that are logged unchanged, if they exist."""
METRICS_PER_BATCH, PARAMETERS_PER_BATCH = 500, 100


@dataclass(frozen=True)
class ResultRuns:
    """The runs of one document in one experiment; a tag of each holds the document's identity."""

    client: MlflowClient
    experiment: str
    document: Document
    identity: str
    """`content_id` of the document."""

    @property
    def models(self) -> ResultModels:
        return ResultModels(self.client, self.experiment, {RESULT_TAG: self.identity})

    @property
    def registry(self) -> Registry:
        return Registry(self.client, self.document.name)

    @classmethod
    def of(cls, document: Document, folder: Path, target: Target) -> ResultRuns:
        """Open the runs of a document whose file is in `folder`; make the experiment if needed."""
        client = MlflowClient(tracking_uri=target.uri)
        content = (folder / DOCUMENT_NAMES[type(document)]).read_bytes()
        return cls(client, experiment_id(client, target), document, content_id(content))

    def find_finished_parent(self) -> str | None:
        """Return the finished parent run, which says that the document is logged completely."""
        for run in self._runs():
            if run.info.status == "FINISHED" and PARENT_TAG not in run.data.tags:
                return str(run.info.run_id)
        return None

    def delete_leftovers(self, parent: str | None) -> None:
        """Delete all runs of this document but `parent` and its finished children.

        The models of deleted runs are deleted too. Leftovers come from an interrupted logging, or
        from a request that MLflow repeated because the answer was lost.
        """
        kept_runs = set()
        for run in self._runs():
            finished, above = run.info.status == "FINISHED", run.data.tags.get(PARENT_TAG)
            if run.info.run_id == parent or (finished and above and above == parent):
                kept_runs.add(run.info.run_id)
            else:
                self.client.delete_run(run.info.run_id)
        kept_models = self.models.delete_all_but(kept_runs)
        self.registry.delete_all_but(kept_models, self.identity)

    def start(self, kind: str, name: str, tags: Mapping[str, str]) -> str:
        """Start a run, dated like the document, and return its id."""
        kind_tags = {"merge_search.kind": kind, RESULT_TAG: self.identity, SOURCE_TAG: SOURCE}
        run = self.client.create_run(
            self.experiment,
            run_name=name,
            start_time=work_period(self.document)[0],
            tags={**kind_tags, **common.common_tags(self.document), **tags},
        )
        return str(run.info.run_id)

    def start_parent(self, kind: str, title: str) -> str:
        """Start a run named after `title` and the time of the document, to the minute in UTC."""
        return self.start(kind, f"{title} {format_minute(self.document.created)}", {})

    def finish(self, run: str) -> None:
        self.client.set_terminated(run, end_time=work_period(self.document)[1])

    def finish_parent(self, run: str) -> None:
        """Delete duplicates, then mark the document as logged completely."""
        self.delete_leftovers(run)
        self.finish(run)

    def log_parameters(self, run: str, parameters: Mapping[str, Any]) -> None:
        params = [Param(key, str(value)) for key, value in parameters.items()]
        for start in range(0, len(params), PARAMETERS_PER_BATCH):
            self.client.log_batch(run, params=params[start : start + PARAMETERS_PER_BATCH])

    def log_metrics(
        self, run: str, metrics: Mapping[str, float], model: str | None = None
    ) -> None:
        """Log metrics of a run and, if `model` is the id of one, of a logged model."""
        self._log_points(run, [(name, value, 0) for name, value in metrics.items()], model)

    def log_steps(self, run: str, name: str, values: Sequence[float]) -> None:
        self._log_points(run, [(name, value, step) for step, value in enumerate(values)])

    def log_files(self, run: str, folder: Path) -> None:
        """Log the file, the config and the pictures of the document."""
        config = yaml.safe_dump(self.document.config, sort_keys=False)
        self.client.log_text(run, config, "config.yaml")
        for picture in sorted([*folder.glob("*.png"), *folder.glob("*.svg")]):
            self.client.log_artifact(run, str(picture), "pictures")
        for name in BESIDE_RESULT:
            if (folder / name).is_file():
                self.client.log_artifact(run, str(folder / name))
        self.client.log_artifact(run, str(folder / DOCUMENT_NAMES[type(self.document)]))

    def log_system_metrics(self, run: str, samples: Path) -> None:
        """Log the samples of the machine with their times; older runs have no such file."""
        if not samples.is_file():
            return
        metrics = [
            Metric(name, value, int(sample["time"]), step)
            for step, sample in enumerate(read_record(list[SystemSample], samples))
            for name, value in sample.items()
            if name != "time"
        ]
        self._log_all(run, metrics)

    def log_datasets(self, run: str, datasets: Sequence[DatasetFacts]) -> None:
        """Log the frames as the datasets of the run's page."""
        inputs = [
            DatasetInput(
                Dataset(
                    facts.name, facts.digest, "local", json.dumps(facts.source),
                    profile=json.dumps(facts.profile),
                ),
                [InputTag(CONTEXT_TAG, facts.context)],
            )
            for facts in datasets
        ]  # fmt: skip
        self.client.log_inputs(run, inputs)

    def candidate_runs(self, parent: str) -> dict[str, str]:
        """Return the run of each candidate of a search, by the hash of its plan."""
        return {
            run.data.tags[PLAN_TAG]: str(run.info.run_id)
            for run in self._runs()
            if run.data.tags.get(PARENT_TAG) == parent and PLAN_TAG in run.data.tags
        }

    def _log_points(
        self, run: str, points: Sequence[tuple[str, float, int]], model: str | None = None
    ) -> None:
        moment = work_period(self.document)[1]
        self._log_all(
            run, [Metric(name, value, moment, step, model) for name, value, step in points]
        )

    def _log_all(self, run: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            self.client.log_batch(run, metrics=metrics[start : start + METRICS_PER_BATCH])

    def _runs(self) -> list[Run]:
        tag_filter = f"tags.`{RESULT_TAG}` = '{self.identity}'"
        return list(self.client.search_runs([self.experiment], tag_filter))


def last_candidate_runs(client: MlflowClient, experiment: str, name: str) -> list[str]:
    """Return the child runs of the last search of that name, by falling bytes: unmerged first."""
    return _last_children(client, experiment, (name, "search"), "metrics.bytes_mb DESC")


def last_split_runs(client: MlflowClient, experiment: str, name: str) -> list[str]:
    """Return the child runs of the last splits of that name, by rising bytes."""
    return _last_children(client, experiment, (name, "split"), "metrics.bytes ASC")


def _last_children(
    client: MlflowClient, experiment: str, parent: tuple[str, str], order: str
) -> list[str]:
    """Return the children of the last run of a name and a kind, in an order."""
    name, kind = parent
    tag_filter = f"tags.`merge_search.search` = '{name}' and tags.`merge_search.kind` = '{kind}'"
    parents = client.search_runs([experiment], tag_filter, max_results=1)
    if not parents:
        return []
    above = f"tags.`{PARENT_TAG}` = '{parents[0].info.run_id}'"
    children = client.search_runs([experiment], above, order_by=[order])
    return [str(run.info.run_id) for run in children]
