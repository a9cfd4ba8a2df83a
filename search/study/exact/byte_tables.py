"""Lookup tables for the bytes of very many plans: stages and heads, and the shares' adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import TypeVar

import numpy as np

from search.study.exact.segments import Bools, Ints, Segment, stage_positions
from search.study.precision.profiles import Profile
from spaces.cost import CostModel
from spaces.liveness import Liveness
from spaces.model_facts import ModelFacts
from spaces.plan import HEAD, Precision, Ref, Share

Value = TypeVar("Value")


class StageBytes:
    """Bytes of the live stages and of the heads, each tensor once."""

    def __init__(
        self, segments: Sequence[Segment], facts: Mapping[str, ModelFacts], profile: Profile
    ) -> None:
        self.head_bytes = 0
        """Bytes that every plan holds: those of the heads' tensors."""
        self.tied: list[tuple[int, list[tuple[int, int]]]] = []
        """Bytes of each tensor that several stages hold, and these stages' (segment, position)."""
        positions = stage_positions(segments)
        longest = max(len(segment.stages) for segment in segments)
        own_bytes = np.zeros((len(segments), longest + 1), np.intp)  # by segment and position
        for size, stages in _tensor_owners(facts, profile).values():
            if None in stages:
                self.head_bytes += size
            elif len(stages) == 1:
                own_bytes[positions[stages[0]]] += size  # type: ignore[index]
            else:
                self.tied.append((size, [positions[ref] for ref in stages if ref is not None]))
        position = np.arange(longest + 1)
        count = np.arange(longest + 3)  # up to the code for "undecided"
        live = (position > count[:, None, None]) | (position <= count[None, :, None])
        self.table = (live[None] * own_bytes[:, None, None]).sum(axis=-1)
        """(segments, replaced, retained): bytes of the live stages, without tied tensors."""

    def bytes(self, replaced: Ints, retained: Ints) -> Ints:
        """Return the bytes of the stages and heads, (n,).

        `replaced` and `retained` are (segments, n).
        """
        by_segment: Ints = self.table[np.arange(len(replaced))[:, None], replaced, retained]
        total: Ints = by_segment.sum(axis=0) + self.head_bytes
        for size, stages in self.tied:
            live = [(p > replaced[segment]) | (p <= retained[segment]) for segment, p in stages]
            total += size * np.any(live, axis=0)
        return total


class AdapterBytes:
    """Bytes of the shares' adapters.

    An adapter's bytes depend on the readers of its result: on how many of the stages above the
    recipient are live without a gap, and on the first representation, from the recipient up
    through stages that pass it on unchanged, that is itself a donor. The cost model computes the
    bytes once for each share and each of these contexts.

    Arrays over shares have one more entry, for `NO_SHARE`; arrays over stages have one more, for
    "no stage".
    """

    def __init__(
        self,
        shares: Sequence[Share],
        stages: Sequence[Ref],
        facts: Mapping[str, ModelFacts],
        costs: CostModel,
        profile: Profile,
    ) -> None:
        numbers = {ref: number for number, ref in enumerate(stages)}
        no_stage = len(numbers)
        contexts = [AdapterContexts(share, facts) for share in shares]
        longest = max((len(context.passed_on) for context in contexts), default=1)
        self.donor = np.array([numbers[share.donor] for share in shares] + [no_stage], np.intp)
        self.readers = np.full((longest, len(shares) + 1), no_stage, np.intp)
        """(longest, shares + 1): numbers of the stages above the recipient, nearest first."""
        self.results = np.full((longest, len(shares) + 1), no_stage, np.intp)
        """(longest, shares + 1): numbers of the representations that pass the result on."""
        self.table = np.zeros((len(shares) + 1, longest + 1, longest + 1), np.intp)
        """(shares + 1, live readers, index of the first donor): bytes of the adapter."""
        for number, context in enumerate(contexts):
            passed_on, readers = context.passed_on, context.readers
            self.results[: len(passed_on), number] = [numbers[ref] for ref in passed_on]
            self.readers[: len(readers), number] = [numbers[ref] for ref in readers]
            adapter_bytes = partial(_adapter_bytes, costs, context.share, profile)
            self.table[number].flat = [*context.values(longest, adapter_bytes)]
        self.minimum: Ints = self.table.min(axis=(1, 2))
        """(shares + 1,): fewest bytes in any context."""
        self.any = bool(self.table.any())
        """Whether any adapter changes the bytes in any context."""

    def bytes(self, chosen: Ints, live: Bools, donors: Bools) -> Ints:
        """Return the bytes of the adapters of one segment's shares, (n,).

        Arguments as those of `contexts`.
        """
        total: Ints = self.table[chosen, *self.contexts(chosen, live, donors)]
        return total

    def contexts(self, chosen: Ints, live: Bools, donors: Bools) -> tuple[Ints, Ints]:
        """Return the live readers and the index of the first donor of each share, (n,) each.

        `chosen` are the shares' numbers, (n,); `live` and `donors`, (stages + 1, n), say which
        stages are live and which are donors.
        """
        columns = np.arange(len(chosen))
        reached = np.logical_and.accumulate(live[self.readers[:, chosen], columns], axis=0)
        donated = donors[self.results[:, chosen], columns]
        first_donor = np.where(donated.any(axis=0), donated.argmax(axis=0), len(donated))
        return reached.sum(axis=0), first_donor


