"""The records of the rounds of a watch.

    OUT/watch/rounds/00000012.json    one file per round, written when it ends

Rounds are numbered from 1 without a gap. A round that a crash interrupted is repeated under its
number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from search.utils.records import BadRecord, read_record, write_record

Decision = Literal["waiting", "unchanged", "searched", "promoted", "failed"]
"""waiting: too few new frames to compare. unchanged: the plan in service still holds.
searched: the search ran again, and the plan in service stays. promoted: the challenger of that
search replaced it. failed: an error, which the reason describes."""

EXIT_CODES: dict[Decision, int] = {
    "waiting": 0, "unchanged": 0, "searched": 10, "promoted": 11, "failed": 1,
}  # fmt: skip
"""Exit codes of `merge-search watch --once`."""

ROUNDS_FOLDER = "rounds"
ROUND_VERSION: Final = 1
"""Version of the record; a file without it, or with another one, is refused."""


class BadRound(BadRecord):
    """The record of a round cannot be read."""


@dataclass(frozen=True)
class CameraRound:
    """The frames and the drift of one camera in a round."""

    frames: int
    """New frames that were stored; near-identical frames are not."""
    fault: str | None = None
    """The error of the camera, as a sentence."""
    judged: int = 0
    """Frames in the window that was compared; 0 if there were too few."""
    p_value: float | None = None
    """The p-value of the hypothesis that these frames look like the frames of the last search,
    corrected for all comparisons of the round."""
    drifted: bool | None = None
    window: int = 0
    """Number of the window that was compared last, in this round or an earlier one."""
    group: str = ""
    """With `watch.fleet`: its group; empty before its first window."""
    group_plan: str = ""
    """With `watch.fleet`: hash of the plan in service in its group; empty if there is none."""
    moved: str = ""
    """With `watch.fleet`: why it came into its group in this round; empty if it did not."""


@dataclass(frozen=True)
class GroupRound:
    """The outcome of a round for one group of a fleet.

    The round of the group has a record of its own, under the same number, in OUT/groups/NAME.
    """

    decision: Decision
    reason: str
    champion: str | None
    """Hash of the plan in service; None if there is none."""


@dataclass(frozen=True)
class PromotionRecord:
    """A decision between challenger and champion, measured on the same frames."""

    result: str
    """Identity of the search's result.json."""
    challenger: str
    """Hash of the plan that the search chose."""
    bundle: str
    """Identity of its bundle."""
    by: Literal["truth", "fidelity"]
    """The verification stage on which they were compared."""
    challenger_quality: float | None
    champion_quality: float | None
    difference: list[str]
    """How the plan of the challenger differs from the champion's, in sentences."""
    promoted: bool
    reason: str
    measured_on: str = ""
    """The frames and their number, in words."""
    at_chance: tuple[str, ...] = ()
    """Models whose unmerged score on these labels is no better than chance."""


@dataclass(frozen=True)
class Round:
    """A scheduled check of the cameras and its outcome."""

    version: Literal[1] = field(kw_only=True)
    number: int
    due: str
    """ISO 8601, UTC, as are the other times."""
    began: str
    ended: str
    cameras: Mapping[str, CameraRound]
    decision: Decision
    reason: str
    champion: str | None
    """Hash of the plan in service at the end of the round; None if there is none."""
    fidelity: Mapping[str, float | None] = field(default_factory=dict)
    """Fidelity of the plan in service on the new frames, by model; empty if not measured."""
    promotion: PromotionRecord | None = None
    """None if the round did not search, or its search chose no plan."""
    missed: int = 0
    """Earlier rounds that were due and never began."""
    expected: float | None = None
    """Mean fidelity of the plan in service in the last search; later rounds compare theirs with
    it."""
    groups: Mapping[str, GroupRound] = field(default_factory=dict)
    """With `watch.fleet`: the groups whose cameras had new windows, by name."""

    @property
    def p_value(self) -> float | None:
        """The smallest of all cameras."""
        p_values = [c.p_value for c in self.cameras.values() if c.p_value is not None]
        return min(p_values, default=None)

    @property
    def new_frames(self) -> int:
        """New frames of all cameras."""
        return sum(camera.frames for camera in self.cameras.values())


@dataclass(frozen=True)
class RoundHistory:
    """The records of all rounds that have ended."""

    folder: Path
    """OUT/watch"""

    def rounds(self) -> list[Round]:
        """Return all rounds in order.

        Raises:
            BadRound: A file cannot be read.
        """
        return [_read(path) for path in self._files()]

    def latest(self, count: int) -> list[Round]:
        """Return the last `count` rounds in order."""
        return [_read(path) for path in self._files()[-count:]]

    def last(self) -> Round | None:
        return next(iter(self.latest(1)), None)

    def since(self, number: int) -> list[Round]:
        """Return the rounds from that number on."""
        return [_read(path) for path in self._files() if int(path.stem) >= number]

    def write(self, ended: Round) -> None:
        """Write the record of a round, completely or not at all."""
        write_record(self.file(ended.number), ended)

    def file(self, number: int) -> Path:
        """Return the path of the record of that round, whether or not it exists."""
        return self.folder / ROUNDS_FOLDER / f"{number:08d}.json"

    def _files(self) -> list[Path]:
        return sorted((self.folder / ROUNDS_FOLDER).glob("[0-9]*.json"))


def _read(path: Path) -> Round:
    try:
        return read_record(Round, path)
    except BadRecord as error:
        raise BadRound(
            f"{error}; it is not the record of a round: move it away, and that round is forgotten"
        ) from error
