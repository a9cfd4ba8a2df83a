"""What a plan costs: the bytes it holds and the multiply-accumulates it needs per frame."""

from __future__ import annotations

from collections.abc import Mapping

from spaces.facts import ModelFacts, layouts_of
from spaces.folding import fold_of
from spaces.liveness import Liveness, liveness
from spaces.plan import Share, SharePlan
from spaces.readers import HEAD

_FLOAT = 4


class CostModel:
    """Costs of plans over a fixed set of surveyed models, each tensor counted once."""

    def __init__(self, facts: Mapping[str, ModelFacts]) -> None:
        self.facts = facts
        self.layouts = layouts_of(facts)
        self.unmerged_bytes = self.bytes(SharePlan())
        self.unmerged_macs = self.macs(SharePlan())

    def bytes(self, plan: SharePlan) -> int:
        """Parameters and buffers of live stages, heads and adapters, in bytes."""
        live = liveness(plan, self.layouts)
        held: dict[str, int] = {}
        for ref in live.stages:
            held.update(self.facts[ref.model].tensors[ref.stage])
        for fact in self.facts.values():
            held.update(fact.tensors[HEAD])
        return sum(held.values()) + sum(self._adapter_bytes(share, live) for share in live.shares)

    def macs(self, plan: SharePlan) -> int:
        """Multiply-accumulates per frame of live stages, heads and adapters."""
        live = liveness(plan, self.layouts)
        stages = sum(self.facts[ref.model].stage(ref.stage).macs for ref in live.stages)
        heads = sum(fact.head_macs for fact in self.facts.values())
        return stages + heads + sum(self._adapter_macs(share, live) for share in live.shares)

    def _channels(self, share: Share) -> tuple[int, int]:
        donor = self.facts[share.donor.model].stage(share.donor.stage)
        recipient = self.facts[share.recipient.model].stage(share.recipient.stage)
        return donor.channels, recipient.channels

    def _adapter_bytes(self, share: Share, live: Liveness) -> int:
        if share.adapter.kind == "identity":
            return 0
        donor, recipient = self._channels(share)
        fold = fold_of(share, live, self.facts)
        if not fold.refusal:
            return sum(
                reader.folded_bytes(donor) - reader.own_bytes(recipient) for reader in fold.readers
            )
        return _FLOAT * (_map_size(donor, recipient, share.adapter.rank) + recipient)

    def _adapter_macs(self, share: Share, live: Liveness) -> int:
        if share.adapter.kind == "identity":
            return 0
        donor, recipient = self._channels(share)
        fold = fold_of(share, live, self.facts)
        if not fold.refusal:
            return sum((donor - recipient) * reader.macs_per_channel for reader in fold.readers)
        height, width = self.facts[share.recipient.model].stage(share.recipient.stage).grid or (
            1,
            1,
        )
        return height * width * _map_size(donor, recipient, share.adapter.rank)


def _map_size(donor: int, recipient: int, rank: int) -> int:
    return rank * (donor + recipient) if rank else donor * recipient
