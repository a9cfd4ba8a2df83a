"""Compare challenger and champion on the same frames and labels.

The frames are all that the search of neither has kept out of their reach: every frame that has
come since the last search. The champion is measured as it is served. The challenger is measured
as it is served on the frames that its maps were not fitted on, and on every other frame by maps
that were fitted without this frame (`search.evaluation.cross_fitting`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from search.config.run import RunConfig
from search.data.frames import FrameSet, Subset, split_parts
from search.data.ground_truth import Truth
from search.deploy.champion import Champion, ChampionStore
from search.deploy.comparison import Comparison
from search.evaluation.bundles import (
    BundleAccuracy,
    BundleAnswers,
    BundleFidelity,
    BundleQuality,
    Difference,
    Measure,
)
from search.evaluation.cross_fitting import (
    CrossFitting,
    FittedPart,
    Piece,
    collect_pieces,
    mapped_pairs,
)
from search.evaluation.evaluate import EvaluationSetup
from search.pipelines.open_data import open_frame_set, select_device
from search.pipelines.statistics_cache import load_or_measure_moments
from search.results.registered_plan import RegisteredPlan
from search.results.search_result import BUNDLE_FOLDER, CandidateRecord, Result
from search.statistics.left_out import moments_of_pairs
from search.utils.reporter import Reporter
from search.watch.inspection import Inspection
from search.watch.seen_labels import SeenLabels
from spaces.bundle import Bundle, load_bundle
from spaces.deployment import Deployment
from spaces.plan import SharePlan

VERDICT_LEVEL = 0.8
"""Confidence of the interval of a difference in fidelity: a challenger is refused if it is worse
with a confidence of 90%. Chosen by `bench/verdict.py --choose`."""


@dataclass(frozen=True)
class ComparisonSetup:
    """A finished search, and the frames and labels on which two plans can be compared."""

    config: RunConfig
    """Of the search."""
    champions: ChampionStore
    seen_labels: SeenLabels
    deployment: Deployment
    result: Result
    inspection: Inspection
    """Of the new frames."""
    new_parts: Sequence[bool]
    """For each part at the end of the config's frames, whether it has frames of this round."""
    truth: Mapping[str, Truth]
    """All labels that exist now, by model."""

    @cached_property
    def evaluation(self) -> EvaluationSetup:
        deployment = self.deployment
        return EvaluationSetup(
            deployment.deployed_models, deployment.facts, {}, self.config.verify.batch
        )

    def fitted_parts(self, plan: SharePlan, reporter: Reporter) -> list[FittedPart]:
        """Return all frames that the maps of the proposed plan were fitted on, part by part."""
        config, deployment = self.config, self.deployment
        halves = split_parts(open_frame_set(config), config.verify.fidelity_frames)
        is_new = [False] * (len(halves) - len(self.new_parts)) + [*self.new_parts]
        remaining: dict[Hashable, list[int]] = {}
        for index, content in enumerate(self.inspection.frames.content_keys()):
            remaining.setdefault(content, []).append(index)
        parts = []
        for (fitted, _), new in zip(halves, is_new, strict=True):
            moments = load_or_measure_moments(config, deployment, fitted, None, reporter)
            indices = [_next(remaining, key) for key in fitted.content_keys()] if new else None
            own = moments_of_pairs(moments, mapped_pairs(plan))
            parts.append(FittedPart(own, len(fitted), indices))
        return parts

    def labels_against(self, champion: Champion) -> tuple[str, Mapping[str, Truth]]:
        """Return the labels that both plans are measured on, and their description.

        These are the labels that the champion's search did not use. Old labels are used only if
        the promotion rule requires labels and none are new.
        """
        rule, age = self.config.promotion.by, "new"
        labels: Mapping[str, Truth] = {}
        if rule != "fidelity":
            labels = self.seen_labels.new(champion.bundle, self.truth)
        if rule == "truth" and not labels:
            labels, age = self.truth, "old"
        return f"{sum(len(truth.frames) for truth in labels.values())} {age} labels", labels

    def bundle(self, plan: RegisteredPlan) -> Bundle:
        """Load the bundle of a plan in service."""
        return self._load(self.champions.bundle_folder(plan.bundle))

    def proposed_bundle(self) -> Bundle:
        """Load the bundle that the search proposes."""
        return self._load(self.config.out_folder / BUNDLE_FOLDER)

    def _load(self, folder: Path) -> Bundle:
        return load_bundle(folder).to(select_device(self.config.device))


def _next(indices: Mapping[Hashable, list[int]], content: Hashable) -> int | None:
    """Take the next index of a frame with this content; None if there is none left."""
    left = indices.get(content)
    return left.pop(0) if left else None


class Fidelities(NamedTuple):
    """Fidelity of both plans on the same frames."""

    frames: FrameSet
    challenger: BundleQuality
    champion: BundleQuality | None
    """None if no plan is in service."""


