"""Rounds of the watch, as plain data: what was seen, decided and why, and what came of it.

    OUT/watch/rounds/00000012.json    one file a round, written when it ends

Rounds are numbered from 1 without a gap; one that a crash cut short is done again under its
number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from search.utils.records import BadRecord, read_record, write_record

Decision = Literal["waiting", "unchanged", "searched", "promoted", "failed"]
"""Too few new frames to tell; the plan in service still holds; searched again, and the plan in
service stays; and the challenger took its place; something was wrong, which the reason tells."""

EXIT_CODES: dict[Decision, int] = {
    "waiting": 0, "unchanged": 0, "searched": 10, "promoted": 11, "failed": 1,
}  # fmt: skip
"""Of `merge-search watch --once`."""

FOLDER = "rounds"


class BadRound(BadRecord):
    """A file that is not the record of a round."""


@dataclass(frozen=True)
class CameraRound:
    """What one camera gave in a round."""

    frames: int
    """New frames that were kept; near-identical ones are not."""
    fault: str | None = None
    """What was wrong with it, in a sentence."""
    judged: int = 0
    """Frames of the window that was compared; 0 while there are too few."""
    p_value: float | None = None
    """Of the frames of the last search and of these coming from the same camera, corrected for
    all comparisons of the round."""
    drifted: bool | None = None
    window: int = 0
    """Number of the last window that was compared, in this round or before."""


@dataclass(frozen=True)
class PromotionRecord:
    """Champion and challenger on the same frames."""

    result: str
    """Identity of the search's result.json."""
    challenger: str
    """Hash of the plan that the search chose."""
    bundle: str
    """Identity of its bundle."""
    by: Literal["truth", "fidelity"]
    """What both were measured by."""
    challenger_quality: float | None
    champion_quality: float | None
    difference: list[str]
    """What the challenger does otherwise than the champion, in sentences."""
    promoted: bool
    reason: str
    measured_on: str = ""
    """In words: which frames, and how many."""


@dataclass(frozen=True)
class Round:
    """One look at the cameras, and what came of it."""

    version: Literal[1] = field(default=1, kw_only=True)
    number: int
    due: str
    """When it was due; ISO 8601, UTC, as the others."""
    began: str
    ended: str
    cameras: Mapping[str, CameraRound]
    decision: Decision
    reason: str
    champion: str | None
    """Hash of the plan in service at the end; None if there is none."""
    fidelity: Mapping[str, float | None] = field(default_factory=dict)
    """Per model, of the plan in service on the new frames; empty if it was not measured."""
    verdict: PromotionRecord | None = None
    """None if nothing was searched, or nothing found."""
    missed: int = 0
    """Rounds that were due before and never began."""
    expected: float | None = None
    """Mean fidelity that the plan in service had in the last search: what the next rounds hold
    theirs against."""

    @property
    def p_value(self) -> float | None:
        """The least of all cameras."""
        known = [c.p_value for c in self.cameras.values() if c.p_value is not None]
        return min(known, default=None)

    @property
    def new_frames(self) -> int:
        """Of all cameras."""
        return sum(camera.frames for camera in self.cameras.values())


@dataclass(frozen=True)
class RoundHistory:
    """All rounds that have ended."""

    folder: Path
    """OUT/watch"""

    def rounds(self) -> list[Round]:
        """In their order.

        Raises:
            BadRound: a file cannot be read.
        """
        return [_read(path) for path in self._files()]

    def latest(self, most: int) -> list[Round]:
        """The last so many, in their order."""
        return [_read(path) for path in self._files()[-most:]]

    def last(self) -> Round | None:
        return next(iter(self.latest(1)), None)

    def since(self, number: int) -> list[Round]:
        """The rounds from that number on."""
        return [_read(path) for path in self._files() if int(path.stem) >= number]

    def keep(self, ended: Round) -> None:
        """Write the round, wholly or not at all."""
        write_record(self.file(ended.number), ended)

    def file(self, number: int) -> Path:
        """Where the round of that number is, or would be."""
        return self.folder / FOLDER / f"{number:08d}.json"

    def _files(self) -> list[Path]:
        return sorted((self.folder / FOLDER).glob("[0-9]*.json"))


def _read(path: Path) -> Round:
    try:
        return read_record(Round, path)
    except BadRecord as error:
        raise BadRound(
            f"{error}; it is not the record of a round: move it away, and that round is forgotten"
        ) from error
