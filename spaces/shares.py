"""Find the pairs of representations that may be shared, and why the others may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spaces.model_facts import ModelFacts
from spaces.plan import AdapterSpec, Ref, Share
from spaces.stages import Grid

MAX_ENLARGEMENT = 2.0
"""Maximum ratio, per side, of the recipient's grid to the donor's coarser grid."""
DIFFERENT_VIEWS = "different fields of view"
"""The reason for which two networks that see different parts of a frame cannot share."""


@dataclass(frozen=True, order=True)
class Pair:
    """A donor representation and a recipient representation."""

    donor: Ref
    recipient: Ref

    def __str__(self) -> str:
        return f"{self.donor} -> {self.recipient}"


@dataclass(frozen=True)
class Pairs:
    """All ordered pairs of representations of different models."""

    legal: tuple[Pair, ...]
    rejected: Mapping[Pair, str]
    """The reason for each pair that is not legal."""


def find_pairs(facts: Mapping[str, ModelFacts]) -> Pairs:
    """Return every pair in model and stage order, as legal or with the reason why it is not."""
    legal: list[Pair] = []
    rejected: dict[Pair, str] = {}
    for pair in _all_pairs(facts):
        reason = _rejection(pair, facts)
        if reason:
            rejected[pair] = reason
        else:
            legal.append(pair)
    return Pairs(tuple(legal), rejected)


def enumerate_shares(
    pairs: Sequence[Pair], facts: Mapping[str, ModelFacts], adapters: Sequence[AdapterSpec]
) -> tuple[Share, ...]:
    """Return each pair with each of the adapters that fits its channels."""
    return tuple(
        Share(pair.recipient, pair.donor, adapter)
        for pair in pairs
        for adapter in adapters
        if _fits(pair, adapter, facts)
    )


def _all_pairs(facts: Mapping[str, ModelFacts]) -> list[Pair]:
    return [
        Pair(Ref(donor, i), Ref(recipient, j))
        for recipient, recipient_facts in facts.items()
        for j in recipient_facts.layout.stages
        for donor, donor_facts in facts.items()
        if donor != recipient
        for i in donor_facts.layout.stages
    ]


def _rejection(pair: Pair, facts: Mapping[str, ModelFacts]) -> str:
    donor, recipient = facts[pair.donor.model], facts[pair.recipient.model]
    if not donor.field_of_view.matches(recipient.field_of_view):
        return f"{DIFFERENT_VIEWS}: {donor.field_of_view} against {recipient.field_of_view}"
    return _grid_rejection(
        donor.stage(pair.donor.stage).grid, recipient.stage(pair.recipient.stage).grid
    )


def _grid_rejection(donor: Grid, recipient: Grid) -> str:
    if recipient is None:
        return ""
    if donor is None:
        return "" if recipient == (1, 1) else "pooled features have no positions"
    enlargement = max(recipient[0] / donor[0], recipient[1] / donor[1])
    if enlargement > MAX_ENLARGEMENT:
        return f"the donor's grid is {enlargement:.1f} times coarser than the recipient's"
    return ""


def _fits(pair: Pair, adapter: AdapterSpec, facts: Mapping[str, ModelFacts]) -> bool:
    donor = facts[pair.donor.model].stage(pair.donor.stage).channels
    recipient = facts[pair.recipient.model].stage(pair.recipient.stage).channels
    if adapter.kind == "identity":
        return donor == recipient
    return adapter.rank < min(donor, recipient)
