"""What a finished run was about, taken up again from its folder: its models, frames and maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.config.loading import config_of
from search.config.run import RunConfig
from search.data.frames import BadFrames, FrameSet
from search.pipelines.prepare import load_deployment, observe
from search.results.documents import read_document
from search.results.search_result import CandidateRecord, PlanRecord, Result
from search.statistics.observed import Observed
from search.utils.records import BadRecord
from search.utils.reporter import Reporter
from spaces.errors import MergeSearchError

DOCUMENT = "result.json"


class NoSuchRun(MergeSearchError):
    """No run has finished in this folder."""


class NoSuchPlan(MergeSearchError):
    """The run has found no plan of that hash."""


@dataclass(frozen=True)
class Finished:
    """A run that has ended: what it found, and the config that it was asked with."""

    out: Path
    result: Result
    config: RunConfig

    @property
    def document(self) -> Path:
        return self.out / DOCUMENT

    @classmethod
    def at(cls, out: Path) -> Finished:
        """The run whose OUT that is.

        Raises:
            NoSuchRun: there is no result.json.
            BadRecord: there is one, but of another version, or not whole.
            BadConfig: it holds a config that this version does not accept.
        """
        document = out / DOCUMENT
        if not document.is_file():
            raise NoSuchRun(
                f"{out}: no result.json; give the folder that `merge-search run` wrote to"
            )
        result = read_document(document)
        if not isinstance(result, Result):
            raise BadRecord(f"{document} is no result of `merge-search run`")
        base = (out / result.base).resolve()
        return cls(out, result, config_of(result.config, base, document))

    def observe(self, reporter: Reporter) -> Observed:
        """Its models and frames again; the statistics from the cache, if they are there."""
        deployment = load_deployment(self.config, reporter)
        with reporter.working("frames"):
            frames = self.frames()
        return observe(self.config, deployment, frames, reporter)

    def frames(self) -> FrameSet:
        """The unlabelled frames that it was searched on.

        Raises:
            BadFrames: they are not there, or not those any more: other maps would be fitted.
        """
        frames = self.config.frames.open(self.config.base)
        if frames.hash != self.result.frames["hash"]:
            raise BadFrames(
                f"{self.document}: the frames of the search have changed since: {len(frames)} "
                f"with hash {frames.hash}, it was {self.result.frames['count']} with "
                f"{self.result.frames['hash']}; put them back, or run the search again"
            )
        return frames

    def plan(self, start: str | None) -> PlanRecord:
        """The one plan whose hash begins so; without one, the chosen plan.

        Raises:
            NoSuchPlan: none or several begin so, or none was chosen.
        """
        wanted = start or self.result.chosen
        if wanted is None:
            raise NoSuchPlan(f"{self.out}: no plan was chosen; name one of {_some(self.plans)}")
        found = [record for record in self.plans if record.hash.startswith(wanted)]
        if len(found) != 1:
            some = "none" if not found else f"{len(found)} plans"
            raise NoSuchPlan(
                f"{self.out}: {some} with a hash that begins with {wanted!r}; there are "
                f"{_some(self.plans)}"
            )
        return found[0]

    @property
    def plans(self) -> list[PlanRecord]:
        """All plans that the run names, the verified ones first, each once."""
        candidates: list[PlanRecord] = list(self.result.candidates)
        known = {record.hash for record in candidates}
        return candidates + [r for r in self.result.front if r.hash not in known]


def _some(records: Sequence[PlanRecord]) -> str:
    verified = [r.hash for r in records if isinstance(r, CandidateRecord)]
    rest = len(records) - len(verified)
    return ", ".join(verified) + (f" and {rest} more in plans/" if rest else "")
