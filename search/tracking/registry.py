"""Merged models in MLflow's registry: the versions of a name, and which of them is in service.

The alias decides, and it is set atomically: whenever a process is killed, the champion is either
the old or the new one. Everything else is tags that give the reasons.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

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

from search.results.registered_plan import RegisteredPlan
from search.utils.records import dump_record, load_record
from spaces.bundle_files import BUNDLE, BadBundle

CHAMPION, CHALLENGER = "champion", "challenger"
RESULT, MODEL = "merge_search.result", "merge_search.model"
"""The model's id is a tag because not all stores keep it."""
STANDING, REPLACED = "merge_search.standing", "merge_search.replaced"
PROMOTED, REFUSED, ROLLED_BACK = (
    "merge_search.promoted", "merge_search.not_promoted", "merge_search.rolled_back",
)  # fmt: skip
MOST_VERSIONS = 1000
"""Versions of a name that are searched at most."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry, with the record of its plan."""

    version: str
    plan: RegisteredPlan
    replaced: str | None
    """The version that was champion before it."""

    @classmethod
    def of(cls, version: ModelVersion) -> RegisteredVersion:
        """Read the tags of MLflow's version.

        Raises:
            BadRecord: The tag with the record of the plan is damaged.
        """
        source = f"tag {STANDING} of version {version.version} of {version.name}"
        plan = load_record(RegisteredPlan, version.tags[STANDING], source)
        return cls(str(version.version), plan, version.tags.get(REPLACED))


@dataclass(frozen=True)
class Registry:
    """The versions of one name."""

    client: MlflowClient
    name: str

    def register(self, model: LoggedModel, plan: RegisteredPlan, result: str) -> None:
        """Register a logged model as a version, unless it is registered already.

        `result` is the identity of its result.
        """
        try:
            self.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
        if not [v for v in self._versions() if v.tags.get(MODEL) == model.model_id]:
            self.client.create_model_version(
                self.name,
                # Not `models:/ID`, which MLflow would look up in its global store.
                source=model.artifact_location,
                run_id=model.source_run_id,
                model_id=model.model_id,
                tags={
                    STANDING: json.dumps(dump_record(plan)),
                    RESULT: result,
                    MODEL: str(model.model_id),
                    "merge_search.plan": plan.plan,
                    "bytes_mb": f"{plan.bytes / 1e6:.2f}",
                    "quality_kept": str(plan.quality),
                },
            )

    def delete_all_but(self, models: Collection[str], result: str) -> None:
        """Delete the versions of a result that are of none of these models, or duplicates."""
        visited_models: set[str] = set()
        for version in sorted(self._versions(), key=lambda v: int(v.version)):
            if version.tags.get(RESULT) == result:
                if version.tags.get(MODEL) not in set(models) - visited_models:
                    self.client.delete_model_version(self.name, version.version)
                visited_models.add(str(version.tags.get(MODEL)))

    def propose(self, result: str) -> str | None:
        """Make the version of a result the challenger, unless the challenger is newer.

        Returns the version, or None if the result has none.
        """
        versions = [v for v in self._versions() if v.tags.get(RESULT) == result]
        if not versions:
            return None
        proposed, challenger = RegisteredVersion.of(versions[0]), self.challenger()
        if challenger is None or challenger.plan.created <= proposed.plan.created:
            self._set_alias(CHALLENGER, proposed.version)
        return proposed.version

    def champion(self) -> RegisteredVersion | None:
        return self._version_of(CHAMPION)

    def challenger(self) -> RegisteredVersion | None:
        return self._version_of(CHALLENGER)

    def previous_champion(self, champion: RegisteredVersion) -> RegisteredVersion | None:
        """Return the version that the champion replaced."""
        versions = {str(v.version): v for v in self._versions()}
        previous = versions.get(champion.replaced or "")
        return None if previous is None else RegisteredVersion.of(previous)

    def find_bundle(self, bundle: str) -> RegisteredVersion | None:
        """Return the latest version whose bundle has that identity."""
        versions = [
            v for v in map(RegisteredVersion.of, self._versions()) if v.plan.bundle == bundle
        ]
        return max(versions, key=lambda v: int(v.version), default=None)

    def download_bundle(self, version: RegisteredVersion, folder: Path) -> Path:
        """Download the model of a version; return the folder of its bundle.

        Raises:
            BadBundle: The model holds no bundle.
        """
        registered = self.client.get_model_version(self.name, version.version)
        downloaded = download_artifacts(
            artifact_uri=registered.source,
            dst_path=str(folder),
            tracking_uri=self.client.tracking_uri,
        )
        for description in Path(downloaded).rglob(BUNDLE):
            return description.parent
        raise BadBundle(f"version {version.version} of {self.name} in MLflow holds no {BUNDLE}")

    def promote(
        self, challenger: RegisteredVersion, champion: RegisteredVersion | None, reason: str
    ) -> None:
        """Make the challenger the champion; note the reason and the version that it replaces."""
        self._set_tag(challenger, PROMOTED, reason)
        if champion is not None:
            self._set_tag(challenger, REPLACED, champion.version)
        self._set_alias(CHAMPION, challenger.version)
        current = self.challenger()  # another run may have proposed another one meanwhile
        if current is not None and current.version == challenger.version:
            self.client.delete_registered_model_alias(self.name, CHALLENGER)

    def note_refusal(self, challenger: RegisteredVersion, reason: str) -> None:
        """Note why the challenger is not promoted."""
        self._set_tag(challenger, REFUSED, reason)

    def roll_back(
        self, champion: RegisteredVersion, previous: RegisteredVersion, reason: str
    ) -> None:
        """Make the previous champion the champion again, and note the reason."""
        self._set_tag(champion, ROLLED_BACK, reason)
        self._set_alias(CHAMPION, previous.version)

    def _version_of(self, alias: str) -> RegisteredVersion | None:
        try:
            aliases = self.client.get_registered_model(self.name).aliases
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                return None
            raise
        versions = {str(v.version): v for v in self._versions()}
        return RegisteredVersion.of(versions[str(aliases[alias])]) if alias in aliases else None

    def _versions(self) -> list[ModelVersion]:
        """Return our versions: others may be registered under the same name."""
        versions = self.client.search_model_versions(
            f"name = '{self.name}'", max_results=MOST_VERSIONS
        )
        return [version for version in versions if STANDING in version.tags]

    def _set_alias(self, alias: str, version: str) -> None:
        self.client.set_registered_model_alias(self.name, alias, version)

    def _set_tag(self, version: RegisteredVersion, key: str, value: str) -> None:
        self.client.set_model_version_tag(self.name, version.version, key, value)