def compare_plans(
    setup: ComparisonSetup,
    candidate: CandidateRecord,
    champion: Champion | None,
    reporter: Reporter,
) -> Comparison:
    """Measure the chosen candidate of a search and the champion on the same frames and labels.

    That is fidelity, and quality on ground truth, if there are labels. Without a champion to
    compare with, the challenger's quality is that of the search.
    """
    challenger = RegisteredPlan.of(setup.result, candidate)
    proposed = setup.proposed_bundle()
    fidelities = measure_fidelities(setup, SharePlan.from_dict(candidate.plan), proposed, reporter)
    frames = fidelities.frames
    challenger = _with_fidelity(challenger, fidelities.challenger, frames)
    measured_on: dict[Measure, str] = {
        "fidelity": f"{len(frames)} new frames", "truth": "all labels",
    }  # fmt: skip
    if champion is None or champion.bundle == challenger.bundle or fidelities.champion is None:
        in_service = None if champion is None else challenger
        return Comparison(challenger, in_service, measured_on=measured_on)
    in_service = replace(
        _with_fidelity(champion.registered_plan, fidelities.champion, frames),
        quality=None, interval=None, labels=challenger.labels, at_chance=(),
    )  # fmt: skip
    differences: dict[Measure, Difference | None] = {
        "fidelity": fidelities.challenger.minus(fidelities.champion, VERDICT_LEVEL)
    }
    measured_on["truth"], labels = setup.labels_against(champion)
    if labels:
        with reporter.working("ground truth of both"):
            by_truth = BundleAccuracy.prepare(setup.evaluation, labels)
            of_challenger = by_truth.measure(proposed, fidelities.challenger)
            bundle = setup.bundle(champion.registered_plan)
            of_champion = by_truth.measure(bundle, fidelities.champion)
        challenger = _with_quality(challenger, of_challenger, by_truth.at_chance)
        in_service = _with_quality(in_service, of_champion, by_truth.at_chance)
        differences["truth"] = of_challenger.minus(of_champion)
    return Comparison(challenger, in_service, differences, measured_on)


def measure_fidelities(
    setup: ComparisonSetup, plan: SharePlan, proposed: Bundle, reporter: Reporter
) -> Fidelities:
    """Measure both plans on all new frames, the challenger's on none that its maps have seen.

    Refined maps are not trained again for that: a plan with such maps is measured, and the
    champion beside it, on the frames that no maps were fitted on.
    """
    with reporter.working("maps without the frames they are measured on"):
        fitting = CrossFitting(
            setup.deployment,
            plan,
            setup.fitted_parts(plan, reporter) if plan.mapped_shares else (),
            setup.config.pass_settings,
        )
    frames, service = setup.inspection.frames, setup.inspection.service
    unseen = [k for k in range(len(frames)) if k not in fitting.fitted_indices]
    if plan.refined and fitting.fitted_indices:
        return _measure_unseen(setup, Subset(frames, tuple(unseen)), proposed, reporter)
    reporter.step(f"Challenger on {len(frames)} new frames, each unseen by its maps")
    steps = len(frames) * (1 if service else 2)
    with reporter.progress("frames", steps) as progress:
        reference = (
            service.reference
            if service
            else BundleFidelity.prepare(setup.evaluation, frames, progress)
        )
        served = [Piece(unseen, BundleAnswers(proposed))] if unseen else []
        pieces = chain(served, fitting.pieces())
        answers = collect_pieces(pieces, setup.evaluation, frames, progress)
    return Fidelities(
        frames, reference.measure_collected(answers), service.quality if service else None
    )


def _measure_unseen(
    setup: ComparisonSetup, frames: FrameSet, proposed: Bundle, reporter: Reporter
) -> Fidelities:
    """Measure both bundles as they are served."""
    champion = setup.champions.champion() if setup.inspection.service else None
    bundles = [proposed, *([setup.bundle(champion.registered_plan)] if champion else [])]
    reporter.step(f"Challenger and plan in service on {len(frames)} new frames")
    with reporter.progress("frames", len(frames) * (1 + len(bundles))) as progress:
        by_answers = BundleFidelity.prepare(setup.evaluation, frames, progress)
        challenger, *others = (by_answers.measure(bundle, progress) for bundle in bundles)
    return Fidelities(frames, challenger, others[0] if others else None)


def _with_fidelity(
    plan: RegisteredPlan, fidelity: BundleQuality, frames: FrameSet
) -> RegisteredPlan:
    return replace(
        plan, fidelity=fidelity.mean, fidelity_interval=fidelity.interval, frames=frames.hash
    )


def _with_quality(
    plan: RegisteredPlan, quality: BundleQuality, at_chance: tuple[str, ...]
) -> RegisteredPlan:
    """Set the quality kept on ground truth; None if no model could be measured."""
    mean = None if quality.interval is None else quality.mean
    by_model = [value for value in quality.by_model.values() if value is not None]
    return replace(
        plan, quality=mean, interval=quality.interval, worst=min(by_model, default=None),
        at_chance=at_chance,
    )  # fmt: skip
