"""Challenger and champion, each as it is served, on the same frames and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from search.config import RunConfig
from search.console import Reporter
from search.frames import FrameSet, Joined, split_parts
from search.observed import Deployment
from search.prepare import open_truth
from search.result import BUNDLE_FOLDER, CandidateRecord, Result
from search.service import Champion, Service
from search.serving import Faithful, Originals, tallied
from search.standing import Standing
from search.tally import scores_of
from search.truth import Truth
from search.verify import Bench, kept_by_model, quality_kept
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


def standings(
    stand: Stand,
    challenger: CandidateRecord,
    champion: Champion | None,
    service: Service,
    reporter: Reporter,
) -> tuple[Standing, Standing | None]:
    """What the rule is to judge by: the challenger's standing, and the champion's if there is one.

    Fidelity is measured anew of both. Truth is the search's own for the challenger; for the
    champion it is measured on the same labels.
    """
    count = len(stand.fresh)
    reporter.step(f"Challenger and plan in service on {count} new frames")
    with reporter.progress("frames", count) as progress:
        originals = Originals.on(stand.bench, stand.fresh, progress)
    proposed = Standing.of(stand.result, challenger)
    bundle = stand.loaded(stand.config.out_folder / BUNDLE_FOLDER)
    proposed = _on(stand, proposed, _agreed(originals, bundle, reporter))
    if champion is None:
        return proposed, None
    if champion.bundle == proposed.bundle:
        return proposed, proposed
    bundle = stand.loaded(service.bundle(champion.bundle))
    agreed = _agreed(originals, bundle, reporter)
    serving = _on(stand, champion.standing, agreed)
    truth = open_truth(stand.config, stand.deployment, stand.frames, reporter)
    if not truth:
        return proposed, replace(serving, quality=None, interval=None, labels=proposed.labels)
    with reporter.working("ground truth of the plan in service"):
        kept, quality = _kept(stand, bundle, agreed, truth)
    least = min(kept.values(), default=None)
    return proposed, replace(
        serving, quality=quality, interval=None, worst=least, labels=proposed.labels
    )


def _on(stand: Stand, standing: Standing, agreed: Faithful) -> Standing:
    """With its fidelity on the new frames."""
    return replace(
        standing,
        fidelity=agreed.mean,
        fidelity_interval=agreed.interval,
        frames=stand.fresh.hash,
    )


def _agreed(originals: Originals, bundle: Bundle, reporter: Reporter) -> Faithful:
    with reporter.progress("frames", len(originals.frames)) as progress:
        return originals.against(bundle, progress)


def _kept(
    stand: Stand, bundle: Bundle, agreed: Faithful, truth: dict[str, Truth]
) -> tuple[dict[str, float], float | None]:
    """What each model keeps, and the mean: `quality_kept`."""
    scores, baseline = scores_of(tallied(bundle, stand.bench, truth)), stand.result.baseline
    kept = kept_by_model(scores, baseline, agreed.by_model)
    return kept, quality_kept(scores, baseline, agreed.by_model)
