"""A classifier and a detector, merged by one share, on rendered frames that both answer for."""

from __future__ import annotations

from tiny import STREET, shares_in

from search.data.frames import RenderedScenes
from search.data.ground_truth import Truth, scenes_truth
from search.evaluation.splits.link_scores import LinkSetup
from search.split.setup import SplitSetup
from search.statistics.observed import Observed
from spaces.plan import Ref, Share, SharePlan
from spaces.split.split import Split

FRAMES = RenderedScenes(STREET, 8)
UNSEEN = RenderedScenes(STREET, 9)


def truth_of(frames: RenderedScenes) -> dict[str, Truth]:
    """Return labels of the same frames for both models."""
    return {
        "cls": scenes_truth(frames.settings, len(frames), "classification"),
        "det": scenes_truth(frames.settings, len(frames), "detection"),
    }


def truth_of_links() -> dict[str, Truth]:
    """Return labels of other frames for each of the two models."""
    return {
        "cls": scenes_truth(STREET, 7, "classification"),
        "det": scenes_truth(STREET, 5, "detection"),
    }


def one_share(mixed: Observed) -> SharePlan:
    """Return a plan in which the classifier reads the trunk of the detector."""
    wanted = Share.between("det:blocks.3", "cls:blocks.2", "linear")
    assert wanted in shares_in(mixed)
    return SharePlan((wanted,))


def link_setup(mixed: Observed, *plans: SharePlan, batch: int = 4) -> LinkSetup:
    deployment = mixed.deployment
    maps = mixed.maps_for(plans)
    networks = SplitSetup(deployment.models, deployment.facts, maps, deployment.dtype)
    return LinkSetup(networks, batch)


def split_at(plan: SharePlan, *ends: str) -> Split:
    return Split(plan, tuple(map(Ref.parse, ends)))
