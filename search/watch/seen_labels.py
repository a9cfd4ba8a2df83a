"""Which labels a plan's search has known: only others say something new of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from search.data.ground_truth import Truth, label_hashes, truth_subset
from search.utils.files import write_json
from search.utils.records import BadRecord, read_record

LEAST = 16
"""New labelled frames of a model; of fewer its fidelity says more."""


@dataclass(frozen=True)
class SeenLabels:
    """A folder with a file for each bundle: the labelled frames that its search has known."""

    folder: Path

    def keep(self, bundle: str, truth: Mapping[str, Truth]) -> None:
        """Write down what the search of a bundle knows, wholly or not at all.

        Raises:
            CannotWrite: the folder does not take it.
        """
        write_json(
            self._file(bundle),
            {name: label_hashes(known) for name, known in truth.items()},
        )

    def new(self, bundle: str, truth: Mapping[str, Truth]) -> dict[str, Truth]:
        """The labels that the search of a bundle has not known, of models with enough of them.

        Of a bundle that was searched elsewhere, or before the file was lost, all are new.
        """
        before = self._read(bundle)
        found: dict[str, Truth] = {}
        for name, known in truth.items():
            old = set(before.get(name, ()))
            indices = [k for k, mark in enumerate(label_hashes(known)) if mark not in old]
            if len(indices) >= LEAST:
                found[name] = truth_subset(known, indices)
        return found

    def keep_only(self, bundles: Iterable[str | None]) -> None:
        """Forget what the searches of all others knew."""
        kept = {self._file(bundle) for bundle in bundles if bundle}
        for path in self.folder.glob("*.json"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def _file(self, bundle: str) -> Path:
        return self.folder / f"{bundle}.json"

    def _read(self, bundle: str) -> dict[str, list[str]]:
        try:
            return read_record(dict[str, list[str]], self._file(bundle))
        except BadRecord:
            return {}
