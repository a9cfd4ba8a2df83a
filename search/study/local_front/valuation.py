"""Values of very many plans of a problem at a time, by tables."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from search.study.exact.bounds import ROUNDING
from search.study.exact.macs_table import MacsTable
from search.study.exact.plan_table import PlanTable, PlanValues
from search.study.exact.segments import NO_SHARE, Bools, Floats, Ints
from search.study.local_front.valued_plans import ValuedPlans
from search.study.objectives import MEGA, EvaluatedPlan, PlanEvaluator
from search.study.precision.profiles import NO_PROFILE, apply_profile
from search.study.problem import Cost, Problem
from spaces.liveness import canonical
from spaces.plan import Share, SharePlan

LOOKED_UP: tuple[Cost, ...] = ("bytes", "macs")
"""The costs that tables give."""
PLANS_PER_PASS = 16_384
"""Plans that are valued together: their arrays fit the caches of a processor."""


class Valuation:
    """The plan tables of a problem, one for each precision profile.

    The values are those of `PlanEvaluator`, but for rounding.
    """

    def __init__(self, problem: Problem, costs: Sequence[Cost] = ("bytes",)) -> None:
        """Prepare for a problem, of whose costs only `costs` count; they are in LOOKED_UP."""
        self.problem = replace(problem, costs=tuple(costs))
        self.profiles = problem.profiles or (NO_PROFILE,)
        self.tables = [PlanTable(problem, profile) for profile in self.profiles]
        self.evaluator = PlanEvaluator(self.problem)
        self.choices = self._choices()
        """The options of each row of a plan's column: shares of a segment, or profiles."""
        self.examined = 0
        """How many plans were valued."""
        self._macs = MacsTable(problem, self.tables[0]) if "macs" in costs else None

    def with_quality(self, quality_by_share: Mapping[Share, float]) -> Valuation:
        """Return the valuation of the same shares, or of some of them, at other qualities.

        The tables of bytes, which take longest to prepare, do not depend on qualities.
        """
        other = copy.copy(self)
        other.problem = replace(self.problem, quality_by_share=quality_by_share)
        other.tables = [table.with_quality(other.problem) for table in self.tables]
        other.evaluator = PlanEvaluator(other.problem)
        other.choices = other._choices()
        other.examined = 0
        return other

    def _choices(self) -> list[Ints]:
        table, sought = self.tables[0], {*range(len(self.tables[0].shares))}
        if self.problem.costs == ("bytes",):  # tables know which adapters cost more bytes only
            sought = {share for each in self.tables for share in each.undominated_shares()}
        shares = [
            [
                NO_SHARE,
                *(share for share in table.shares_into(segment).tolist() if share in sought),
            ]
            for segment in range(len(table.segments))
        ]
        return [np.array(row, np.intp) for row in (*shares, range(len(self.profiles)))]

    def columns(self, plans: Sequence[SharePlan]) -> Ints:
        """Return the columns of plans, (segments + 1, plans).

        Shares that the space does not hold are left out. The profile is the nearest one.
        """
        nearest = self.problem.space.precision
        rows = [
            [*self.tables[0].column(plan), int(nearest.nearest(plan)) if nearest.keys else 0]
            for plan in plans
        ]
        return np.array(rows, np.intp).reshape(len(rows), len(self.choices)).T

    def all_columns(self) -> Ints:
        """Return the columns of all combinations of options, (segments + 1, n)."""
        return np.array([row.ravel() for row in np.meshgrid(*self.choices, indexing="ij")])

    def neighbours(self, columns: Ints) -> Ints:
        """Return all columns that differ from one of these in one row, (segments + 1, n)."""
        parts = []
        for row, options in enumerate(self.choices):
            changed = np.repeat(columns, len(options), axis=1)
            changed[row] = np.tile(options, columns.shape[1])
            parts.append(changed[:, changed[row] != np.repeat(columns[row], len(options))])
        return np.concatenate(parts, axis=1)

    def values(self, columns: Ints) -> PlanValues:
        """Return the values of columns, (segments + 1, n), whatever the limits."""
        self.examined += columns.shape[1]
        empty = np.zeros(columns.shape[1])
        values = PlanValues(empty.astype(np.intp), empty, empty.copy(), empty.astype(np.bool_))
        for number, table in enumerate(self.tables):
            of_profile = np.flatnonzero(columns[-1] == number)
            for start in range(0, len(of_profile), PLANS_PER_PASS):
                which = of_profile[start : start + PLANS_PER_PASS]
                part = table.evaluate(columns[:-1, which])
                values.bytes[which], values.acyclic[which] = part.bytes, part.acyclic
                values.quality[which], values.worst[which] = part.quality, part.worst
        return values

    def allowed(self, columns: Ints) -> ValuedPlans:
        """Return the plans of columns, (segments + 1, n), that the limits allow."""
        values = self.values(columns)
        allowed = values.acyclic & (values.bytes <= self.problem.limits.bytes)
        allowed &= self._keeps_quality(values.worst, columns, allowed)
        columns, total_bytes = columns[:, allowed], values.bytes[allowed]
        costs = [self._costs(cost, columns, total_bytes) for cost in self.problem.costs]
        return ValuedPlans(columns, np.array([*costs, -values.quality[allowed]]))

    def _costs(self, cost: Cost, columns: Ints, total_bytes: Ints) -> Floats:
        if cost == "bytes" or self._macs is None:
            return total_bytes / MEGA
        parts = [
            self._macs.macs(columns[:-1, start : start + PLANS_PER_PASS])
            for start in range(0, columns.shape[1], PLANS_PER_PASS)
        ]
        return np.concatenate([np.zeros(0), *parts]) / MEGA

    def _keeps_quality(self, worst: Floats, columns: Ints, among: Bools) -> Bools:
        """Return which plans keep the quality floor, (n,).

        A value that rounding may have moved across the floor is computed once more, exactly.
        """
        floor = self.problem.limits.quality
        keeps: Bools = worst >= floor
        if floor > 0:
            for index in np.flatnonzero(among & (np.abs(worst - floor) <= ROUNDING)):
                plan = self.evaluator.predict(self.plan(columns[:, index]))
                keeps[index] = plan.worst >= floor
        return keeps

    def plan(self, column: Ints) -> SharePlan:
        """Return the canonical plan of one column, (segments + 1,), without cycles."""
        shares = canonical(self.tables[0].plan(column[:-1]), self.problem.layouts)
        return apply_profile(shares, self.profiles[int(column[-1])], self.problem.facts)

    def evaluated(self, plans: ValuedPlans) -> list[EvaluatedPlan]:
        """Return the plans as the evaluator values them."""
        return [self.evaluator.evaluate(self.plan(column)) for column in plans.columns.T]
