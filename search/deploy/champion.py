"""The plan in service on this machine: the champion of record, and the bundles it is served from.

    OUT/service/champion.json     which bundle is in service, since when, and why
    OUT/service/bundles/ID/       it, and the one before
    OUT/service/current           a link to the bundle in service: what a box loads

`champion.json` is replaced in one step, after the bundle is there whole: whatever is killed when,
either the champion that was or the one that is is of record, and its bundle can be loaded.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from search.results.registered_plan import RegisteredPlan
from search.results.rounds import PromotionRecord
from search.utils.files import CannotWrite, link_or_copy, replace_folder
from search.utils.records import BadRecord, NoRecord, read_record, write_record
from spaces.bundle import BUNDLE, bundle_id, read_bundle_contents
from spaces.plan import SharePlan

RECORD, BUNDLES, CURRENT = "champion.json", "bundles", "current"
SERVICE = "service"
"""Below OUT."""


class DamagedChampion(BadRecord):
    """The record of the plan in service cannot be read, or its bundle is not there."""


@dataclass(frozen=True)
class Champion:
    """The plan in service."""

    version: Literal[1] = field(default=1, kw_only=True)
    standing: RegisteredPlan
    """What is known of it."""
    since: str
    """ISO 8601, UTC."""
    reason: str
    before: str | None
    """The bundle that it replaced."""
    round: int | None = None
    """The round of the watch that promoted it; None if a person did."""
    verdict: PromotionRecord | None = None
    """How it was compared in that round."""
    told: bool = False
    """Whether MLflow's registry says so, too."""

    @property
    def bundle(self) -> str:
        return self.standing.bundle


@dataclass(frozen=True)
class ChampionStore:
    """The folder OUT/service."""

    folder: Path

    @property
    def record(self) -> Path:
        return self.folder / RECORD

    def champion(self) -> Champion | None:
        """The champion of record; None if there never was one.

        Raises:
            DamagedChampion: there is a record, but it cannot be read, or its bundle is not whole.
        """
        try:
            found = read_record(Champion, self.record)
        except NoRecord:
            return None
        except BadRecord as error:
            raise DamagedChampion(
                f"{error}: the file does not say which plan is in service; put it back from a "
                "backup, or move it away and promote a plan again"
            ) from error
        if not self.holds(found.bundle):
            raise DamagedChampion(
                f"{self.bundle(found.bundle)}: the bundle in service is not there; put it back, "
                f"or move {self.record} away and promote a plan again"
            )
        return found

    def bundle(self, identity: str) -> Path:
        """Where the bundle of that identity is, or would be."""
        return self.folder / BUNDLES / identity

    def holds(self, identity: str) -> bool:
        return (self.bundle(identity) / BUNDLE).is_file()

    def plan(self, champion: Champion) -> SharePlan:
        return read_bundle_contents(self.bundle(champion.bundle)).plan

    def take(self, bundle: Path, champion: Champion) -> None:
        """Put a bundle, which is copied, in service.

        Raises:
            DamagedChampion: it is another bundle than the champion's.
            CannotWrite: the folder does not take it; the champion before stays.
        """
        self._store(bundle, champion.bundle)
        write_record(self.record, champion)
        self.tidy(champion)

    def note_told(self, champion: Champion) -> None:
        """Write down that MLflow's registry knows."""
        write_record(self.record, replace(champion, told=True))

    def mend(self) -> None:
        """Do what a process that was killed while it put a plan in service has left to do.

        Raises:
            DamagedChampion, CannotWrite: as `champion` and `take`.
        """
        if (champion := self.champion()) is not None:
            self.tidy(champion)

    def tidy(self, champion: Champion) -> None:
        """Let `current` lead to the bundle in service; delete all but it and the one before."""
        self._point(champion.bundle)
        for kept in (self.folder / BUNDLES).iterdir():
            if kept.name not in (champion.bundle, champion.before):
                shutil.rmtree(kept, ignore_errors=True)

    def _store(self, bundle: Path, identity: str) -> None:
        place = self.bundle(identity)
        if bundle == place:
            return
        with replace_folder(place, BUNDLE) as part:
            # Bundles are replaced, never written into: what is linked stays as it is.
            for source in bundle.iterdir():
                link_or_copy(str(source), str(part / source.name))
            if (found := bundle_id(part)) != identity:
                raise DamagedChampion(f"{bundle} holds bundle {found}, not {identity}")

    def _point(self, identity: str) -> None:
        link, target = self.folder / CURRENT, Path(BUNDLES) / identity
        with contextlib.suppress(OSError):
            if link.is_symlink() and link.readlink() == target:
                return
        part = link.with_name(f".{link.name}.part")
        try:
            part.unlink(missing_ok=True)
            part.symlink_to(target, target_is_directory=True)
            os.replace(part, link)
        except OSError as error:
            raise CannotWrite(f"cannot write {link}: {error.strerror or error}") from error
