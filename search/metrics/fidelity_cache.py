"""How far shares leave their recipients' answers as they were: sums over frames, on disk too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.utils.files import write_json
from spaces.errors import MergeSearchError
from spaces.plan import Share


class BadNotes(MergeSearchError):
    """A file of agreements that cannot be read, or is of other shares."""


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
        write_json(path, {"frames": self.frames, "sums": sums})

    @classmethod
    def load(cls, path: Path, shares: Sequence[Share]) -> Agreement:
        """What `save` has written of these shares, to the last bit.

        Raises:
            BadNotes: it is damaged, or does not tell of all of them.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            sums = {share: float(data["sums"][str(share)]) for share in shares}
            return cls(int(data["frames"]), sums)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadNotes(
                f"{path} is not a whole file of agreements ({type(error).__name__}); delete it, "
                "and they are measured again"
            ) from error


def means(known: Iterable[Agreement], shares: Sequence[Share]) -> dict[Share, float]:
    """Mean agreement of each share over the frames of all of them."""
    listed = list(known)
    frames = sum(one.frames for one in listed)
    return {share: sum(one.sums[share] for one in listed) / frames for share in shares}
