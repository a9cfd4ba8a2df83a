"""A finished run, read back from its OUT folder with its models, frames and statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.config.run import RunConfig
from search.data.frames import BadFrames, FrameSet
from search.deploy.run_folder import DOCUMENT, read_run
from search.pipelines.deployment.load import load_deployment
from search.pipelines.open_data import open_frame_set
from search.pipelines.prepare import observe
from search.results.search_result import CandidateRecord, PlanRecord, Result
from search.statistics.observed import Observed
from search.utils.reporter import Reporter
from spaces.errors import MergeSearchError


class NoSuchPlan(MergeSearchError):
    """The run found no plan with that hash, or several."""


@dataclass(frozen=True)
class LoadedRun:
    """The result of a run and the config that it was started with."""

    out: Path
    result: Result
    config: RunConfig

    @property
    def document(self) -> Path:
        """The path of result.json."""
        return self.out / DOCUMENT

    @classmethod
    def from_folder(cls, out: Path) -> LoadedRun:
        """Read the run in the folder OUT.

        Raises:
            NoSuchRun: there is no result.json.
            BadRecord: result.json is incomplete or of another version.
            BadConfig: it holds a config that this version does not accept.
        """
        return cls(out, *read_run(out))

    def observe(self, reporter: Reporter) -> Observed:
        """Load the models and frames again, and the statistics, from the cache if possible."""
        deployment = load_deployment(self.config, reporter)
        with reporter.working("frames"):
            frames = self.frames()
        return observe(self.config, deployment, frames, reporter)

    def frames(self) -> FrameSet:
        """Open the unlabelled frames that the run searched on.

        Raises:
            BadFrames: they are missing or have changed, so that other maps would be fitted.
        """
        frames = open_frame_set(self.config)
        if frames.hash != self.result.frames["hash"]:
            raise BadFrames(
                f"{self.document}: the frames of the search have changed since: {len(frames)} "
                f"with hash {frames.hash}, it was {self.result.frames['count']} with "
                f"{self.result.frames['hash']}; put them back, or run the search again"
            )
        return frames

    def plan(self, hash_prefix: str | None) -> PlanRecord:
        """Return the plan with this hash prefix; without a prefix, the chosen plan.

        Raises:
            NoSuchPlan: no plan or several have the prefix, or none was chosen.
        """
        prefix = hash_prefix or self.result.chosen
        if prefix is None:
            raise NoSuchPlan(
                f"{self.out}: no plan was chosen; name one of {_list_plans(self.plans)}"
            )
        matches = [record for record in self.plans if record.hash.startswith(prefix)]
        if len(matches) != 1:
            count = "no plan" if not matches else f"{len(matches)} plans"
            raise NoSuchPlan(
                f"{self.out}: {count} with a hash that begins with {prefix!r}; there are "
                f"{_list_plans(self.plans)}"
            )
        return matches[0]

    @property
    def plans(self) -> list[PlanRecord]:
        """All plans of the result, each once, the verified plans first."""
        candidates: list[PlanRecord] = list(self.result.candidates)
        verified = {record.hash for record in candidates}
        return candidates + [r for r in self.result.front if r.hash not in verified]


def _list_plans(records: Sequence[PlanRecord]) -> str:
    verified = [r.hash for r in records if isinstance(r, CandidateRecord)]
    others = len(records) - len(verified)
    return ", ".join(verified) + (f" and {others} more in plans/" if others else "")
