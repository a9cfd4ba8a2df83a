"""The operating points of a bundle: several verified plans that share their tensors."""

from __future__ import annotations

from collections.abc import Sequence

from search.deploy.bundle_card import markdown_table
from search.results.search_result import CandidateRecord, PlanRecord, Result
from search.study.pareto import evenly_spaced
from search.utils.format import megabytes, percent
from spaces.errors import MergeSearchError


class TooFewPlans(MergeSearchError):
    """The run verified fewer plans than a bundle is to hold."""


def further_points(result: Result, first: PlanRecord, count: int) -> list[PlanRecord]:
    """Return the plans that make `count` operating points with the first, by rising bytes.

    They are spread evenly over the verified front, by bytes. If that holds too few plans, they
    are spread over all candidates.

    Raises:
        TooFewPlans: there are fewer plans.
    """
    front = [record for record in result.candidates if record.hash in result.verified_front]
    plans = _by_bytes(front, first)
    if len(plans) < count:
        plans = _by_bytes(result.candidates, first)
    if len(plans) < count:
        raise TooFewPlans(
            f"--points {count}: the run {result.name} verified only {len(plans)} plans "
            f"({', '.join(plan.hash for plan in plans)}); ask for fewer points, or run again with "
            "a larger verify.candidates"
        )
    chosen = evenly_spaced(len(plans), count)
    own = next(index for index, plan in enumerate(plans) if plan.hash == first.hash)
    if own not in chosen:
        chosen.remove(min(chosen, key=lambda index: abs(index - own)))
    return [plans[index] for index in chosen if index != own]


def _by_bytes(records: Sequence[CandidateRecord], first: PlanRecord) -> list[PlanRecord]:
    others = [record for record in records if record.hash != first.hash]
    return sorted([first, *others], key=lambda record: (record.bytes, record.hash))


def points_section(records: Sequence[PlanRecord], held_bytes: int) -> str:
    """Return the section of the card: what each point costs and keeps, and what all cost.

    `held_bytes` are those of the tensors of all points together.
    """
    largest = max(record.bytes for record in records)
    apart = sum(record.bytes for record in records)
    table = markdown_table(
        ["plan", "bytes", "MACs per frame", "quality kept", "fidelity"],
        [
            [record.hash, f"{record.bytes:,}", f"{record.macs:,}", *_measured(record)]
            for record in records
        ],
    )
    return "\n\n".join(
        [
            "## Operating points",
            "The bundle holds several plans and every tensor once. It is loaded with the first "
            "plan; `bundle.use(HASH)` changes to another one between two frames, and loads and "
            "copies nothing.",
            table,
            f"Together their tensors take {held_bytes:,} bytes ({megabytes(held_bytes)}): "
            f"{held_bytes - largest:,} more than those of the largest point alone, where separate "
            f"bundles take {apart:,}. Quality and fidelity are means over the models; the other "
            "sections describe the first plan.",
        ]
    )


def _measured(record: PlanRecord) -> tuple[str, str]:
    if not isinstance(record, CandidateRecord):
        return "-", "-"
    return percent(record.quality_kept), percent(record.mean_fidelity)
