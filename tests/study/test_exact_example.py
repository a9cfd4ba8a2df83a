"""The worked example of docs/explanation/exact-front.md: every number on the page is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from tiny import made_up_facts

from search.study.exact.bounds import Bounds, Incumbents
from search.study.exact.branch_and_bound import exact_front
from search.study.exact.counting import count_plans
from search.study.exact.partial_plans import PartialPlans
from search.study.exact.plan_table import PlanTable
from search.study.exact.segments import NO_SHARE
from search.study.objectives import PlanEvaluator, PredictedPlan
from search.study.pareto import front_indices
from search.study.problem import Limits, Problem
from spaces.model_facts import ModelFacts
from spaces.plan import HEAD, IDENTITY, Ref, Share, SharePlan
from spaces.stages import Layout

PAGE = Path(__file__).parents[2] / "docs/explanation/exact-front.md"
MB = 1_000_000
STAGE_MB = {"a": (1, 2, 4, 8), "b": (3, 5, 4, 4)}
HEAD_MB = 1
BUDGET_MB = 24
STAGES = ("s1", "s2", "s3", "s4")
QUALITY = {
    "a:s2 -> b:s2": 0.9,
    "a:s2 -> b:s3": 0.8,
    "a:s3 -> b:s3": 0.85,
    "a:s4 -> b:s4": 0.7,
    "b:s3 -> a:s3": 0.6,
    "b:s4 -> a:s4": 0.75,
}
"""The quality that each share keeps, by donor and recipient; the adapters are free."""


@cache
def example() -> Problem:
    made_up = made_up_facts({"a": 4, "b": 4}, {})
    facts = {name: with_sizes(fact, STAGE_MB[name]) for name, fact in made_up.items()}
    quality_by_share = {share_named(text): quality for text, quality in QUALITY.items()}
    return Problem(facts, quality_by_share, Limits(BUDGET_MB * MB))


def with_sizes(fact: ModelFacts, stage_mb: tuple[int, ...]) -> ModelFacts:
    """Return the same model with the stages s1 to s4 of these sizes in MB, and a head of 1 MB."""
    name = fact.layout.model
    sizes = dict(zip(STAGES, (size * MB for size in stage_mb), strict=True))
    tensors = {stage: {f"{name}/{stage}": size} for stage, size in sizes.items()}
    stages = zip(fact.stages, STAGES, strict=True)
    return replace(
        fact,
        layout=Layout(name, STAGES, ("s4",)),
        stages=tuple(replace(stage, name=name_) for stage, name_ in stages),
        tensors=tensors | {HEAD: {f"{name}/head": HEAD_MB * MB}},
        consumers={stage: {} for stage in STAGES},
    )


def share_named(text: str) -> Share:
    donor, recipient = text.split(" -> ")
    return Share(Ref.parse(recipient), Ref.parse(donor), IDENTITY)


def all_plans() -> list[PredictedPlan]:
    """Return every plan of the space once, largest first."""
    space, evaluator = example().space, PlanEvaluator(example())
    names = [slot.name for slot in space.slots]
    plans = {
        space.decode(dict(zip(names, keys, strict=True)))
        for keys in product(*(slot.choices for slot in space.slots))
    }
    return sorted(map(evaluator.predict, plans), key=lambda p: (-p.bytes, -p.proxy, p.plan.hash))


def in_words(plan: SharePlan) -> str:
    return ", ".join(f"`{s.donor} -> {s.recipient}`" for s in plan.shares) or "nothing"


def number(value: float) -> str:
    return f"{value:.5f}".rstrip("0").rstrip(".")


def input_rows() -> Iterator[str]:
    """Yield the table rows of the sizes and shares of the example."""
    for stage, a, b in zip(STAGES, *STAGE_MB.values(), strict=True):
        yield f"| {stage} | {a} | {b} |"
    yield f"| head | {HEAD_MB} | {HEAD_MB} |"
    for share, quality in example().quality_by_share.items():
        yield f"| `{share.donor} -> {share.recipient}` | {quality} |"


def plan_rows() -> Iterator[str]:
    """Yield a row for each plan: its values, and whether it is on the front."""
    on_front = {plan.plan for plan in exact_front(example()).front}
    for plan in all_plans():
        remark = "**on the front**" if plan.plan in on_front else ""
        if not example().limits.allow(plan.bytes, plan.worst):
            remark = "over the budget"
        yield (
            f"| {in_words(plan.plan)} | {number(plan.bytes / MB)} | {number(plan.proxy)} "
            f"| {remark} |"
        )


class WorkedExample:
    """The state of the search on the example, as the page describes it."""

    def __init__(self) -> None:
        self.table = PlanTable(example())
        self.incumbents = Incumbents(example().limits)
        self.bounds = Bounds(self.table, self.incumbents)
        self.open = self.bounds.graph.undecided
        assert [segment.model for segment in self.table.segments] == ["a", "b"]

    def partial(self, a: int, b: int, retained_a: int, retained_b: int) -> PartialPlans:
        """Return one partial plan whose shares are not decided."""
        column = np.array([[a], [b]])
        retained = np.array([[retained_a], [retained_b]])
        return PartialPlans(column, retained, np.full_like(column, NO_SHARE))

    def bound(self, partial: PartialPlans) -> tuple[float, float]:
        """Return the fewest MB of stages and heads, and the highest quality."""
        retained = np.where(partial.retained == self.open, 0, partial.retained)
        fewest = self.table.stage_bytes.bytes(partial.replaced, retained)
        graph = self.bounds.graph
        ends = graph.end_quality(graph.edge_quality(partial))[:-1]
        return float(fewest[0] / MB), float(ends.mean())

    def fate(self, partial: PartialPlans, undecided: Sequence[int] = ()) -> str:
        relaxed = self.bounds.relaxed_front(list(undecided))
        return "branch" if self.bounds.may_improve(partial, relaxed)[0] else "prune"

    def best_completion(self, partial: PartialPlans) -> tuple[SharePlan, str]:
        """Return the completion of the highest quality and its values; make it an incumbent."""
        best_shares = self.bounds.graph.best_shares(partial)
        plan, values = self.table.plan(best_shares[:, 0]), self.table.evaluate(best_shares)
        if not values.acyclic[0]:
            return plan, "a cycle"
        predicted = PlanEvaluator(example()).predict(plan)
        self.incumbents.add(predicted)
        return plan, f"{number(predicted.bytes / MB)}, {number(predicted.proxy)}"

    def replaced(self) -> list[tuple[int, int]]:
        """Return every combination of `replaced` of a and of b."""
        a, b = (self.table.replaced_options(segment).tolist() for segment in range(2))
        return [(of_a, of_b) for of_a in a for of_b in b]


def first_round_rows(worked: WorkedExample) -> Iterator[str]:
    """Yield bounds, best completions and survivors of the round that decides `replaced`."""
    partials = {(a, b): worked.partial(a, b, worked.open, worked.open)
                for a, b in worked.replaced()}  # fmt: skip
    completions = {key: worked.best_completion(partial) for key, partial in partials.items()}
    for (a, b), partial in partials.items():
        fewest, quality = worked.bound(partial)
        plan, values = completions[a, b]
        yield (
            f"| {a} | {b} | {number(fewest)} | {number(quality)} | {in_words(plan)} | {values} "
            f"| {worked.fate(partial)} |"
        )


def second_round_rows(worked: WorkedExample) -> Iterator[str]:
    """Yield the same for the survivors, whose `retained` is decided, too."""
    undecided = (worked.open, worked.open)
    survivors = [
        (a, b)
        for a, b in worked.replaced()
        if worked.fate(worked.partial(a, b, *undecided)) == "branch"
    ]
    for a, b in survivors:
        for retained_a, retained_b in product((0, 2, 3), (0, 3)):
            if retained_a < max(a, 1) and retained_b < max(b, 1):
                partial = worked.partial(a, b, retained_a, retained_b)
                fewest, quality = worked.bound(partial)
                yield (
                    f"| {a} | {b} | {retained_a} | {retained_b} | {number(fewest)} "
                    f"| {number(quality)} | {worked.fate(partial)} |"
                )


def relaxed_rows(worked: WorkedExample) -> Iterator[str]:
    """Yield the bounds where `replaced` of b is decided and that of a is not."""
    relaxed = worked.bounds.relaxed_front([0])
    for b in worked.table.replaced_options(1).tolist():
        partial = worked.partial(worked.open, b, worked.open, worked.open)
        graph = worked.bounds.graph
        ends = graph.end_quality(graph.edge_quality(partial))[:-1, 0]
        own = float(ends @ relaxed.decided_weights)
        fewest = worked.table.stage_bytes.bytes(partial.replaced, np.zeros_like(partial.replaced))
        points = ", ".join(
            f"({number((fewest[0] + more_bytes) / MB)}, {number(own + more_quality)})"
            for more_bytes, more_quality in zip(relaxed.bytes, relaxed.quality, strict=True)
        )
        bounds = f"{number(fewest[0] / MB)} | {number(own)} | {points}"
        yield f"| {b} | {bounds} | {worked.fate(partial, [0])} |"


def test_the_tables_of_the_page_are_the_computed_ones() -> None:
    worked = WorkedExample()
    computed = [*input_rows(), *plan_rows(), *first_round_rows(worked), *relaxed_rows(worked),
                *second_round_rows(worked)]  # fmt: skip
    page = PAGE.read_text(encoding="utf-8").splitlines()
    table_rows = [line for line in page if line.startswith("| ") and any(map(str.isdigit, line))]
    assert sorted(table_rows) == sorted(computed)


def test_the_page_names_the_size_of_the_example() -> None:
    exact = exact_front(example())
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"{exact.combinations} combinations" in page
    assert f"{count_plans(example())} different plans" in page
    assert f"budget of {BUDGET_MB} MB" in page


def test_the_search_finds_the_front_of_the_example() -> None:
    feasible = [p for p in all_plans() if example().limits.allow(p.bytes, p.worst)]
    best = [feasible[i] for i in front_indices([(p.bytes, p.proxy) for p in feasible])]
    assert list(exact_front(example()).front) == best
    assert [p.bytes // MB for p in best] == [9, 13, 17, 18, 21]
