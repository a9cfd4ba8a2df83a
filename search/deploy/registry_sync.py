"""Keep the champion of this machine and MLflow's champion alias the same.

A promotion by the watch is recorded on this machine first, and in MLflow once it can be reached.
A promotion or roll-back by a person, with `merge-search promote` or `rollback`, is in MLflow
first, and the watch adopts it from there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from search.config.run import RunConfig
from search.deploy.champion import CHAMPION_VERSION, Champion, ChampionStore
from search.results.search_result import BUNDLE_FOLDER
from search.tracking import client
from search.tracking.registry import RegisteredVersion, Registry
from search.tracking.target import Target
from search.utils.reporter import Reporter
from search.utils.timing import utc_now
from spaces.bundle_files import holds_bundle


def reconcile(config: RunConfig, service: ChampionStore, reporter: Reporter) -> None:
    """Register this machine's champion in MLflow, or adopt the one that a person chose there.

    Raises:
        TrackerUnreachable: MLflow cannot be reached.
        BadBundle, CannotWrite: MLflow's champion cannot be adopted.
    """
    with client.open_registry(Target.of(config), config.name) as registry:
        local, remote = service.champion(), registry.champion()
        if local is not None and not local.in_registry:
            _register(local, remote, registry, service)
        elif remote is not None and (local is None or remote.plan.bundle != local.bundle):
            _adopt(remote, local, config, registry, service)
            reporter.say(
                f"  version {remote.version} of {config.name} was made champion in MLflow and is "
                "now in service here"
            )


def _register(
    local: Champion,
    remote: RegisteredVersion | None,
    registry: Registry,
    service: ChampionStore,
) -> None:
    if remote is None or remote.plan.bundle != local.bundle:
        version = registry.find_bundle(local.bundle)
        if version is None:
            return  # its search is not logged yet; the next call registers it
        registry.promote(version, remote, local.reason)
    service.mark_registered(local)


def _adopt(
    remote: RegisteredVersion,
    local: Champion | None,
    config: RunConfig,
    registry: Registry,
    service: ChampionStore,
) -> None:
    champion = Champion(
        version=CHAMPION_VERSION,
        registered_plan=remote.plan,
        since=utc_now(),
        reason=f"version {remote.version} was made champion in MLflow",
        previous_bundle=None if local is None else local.bundle,
        in_registry=True,
    )
    for folder in (service.bundle_folder(champion.bundle), config.out_folder / BUNDLE_FOLDER):
        if holds_bundle(folder, champion.bundle):
            service.put_in_service(folder, champion)
            return
    with tempfile.TemporaryDirectory() as temporary:
        service.put_in_service(registry.download_bundle(remote, Path(temporary)), champion)
