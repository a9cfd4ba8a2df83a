"""Build the record of a round from the results of its steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from search.cameras.polling import PollResult
from search.deploy.champion import Champion
from search.results.rounds import ROUND_VERSION, CameraRound, Decision, PromotionRecord, Round
from search.utils.schedule import Due
from search.utils.timing import utc_now
from search.watch.inspection import Inspection
from search.watch.search_again import SearchOutcome
from search.watch.windows import last_compared, of_camera


@dataclass
class RoundBuilder:
    """The record of a round in progress. It can be built after any step, also a failed one."""

    due: Due
    last: Round | None
    """The last round that ended."""
    number: int
    began: str
    cameras: dict[str, CameraRound]
    fidelity: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def start(cls, due: Due, last: Round | None, cameras: Iterable[str]) -> RoundBuilder:
        """Start a record that keeps the number of the last window compared of each camera."""
        records = {name: CameraRound(0, window=last_compared(last, name)) for name in cameras}
        number = 1 if last is None else last.number + 1
        return cls(due, last, number, utc_now(), records)

    def add_poll_results(self, results: Mapping[str, PollResult]) -> None:
        """Add the results of polling; a camera without a result was not polled."""
        paused = PollResult(0, "not polled: pausing after a fault")
        for name, record in self.cameras.items():
            result = results.get(name, paused)
            self.cameras[name] = replace(record, frames=result.frames, fault=result.fault)

    def faults(self) -> dict[str, str]:
        return {name: record.fault for name, record in self.cameras.items() if record.fault}

    def add_fidelity(self, inspection: Inspection) -> None:
        """Add the fidelity of the plan in service on the new frames."""
        self.fidelity = {} if inspection.fidelity is None else inspection.fidelity.by_model

    def add_comparison(self, inspection: Inspection) -> None:
        """Add the drift of each camera; its new windows then count as compared."""
        for name, drift in inspection.drift_by_camera.items():
            windows = of_camera(inspection.windows, name)
            self.cameras[name] = replace(
                self.cameras[name],
                judged=sum(len(window.frames) for window in windows),
                p_value=drift.p_value,
                drifted=drift.noticed,
                window=windows[-1].number,
            )

    def expected_fidelity(self, champion: Champion | None) -> float | None:
        """Return the mean fidelity that the plan in service had in the round that searched it."""
        if champion is None:
            return None
        if self.last is not None and self.last.champion == champion.registered_plan.plan:
            return self.last.expected
        return champion.registered_plan.fidelity

    def build(
        self,
        decision: Decision,
        reason: str,
        champion: Champion | None,
        promotion: PromotionRecord | None = None,
    ) -> Round:
        """Return the record of the round, which ends now with this champion in service."""
        return Round(
            version=ROUND_VERSION,
            number=self.number,
            due=self.due.at.isoformat(timespec="seconds"),
            began=self.began,
            ended=utc_now(),
            cameras=self.cameras,
            decision=decision,
            reason=reason,
            champion=None if champion is None else champion.registered_plan.plan,
            fidelity=self.fidelity,
            promotion=promotion,
            missed=self.due.missed,
            expected=self.expected_fidelity(champion),
        )

    def build_searched(
        self, outcome: SearchOutcome, reason: str, champion: Champion | None
    ) -> Round:
        """Return the record of a round that searched again."""
        if outcome.record is None:
            reason = f"{reason}; the search found no acceptable plan"
            return self.build("searched", reason, champion)
        decision: Decision = "promoted" if outcome.record.promoted else "searched"
        ended = self.build(decision, reason, champion, outcome.record)
        return ended if outcome.fidelity is None else replace(ended, expected=outcome.fidelity)
