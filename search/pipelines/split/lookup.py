"""What a split with a coding costs, looked up: nothing runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from search.pipelines.split.codec_times import CodecTime, CodecTimes
from search.pipelines.split.coded import CodedOption
from search.pipelines.split.options import StoredSplit
from search.pipelines.split.stage_times import StageTimes
from search.results.split_result import SplitConditions, SplitPrediction, SplitTimes
from search.study.lookup.choices import Choices, Combination, Outcome
from spaces.plan import Precision
from spaces.split.coefficients import Coding
from spaces.split.split import Split

SPLIT, PRECISION_OF_DEVICE, LEVEL = "split", "precision", "level"
"""The parameters: a split of a plan, the device's precision, and a level of distortion."""


@dataclass(frozen=True)
class SplitPoint:
    """A split with all that was chosen, as a study proposes it."""

    coded: CodedOption
    precision: Precision
    stored: StoredSplit
    coding: Coding

    @property
    def split(self) -> Split:
        """The split, with the device's precision in its plan."""
        return self.stored.split

    @property
    def exact_split(self) -> Split:
        """The split without the device's precision, whose codec it has."""
        return self.coded.option.split

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits, equal for equal splits, precisions and codings."""
        text = json.dumps([self.split.to_dict(), *self.coding], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def predicted_bytes(self) -> float:
        return self.coded.codec.curve.bytes(self.coding)

    @property
    def distortion(self) -> float:
        """By the codec, by shares and by rounding: independent errors, whose squares add up."""
        return self.codec_distortion + self.coded.changes[self.split.plan]

    @property
    def codec_distortion(self) -> float:
        """By the codec alone."""
        return self.coded.codec.curve.distortion(self.coding)

    @property
    def device_bytes(self) -> int:
        return self.stored.weight_bytes + self.coded.codec_bytes

    @property
    def device_memory(self) -> int:
        return self.device_bytes + self.coded.peak_activations


class SplitLookup:
    """The points of all splits, and what they cost under given conditions."""

    def __init__(
        self,
        coded: Sequence[CodedOption],
        precisions: Sequence[Precision],
        times: StageTimes,
        conditions: SplitConditions,
    ) -> None:
        self._codec_times = CodecTimes(coded)
        self._coded = {option.option.split.hash: option for option in coded}
        self._times, self.conditions = times, conditions
        levels = range(max(len(option.codings) for option in coded))
        self.choices = Choices(
            {
                SPLIT: tuple(self._coded),
                PRECISION_OF_DEVICE: tuple(precisions),
                LEVEL: tuple(map(str, levels)),
            }
        )

    def __call__(self, combination: Combination) -> Outcome:
        """Return bytes, MACs and memory of the device, and distortion, with the limits."""
        point = self.point(combination)
        option = point.coded.option
        total = self.times(point, point.predicted_bytes).total_ms
        return Outcome(
            (
                point.predicted_bytes,
                float(option.device_macs),
                float(point.device_memory),
                point.distortion,
            ),
            self.conditions.violations(total, point.device_memory, option.device_macs),
        )

    def point(self, combination: Combination) -> SplitPoint:
        """Return the point of a combination.

        Where a precision changes nothing, it is that of the first precision.
        """
        coded = self._coded[combination[SPLIT]]
        stored = coded.option.stored
        fitting = [p for p in stored if p == combination[PRECISION_OF_DEVICE]]
        chosen = [*fitting, *stored][0]
        coding = coded.codings[int(combination[LEVEL])]
        return SplitPoint(coded, chosen, stored[chosen], coding)

    def times(
        self, point: SplitPoint, size: float, measured: CodecTime | None = None
    ) -> SplitTimes:
        """Return the times of a point for messages of a size, on device, link and server.

        The times of the codec are predicted if they are not given.
        """
        conditions, parts = self.conditions, point.coded.option.parts
        codec = measured or self._codec_times.predict(point.coded, size)
        device_ms = self._times.milliseconds(parts.device.steps) / conditions.device_speed
        encode_ms = codec.encode_ms / conditions.device_speed
        link_ms = conditions.link_ms(size)
        decode_ms = codec.decode_ms / conditions.server_speed
        server_ms = self._times.milliseconds(parts.server.steps) / conditions.server_speed
        return SplitTimes(
            device_ms=device_ms,
            encode_ms=encode_ms,
            link_ms=link_ms,
            decode_ms=decode_ms,
            server_ms=server_ms,
            total_ms=device_ms + encode_ms + link_ms + decode_ms + server_ms,
        )

    def prediction(self, point: SplitPoint) -> SplitPrediction:
        """Return the record of a point."""
        option = point.coded.option
        total = self.times(point, point.predicted_bytes).total_ms
        violations = self.conditions.violations(total, point.device_memory, option.device_macs)
        return SplitPrediction(
            hash=point.hash,
            label=option.split.label,
            plan=option.split.plan.hash,
            precision=point.precision,
            split=point.split.to_dict(),
            step=point.coding.step,
            bands=point.coding.bands,
            predicted_bytes=point.predicted_bytes,
            distortion=point.distortion,
            device_macs=option.device_macs,
            device_share=option.device_share,
            device_bytes=point.device_bytes,
            codec_bytes=point.coded.codec_bytes,
            device_memory=point.device_memory,
            predicted_ms=total,
            feasible=all(violation <= 0 for violation in violations.values()),
        )
