"""The accuracy of every share on its own, on two parts of the labelled frames.

The deciding part picks the best metric, the reporting part gives every number that is published:
on the frames that picked a metric, its correlation reads too high.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.data.ground_truth import BadTruth, BoxTruth, Truth, truth_subset
from search.evaluation.evaluate import (
    UNMERGED_PLAN,
    EvaluationSetup,
    compute_accuracy,
    verification_steps,
)
from search.evaluation.per_frame import Scores, main_score
from search.results.metric_comparison import LABEL_PARTS, LabelPart
from search.statistics.observed import Observed
from search.utils.progress import Progress
from search.utils.reporter import Reporter
from spaces.deployment import Deployment
from spaces.errors import MergeSearchError
from spaces.plan import Share, SharePlan

DECIDES = 5
"""Every fifth labelled frame is in the deciding part, the others are in the reporting part."""


class NothingToCorrelate(MergeSearchError):
    """No model has an accuracy that a share could change."""


@dataclass(frozen=True)
class ShareAccuracy:
    """The accuracy of plans of one share each, on one part of the labelled frames."""

    unmerged: dict[str, Scores]
    """Scores of the unmerged models by model."""
    scores: dict[Share, float]
    """The main score of the share's recipient."""

    @property
    def left_out(self) -> dict[str, str]:
        """The reason for each model whose accuracy cannot be put in relation to the unmerged."""
        return {
            name: "its unmerged score is 0"
            for name, scores in self.unmerged.items()
            if not main_score(scores) > 0
        }

    @property
    def kept(self) -> dict[Share, float]:
        """Merged / unmerged main score, which can be pooled over classifiers and detectors."""
        return {
            share: score / main_score(self.unmerged[share.recipient.model])
            for share, score in self.scores.items()
            if share.recipient.model not in self.left_out
        }


def split_truth(truth: Mapping[str, Truth]) -> dict[LabelPart, dict[str, Truth]]:
    """Split each model's labelled frames: every `DECIDES`-th decides, the others report.

    Raises:
        BadTruth: a part would have no frames, or no boxes.
    """
    parts: dict[LabelPart, dict[str, Truth]] = {part: {} for part in LABEL_PARTS}
    for name, labelled in truth.items():
        indices = range(len(labelled.frames))
        parts["deciding"][name] = truth_subset(labelled, indices[::DECIDES])
        parts["reporting"][name] = truth_subset(labelled, [i for i in indices if i % DECIDES])
        for part in LABEL_PARTS:
            _check_part(name, part, parts[part][name])
    return parts


def measurable_models(
    deployment: Deployment,
    truth: Mapping[LabelPart, Mapping[str, Truth]],
    batch: int,
    reporter: Reporter,
) -> frozenset[str]:
    """Return the models that score above 0 unmerged on either part; report the others.

    Call this before the long measurement of all shares.

    Raises:
        NothingToCorrelate: no model scores above 0 on the reporting part.
    """
    setup = EvaluationSetup(deployment.fused_models, deployment.facts, {}, batch)
    names: set[str] = set()
    for part in LABEL_PARTS:
        reporter.step(f"Accuracy of the unmerged models on the {part} frames")
        with reporter.progress("steps", verification_steps(1, truth[part])) as progress:
            unmerged = measure_shares(setup, [], truth[part], progress)
        for name, reason in unmerged.left_out.items():
            reporter.say(f"  {name} is left out on the {part} frames: {reason}")
        names |= set(unmerged.unmerged) - set(unmerged.left_out)
        if part == "reporting" and set(unmerged.unmerged) == set(unmerged.left_out):
            raise NothingToCorrelate(
                "no model with ground truth scores above 0 unmerged, so no share can be said to "
                f"keep anything of it: {', '.join(unmerged.left_out)}"
            )
    return frozenset(names)


def measure_parts(
    observed: Observed,
    shares: Sequence[Share],
    truth: Mapping[LabelPart, Mapping[str, Truth]],
    batch: int,
    reporter: Reporter,
) -> dict[LabelPart, ShareAccuracy]:
    """Measure the accuracy of every share on both parts, which have no frame in common.

    If the maps of all shares need too much memory, the shares are measured group by group.
    """
    deployment = observed.deployment
    unmerged: dict[LabelPart, dict[str, Scores]] = {}
    scores: dict[LabelPart, dict[Share, float]] = {part: {} for part in LABEL_PARTS}
    for group in observed.groups(shares):
        with reporter.working("linear maps"):
            maps = observed.maps_of(group)
        setup = EvaluationSetup(
            deployment.fused_models, deployment.facts, maps, batch, observed.cluster, "fused"
        )
        of_all = "" if len(group) == len(shares) else f" of {len(shares)}"
        for part in LABEL_PARTS:
            reporter.step(f"Accuracy of {len(group)}{of_all} shares on the {part} frames")
            with reporter.progress(
                "steps", verification_steps(1 + len(group), truth[part])
            ) as progress:
                measured = measure_shares(setup, group, truth[part], progress)
            unmerged[part] = measured.unmerged
            scores[part] |= measured.scores
    return {
        part: ShareAccuracy(unmerged[part], {share: scores[part][share] for share in shares})
        for part in LABEL_PARTS
    }


def measure_shares(
    setup: EvaluationSetup,
    shares: Sequence[Share],
    truth: Mapping[str, Truth],
    progress: Progress,
) -> ShareAccuracy:
    """Measure the accuracy of every share in one pass over the frames.

    The recipients of the shares must have ground truth.
    """
    plans = [SharePlan((share,)) for share in shares]
    unmerged, *merged = compute_accuracy(setup, [UNMERGED_PLAN, *plans], truth, progress)
    return ShareAccuracy(
        unmerged,
        {
            share: main_score(scores[share.recipient.model])
            for share, scores in zip(shares, merged, strict=True)
        },
    )


def _check_part(name: str, part: LabelPart, labelled: Truth) -> None:
    if isinstance(labelled, BoxTruth):
        unit, count = "boxes", sum(map(len, labelled.annotations))
    else:
        unit, count = "frames", len(labelled.frames)
    if not count:
        raise BadTruth(
            f"truth.{name}: no {unit} among its {part} frames: every {DECIDES}th labelled frame "
            "decides which metric wins, the others report; give more labelled frames"
        )
