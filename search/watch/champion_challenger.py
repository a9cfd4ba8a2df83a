"""Compare challenger and champion as they are served, on the same frames and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from search.config.run import RunConfig
from search.data.frames import FrameSet, JoinedFrames, split_parts
from search.data.ground_truth import Truth
from search.deploy.champion import Champion, ChampionStore
from search.deploy.comparison import Comparison
from search.evaluation.bundles import (
    BundleAccuracy,
    BundleFidelity,
    BundleQuality,
    Difference,
    Measure,
)
from search.evaluation.evaluate import EvaluationSetup
from search.pipelines.open_data import open_frame_set, select_device
from search.results.registered_plan import RegisteredPlan
from search.results.search_result import BUNDLE_FOLDER, CandidateRecord, Result
from search.utils.reporter import Reporter
from search.watch.seen_labels import SeenLabels
from spaces.bundle import Bundle, load_bundle
from spaces.deployment import Deployment


@dataclass(frozen=True)
class ComparisonSetup:
    """A finished search, and the frames and labels on which two plans can be compared."""

    config: RunConfig
    """Of the search."""
    champions: ChampionStore
    seen_labels: SeenLabels
    deployment: Deployment
    result: Result
    new_windows: Sequence[bool]
    """For each window at the end of the config's frames, whether this round brought it."""
    truth: Mapping[str, Truth]
    """All labels that exist now, by model."""
    unused_frames: FrameSet | None = None
    """Frames of the new windows that the search did not use, if it used some of each only."""

    @cached_property
    def evaluation(self) -> EvaluationSetup:
        deployment = self.deployment
        return EvaluationSetup(
            deployment.deployed_models, deployment.facts, {}, self.config.verify.batch
        )

    @cached_property
    def fresh_frames(self) -> FrameSet:
        """Frames of the new windows that are not in the statistics of the search: the maps of
        neither plan were fitted on them."""
        if self.unused_frames is not None:
            return self.unused_frames
        frames = open_frame_set(self.config)
        parts = split_parts(frames, self.config.verify.fidelity_frames)
        held_out = [part for _, part in parts[len(parts) - len(self.new_windows) :]]
        return JoinedFrames(
            tuple(part for part, is_new in zip(held_out, self.new_windows, strict=True) if is_new)
        )

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


def compare_plans(
    setup: ComparisonSetup,
    candidate: CandidateRecord,
    champion: Champion | None,
    reporter: Reporter,
) -> Comparison:
    """Measure the chosen candidate of a search and the champion on the same frames and labels.

    The fidelity of both is measured again, and so is quality on ground truth, if there are labels.
    Without a champion to compare with, the challenger's quality is that of the search.
    """
    challenger = RegisteredPlan.of(setup.result, candidate)
    frames = setup.fresh_frames
    measured_on: dict[Measure, str] = {
        "fidelity": f"{len(frames)} new frames", "truth": "all labels",
    }  # fmt: skip
    if champion is None or champion.bundle == challenger.bundle:
        (fidelity,) = _measure_fidelity(setup, [setup.proposed_bundle()], reporter)
        challenger = _with_fidelity(challenger, fidelity, frames)
        in_service = None if champion is None else challenger
        return Comparison(challenger, in_service, measured_on=measured_on)
    bundles = [setup.proposed_bundle(), setup.bundle(champion.registered_plan)]
    fidelities = _measure_fidelity(setup, bundles, reporter)
    challenger = _with_fidelity(challenger, fidelities[0], frames)
    in_service = replace(
        _with_fidelity(champion.registered_plan, fidelities[1], frames),
        quality=None, interval=None, labels=challenger.labels, at_chance=(),
    )  # fmt: skip
    differences: dict[Measure, Difference | None] = {
        "fidelity": fidelities[0].minus(fidelities[1])
    }
    measured_on["truth"], labels = setup.labels_against(champion)
    if labels:
        with reporter.working("ground truth of both"):
            by_truth = BundleAccuracy.prepare(setup.evaluation, labels)
            qualities = [by_truth.measure(*both) for both in zip(bundles, fidelities, strict=True)]
        challenger = _with_quality(challenger, qualities[0], by_truth.at_chance)
        in_service = _with_quality(in_service, qualities[1], by_truth.at_chance)
        differences["truth"] = qualities[0].minus(qualities[1])
    return Comparison(challenger, in_service, differences, measured_on)


def _measure_fidelity(
    setup: ComparisonSetup, bundles: Sequence[Bundle], reporter: Reporter
) -> list[BundleQuality]:
    """Return each bundle's agreement with the unmerged models on the fresh frames."""
    frames = setup.fresh_frames
    reporter.step(f"Challenger and plan in service on {len(frames)} new frames")
    with reporter.progress("frames", len(frames) * (1 + len(bundles))) as progress:
        by_answers = BundleFidelity.prepare(setup.evaluation, frames, progress)
        return [by_answers.measure(bundle, progress) for bundle in bundles]


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
