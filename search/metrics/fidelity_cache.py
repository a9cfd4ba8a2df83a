"""How far shares leave their recipients' answers as they were: sums over frames, on disk too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.utils.records import BadRecord, read_record, write_record
from spaces.errors import MergeSearchError
from spaces.plan import Share


class BadNotes(MergeSearchError):
    """A file of agreements that cannot be read, or is of other shares."""


AGAIN = "delete the file, and the agreements are measured again"


@dataclass(frozen=True)
class AgreementRecord:
    """The JSON file of the agreements of several shares."""

    frames: int
    sums: dict[str, float]
    """By the text of the share."""


@dataclass(frozen=True)
class Agreement:
    """Shares, each tried alone on the same frames."""

    frames: int
    sums: Mapping[Share, float]
    """Of each share, the agreement of its recipient with itself unmerged, summed over the
    frames: 1 a frame where nothing has changed."""

    def save(self, path: Path) -> None:
        """Write the file, wholly or not at all.

        Raises:
            CannotWrite: the folder does not take it.
        """
        sums = {str(share): total for share, total in self.sums.items()}
        write_record(path, AgreementRecord(self.frames, sums))

    @classmethod
    def load(cls, path: Path, shares: Sequence[Share]) -> Agreement:
        """What `save` has written of these shares, to the last bit.

        Raises:
            BadNotes: it is damaged, or does not tell of all of them.
        """
        try:
            record = read_record(AgreementRecord, path)
        except BadRecord as error:
            raise BadNotes(f"{error}; {AGAIN}") from error
        missing = [str(share) for share in shares if str(share) not in record.sums]
        if missing:
            raise BadNotes(f"{path}: no agreement of {missing[0]}; {AGAIN}")
        return cls(record.frames, {share: record.sums[str(share)] for share in shares})


def means(known: Iterable[Agreement], shares: Sequence[Share]) -> dict[Share, float]:
    """Mean agreement of each share over the frames of all of them."""
    listed = list(known)
    frames = sum(one.frames for one in listed)
    return {share: sum(one.sums[share] for one in listed) / frames for share in shares}