class AdapterContexts:
    """The contexts of one share's adapter."""

    def __init__(self, share: Share, facts: Mapping[str, ModelFacts]) -> None:
        self.share = share
        above = _stages_above(share.recipient, facts)
        self.passed_on = [share.recipient]
        """The recipient, and the representations above that pass it on unchanged."""
        if share.adapter.kind != "identity":
            for ref in above:
                readers = facts[ref.model].consumers[self.passed_on[-1].stage]
                if ref.stage not in readers or not readers[ref.stage].passes:
                    break
                self.passed_on.append(ref)
        self.readers = above[: len(self.passed_on)]
        """The stages that may read the adapter's result, nearest first."""

    def values(self, longest: int, value: Callable[[Liveness], Value]) -> Iterator[Value]:
        """Yield a value of each context of a table (longest + 1, longest + 1), row by row.

        A row is a number of live readers, a column an index of the first donor. `value` is called
        once for each context of this share with what is live in it.
        """
        value_by_context: dict[tuple[int, int], Value] = {}
        for live_readers, first_donor in product(range(longest + 1), repeat=2):
            context = (
                min(live_readers, len(self.readers)),
                min(first_donor, len(self.passed_on)),
            )
            if context not in value_by_context:
                value_by_context[context] = value(self._liveness(*context))
            yield value_by_context[context]

    def _liveness(self, live_readers: int, first_donor: int) -> Liveness:
        # The cost model looks only at the donors of other shares, so any share will do.
        donors = self.passed_on[first_donor : first_donor + 1]
        others = [Share(self.share.donor, donor) for donor in donors]
        return Liveness(frozenset(self.readers[:live_readers]), frozenset((self.share, *others)))


def _adapter_bytes(costs: CostModel, share: Share, profile: Profile, live: Liveness) -> int:
    return costs.adapter_bytes(share, live, profile)


def _tensor_owners(
    facts: Mapping[str, ModelFacts], profile: Profile
) -> dict[tuple[str, Precision], tuple[int, list[Ref | None]]]:
    """Map each tensor and precision to the bytes and the stages that hold it.

    None stands for a head.
    """
    owners: dict[tuple[str, Precision], tuple[int, list[Ref | None]]] = {}
    for name, fact in facts.items():
        for owner in fact.tensors:
            precision = profile.get(Ref(name, owner), fact.dtype)
            for tensor, size in fact.tensors_at(owner, precision).items():
                stages = owners.setdefault((tensor, precision), (size, []))[1]
                stages.append(None if owner == HEAD else Ref(name, owner))
    return owners


def _stages_above(ref: Ref, facts: Mapping[str, ModelFacts]) -> list[Ref]:
    stages = facts[ref.model].layout.stages
    return [Ref(ref.model, stage) for stage in stages[stages.index(ref.stage) + 1 :]]
