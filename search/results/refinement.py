"""What the refinement of a candidate's maps gained."""

from __future__ import annotations

from dataclasses import dataclass

from search.utils.format import percent


@dataclass(frozen=True)
class RefinementRecord:
    """One plan with its maps in closed form and refined, on the same held-out frames.

    Closeness is 1 minus the probability that moves between merged and unmerged answers, the mean
    over models and frames: `spaces.stages.StagedModel.closeness`.
    """

    plan: str
    """Hash of the plan with maps in closed form."""
    refined: str
    """Hash of the plan with refined maps."""
    closed_form: float
    """Closeness with maps in closed form."""
    closeness: float
    """Closeness with refined maps."""
    gain: list[float]
    """[refined - closed form, low, high]: the 95% interval is over frames."""

    @property
    def is_kept(self) -> bool:
        """Whether the refined plan is closer beyond the interval."""
        return self.gain[1] > 0


def describe_refinement(record: RefinementRecord) -> str:
    """Return a record in words."""
    gain, low, high = (100 * number for number in record.gain)
    outcome = f"kept as {record.refined}" if record.is_kept else "not kept"
    return (
        f"plan {record.plan}: closeness {percent(record.closed_form)} in closed form, "
        f"{percent(record.closeness)} refined ({gain:+.1f} points, 95% interval {low:+.1f} to "
        f"{high:+.1f}): {outcome}"
    )
