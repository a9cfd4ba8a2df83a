"""What one would do without a codec of this kind, measured on the same frames as the splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from search.evaluation import latency
from search.evaluation.evaluate import (
    UNMERGED_PLAN,
    EvaluationSetup,
    compute_fidelity,
    score_frames,
)
from search.evaluation.latency import Stopwatch
from search.evaluation.splits.pictures import (
    LOSSLESS,
    PictureCoding,
    PictureView,
    missing_formats,
    picture_grid,
)
from search.evaluation.splits.plain_codings import PlainCoder
from search.evaluation.splits.plain_statistics import split_statistics
from search.evaluation.splits.score_pictures import score_pictures
from search.evaluation.splits.score_splits import SplitCandidate, score_splits
from search.pipelines.split.inputs import SplitInputs
from search.pipelines.split.lookup import SplitLookup, SplitPoint
from search.pipelines.split.measure import Scorer
from search.pipelines.split.options import part_owners, with_device_precision
from search.pipelines.split.stage_times import StageTimes
from search.pipelines.split.verify import link_setup_of, shown_frames
from search.results.split_result import SplitBaselineRecord, SplitTimes
from search.utils.progress import silent
from search.utils.reporter import Reporter
from spaces.plan import Precision, SharePlan

PLAIN = ((0.95, 4), (0.99, 6))
"""Plain codings with principal components: the variance that they explain, and bits."""
PLAIN_BITS = (4, 8)
"""Plain codings of the channels as they are."""
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Baselines:
    """Measures other ways to answer."""

    inputs: SplitInputs
    times: StageTimes
    lookup: SplitLookup
    scorer: Scorer

    def measure(
        self, points: Sequence[SplitPoint], reporter: Reporter
    ) -> list[SplitBaselineRecord]:
        """Return pictures, plain codings of what crosses at some points, and whole networks."""
        codings = self._picture_codings(reporter)
        shown = shown_frames(self.inputs)
        count = sum(len(part.frames) for part in shown)
        plans = len({point.split.plan for point in points})
        reporter.step(f"Baselines: {len(codings)} pictures, plain codings, whole networks")
        with reporter.progress("frames", count * (1 + plans)) as progress:
            pictures = [*self._pictures(codings, progress)]
            plain = [*self._plain(points, progress)]
        with reporter.working("whole networks"):
            whole = [*self._on_device()]
        return [*whole, *pictures, *plain]

    def _picture_codings(self, reporter: Reporter) -> list[PictureCoding]:
        against = self.inputs.settings.against
        missing = missing_formats(against.pictures)
        if missing:
            reporter.say(f"  Pillow on this machine writes no {' and no '.join(missing)}")
        formats = [name for name in against.pictures if name not in missing]
        lossy = picture_grid(formats, against.qualities, [None, *against.sizes])
        return [*lossy, PictureCoding("png")]

    def _pictures(
        self, codings: Sequence[PictureCoding], progress: Any
    ) -> Iterator[SplitBaselineRecord]:
        """Yield pictures that a server answers; the lossless one is the whole on the server."""
        scored = score_pictures(
            link_setup_of(self.inputs), UNMERGED_PLAN, codings, shown_frames(self.inputs), progress
        )
        for coding, scores in zip(codings, scored.methods, strict=True):
            measured = self.scorer.sent(scores)
            encode_ms, decode_ms = self._time_picture(coding)
            lossless = coding.format in LOSSLESS
            yield SplitBaselineRecord(
                kind="server" if lossless else "picture",
                name=f"whole networks on the server, {coding.name}" if lossless else coding.name,
                device_macs=0,
                device_bytes=0,
                times=self._times(
                    encode_ms=encode_ms,
                    link_ms=self.lookup.conditions.link_ms(measured["bytes"]),
                    decode_ms=decode_ms,
                    server_ms=self.times.whole(UNMERGED_PLAN),
                ),
                **measured,
            )

    def _time_picture(self, coding: PictureCoding) -> tuple[float, float]:
        """Return the milliseconds to encode and to decode the picture of a frame."""
        view = PictureView.of(self.inputs.deployment.models)
        picture = view.take(self.inputs.fitted_on[0], coding.side)
        file = coding.encode(picture)
        settings = replace(latency.DEFAULT_STOPWATCH, warmup=1, runs=3, seconds=0.0, frames=1)
        watch = Stopwatch(settings, torch.device("cpu"))
        return (
            watch.milliseconds(lambda run: coding.encode(picture)),
            watch.milliseconds(lambda run: coding.decode(file)),
        )

    def _plain(self, points: Sequence[SplitPoint], progress: Any) -> Iterator[SplitBaselineRecord]:
        """Yield plain codings of what crosses at some points."""
        setup = link_setup_of(self.inputs)
        splits = [*dict.fromkeys(point.split for point in points)]
        statistics = split_statistics(setup, splits, self.inputs.fitted_on)
        methods: list[tuple[SplitPoint, str, PlainCoder]] = []
        for point in points:
            known = statistics[point.split]
            for explained, bits in PLAIN:
                name = f"PCA, {known.ranks(explained)} components, {bits} bits, zstd"
                methods.append((point, name, known.principal(explained, bits)))
            for bits in PLAIN_BITS:
                methods.append((point, f"channels, {bits} bits, zstd", known.by_channel(bits)))
        candidates = [SplitCandidate(point.split, coder) for point, _, coder in methods]
        scored = score_splits(
            setup, candidates, shown_frames(self.inputs), progress, against=UNMERGED_PLAN
        )
        for (point, name, coder), scores in zip(methods, scored.methods, strict=True):
            measured = self.scorer.sent(scores)
            times = self.lookup.times(point, measured["bytes"])
            held = sum(
                FLOAT32_BYTES * (m.components.numel() + len(m.mean) + 2 * len(m.low))
                for m in coder.maps
            )
            yield SplitBaselineRecord(
                kind="plain",
                name=name,
                split=point.hash,
                device_macs=point.coded.option.device_macs,
                device_bytes=point.stored.weight_bytes + held,
                times=times,
                **measured,
            )

    def _on_device(self) -> Iterator[SplitBaselineRecord]:
        """Yield the whole of every plan on the device, in each of its precisions."""
        inputs, costs = self.inputs, self.inputs.costs
        rows = [*self._whole_plans()]
        plans = [plan for _, plan, _ in rows]
        deployment = inputs.deployment
        setup = EvaluationSetup(
            deployment.deployed_models, deployment.facts, inputs.maps, inputs.config.verify.batch
        )
        fidelities = compute_fidelity(setup, plans, inputs.held_out, silent)
        scores = (
            score_frames(setup, plans, inputs.truth, silent) if inputs.truth else [{}] * len(plans)
        )
        for (name, plan, original), fidelity, frame_scores in zip(
            rows, fidelities, scores, strict=True
        ):
            yield SplitBaselineRecord(
                kind="device",
                name=name,
                bytes=0.0,
                bytes_p95=0.0,
                device_macs=costs.macs(plan),
                device_bytes=costs.bytes(plan),
                device_memory=costs.bytes(plan) + max(peak for _, peak in costs.activations(plan)),
                times=self._times(device_ms=self.times.whole(original)),
                **self.scorer.kept(frame_scores, fidelity),
            )

    def _whole_plans(self) -> Iterator[tuple[str, SharePlan, SharePlan]]:
        """Yield the name of a row, its plan, and the plan without the device's precision."""
        facts = self.inputs.deployment.facts
        for plan in self.inputs.plans:
            owners = part_owners(self.inputs.setup.merged(plan).whole)
            what = "whole networks" if plan == UNMERGED_PLAN else f"whole plan {plan.hash}"
            known: set[SharePlan] = set()
            for precision in self.inputs.settings.device.precision:
                stored = with_device_precision(plan, owners, precision, facts)
                if stored not in known:
                    known.add(stored)
                    yield f"{what} on the device{_suffix(precision, stored, plan)}", stored, plan

    def _times(
        self,
        device_ms: float = 0.0,
        encode_ms: float = 0.0,
        link_ms: float = 0.0,
        decode_ms: float = 0.0,
        server_ms: float = 0.0,
    ) -> SplitTimes:
        """Return times on this machine as those of the device and the server."""
        device, server = self.lookup.conditions.device_speed, self.lookup.conditions.server_speed
        parts = {
            "device_ms": device_ms / device,
            "encode_ms": encode_ms / device,
            "link_ms": link_ms,
            "decode_ms": decode_ms / server,
            "server_ms": server_ms / server,
        }
        return SplitTimes(**parts, total_ms=sum(parts.values()))


def _suffix(precision: Precision, stored: SharePlan, plan: SharePlan) -> str:
    return "" if stored == plan else f", {precision}"
