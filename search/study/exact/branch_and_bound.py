"""The exact front of a problem, by branch and bound: the reference that studies are measured by.

Each precision profile is searched on its own, with the incumbents of those before.

Partial plans are branched in three rounds of decisions. The first decides `replaced` of each
segment, the second `retained`; now the bytes of all stages are known. The third decides the share
of each segment. After every decision a partial plan is bounded from below in bytes and from above
in quality, and pruned if no completion can be feasible and improve on the incumbents. The
completion of the highest quality has a closed form (best paths, as in `segment_graph`), so good
incumbents are known before the search begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search.study.exact.bounds import Bounds, Incumbents, RelaxedFront
from search.study.exact.partial_plans import Kind, PartialPlans
from search.study.exact.plan_table import PlanTable
from search.study.exact.segments import NO_SHARE, Bools, Floats, Ints
from search.study.objectives import PlanEvaluator, PredictedPlan
from search.study.precision.profiles import NO_PROFILE, Profile, apply_profile
from search.study.problem import Problem
from spaces.errors import MergeSearchError
from spaces.liveness import canonical
from spaces.plan import SharePlan

MAX_EXAMINED = 50_000_000
"""A search gives up after this many partial and complete plans."""
MAX_ENTRIES = 4_000_000
"""Entries of the largest array of one step: 32 MB."""


class TooLarge(MergeSearchError):
    """The space is too large to be searched or counted."""


@dataclass(frozen=True)
class ExactFront:
    """The exact front, and the effort of finding it."""

    front: tuple[PredictedPlan, ...]
    """By rising bytes. For every feasible plan of the space there is a plan here that holds no
    more bytes and keeps no less quality, but for rounding."""
    combinations: int
    """Size of the space as a study sees it."""
    examined: int
    """How many partial and complete plans were bounded or evaluated."""


def exact_front(
    problem: Problem,
    progress: Callable[[int], None] = lambda examined: None,
    seeds: Sequence[SharePlan] = (),
) -> ExactFront:
    """Return the feasible plans that no other dominates: fewest bytes, highest proxy quality.

    `seeds` are plans that are known to be good; they make the search faster. `progress` is called
    with the number of plans of every batch.

    Raises:
        TooLarge: the search has examined MAX_EXAMINED plans.
    """
    incumbents, evaluator = Incumbents(problem.limits), PlanEvaluator(problem)
    examined = 0
    for profile in problem.profiles or (NO_PROFILE,):
        search = _Search(evaluator, profile, incumbents, progress)
        search.examined = examined
        search.add_incumbents(
            np.array([search.table.column(plan) for plan in (SharePlan(), *seeds)]).T
        )
        # The best shares for every combination of `replaced` give incumbents that prune well.
        search.run([decision for decision in search.decisions if decision.kind == "replaced"])
        search.run(search.decisions)
        examined = search.examined
    return ExactFront(tuple(incumbents.plans), problem.space.size, examined)


@dataclass(frozen=True)
class _Decision:
    """A decision about one segment, and its options."""

    kind: Kind
    segment: int
    options: Ints
    """(replaced, most): the options, by the segment's `replaced`."""
    counts: Ints
    """(replaced,): how many options there are."""
    relaxed: RelaxedFront
    """Of the segments whose `replaced` is undecided after this decision."""


