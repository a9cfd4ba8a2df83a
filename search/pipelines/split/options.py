"""The splits of all plans, with what the device holds and computes in each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from search.pipelines.split.inputs import SplitInputs
from search.results.split_result import SplitConditions
from search.study.precision.profiles import FactsByName, apply_profile
from search.utils.format import megabytes, percent
from spaces.cost import CostModel
from spaces.errors import MergeSearchError
from spaces.execution import EntryPoint
from spaces.plan import HEAD, Precision, Ref, SharePlan
from spaces.precision import TORCH_DTYPES
from spaces.split.possible import possible_splits
from spaces.split.split import Split, SplitParts


class NoSplitFits(MergeSearchError):
    """No split stays within what the device can hold and compute."""

    exit_code = 2


@dataclass(frozen=True)
class StoredSplit:
    """A split whose device stores the weights of its part in at most some precision."""

    split: Split
    weight_bytes: int
    """Of the device's part."""


@dataclass(frozen=True)
class SplitOption:
    """A split of a plan, before anything is chosen about codec and precision."""

    split: Split
    """Of the plan as it is."""
    parts: SplitParts
    device_macs: int
    device_share: float
    """Of the MACs of the plan."""
    peak_activations: int
    """Bytes on the device, for one frame, without the codec."""
    stored: dict[Precision, StoredSplit]
    """By the precision of the device; those that change nothing are left out."""

    @property
    def least_memory(self) -> int:
        """The bytes that the device holds at least, without the codec."""
        return min(s.weight_bytes for s in self.stored.values()) + self.peak_activations

    def fits(self, conditions: SplitConditions) -> bool:
        """Return whether the device can hold and compute its part in some precision."""
        memory, macs = conditions.memory, conditions.macs
        return (memory is None or self.least_memory <= memory) and (
            macs is None or self.device_macs <= macs
        )


def split_options(inputs: SplitInputs) -> list[SplitOption]:
    """Return all splits of all plans that the device can hold and compute.

    Raises:
        NoSplitFits: there is none.
    """
    precisions, conditions = inputs.settings.device.precision, inputs.conditions
    costs, setup = inputs.costs, inputs.setup
    options: list[SplitOption] = []
    for plan in inputs.plans:
        merged = setup.merged(plan)
        splits = possible_splits(plan, [*merged.outputs.values()], seed=inputs.config.seed)
        options += [
            _option(split, SplitParts.of(merged, split), costs, precisions) for split in splits
        ]
    fitting = [option for option in options if option.fits(conditions)]
    if not fitting:
        raise NoSplitFits(_why_none(options, conditions, costs))
    return fitting


def _option(
    split: Split, parts: SplitParts, costs: CostModel, precisions: Sequence[Precision]
) -> SplitOption:
    owners = part_owners(parts.device)
    macs = costs.macs_by_owner(split.plan)
    device_macs = sum(macs.get(owner, 0) for owner in owners)
    peaks = costs.part_activations(split.plan, parts.device.steps)
    return SplitOption(
        split=split,
        parts=parts,
        device_macs=device_macs,
        device_share=device_macs / sum(macs.values()),
        peak_activations=max(peak for _, peak in peaks),
        stored=dict(_stored(split, owners, costs, precisions)),
    )


def _stored(
    split: Split, owners: frozenset[Ref], costs: CostModel, precisions: Sequence[Precision]
) -> Iterator[tuple[Precision, StoredSplit]]:
    """Yield the split with each precision of the device; of equal ones the first."""
    known: set[SharePlan] = set()
    for precision in precisions:
        plan = with_device_precision(split.plan, owners, precision, costs.facts)
        if plan not in known:
            known.add(plan)
            size = sum(costs.bytes_by_owner(plan, owners).values())
            yield precision, StoredSplit(Split(plan, split.ends), size)


def part_owners(part: EntryPoint) -> frozenset[Ref]:
    """Return the stages, maps and heads that a part of a merged model runs."""
    return frozenset(
        step.makes.ref if step.makes else Ref(step.model, HEAD) for step in part.steps
    )


def with_device_precision(
    plan: SharePlan, owners: Iterable[Ref], precision: Precision, facts: FactsByName
) -> SharePlan:
    """Return a canonical plan in which some owners store weights in at most a precision."""
    profile = dict(plan.precision_by_owner)
    for owner in owners:
        current = profile.get(owner, facts[owner.model].dtype)
        if TORCH_DTYPES[precision].itemsize < TORCH_DTYPES[current].itemsize:
            profile[owner] = precision
    return apply_profile(plan, profile, facts)


def _why_none(
    options: Sequence[SplitOption], conditions: SplitConditions, costs: CostModel
) -> str:
    memory = min(option.least_memory for option in options)
    macs = min(option.device_macs for option in options)
    reasons = []
    if conditions.memory is not None:
        reasons.append(
            f"the least that a device holds is {megabytes(memory)}, and "
            f"{megabytes(conditions.memory)} are allowed (split.device.memory)"
        )
    if conditions.macs is not None:
        reasons.append(
            f"the least that it computes is {percent(macs / costs.unmerged_macs)} of the unmerged "
            f"MACs, and {percent(conditions.macs / costs.unmerged_macs)} are allowed "
            "(split.device.macs)"
        )
    return f"no split fits the device: {'; '.join(reasons)}"
