"""The rounds of a watch in MLflow: one run, in which every round is a step.

The run is of one history of rounds, by which it is found, and it says how far it has them. It
stays RUNNING, as nobody knows which round is the last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from search.results.documents import identity
from search.results.rounds import FOLDER, Round, RoundHistory
from search.tracking.client import store
from search.tracking.payloads.watch_run import round_metrics, round_table, round_tags
from search.tracking.run_writer import METRICS_AT_ONCE, SOURCE, SOURCE_TAG, experiment_of
from search.tracking.target import Target
from search.utils.timing import epoch_milliseconds

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
from mlflow.entities import Metric, Run, RunTag
from mlflow.tracking import MlflowClient

WATCH_TAG, LOGGED_TAG = "merge_search.watch", "merge_search.rounds"
"""Which history the run is of, and the last of its rounds that the run has."""
TABLE, TABLES_TAG = "rounds.json", "mlflow.loggedArtifacts"
IN_TABLE = 500
"""Rounds in the table, which is written anew for each."""
AT_ONCE = 50
"""Rounds after which it is noted that they are logged."""


def record_rounds(target: Target, history: RoundHistory, name: str) -> str:
    """Log all rounds that MLflow does not have yet; returns a sentence that says where they are.

    It may be killed anywhere and called again: a point that is there already is not doubled. A
    run that somebody has deleted is made anew, with all rounds.

    Raises:
        TrackerUnreachable: the store did not take them; they are kept all the same.
        BadRound: a round cannot be read.
    """
    last = history.last()
    if last is None:
        return "no round has ended yet"
    with store(target, history.folder) as client:
        page = _Page(client, experiment_of(client, target), name, _identity(history))
        run, logged = page.find()
        if logged < last.number:
            rounds = history.since(min(logged, last.number - IN_TABLE) + 1)
            run = run or page.start(rounds[0])
            page.describe(run, rounds[-IN_TABLE:])
            page.log(run, [ended for ended in rounds if ended.number > logged])
    return f"experiment {target.experiment!r}, run {run}: rounds 1 to {last.number}"


def _identity(history: RoundHistory) -> str:
    """That of its first round: two machines that watch under one name have a run each, and so
    has one that begins anew."""
    return identity(min((history.folder / FOLDER).glob("[0-9]*.json")).read_bytes())


@dataclass(frozen=True)
class _Page:
    """The run of one history."""

    client: MlflowClient
    experiment: str
    name: str
    identity: str

    def find(self) -> tuple[str | None, int]:
        """The run, and the last round that it has; None and 0 if there is no run.

        Others that are of the same history are deleted: MLflow asks again when an answer is lost,
        although the server may have made a run.
        """
        wanted = f"tags.`{WATCH_TAG}` = '{self.identity}'"
        found = sorted(self.client.search_runs([self.experiment], wanted), key=_logged)
        for double in found[:-1]:
            self.client.delete_run(double.info.run_id)
        return (str(found[-1].info.run_id), _logged(found[-1])) if found else (None, 0)

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
        """The note, the tags and the table of the last rounds."""
        self.client.log_text(run, json.dumps(round_table(rounds)), TABLE)
        tags = [RunTag(key, value) for key, value in round_tags(self.name, rounds).items()]
        self.client.log_batch(run, tags=tags)

    def log(self, run: str, rounds: Sequence[Round]) -> None:
        """The points of these rounds; only then it is noted that they are there."""
        for start in range(0, len(rounds), AT_ONCE):
            part = rounds[start : start + AT_ONCE]
            points = [
                Metric(name, value, epoch_milliseconds(ended.ended), ended.number)
                for ended in part
                for name, value in round_metrics(ended).items()
            ]
            for k in range(0, len(points), METRICS_AT_ONCE):
                self.client.log_batch(run, metrics=points[k : k + METRICS_AT_ONCE])
            self.client.set_tag(run, LOGGED_TAG, str(part[-1].number))


def _logged(run: Run) -> int:
    return int(run.data.tags.get(LOGGED_TAG, 0))
