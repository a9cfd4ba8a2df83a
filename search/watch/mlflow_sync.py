"""What a watch tells MLflow, and hears from it: never so that a round depends on it."""

from __future__ import annotations

from pathlib import Path

from search.deploy.registry_sync import reconcile
from search.results.rounds import Round
from search.tracking import client
from search.tracking.client import TrackerUnreachable
from search.tracking.outbox import UNLOGGED, sync
from search.tracking.target import Target
from search.tracking.watch_run import record_rounds
from search.utils.records import BadRecord
from search.utils.reporter import Reporter
from search.watch.workspace import Workspace
from spaces.bundle import BadBundle


def hear_from_mlflow(post: Workspace, reporter: Reporter) -> None:
    """Take over the champion that a person has chosen there, if MLflow can be reached."""
    try:
        with reporter.working("MLflow"):
            reconcile(post.config, post.service, reporter)
    except (TrackerUnreachable, BadBundle, BadRecord) as error:
        reporter.warn(f"{error}; the round goes on without it")


def tell_mlflow(post: Workspace, ended: Round, reporter: Reporter) -> None:
    """Log what it has missed, the champion and the rounds; what it does not take is told later."""
    try:
        with reporter.working("MLflow"):
            _tell_results(post.config.out_folder, reporter)
            reconcile(post.config, post.service, reporter)
            _note_refusal(post, ended)
            said = record_rounds(Target.of(post.config), post.history, post.config.name)
        reporter.say(f"  {said}")
    except (TrackerUnreachable, BadBundle, BadRecord) as error:
        reporter.warn(f"{error}; the next round tells it again")


def _tell_results(out: Path, reporter: Reporter) -> None:
    """Log the searches that MLflow has missed; a damaged one holds nothing else up."""
    if not (out / UNLOGGED).is_dir():
        return
    try:
        for said in sync(out):
            reporter.say(f"  {said}")
    except BadRecord as error:
        reporter.warn(f"{error}; delete what is damaged: MLflow is told of all else")


def _note_refusal(post: Workspace, ended: Round) -> None:
    """Why the challenger was not promoted, as a tag of its version."""
    if ended.verdict is None or ended.verdict.promoted:
        return
    with client.registry(Target.of(post.config), post.config.name) as registry:
        challenger = registry.of_bundle(ended.verdict.bundle)
        if challenger is not None:
            registry.refuse(challenger, ended.verdict.reason)
