"""What one plan does otherwise than another, in sentences."""

from __future__ import annotations

from itertools import zip_longest

from spaces.plan import LINEAR, Share, SharePlan

ALIKE = "the same stages are shared; only the maps are new"


def difference(new: SharePlan, old: SharePlan) -> list[str]:
    """One sentence for each share that is another now, model by model; never empty.

    "detector now takes blocks.4 from classifier instead of blocks.5".
    """
    models = sorted({share.recipient.model for share in (*new.shares, *old.shares)})
    told = [sentence for model in models for sentence in _of_model(model, new, old)]
    return told or [ALIKE]


def _of_model(model: str, new: SharePlan, old: SharePlan) -> list[str]:
    came, went = _only_in(model, new, old), _only_in(model, old, new)
    # What lands at one stage in both plans belongs together, what is left goes by its order.
    pairs = [(a, b) for a in came for b in went if a.recipient == b.recipient]
    rest_new = [a for a in came if a not in {pair[0] for pair in pairs}]
    rest_old = [b for b in went if b not in {pair[1] for pair in pairs}]
    return [_sentence(model, a, b) for a, b in (*pairs, *zip_longest(rest_new, rest_old))]


def _only_in(model: str, plan: SharePlan, other: SharePlan) -> list[Share]:
    return [s for s in plan.shares if s.recipient.model == model and s not in other.shares]


def _sentence(model: str, new: Share | None, old: Share | None) -> str:
    if new is None:
        assert old is not None
        return f"{model} has {old.recipient.stage} of its own again, not {_taken(old)}"
    if old is None:
        return f"{model} now takes {_taken(new)}"
    same_donor = new.donor.model == old.donor.model
    return f"{model} now takes {_taken(new)} instead of {_taken(old, same_donor)}"


def _taken(share: Share, donor_known: bool = False) -> str:
    """`blocks.5 from classifier`, or, where the donor's stage is another, `blocks.5 from
    classifier's blocks.4`; without the donor's name where it has just been said."""
    stage, donor = share.recipient.stage, share.donor
    adapter = "" if share.adapter == LINEAR else f" ({share.adapter})"
    if stage == donor.stage:
        return (stage if donor_known else f"{stage} from {donor.model}") + adapter
    owner = "its" if donor_known else f"{donor.model}'s"
    return f"{stage} from {owner} {donor.stage}{adapter}"


def in_words(plan: SharePlan) -> list[str]:
    """What a plan shares, against nothing shared."""
    return difference(plan, SharePlan()) if plan.shares else ["nothing is shared"]
