"""Challenger and champion, each as it is served, on the same frames and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from search.config.run import RunConfig
from search.data.frames import FrameSet, JoinedFrames, split_parts
from search.data.ground_truth import Truth
from search.deploy.champion import Champion
from search.deploy.comparison import Comparison
from search.evaluation.bundles import BundleQuality, ByAnswers, ByTruth, Difference, Measure
from search.evaluation.evaluate import EvaluationSetup
from search.pipelines.open_data import open_frame_set, select_device
from search.results.registered_plan import RegisteredPlan
from search.results.search_result import BUNDLE_FOLDER, CandidateRecord, Result
from search.utils.reporter import Reporter
from search.watch.workspace import Workspace
from spaces.bundle import Bundle, load_bundle
from spaces.deployment import Deployment


@dataclass(frozen=True)
class ComparisonSetup:
    """A search that has ended, and what two plans can be compared on."""

    post: Workspace
    config: RunConfig
    """Of the search."""
    deployment: Deployment
    result: Result
    new: Sequence[bool]
    """Of each window at the end of the config's frames, whether this round has brought it."""
    truth: Mapping[str, Truth]
    """All labels that there are now."""

    @cached_property
    def bench(self) -> EvaluationSetup:
        known = self.deployment
        return EvaluationSetup(known.deployed_models, known.facts, {}, self.config.verify.batch)

    @cached_property
    def fresh(self) -> FrameSet:
        """Of the new windows, what the search has kept from its statistics: frames that the maps
        of neither plan have seen."""
        frames = open_frame_set(self.config)
        parts = split_parts(frames, self.config.verify.fidelity_frames)
        later = parts[len(parts) - len(self.new) :]
        return JoinedFrames(tuple(u for (_, u), new in zip(later, self.new, strict=True) if new))

    def labels_against(self, champion: Champion) -> tuple[str, Mapping[str, Truth]]:
        """The labels, in words too, that both plans are measured on: those that are new to the
        champion; old ones only if the rule wants labels in any case."""
        rule, what = self.config.promotion.by, "new"
        found = {} if rule == "fidelity" else self.post.labels.new(champion.bundle, self.truth)
        if rule == "truth" and not found:
            found, what = dict(self.truth), "old"
        return f"{sum(len(known.frames) for known in found.values())} {what} labels", found

    def loaded(self, folder: Path) -> Bundle:
        """The bundle in a folder, where the models are."""
        return load_bundle(folder).to(select_device(self.config.device))


def compare_plans(
    stand: ComparisonSetup,
    challenger: CandidateRecord,
    champion: Champion | None,
    reporter: Reporter,
) -> Comparison:
    """What the rule is to judge by: both plans, as they are served, on the same frames.

    Fidelity is measured anew of both, and so is truth, if there are labels for that. What a
    challenger that has nobody to beat keeps is the search's own measurement.
    """
    proposed = RegisteredPlan.of(stand.result, challenger)
    bundles = [stand.loaded(stand.config.out_folder / BUNDLE_FOLDER)]
    if champion is not None and champion.bundle != proposed.bundle:
        bundles.append(stand.loaded(stand.post.service.bundle(champion.bundle)))
    agreed = _by_answers(stand, bundles, reporter)
    proposed = _faithful(proposed, agreed[0], stand.fresh)
    told: dict[Measure, str] = {
        "fidelity": f"{len(stand.fresh)} new frames", "truth": "all labels",
    }  # fmt: skip
    if champion is None:
        return Comparison(proposed, None, measured_on=told)
    if champion.bundle == proposed.bundle:
        return Comparison(proposed, proposed, measured_on=told)
    serving = _faithful(champion.standing, agreed[1], stand.fresh)
    serving = replace(serving, quality=None, interval=None, labels=proposed.labels)
    leads: dict[Measure, Difference | None] = {"fidelity": agreed[0].lead(agreed[1])}
    told["truth"], labels = stand.labels_against(champion)
    if labels:
        with reporter.working("ground truth of both"):
            right = ByTruth.on(stand.bench, labels)
            kept = [right.measure(*both) for both in zip(bundles, agreed, strict=True)]
        proposed, serving = _true(proposed, kept[0]), _true(serving, kept[1])
        leads["truth"] = kept[0].lead(kept[1])
    return Comparison(proposed, serving, leads, told)


def _by_answers(
    stand: ComparisonSetup, bundles: Sequence[Bundle], reporter: Reporter
) -> list[BundleQuality]:
    """Of each, how well it agrees with its models on the new frames."""
    frames = stand.fresh
    reporter.step(f"Challenger and plan in service on {len(frames)} new frames")
    with reporter.progress("frames", len(frames) * (1 + len(bundles))) as progress:
        answers = ByAnswers.on(stand.bench, frames, progress)
        return [answers.measure(bundle, progress) for bundle in bundles]


def _faithful(standing: RegisteredPlan, agreed: BundleQuality, frames: FrameSet) -> RegisteredPlan:
    """With its fidelity on those frames."""
    return replace(
        standing, fidelity=agreed.mean, fidelity_interval=agreed.interval, frames=frames.hash
    )


def _true(standing: RegisteredPlan, kept: BundleQuality) -> RegisteredPlan:
    """With what it keeps on ground truth; `quality_kept`, if any model could be measured."""
    known = None if kept.interval is None else kept.mean
    least = min((value for value in kept.by_model.values() if value is not None), default=None)
    return replace(standing, quality=known, interval=kept.interval, worst=least)
