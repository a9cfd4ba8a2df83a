"""The outcome of `merge-search split`: the schema of split.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from search.evaluation.confidence import ScoreIntervals
from search.evaluation.per_frame import Scores, mean_of_available
from search.results.search_result import ModelRecord, RankAgreement, package_versions
from search.utils.records import IsoTime
from spaces.plan import Precision
from spaces.split.coefficients import Coding

SPLIT_SCHEMA = 1
SPLIT_FOLDER = "split"
"""Below OUT: everything that `merge-search split` writes."""
SPLIT_DOCUMENT = "split.json"
"""Below the folder of the split."""
BaselineKind = Literal["picture", "plain", "device", "server"]
"""A frame that a picture codec sends, and a server that runs the whole network; a representation
in a common coding; the whole network on the device; the whole network on the server, with frames
as they are."""


@dataclass(frozen=True, kw_only=True)
class SplitConditions:
    """The link, the device and the server that a split is searched for."""

    mbit: float
    """Rate of the link, in 10^6 bits a second."""
    rtt_ms: float
    """Round-trip time of the link."""
    loss: float
    """Share of the rate that the link loses."""
    device_speed: float
    """Of the device, relative to the machine that timed the stages."""
    server_speed: float
    deadline_ms: float | None
    """The longest time from a frame to its answers."""
    memory: int | None
    """The most bytes that the device may hold: weights, codec and peak activations."""
    macs: int | None
    """The most multiply-accumulates a frame on the device."""

    def link_ms(self, size: float) -> float:
        """Return the time that the link takes for a message of that many bytes."""
        return 8 * size / (self.mbit * 1e3 * (1 - self.loss)) + self.rtt_ms

    def violations(self, total_ms: float, memory: float, macs: float) -> dict[str, float]:
        """Return by how much each limit is exceeded, relative to it; at most 0 within it."""
        pairs = {
            "deadline": (total_ms, self.deadline_ms),
            "memory": (memory, self.memory),
            "macs": (macs, self.macs),
        }
        return {
            name: value / most - 1 for name, (value, most) in pairs.items() if most is not None
        }


@dataclass(frozen=True, kw_only=True)
class SplitTimes:
    """Milliseconds from a frame to its answers, on the conditions' device, link and server."""

    device_ms: float
    """The stages on the device."""
    encode_ms: float
    link_ms: float
    """Sending the message, and the round trip."""
    decode_ms: float
    server_ms: float
    """The stages on the server."""
    total_ms: float


@dataclass(frozen=True, kw_only=True)
class SplitPrediction:
    """A split of a plan with a coding, as the study predicts it, without running it."""

    hash: str
    """Eight hexadecimal digits, equal for equal split, precision and coding."""
    label: str
    """The ends of the split in words."""
    plan: str
    """Hash of the plan that is split, before the device's precision is put in."""
    precision: Precision
    """Of the weights of the device's part."""
    split: dict[str, Any]
    """`Split.to_dict`: the plan with the device's precision, and the ends."""
    step: int
    bands: int
    predicted_bytes: float
    """Of a message, its header included, as the mean over frames."""
    distortion: float
    """Predicted change of the answers, relative to their variance over frames."""
    device_macs: int
    device_share: float
    """`device_macs` as a share of the MACs of the plan, 0 to 1."""
    device_bytes: int
    """Weights of the device's part, and its codec."""
    codec_bytes: int
    """Of the device's part of the codec."""
    device_memory: int
    """`device_bytes` and the peak of activations for one frame."""
    predicted_ms: float
    """From a frame to its answers, for a message of `predicted_bytes`."""
    feasible: bool
    """Whether device, link and time stay within the limits, by prediction."""

    @property
    def coding(self) -> Coding:
        return Coding(self.step, self.bands)


