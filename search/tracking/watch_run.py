"""The rounds of a watch in MLflow: one run, in which every round is a step.

Tags of the run hold the identity of the history and the last round that is logged. The run stays
RUNNING, as no round is known to be the last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow.entities import Metric, Run, RunTag
from mlflow.tracking import MlflowClient

from search.results.documents import content_id
from search.results.rounds import ROUNDS_FOLDER, Round, RoundHistory
from search.tracking.client import open_mlflow_store
from search.tracking.experiment import experiment_id
from search.tracking.payloads.watch_run import round_metrics, round_table, round_tags
from search.tracking.run_writer import METRICS_PER_BATCH, SOURCE, SOURCE_TAG
from search.tracking.target import Target
from search.utils.timing import epoch_milliseconds

WATCH_TAG, LOGGED_TAG = "merge_search.watch", "merge_search.rounds"
"""The identity of the history, and the last round that is logged."""
TABLE, TABLES_TAG = "rounds.json", "mlflow.loggedArtifacts"
TABLE_ROUNDS = 500
"""Rounds in the table at most: every round writes the table again."""
ROUNDS_PER_BATCH = 50
"""Rounds after which progress is noted in a tag."""


def log_rounds(target: Target, history: RoundHistory, name: str) -> str:
    """Log all rounds that MLflow does not have yet; return a sentence that says where they are.

    A process that is killed here can call this again: no point is logged twice. If somebody
    deleted the run, a new one gets all rounds.

    Raises:
        TrackerUnreachable: MLflow refused the rounds or cannot be reached; their files stay.
        BadRound: A round cannot be read.
    """
    last = history.last()
    if last is None:
        return "no round has ended yet"
    with open_mlflow_store(target, history.folder) as client:
        watch_run = _WatchRun(client, experiment_id(client, target), name, _identity(history))
        run, logged = watch_run.find()
        if logged < last.number:
            rounds = history.since(min(logged, last.number - TABLE_ROUNDS) + 1)
            run = run or watch_run.start(rounds[0])
            watch_run.describe(run, rounds[-TABLE_ROUNDS:])
            watch_run.log(run, [ended for ended in rounds if ended.number > logged])
    return f"experiment {target.experiment!r}, run {run}: rounds 1 to {last.number}"


def _identity(history: RoundHistory) -> str:
    """Return the identity of the first round.

    Two machines that watch under one name have a run each, and so has a new history.
    """
    return content_id(min((history.folder / ROUNDS_FOLDER).glob("[0-9]*.json")).read_bytes())


@dataclass(frozen=True)
class _WatchRun:
    """The run of one history of rounds."""

    client: MlflowClient
    experiment: str
    name: str
    identity: str

    def find(self) -> tuple[str | None, int]:
        """Return the run and the last round that it has; None and 0 if there is no run.

        Duplicates are deleted: MLflow repeats a request whose answer was lost, although the
        server may have made the run.
        """
        tag_filter = f"tags.`{WATCH_TAG}` = '{self.identity}'"
        runs = sorted(self.client.search_runs([self.experiment], tag_filter), key=_logged_rounds)
        for duplicate in runs[:-1]:
            self.client.delete_run(duplicate.info.run_id)
        return (str(runs[-1].info.run_id), _logged_rounds(runs[-1])) if runs else (None, 0)

    def start(self, first: Round) -> str:
        tags = {
            "merge_search.kind": "watch",
            "merge_search.search": self.name,
            WATCH_TAG: self.identity,
            SOURCE_TAG: SOURCE,
            TABLES_TAG: json.dumps([{"path": TABLE, "type": "table"}]),
        }
        run = self.client.create_run(
            self.experiment,
            run_name=f"{self.name} watch",
            start_time=epoch_milliseconds(first.began),
            tags=tags,
        )
        return str(run.info.run_id)

    def describe(self, run: str, rounds: Sequence[Round]) -> None:
        """Write the note, the tags and the table of the last rounds."""
        self.client.log_text(run, json.dumps(round_table(rounds)), TABLE)
        tags = [RunTag(key, value) for key, value in round_tags(self.name, rounds).items()]
        self.client.log_batch(run, tags=tags)

    def log(self, run: str, rounds: Sequence[Round]) -> None:
        """Log the points of these rounds, then note the last of them in a tag."""
        for start in range(0, len(rounds), ROUNDS_PER_BATCH):
            part = rounds[start : start + ROUNDS_PER_BATCH]
            points = [
                Metric(name, value, epoch_milliseconds(ended.ended), ended.number)
                for ended in part
                for name, value in round_metrics(ended).items()
            ]
            for k in range(0, len(points), METRICS_PER_BATCH):
                self.client.log_batch(run, metrics=points[k : k + METRICS_PER_BATCH])
            self.client.set_tag(run, LOGGED_TAG, str(part[-1].number))


def _logged_rounds(run: Run) -> int:
    return int(run.data.tags.get(LOGGED_TAG, 0))
