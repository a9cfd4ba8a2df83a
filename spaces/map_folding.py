"""Decide whether the linear map of a share can be folded into the layers that consume it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spaces.consumers import Consumer
from spaces.liveness import Liveness
from spaces.model_facts import ModelFacts
from spaces.plan import HEAD, Ref, Share


@dataclass(frozen=True)
class FoldTargets:
    """The layers that take the map of a share in; none, and the reason, if it stays an adapter."""

    consumers: tuple[Consumer, ...]
    refusal: str = ""


def find_fold_targets(
    share: Share, live: Liveness, facts: Mapping[str, ModelFacts]
) -> FoldTargets:
    """Return the layers that the map of a live share can be folded into.

    The map stays an adapter if another share takes the recipient's representation, which must
    then exist as a tensor, or if the map cannot be folded into one of the live consumers.
    """
    if share.adapter.kind == "identity":
        return FoldTargets((), "identity has no map")
    donors = {other.donor for other in live.shares}
    consumers: list[Consumer] = []
    pending = [share.recipient]
    while pending:
        ref = pending.pop()
        if ref in donors:
            return FoldTargets((), f"{ref} is itself a donor")
        for owner, used in facts[ref.model].consumers[ref.stage].items():
            if owner != HEAD and Ref(ref.model, owner) not in live.stages:
                continue
            if used.refusal:
                return FoldTargets((), used.refusal)
            consumers += used.foldable
            if used.passes and owner == HEAD:
                return FoldTargets((), f"the answer of {ref.model} is the representation itself")
            if used.passes:
                pending.append(Ref(ref.model, owner))
    return FoldTargets(tuple(consumers))
