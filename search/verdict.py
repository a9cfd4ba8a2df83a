"""Challenger and champion, each as it is served, on the same frames and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from search.config import RunConfig
from search.console import Reporter
from search.contest import Contest, Lead, Measure
from search.frames import FrameSet, Joined, split_parts
from search.observed import Deployment
from search.prepare import open_truth
from search.result import BUNDLE_FOLDER, CandidateRecord, Result
from search.service import Champion, Service
from search.serving import ByAnswers, ByTruth, Kept
from search.standing import Standing
from search.verify import Bench
from spaces.bundle import Bundle, load_bundle


@dataclass(frozen=True)
class Stand:
    """A search that has ended, and what two plans can be compared on."""

    config: RunConfig
    deployment: Deployment
    result: Result
    new: Sequence[bool]
    """Of each window at the end of the config's frames, whether this round has brought it."""

    @cached_property
    def bench(self) -> Bench:
        known = self.deployment
        return Bench(known.served, known.facts, {}, self.config.verify.batch)

    @cached_property
    def frames(self) -> FrameSet:
        """All frames of the search."""
        return self.config.frames.open(self.config.base)

    @cached_property
    def fresh(self) -> FrameSet:
        """Of the new windows, what the search has kept from its statistics: frames that the maps
        of neither plan have seen."""
        parts = split_parts(self.frames, self.config.verify.fidelity_frames)
        later = parts[len(parts) - len(self.new) :]
        return Joined(tuple(u for (_, u), new in zip(later, self.new, strict=True) if new))

    def loaded(self, folder: Path) -> Bundle:
        """The bundle in a folder, where the models are."""
        return load_bundle(folder).to(self.config.torch_device)


def contest(
    stand: Stand,
    challenger: CandidateRecord,
    champion: Champion | None,
    service: Service,
    reporter: Reporter,
) -> Contest:
    """What the rule is to judge by: both plans, as they are served, on the same frames.

    Fidelity is measured anew of both, and truth if there are labels; that of a challenger that has
    nobody to beat is the search's own.
    """
    proposed = Standing.of(stand.result, challenger)
    bundles = [stand.loaded(stand.config.out_folder / BUNDLE_FOLDER)]
    if champion is not None and champion.bundle != proposed.bundle:
        bundles.append(stand.loaded(service.bundle(champion.bundle)))
    agreed = _by_answers(stand, bundles, reporter)
    proposed = _faithful(proposed, agreed[0], stand.fresh)
    if champion is None:
        return Contest(proposed, None)
    if champion.bundle == proposed.bundle:
        return Contest(proposed, proposed)
    serving = _faithful(champion.standing, agreed[1], stand.fresh)
    serving = replace(serving, quality=None, interval=None, labels=proposed.labels)
    leads: dict[Measure, Lead | None] = {"fidelity": agreed[0].lead(agreed[1])}
    kept = _by_truth(stand, bundles, agreed, reporter)
    if kept:
        proposed, serving = _true(proposed, kept[0]), _true(serving, kept[1])
        leads["truth"] = kept[0].lead(kept[1])
    return Contest(proposed, serving, leads)


def _by_answers(stand: Stand, bundles: Sequence[Bundle], reporter: Reporter) -> list[Kept]:
    """Of each, how well it agrees with its models on the new frames."""
    frames = stand.fresh
    reporter.step(f"Challenger and plan in service on {len(frames)} new frames")
    with reporter.progress("frames", len(frames) * (1 + len(bundles))) as progress:
        answers = ByAnswers.on(stand.bench, frames, progress)
        return [answers.measure(bundle, progress) for bundle in bundles]


def _by_truth(
    stand: Stand, bundles: Sequence[Bundle], agreed: Sequence[Kept], reporter: Reporter
) -> list[Kept]:
    """Of each, what it keeps on the config's labels; empty if there are none."""
    truth = open_truth(stand.config, stand.deployment, stand.frames, reporter)
    if not truth:
        return []
    with reporter.working("ground truth of both"):
        labels = ByTruth.on(stand.bench, truth)
        return [
            labels.measure(bundle, known) for bundle, known in zip(bundles, agreed, strict=True)
        ]


def _faithful(standing: Standing, agreed: Kept, frames: FrameSet) -> Standing:
    """With its fidelity on those frames."""
    return replace(
        standing, fidelity=agreed.mean, fidelity_interval=agreed.interval, frames=frames.hash
    )


def _true(standing: Standing, kept: Kept) -> Standing:
    """With what it keeps on ground truth; `quality_kept`, if any model could be measured."""
    known = None if kept.interval is None else kept.mean
    least = min((value for value in kept.by_model.values() if value is not None), default=None)
    return replace(standing, quality=known, interval=kept.interval, worst=least)
