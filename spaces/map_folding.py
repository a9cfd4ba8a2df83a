"""Whether a share's linear map disappears into the layers that read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spaces.consumers import HEAD, Consumer
from spaces.liveness import Liveness
from spaces.model_facts import ModelFacts
from spaces.plan import Ref, Share


@dataclass(frozen=True)
class FoldTargets:
    """The layers into which a share's map folds; none, with the reason, if it stays."""

    consumers: tuple[Consumer, ...]
    refusal: str = ""


def find_fold_targets(
    share: Share, live: Liveness, facts: Mapping[str, ModelFacts]
) -> FoldTargets:
    """Where the map of a live share goes.

    It stays an adapter of its own when another share takes the recipient's representation (the
    map's result must then exist), or when some live reader cannot take it in.
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
        for owner, found in facts[ref.model].consumers[ref.stage].items():
            if owner != HEAD and Ref(ref.model, owner) not in live.stages:
                continue
            if found.refusal:
                return FoldTargets((), found.refusal)
            consumers += found.foldable
            if found.passes:
                pending.append(Ref(ref.model, owner))
    return FoldTargets(tuple(consumers))
