"""Merged models in MLflow's registry: versions of one name, and which of them is in service.

An alias is set in one step, and it is what decides: a process that is killed anywhere leaves
either the champion that was or the one that is. Everything else are tags that tell why.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from search.results.registered_plan import RegisteredPlan
from search.utils.records import dump_record, load_record
from spaces.bundle import BUNDLE, BadBundle

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)
from mlflow.tracking import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
RESULT, MODEL = "merge_search.result", "merge_search.model"
"""Stores do not keep the model's id themselves."""
STANDING, REPLACED = "merge_search.standing", "merge_search.replaced"
PROMOTED, REFUSED, LEFT = (
    "merge_search.promoted", "merge_search.not_promoted", "merge_search.rolled_back",
)  # fmt: skip
MOST = 1000
"""Versions looked through."""


@dataclass(frozen=True)
class Entry:
    """A version, and what was known of its plan when it was registered."""

    version: str
    plan: RegisteredPlan
    replaced: str | None
    """The version that was champion before."""

    @classmethod
    def of(cls, found: ModelVersion) -> Entry:
        source = f"tag {STANDING} of version {found.version} of {found.name}"
        plan = load_record(RegisteredPlan, found.tags[STANDING], source)
        return cls(str(found.version), plan, found.tags.get(REPLACED))


@dataclass(frozen=True)
class Registry:
    """The versions of one name."""

    client: MlflowClient
    name: str

    def register(self, model: LoggedModel, plan: RegisteredPlan, tag: str) -> None:
        """A version of that name for a logged model; once, however often it is asked for.

        `tag` is the identity of the result that it is of.
        """
        try:
            self.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
        if not [v for v in self._versions() if v.tags.get(MODEL) == model.model_id]:
            self.client.create_model_version(
                self.name,
                # Not `models:/ID`: that would be looked up in the store that is global to MLflow.
                source=model.artifact_location,
                run_id=model.source_run_id,
                model_id=model.model_id,
                tags={
                    STANDING: json.dumps(dump_record(plan)),
                    RESULT: tag,
                    MODEL: str(model.model_id),
                    "merge_search.plan": plan.plan,
                    "bytes_mb": f"{plan.bytes / 1e6:.2f}",
                    "quality_kept": str(plan.quality),
                },
            )

    def keep_only(self, models: Collection[str], tag: str) -> None:
        """Delete the versions of that result which are of none of these models, or made twice."""
        seen: set[str] = set()
        for found in sorted(self._versions(), key=lambda v: int(v.version)):
            if found.tags.get(RESULT) == tag:
                if found.tags.get(MODEL) not in set(models) - seen:
                    self.client.delete_model_version(self.name, found.version)
                seen.add(str(found.tags.get(MODEL)))

    def propose(self, tag: str) -> str | None:
        """Make that result's version the challenger, unless a later one is; returns which."""
        mine = [Entry.of(v) for v in self._versions() if v.tags.get(RESULT) == tag]
        if not mine:
            return None
        known = self.challenger()
        if known is None or known.plan.created <= mine[0].plan.created:
            self._set(CHALLENGER, mine[0].version)
        return mine[0].version

    def champion(self) -> Entry | None:
        return self._entry(CHAMPION)

    def challenger(self) -> Entry | None:
        return self._entry(CHALLENGER)

    def before(self, champion: Entry) -> Entry | None:
        """The champion that it replaced."""
        known = {str(v.version): v for v in self._versions()}
        return Entry.of(known[champion.replaced]) if champion.replaced in known else None

    def of_bundle(self, bundle: str) -> Entry | None:
        """The version of the bundle of that identity, the latest if there are several."""
        mine = [v for v in map(Entry.of, self._versions()) if v.plan.bundle == bundle]
        return max(mine, key=lambda v: int(v.version), default=None)

    def fetch(self, entry: Entry, folder: Path) -> Path:
        """Download what was logged of a version; returns the folder of its bundle.

        Raises:
            BadBundle: there is none.
        """
        version = self.client.get_model_version(self.name, entry.version)
        fetched = download_artifacts(
            artifact_uri=version.source,
            dst_path=str(folder),
            tracking_uri=self.client.tracking_uri,
        )
        for found in Path(fetched).rglob(BUNDLE):
            return found.parent
        raise BadBundle(f"version {entry.version} of {self.name} in MLflow holds no {BUNDLE}")

    def promote(self, challenger: Entry, champion: Entry | None, reason: str) -> None:
        self._tag(challenger, PROMOTED, reason)
        if champion is not None:
            self._tag(challenger, REPLACED, champion.version)
        self._set(CHAMPION, challenger.version)
        proposed = self.challenger()  # by now another run may have proposed another
        if proposed is not None and proposed.version == challenger.version:
            self.client.delete_registered_model_alias(self.name, CHALLENGER)

    def refuse(self, challenger: Entry, reason: str) -> None:
        self._tag(challenger, REFUSED, reason)

    def go_back(self, champion: Entry, before: Entry, why: str) -> None:
        self._tag(champion, LEFT, why)
        self._set(CHAMPION, before.version)

    def _entry(self, alias: str) -> Entry | None:
        try:
            aliases = self.client.get_registered_model(self.name).aliases
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                return None
            raise
        known = {str(found.version): found for found in self._versions()}
        return Entry.of(known[str(aliases[alias])]) if alias in aliases else None

    def _versions(self) -> list[ModelVersion]:
        """Those of ours; somebody may have registered other models under the same name."""
        found = self.client.search_model_versions(f"name = '{self.name}'", max_results=MOST)
        return [version for version in found if STANDING in version.tags]

    def _set(self, alias: str, version: str) -> None:
        self.client.set_registered_model_alias(self.name, alias, version)

    def _tag(self, entry: Entry, key: str, value: str) -> None:
        self.client.set_model_version_tag(self.name, entry.version, key, value)
