"""The difference between two plans, in sentences."""

from __future__ import annotations

from itertools import zip_longest

from search.results.precisions import name_weights, network_order
from spaces.plan import LINEAR, Precision, Ref, Share, SharePlan

SAME_STAGES = "the same stages are shared; only the linear maps differ"


def describe_difference(new: SharePlan, old: SharePlan) -> list[str]:
    """Return one sentence for each share that changed, model by model; never an empty list.

    For example "detector now takes blocks.4 from classifier instead of blocks.5". Changes of
    precisions follow: "classifier stores blocks.5 and head in int8 instead of float16".
    """
    models = sorted({share.recipient.model for share in (*new.shares, *old.shares)})
    sentences = [sentence for model in models for sentence in _model_sentences(model, new, old)]
    sentences += _precision_sentences(new, old)
    if new.refined != old.refined:
        sentences.append(f"the linear maps are {'' if new.refined else 'no longer '}refined")
    return sentences or [SAME_STAGES]


def describe_plan(plan: SharePlan) -> list[str]:
    """Return one sentence for each share of a plan, and for each precision of a model."""
    shares = [] if plan.shares else ["nothing is shared"]
    same = not plan.shares and not plan.precisions  # so there is no map to refine either
    return shares + ([] if same else describe_difference(plan, SharePlan()))


def _model_sentences(model: str, new: SharePlan, old: SharePlan) -> list[str]:
    added, removed = _only_in(model, new, old), _only_in(model, old, new)
    # Shares into the same stage are paired; the rest is paired in the order of the plans.
    pairs = [(a, b) for a in added for b in removed if a.recipient == b.recipient]
    rest_added = [a for a in added if a not in {pair[0] for pair in pairs}]
    rest_removed = [b for b in removed if b not in {pair[1] for pair in pairs}]
    return [_sentence(model, a, b) for a, b in (*pairs, *zip_longest(rest_added, rest_removed))]


def _precision_sentences(new: SharePlan, old: SharePlan) -> list[str]:
    """Return a sentence for the weights of each model that changed in the same way.

    Weights that a plan does not list are either not held or stored in the dtype of the models.
    """
    before, after = old.precision_by_owner, new.precision_by_owner
    changed: dict[tuple[str, Precision | None, Precision | None], list[Ref]] = {}
    for owner in network_order({*before, *after}):
        change = (owner.model, after.get(owner), before.get(owner))
        if change[1] != change[2]:
            changed.setdefault(change, []).append(owner)
    return [
        _precision_sentence(model, name_weights(owners, new if now else old), now, then)
        for (model, now, then), owners in changed.items()
    ]


def _precision_sentence(
    model: str, weights: str, now: Precision | None, then: Precision | None
) -> str:
    if now is None:
        return f"{model} no longer stores {weights} in {then}"
    return f"{model} stores {weights} in {now}" + (f" instead of {then}" if then else "")


def _only_in(model: str, plan: SharePlan, other: SharePlan) -> list[Share]:
    return [s for s in plan.shares if s.recipient.model == model and s not in other.shares]


def _sentence(model: str, new: Share | None, old: Share | None) -> str:
    if new is None:
        assert old is not None
        return f"{model} uses its own {old.recipient.stage} again instead of {_source(old)}"
    if old is None:
        return f"{model} now takes {_source(new)}"
    same_donor = new.donor.model == old.donor.model
    return f"{model} now takes {_source(new)} instead of {_source(old, same_donor)}"


def _source(share: Share, omit_donor: bool = False) -> str:
    """Return `blocks.5 from classifier`, or `blocks.5 from classifier's blocks.4` if the stages
    differ; without the donor's name where the sentence has named it already."""
    stage, donor = share.recipient.stage, share.donor
    adapter = "" if share.adapter == LINEAR else f" ({share.adapter})"
    if stage == donor.stage:
        return (stage if omit_donor else f"{stage} from {donor.model}") + adapter
    owner = "its" if omit_donor else f"{donor.model}'s"
    return f"{stage} from {owner} {donor.stage}{adapter}"