class _Search:
    """Partial plans on their way through the decisions, depth first, a batch at a time."""

    def __init__(
        self,
        evaluator: PlanEvaluator,
        profile: Profile,
        incumbents: Incumbents,
        progress: Callable[[int], None],
    ) -> None:
        self.progress = progress
        self.evaluator = evaluator
        self.profile = profile
        self.table = PlanTable(evaluator.problem, profile)
        self.incumbents = incumbents
        self.bounds = Bounds(self.table, self.incumbents)
        self.decisions = _decisions(self.bounds)
        self.batch_size = max(256, MAX_ENTRIES // (2 * len(self.table.segments) ** 2))
        """Partial plans that are bounded together."""
        self.examined = 0

    def run(self, decisions: Sequence[_Decision]) -> None:
        """Take all decisions for every partial plan that is not pruned."""
        start = PartialPlans.undecided(self.table, self.bounds.graph.undecided)
        pending = [start, *(start.take(slice(0, 0)) for _ in decisions)]
        while any(len(partial) for partial in pending[:-1]):
            depth = self._next_depth(pending[:-1])
            decision, partial = decisions[depth], pending[depth]
            count = max(1, self.batch_size // int(decision.counts.max()))
            pending[depth] = partial.take(slice(count, None))
            partial = self._prune(self._branch(partial.take(slice(0, count)), decision), decision)
            last = depth + 1 == len(decisions)
            if last or decisions[depth + 1].kind != decision.kind:
                self.add_incumbents(self.bounds.graph.best_shares(partial))
            if not last:
                pending[depth + 1] = pending[depth + 1].join(partial)

    def _next_depth(self, pending: Sequence[PartialPlans]) -> int:
        """Return the deepest decision with a full batch of plans; without any, the shallowest."""
        full = [depth for depth, partial in enumerate(pending) if len(partial) >= self.batch_size]
        if full:
            return full[-1]
        return next(depth for depth, partial in enumerate(pending) if len(partial))

    def _branch(self, partial: PartialPlans, decision: _Decision) -> PartialPlans:
        branched = partial.branch(
            decision.kind, decision.segment, decision.options, decision.counts
        )
        if decision.kind != "shares":
            return branched
        return branched.take(self._has_live_donor(branched, decision.segment))

    def _has_live_donor(self, partial: PartialPlans, segment: int) -> Bools:
        """Return whether the donor of the segment's share is live, (n,)."""
        share, columns = partial.shares[segment], np.arange(len(partial))
        donor, position = self.table.donor_segment[share], self.table.donor_position[share]
        in_suffix = position >= partial.replaced[donor, columns]
        in_retained_prefix = position <= partial.retained[donor, columns]
        live: Bools = (share == NO_SHARE) | in_suffix | in_retained_prefix
        return live

    def _prune(self, partial: PartialPlans, decision: _Decision) -> PartialPlans:
        self._count(len(partial))
        if not len(partial):
            return partial
        return partial.take(self.bounds.may_improve(partial, decision.relaxed))

    def add_incumbents(self, chosen: Ints) -> None:
        """Evaluate complete plans, (segments, n), and add the best to the incumbents.

        The table's qualities may be off by rounding, so the cost model and the proxy evaluate each
        plan that is added.
        """
        if not chosen.shape[1]:
            return
        self._count(chosen.shape[1])
        values = self.table.evaluate(chosen)
        open_plans = values.acyclic & self.bounds.near_quality_limit(values.worst)
        while (
            open_plans := open_plans & ~self.incumbents.dominate(values.bytes, values.quality)
        ).any():
            for column in _undominated(values.bytes, values.quality, np.flatnonzero(open_plans)):
                open_plans[column] = False
                problem = self.evaluator.problem
                plan = canonical(self.table.plan(chosen[:, column]), problem.layouts)
                plan = apply_profile(plan, self.profile, problem.facts)
                self.incumbents.add(self.evaluator.predict(plan))

    def _count(self, plans: int) -> None:
        self.examined += plans
        self.progress(plans)
        if self.examined > MAX_EXAMINED:
            raise TooLarge(
                f"the exact front is out of reach: {MAX_EXAMINED:,} partial plans were examined"
                " and more remain; use fewer stages, models or adapters, or tighter limits"
            )


def _decisions(bounds: Bounds) -> list[_Decision]:
    """Return all decisions in order: large segments first, none where there is no choice."""
    table = bounds.table
    by_size = np.argsort(-table.stage_bytes.table[:, 0, 0], kind="stable").tolist()
    with_shares = [segment for segment in by_size if len(table.replaced_options(segment)) > 1]
    decisions = [
        _decide_replaced(bounds, segment, with_shares[k + 1 :])
        for k, segment in enumerate(with_shares)
    ]
    retained = [_decide_retained(bounds, segment) for segment in by_size]
    decisions += [decision for decision in retained if decision.counts.max() > 1]
    return decisions + [_decide_share(bounds, segment) for segment in with_shares]


def _decide_replaced(bounds: Bounds, segment: int, undecided: list[int]) -> _Decision:
    options = {bounds.graph.undecided: bounds.table.replaced_options(segment).tolist()}
    return _decision("replaced", segment, options, bounds, undecided)


def _decide_retained(bounds: Bounds, segment: int) -> _Decision:
    """Return the decision on `retained`: the position of a donor in the prefix, or 0."""
    table = bounds.table
    donors = sorted(
        {
            int(table.donor_position[share])
            for share in table.undominated_shares()
            if table.donor_segment[share] == segment
        }
    )
    options = {
        replaced: [0, *(position for position in donors if position < replaced)]
        for replaced in {*table.replaced_options(segment).tolist()}
    }
    return _decision("retained", segment, options, bounds, [])


def _decide_share(bounds: Bounds, segment: int) -> _Decision:
    table, options = bounds.table, {0: [NO_SHARE]}
    for share in table.undominated_shares():
        if table.recipient_segment[share] == segment:
            options.setdefault(int(table.recipient_position[share]), []).append(share)
    return _decision("shares", segment, options, bounds, [])


def _decision(
    kind: Kind,
    segment: int,
    options_by_replaced: Mapping[int, list[int]],
    bounds: Bounds,
    undecided: list[int],
) -> _Decision:
    most = max(len(options) for options in options_by_replaced.values())
    counts = np.zeros(bounds.graph.undecided + 1, np.intp)
    table = np.zeros((bounds.graph.undecided + 1, most), np.intp)
    for replaced, options in options_by_replaced.items():
        counts[replaced] = len(options)
        table[replaced, : len(options)] = options
    return _Decision(kind, segment, table, counts, bounds.relaxed_front(undecided))


def _undominated(total_bytes: Ints, quality: Floats, among: Ints) -> Ints:
    """Return the indices, of those in `among`, of the plans that no other of them dominates."""
    order = among[np.lexsort((-quality[among], total_bytes[among]))]
    best = np.maximum.accumulate(quality[order])
    undominated: Ints = order[np.append(True, best[1:] > best[:-1])]
    return undominated