@dataclass(frozen=True, kw_only=True)
class SplitMeasurement:
    """What one way to answer costs, and the quality that it keeps, measured."""

    bytes: float
    """Of a message, as the mean over frames."""
    bytes_p95: float
    device_macs: int
    device_bytes: int
    times: SplitTimes
    accuracy: dict[str, Scores]
    """By model with ground truth."""
    intervals: ScoreIntervals
    """[low, high] of each number in `accuracy`, over the frames."""
    differences: ScoreIntervals
    """[this - unsplit, low, high] of each number in `accuracy`, on the same frames; unsplit are
    the models as given, each whole."""
    fidelity: dict[str, float | None]
    """By model; None if the unsplit model is confident of no answer."""
    kept: dict[str, float]
    """Quality kept by model: accuracy relative to the unsplit one, or fidelity."""
    quality_kept: float | None
    """Mean of `kept`, if any accuracy was measured."""
    quality_interval: list[float] | None
    """[low, high] of `quality_kept`."""

    @property
    def mean_fidelity(self) -> float | None:
        return mean_of_available(self.fidelity)

    @property
    def quality(self) -> float | None:
        """The quality kept or, without ground truth, the mean fidelity."""
        return self.mean_fidelity if self.quality_kept is None else self.quality_kept


@dataclass(frozen=True, kw_only=True)
class SplitPointRecord(SplitPrediction, SplitMeasurement):
    """A verified split with its coding. `feasible` is by the real bytes of its messages."""

    recalibrated: bool = False
    """Whether normalisation layers of the server's part were measured again behind the codec."""


@dataclass(frozen=True, kw_only=True)
class SplitBaselineRecord(SplitMeasurement):
    """Another way to answer, measured on the same frames as the splits."""

    kind: BaselineKind
    name: str
    """In words, such as `JPEG q75 at 224 px`."""
    device_memory: int = 0
    """Of whole networks on the device: `device_bytes` and the activations of one frame."""
    split: str | None = None
    """Hash of the verified point whose crossing representations a plain coding sends."""

    @property
    def encode_ms(self) -> float:
        """Time of the picture codec or of the plain coding, on the device."""
        return self.times.encode_ms


@dataclass(frozen=True, kw_only=True)
class UnsplitRecord:
    """The models as given, each whole: what all quality is relative to."""

    accuracy: dict[str, Scores]
    """By model with ground truth."""
    intervals: ScoreIntervals
    bytes: int
    """Of all weights."""
    macs: int
    """Multiply-accumulates a frame of all models."""
    at_chance: dict[str, str] = field(default_factory=dict)
    """A warning for each model whose score is no better than chance."""


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """The outcome of `merge-search split`: the content of OUT/split/split.json.

    Examples:
        >>> from search import split_models
        >>> result = split_models(load_config("config.yaml", ["split.trials=20"]))
        >>> [p.hash for p in result.points if p.hash == result.chosen] == [result.chosen]
        True
    """

    name: str
    seed: int
    link: SplitConditions
    models: dict[str, ModelRecord]
    frames: dict[str, Any]
    """`hash` and `count` of the unlabelled frames."""
    truth: dict[str, dict[str, Any]]
    """By model with ground truth, `hash` and `count` of its labelled frames."""
    plans: dict[str, dict[str, Any]]
    """The plans whose splits were explored, by their hash."""
    study: dict[str, Any]
    """`space`, `trials`, `splits` and `exhausted`; `sampler`."""
    unsplit: UnsplitRecord
    front: list[SplitPrediction]
    """The feasible points of the study that no other one dominates, by rising bytes."""
    points: list[SplitPointRecord]
    """The verified points, by rising bytes."""
    baselines: list[SplitBaselineRecord]
    chosen: str | None
    """Hash of the chosen point."""
    rank_agreement: RankAgreement
    """Spearman's rho over the verified points: `proxy_truth`, `proxy_fidelity` of minus the
    predicted distortion, and `bytes` of predicted and real bytes."""
    config: dict[str, Any]
    base: str
    """The folder of the config, to which its paths are relative; relative to OUT."""
    seconds: dict[str, float]
    """By step."""
    created: IsoTime
    versions: dict[str, str] = field(default_factory=package_versions)
    schema: int = SPLIT_SCHEMA

    @property
    def chosen_point(self) -> SplitPointRecord | None:
        return next((p for p in self.points if p.hash == self.chosen), None)

    def point(self, prefix: str) -> SplitPointRecord | None:
        """Return the only verified point whose hash begins like this."""
        found = [p for p in self.points if p.hash.startswith(prefix)]
        return found[0] if len(found) == 1 else None
