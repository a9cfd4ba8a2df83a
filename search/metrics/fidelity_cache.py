"""Agreements of merged with unmerged recipients, summed over frames, in memory and on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.utils.records import BadRecord, read_record, write_record
from spaces.errors import MergeSearchError
from spaces.plan import Share


class BadFidelityCache(MergeSearchError):
    """A file of agreements cannot be read, or lacks a share."""


_REMEDY = "delete the file, and the agreements are measured again"


@dataclass(frozen=True)
class AgreementRecord:
    """The JSON file that holds the agreements of several shares."""

    frames: int
    """Number of frames."""
    sums: dict[str, float]
    """Summed agreement by the text of the share."""


@dataclass(frozen=True)
class Agreement:
    """Agreements of several shares, each measured alone, on the same frames."""

    frames: int
    """Number of frames."""
    sums: Mapping[Share, float]
    """Agreement of each share's recipient with itself unmerged, summed over the frames; 1 per
    frame with equal answers."""

    def save(self, path: Path) -> None:
        """Write the file, completely or not at all.

        Raises:
            CannotWrite: the folder cannot be written to.
        """
        write_record(path, self.record())

    def record(self) -> AgreementRecord:
        """Return the agreements as plain data."""
        return AgreementRecord(
            self.frames, {str(share): total for share, total in self.sums.items()}
        )

    @classmethod
    def load(cls, path: Path, shares: Sequence[Share]) -> Agreement:
        """Return the agreements of these shares exactly as `save` has written them.

        Raises:
            BadFidelityCache: the file is damaged, or lacks one of the shares.
        """
        try:
            record = read_record(AgreementRecord, path)
        except BadRecord as error:
            raise BadFidelityCache(f"{error}; {_REMEDY}") from error
        missing = [str(share) for share in shares if str(share) not in record.sums]
        if missing:
            raise BadFidelityCache(f"{path}: no agreement of {missing[0]}; {_REMEDY}")
        return cls(record.frames, {share: record.sums[str(share)] for share in shares})


def mean_agreements(
    agreements: Iterable[Agreement], shares: Sequence[Share]
) -> dict[Share, float]:
    """Return the mean agreement of each share over the frames of all `agreements`."""
    parts = list(agreements)
    frames = sum(part.frames for part in parts)
    return {share: sum(part.sums[share] for part in parts) / frames for share in shares}
