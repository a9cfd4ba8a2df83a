"""Multiply-accumulates (MACs) of very many plans, per frame or per second of camera time."""

from __future__ import annotations

from functools import partial

import numpy as np

from search.study.exact.byte_tables import AdapterContexts
from search.study.exact.plan_table import PlanStructure, PlanTable
from search.study.exact.segments import NO_SHARE, Floats, Ints
from search.study.problem import Problem
from spaces.cost import CostModel
from spaces.liveness import Liveness
from spaces.plan import HEAD, Ref, Share


class MacsTable:
    """The MACs of stages, heads and adapters, and the rates at which plans run them.

    A stage runs at the highest rate of the models that need it, and at 0 if none does. Without
    rates every model answers for each frame, which is a rate of 1.
    """

    def __init__(self, problem: Problem, table: PlanTable) -> None:
        """Prepare for a problem; `table` is one of its plan tables, of any profile."""
        self.table = table
        rates = problem.rates or dict.fromkeys(problem.layouts, 1.0)
        segments, costs = table.segments, CostModel(problem.facts)
        self.model_rate = np.array([rates[segment.model] for segment in segments])[:, None]
        self.end_rate = np.where(table.tapped[:, None], self.model_rate, 0.0)
        """(segments, 1): the rate of the model whose head reads each segment's end, or 0."""
        self.ends = np.array([len(segment.stages) for segment in segments])[:, None]
        self.head_macs = sum(rates[name] * facts.head_macs for name, facts in costs.facts.items())
        self.stage_macs = np.zeros((len(segments), int(self.ends.max()) + 1))
        """(segments, positions): MACs of the stage at each position; 0 at position 0."""
        for ref, (segment, position) in table.positions.items():
            macs = costs.facts[ref.model].stage(ref.stage).macs
            self.stage_macs[segment, position] = macs
        self.place = np.array([*table.positions.values(), (0, 0)], np.intp)
        """(stages + 1, 2): segment and position of each stage; the last row is no stage."""
        self._set_adapter_macs(costs)

    def _set_adapter_macs(self, costs: CostModel) -> None:
        """Set (shares + 1, contexts, contexts, owners): the MACs that each adapter adds.

        The owners are the recipient (of a map that is not folded), the readers of the result,
        nearest first, and the head of the recipient's model.
        """
        longest = len(self.table.adapter_bytes.readers)
        shape = (longest + 1, longest + 1, longest + 2)
        self.adapter_macs = np.zeros((len(self.table.shares) + 1, *shape))
        for number, share in enumerate(self.table.shares):
            contexts = AdapterContexts(share, costs.facts)
            owners: list[Ref | None] = [share.recipient, *contexts.readers]
            owners += [None] * (longest + 1 - len(owners))
            owners.append(Ref(share.recipient.model, HEAD))
            macs_by_owner = partial(_adapter_macs, costs, share, owners)
            self.adapter_macs[number] = np.reshape(
                [*contexts.values(longest, macs_by_owner)], shape
            )
        self.any_adapter = bool(self.adapter_macs.any())

    def macs(self, chosen: Ints) -> Floats:
        """Return the MACs of complete plans without cycles, (n,), from `chosen`, (segments, n)."""
        structure = self.table.structure(chosen)
        stage_rates, share_rates = self._rates(chosen, structure)
        total: Floats = np.einsum("sp,psn->n", self.stage_macs, stage_rates) + self.head_macs
        if self.any_adapter:
            total += self._adapter_macs(chosen, structure, stage_rates, share_rates)
        return total

    def _rates(self, chosen: Ints, structure: PlanStructure) -> tuple[Floats, Floats]:
        """Return the rates of stages, (positions, segments, n), and of shares, (segments, n).

        Rates spread from the heads upstream: within a segment in one sweep from its end, and
        between segments by repeated sweeps, until nothing changes.
        """
        stage_rates = np.zeros((self.stage_macs.shape[1], *chosen.shape))
        share_rates, columns = np.zeros(chosen.shape), np.arange(chosen.shape[1])
        for _ in range(len(chosen) + 1):
            before = share_rates
            donated = np.zeros_like(stage_rates)
            for segment, shares in enumerate(chosen):
                at = (self.table.donor_position[shares], structure.donor_segment[segment], columns)
                donated[at] = np.maximum(donated[at], share_rates[segment] * (shares != NO_SHARE))
            share_rates = self._sweep(stage_rates, donated, structure.replaced)
            if np.array_equal(before, share_rates):
                break
        return stage_rates, share_rates

    def _sweep(self, stage_rates: Floats, donated: Floats, replaced: Ints) -> Floats:
        """Set the rates of all stages and return those of the shares, (segments, n).

        `donated`, (positions, segments, n), is the highest rate at which shares take each
        representation. The segments of a model are swept from the last, since each needs the end
        of the one before.
        """
        share_rates = np.zeros(replaced.shape)
        end_rates = np.repeat(self.end_rate, replaced.shape[1], axis=1)
        for segment in reversed(range(len(replaced))):
            rate = end_rates[segment]
            for position in range(int(self.ends[segment, 0]), 0, -1):
                rate = np.maximum(rate, donated[position, segment])
                is_recipient = replaced[segment] == position
                share_rates[segment] = np.where(is_recipient, rate, share_rates[segment])
                rate = np.where(is_recipient, 0.0, rate)
                stage_rates[position, segment] = rate
            previous = self.table.previous[segment]
            if previous >= 0:
                end_rates[previous] = np.maximum(end_rates[previous], rate)
        return share_rates

    def _adapter_macs(
        self,
        chosen: Ints,
        structure: PlanStructure,
        stage_rates: Floats,
        share_rates: Floats,
    ) -> Floats:
        """Return the MACs that all adapters add, (n,)."""
        live, donors = self.table.live_stages(structure), self.table.donors(chosen)
        columns, total = np.arange(chosen.shape[1]), np.zeros(chosen.shape[1])
        readers = self.table.adapter_bytes.readers
        for segment, shares in enumerate(chosen):
            contexts = self.table.adapter_bytes.contexts(shares, live, donors)
            added = self.adapter_macs[shares, *contexts]
            total += added[:, 0] * share_rates[segment]
            for number, stages in enumerate(readers, start=1):
                owner, position = self.place[stages[shares]].T
                total += added[:, number] * stage_rates[position, owner, columns]
            total += added[:, -1] * self.model_rate[segment]
        return total


def _adapter_macs(
    costs: CostModel, share: Share, owners: list[Ref | None], live: Liveness
) -> list[int]:
    macs_by_owner = costs.macs_of_map(share, live)
    return [0 if owner is None else macs_by_owner.get(owner, 0) for owner in owners]
