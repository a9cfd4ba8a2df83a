"""The labels that the search of a plan used: only other labels measure it independently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from search.data.ground_truth import Truth, label_hashes, truth_subset
from search.utils.files import write_json
from search.utils.records import BadRecord, read_record

MIN_NEW_LABELS = 16
"""New labelled frames of a model that are needed; with fewer, its fidelity says more."""


@dataclass(frozen=True)
class SeenLabels:
    """A folder with one file per bundle: hashes of the labels that its search used."""

    folder: Path

    def record(self, bundle: str, truth: Mapping[str, Truth]) -> None:
        """Record the labels that the search of a bundle used.

        Raises:
            CannotWrite: the folder cannot be written to; nothing is recorded.
        """
        hashes = {model: label_hashes(labels) for model, labels in truth.items()}
        write_json(self._file(bundle), hashes)

    def new(self, bundle: str, truth: Mapping[str, Truth]) -> dict[str, Truth]:
        """Return the labels that the search of a bundle did not use, of models that have enough.

        If nothing is recorded for the bundle, all labels are new.
        """
        recorded = self._read(bundle)
        new_labels: dict[str, Truth] = {}
        for model, labels in truth.items():
            used_hashes = set(recorded.get(model, ()))
            indices = [k for k, mark in enumerate(label_hashes(labels)) if mark not in used_hashes]
            if len(indices) >= MIN_NEW_LABELS:
                new_labels[model] = truth_subset(labels, indices)
        return new_labels

    def keep_only(self, bundles: Iterable[str | None]) -> None:
        """Remove the records of all other bundles."""
        files = {self._file(bundle) for bundle in bundles if bundle}
        for path in self.folder.glob("*.json"):
            if path not in files:
                path.unlink(missing_ok=True)

    def _file(self, bundle: str) -> Path:
        return self.folder / f"{bundle}.json"

    def _read(self, bundle: str) -> dict[str, list[str]]:
        try:
            return read_record(dict[str, list[str]], self._file(bundle))
        except BadRecord:
            return {}
