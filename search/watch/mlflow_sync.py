"""Exchange with MLflow, best effort: its failures never fail a round."""

from __future__ import annotations

from pathlib import Path

from search.config.run import RunConfig
from search.deploy.champion import ChampionStore
from search.deploy.registry_sync import reconcile
from search.results.rounds import Round, RoundHistory
from search.tracking import client
from search.tracking.client import TrackerUnreachable
from search.tracking.outbox import UNLOGGED, sync
from search.tracking.target import Target
from search.tracking.watch_run import log_rounds
from search.utils.records import BadRecord
from search.utils.reporter import Reporter
from spaces.bundle_files import BadBundle


def import_champion(config: RunConfig, champions: ChampionStore, reporter: Reporter) -> None:
    """Put the champion that a person chose in MLflow in service, if MLflow can be reached."""
    try:
        with reporter.working("MLflow"):
            reconcile(config, champions, reporter)
    except (TrackerUnreachable, BadBundle, BadRecord) as error:
        reporter.warn(f"{error}; the round continues without MLflow")


def log_round(
    config: RunConfig,
    history: RoundHistory,
    champions: ChampionStore,
    ended: Round,
    reporter: Reporter,
) -> None:
    """Log searches that MLflow missed, the champion, and the rounds; leave the rest to the next
    round."""
    try:
        with reporter.working("MLflow"):
            _log_missed_results(config.out_folder, reporter)
            reconcile(config, champions, reporter)
            _tag_refusal(config, ended)
            summary = log_rounds(Target.of(config), history, config.name)
        reporter.say(f"  {summary}")
    except (TrackerUnreachable, BadBundle, BadRecord) as error:
        reporter.warn(f"{error}; the next round logs it again")


def log_fleet_round(config: RunConfig, history: RoundHistory, reporter: Reporter) -> None:
    """Log the rounds of a fleet, whose groups have logged their own searches and champions."""
    try:
        with reporter.working("MLflow"):
            summary = log_rounds(Target.of(config), history, config.name)
        reporter.say(f"  {summary}")
    except (TrackerUnreachable, BadRecord) as error:
        reporter.warn(f"{error}; the next round logs it again")


def _log_missed_results(out: Path, reporter: Reporter) -> None:
    """Log the searches that MLflow missed; a damaged one does not hold up the rest."""
    if not (out / UNLOGGED).is_dir():
        return
    try:
        for line in sync(out):
            reporter.say(f"  {line}")
    except BadRecord as error:
        reporter.warn(f"{error}; delete the damaged record; everything else is logged")


def _tag_refusal(config: RunConfig, ended: Round) -> None:
    """Tag the challenger's version with the reason why it was not promoted."""
    record = ended.promotion
    if record is None or record.promoted:
        return
    with client.open_registry(Target.of(config), config.name) as registry:
        challenger = registry.find_bundle(record.bundle)
        if challenger is not None:
            registry.note_refusal(challenger, record.reason)
