"""The champion of record and MLflow's alias, brought to agree.

What the watch promotes is of record here first and told to MLflow when that can be reached. What a
person promotes or takes back with `merge-search promote` and `rollback` is in MLflow first, and
taken over from there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from search.config.run import RunConfig
from search.deploy.champion import Champion, ChampionStore
from search.results.search_result import BUNDLE_FOLDER
from search.tracking import client
from search.tracking.registry import Entry, Registry
from search.tracking.target import Target
from search.utils.reporter import Reporter
from search.utils.timing import utc_now
from spaces.bundle import holds_bundle


def reconcile(config: RunConfig, service: ChampionStore, reporter: Reporter) -> None:
    """Tell MLflow of our champion, or take over the one that a person has chosen there.

    Raises:
        TrackerUnreachable: MLflow cannot be asked.
        BadBundle, CannotWrite: its champion cannot be taken over.
    """
    with client.registry(Target.of(config), config.name) as registry:
        ours, theirs = service.champion(), registry.champion()
        if ours is not None and not ours.told:
            _tell(ours, theirs, registry, service)
        elif theirs is not None and (ours is None or theirs.plan.bundle != ours.bundle):
            _take_over(theirs, ours, config, registry, service)
            reporter.say(
                f"  version {theirs.version} of {config.name} was made champion in MLflow: it is "
                "in service here now"
            )


def _tell(
    ours: Champion, theirs: Entry | None, registry: Registry, service: ChampionStore
) -> None:
    if theirs is None or theirs.plan.bundle != ours.bundle:
        version = registry.of_bundle(ours.bundle)
        if version is None:
            return  # its search is not logged yet; it will be told with it
        registry.promote(version, theirs, ours.reason)
    service.note_told(ours)


def _take_over(
    theirs: Entry,
    ours: Champion | None,
    config: RunConfig,
    registry: Registry,
    service: ChampionStore,
) -> None:
    champion = Champion(
        standing=theirs.plan,
        since=utc_now(),
        reason=f"version {theirs.version} was made champion in MLflow",
        before=None if ours is None else ours.bundle,
        told=True,
    )
    for folder in (service.bundle(champion.bundle), config.out_folder / BUNDLE_FOLDER):
        if holds_bundle(folder, champion.bundle):
            service.take(folder, champion)
            return
    with tempfile.TemporaryDirectory() as temporary:
        service.take(registry.fetch(theirs, Path(temporary)), champion)
