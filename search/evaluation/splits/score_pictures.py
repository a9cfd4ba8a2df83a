"""Measure pictures that are sent instead of representations: bytes, and the answers to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from search.data.frames import batches
from search.evaluation.splits.crossing import frame_sizes, run_part
from search.evaluation.splits.link_scores import (
    AnswerCollector,
    AnswerReference,
    LinkScores,
    LinkSetup,
    ScoredLinks,
    ShownFrames,
    join_scores,
)
from search.evaluation.splits.pictures import PictureCoding, PictureView
from search.utils.progress import Progress
from spaces.inputs import prepare_batch
from spaces.merged import MergedModel
from spaces.plan import SharePlan
from spaces.tasks.task import FrameSize


def score_pictures(
    setup: LinkSetup,
    plan: SharePlan,
    codings: Sequence[PictureCoding],
    shown: Sequence[ShownFrames],
    progress: Progress,
) -> ScoredLinks:
    """Measure codings of pictures that serve all models of a plan, whose networks run whole.

    `progress` counts frames.
    """
    sending = _PictureSending(setup, setup.networks.merged(plan), codings)
    alone, *methods = zip(*(sending.score(part, progress) for part in shown), strict=True)
    return ScoredLinks(tuple(map(join_scores, methods)), {plan: join_scores(alone).scores})


@dataclass(frozen=True, eq=False)
class _PictureSending:
    """Codings of pictures, for the merged model of one plan."""

    setup: LinkSetup
    merged: MergedModel
    codings: Sequence[PictureCoding]

    def score(self, shown: ShownFrames, progress: Progress) -> list[LinkScores]:
        """Return the scores of the frames themselves, and of each coding."""
        models, view = self.setup.models, PictureView.of(self.setup.models)
        alone, *sent = (AnswerCollector(models) for _ in range(1 + len(self.codings)))
        sizes: list[FrameSize] = []
        for _, frames in batches(shown.frames, self.setup.batch):
            inputs = self.setup.networks.inputs(self.merged, frames)
            alone.add([b""] * len(frames), self._answers(inputs))
            sides = {coding.side for coding in self.codings}
            by_side = {side: [view.take(frame, side) for frame in frames] for side in sides}
            for coding, collector in zip(self.codings, sent, strict=True):
                files = [coding.encode(picture) for picture in by_side[coding.side]]
                collector.add(files, self._answers(self._received(view, coding, files)))
            sizes += frame_sizes(frames)
            progress(len(frames))
        unsplit = alone.collected()
        reference = AnswerReference.of(shown, models, unsplit, sizes)
        return [reference.score(part) for part in (unsplit, *(c.collected() for c in sent))]

    def _received(
        self, view: PictureView, coding: PictureCoding, files: Sequence[bytes]
    ) -> dict[str, Tensor]:
        """Return the inputs that the server prepares from files."""
        pictures, models = [coding.decode(file) for file in files], self.setup.models
        return {
            name: prepare_batch(pictures, view.server_input(name)).to(models[name].device)
            for name in self.merged.inputs_read
        }

    def _answers(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return run_part(self.merged, self.merged.whole, inputs, {}).answers
