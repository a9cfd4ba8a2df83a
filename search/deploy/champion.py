"""The champion on this machine: its record, and the bundle that a box loads.

    OUT/service/champion.json     which bundle is in service, since when, and why
    OUT/service/bundles/ID/       this bundle, and the previous one
    OUT/service/current           a link to the bundle in service, which a box loads

`champion.json` is replaced atomically, after its bundle is complete. Whenever a process is killed,
the record names either the old or the new champion, and its bundle can be loaded.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from search.results.precisions import describe_stored, stored_bytes_by_precision
from search.results.registered_plan import RegisteredPlan
from search.results.rounds import PromotionRecord
from search.utils.files import link_or_copy, replace_folder, replace_link
from search.utils.records import BadRecord, NoRecord, read_record, write_record
from spaces.bundle import read_bundle_contents
from spaces.bundle_files import BUNDLE, BadBundle, bundle_id
from spaces.cost import CostModel
from spaces.plan import SharePlan

RECORD, BUNDLES, CURRENT = "champion.json", "bundles", "current"
SERVICE = "service"
"""Below OUT."""
CHAMPION_VERSION: Final = 1
"""Of the record: a file without it, or with another one, is refused."""


class DamagedChampion(BadRecord):
    """The record of the champion cannot be read, or its bundle is missing."""


@dataclass(frozen=True)
class Champion:
    """The plan in service."""

    version: Literal[1] = field(kw_only=True)
    registered_plan: RegisteredPlan
    since: str
    """ISO 8601, UTC."""
    reason: str
    previous_bundle: str | None
    """Identity of the bundle that it replaced."""
    round: int | None = None
    """The round of the watch that promoted it; None if a person did."""
    promotion: PromotionRecord | None = None
    """The decision in that round."""
    in_registry: bool = False
    """Whether MLflow's registry has the same champion."""

    @property
    def bundle(self) -> str:
        return self.registered_plan.bundle


@dataclass(frozen=True)
class ChampionStore:
    """The folder OUT/service."""

    folder: Path

    @property
    def record_file(self) -> Path:
        return self.folder / RECORD

    def champion(self) -> Champion | None:
        """Read the champion; None if no plan was ever in service.

        Raises:
            DamagedChampion: The record cannot be read, or its bundle is missing.
        """
        try:
            champion = read_record(Champion, self.record_file)
        except NoRecord:
            return None
        except BadRecord as error:
            raise DamagedChampion(
                f"{error}: the file does not say which plan is in service; restore it from a "
                "backup, or move it away and promote a plan again"
            ) from error
        if not self.holds_bundle(champion.bundle):
            raise DamagedChampion(
                f"{self.bundle_folder(champion.bundle)}: the bundle in service is missing; "
                f"restore it, or move {self.record_file} away and promote a plan again"
            )
        return champion

    def bundle_folder(self, identity: str) -> Path:
        """Return the folder of the bundle of that identity, whether or not it exists."""
        return self.folder / BUNDLES / identity

    def holds_bundle(self, identity: str) -> bool:
        return (self.bundle_folder(identity) / BUNDLE).is_file()

    def load_plan(self, champion: Champion) -> SharePlan:
        return read_bundle_contents(self.bundle_folder(champion.bundle)).plan

    def describe_precisions(self, champion: Champion) -> str:
        """Describe how its weights are stored; empty without precisions or if it is damaged."""
        try:
            contents = read_bundle_contents(self.bundle_folder(champion.bundle))
        except BadBundle:
            return ""
        stored = stored_bytes_by_precision(contents.plan, CostModel(contents.facts))
        return describe_stored(contents.plan, stored)

    def put_in_service(self, bundle: Path, champion: Champion) -> None:
        """Copy a bundle into the store and make it the one in service.

        Raises:
            DamagedChampion: The folder holds another bundle than the champion's.
            CannotWrite: The store cannot be written; the previous champion stays.
        """
        self._copy_bundle(bundle, champion.bundle)
        write_record(self.record_file, champion)
        self._finish_switch(champion)

    def mark_registered(self, champion: Champion) -> None:
        """Note in the record that MLflow's registry has this champion."""
        write_record(self.record_file, replace(champion, in_registry=True))

    def finish_interrupted_switch(self) -> None:
        """Finish a switch that a killed process began in `put_in_service`.

        Raises:
            DamagedChampion, CannotWrite: As `champion` and `put_in_service`.
        """
        if (champion := self.champion()) is not None:
            self._finish_switch(champion)

    def _finish_switch(self, champion: Champion) -> None:
        """Point `current` at the bundle in service; delete all but it and the previous one."""
        replace_link(self.folder / CURRENT, Path(BUNDLES) / champion.bundle)
        for folder in (self.folder / BUNDLES).iterdir():
            if folder.name not in (champion.bundle, champion.previous_bundle):
                shutil.rmtree(folder, ignore_errors=True)

    def _copy_bundle(self, bundle: Path, identity: str) -> None:
        destination = self.bundle_folder(identity)
        if bundle == destination:
            return
        with replace_folder(destination, BUNDLE) as part:
            # Bundles are replaced, never written into, so hard links are safe.
            shutil.copytree(bundle, part, copy_function=link_or_copy, dirs_exist_ok=True)
            if (copied := bundle_id(part)) != identity:
                raise DamagedChampion(f"{bundle} holds bundle {copied}, not {identity}")
