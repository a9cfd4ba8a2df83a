"""The config section `split`: the link, the device and the server of a split."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from search.config.base import Positive, Section
from search.config.budget import Budget
from spaces.plan import PRECISIONS, Precision

PictureCodec = Literal["jpeg", "webp", "avif"]
Speed = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MACS_FORMS = "write it as 60% of the unmerged MACs, or as a whole number of MACs above 0"


class LinkConfig(Section):
    """The link from the device to the server."""

    mbit: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    """Rate, in 10^6 bits a second."""
    rtt_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    """Round-trip time, in milliseconds."""
    loss: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the rate that is lost: of packets that are sent again, for example."""


class SplitDeviceConfig(Section):
    """The device, which has the frames."""

    speed: Speed = 0.2
    """Speed relative to this machine, which times the stages: 0.2 takes five times as long."""
    memory: str | Positive | None = None
    """Bytes that the device may hold, for weights, codec and activations: `8 MB` (10^6),
    `8 MiB` (2^20), a number, or a share of the unmerged bytes such as `40%`."""
    macs: str | Positive | None = None
    """Multiply-accumulates a frame that the device may compute: a number, or a share of those of
    the unmerged models such as `60%`."""
    precision: list[Precision] = Field(
        default=["float32", "int8"], min_length=1, max_length=len(PRECISIONS)
    )
    """Precisions in which the device may store the weights of its part."""

    @field_validator("memory", mode="before")
    @classmethod
    def _check_memory(cls, value: object) -> object:
        if value is not None:
            Budget.parse(value)
        return value

    @field_validator("macs", mode="before")
    @classmethod
    def _check_macs(cls, value: object) -> object:
        if value is not None:
            count_macs(value, 100)
        return value

    @field_validator("precision")
    @classmethod
    def _check_precision(cls, values: list[Precision]) -> list[Precision]:
        if len(set(values)) < len(values):
            raise ValueError("name each precision once")
        return values


class SplitServerConfig(Section):
    """The server, which has the rest of the networks."""

    speed: Speed = 1.0
    """Speed relative to this machine, which times the stages."""


class AgainstConfig(Section):
    """What the splits are compared with: pictures that are sent to a server."""

    pictures: list[PictureCodec] = Field(default=["jpeg", "webp", "avif"])
    """Picture codecs; those that this machine's Pillow does not have are left out."""
    qualities: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        default=[10, 30, 50, 75, 90], min_length=1
    )
    """Qualities of the picture codecs."""
    sizes: list[Positive] = Field(default=[])
    """Longer sides of the pictures in pixels, besides the largest input of the models."""

    @field_validator("pictures", "qualities", "sizes")
    @classmethod
    def _check_each_once(cls, values: list[object]) -> list[object]:
        if len({*values}) < len(values):
            raise ValueError("name each once")
        return values


class SplitConfig(Section):
    """The settings of `merge-search split`: a device computes a part of the networks, and sends
    what a server needs for the rest."""

    link: LinkConfig = LinkConfig()
    """The link from the device to the server."""
    device: SplitDeviceConfig = SplitDeviceConfig()
    """The device, which has the frames."""
    server: SplitServerConfig = SplitServerConfig()
    """The server, which has the rest of the networks."""
    deadline_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The longest time from a frame to its answers, in milliseconds; by default any."""
    frames: Annotated[int, Field(ge=2)] | None = None
    """Number of unlabelled frames that codecs are fitted on; by default all."""
    gradient_frames: Positive = 64
    """Number of these over which it is measured how the answers react to representations."""
    weight: Literal["answer", "none"] = "answer"
    """Whether a codec spends bytes where the answers react (`answer`), or where the
    representations vary (`none`)."""
    plans: Positive = 4
    """Number of verified plans of a finished run in OUT that are split, besides the unmerged
    models."""
    keep: Annotated[float, Field(gt=0, le=1)] = 0.97
    """Share of the unsplit quality that is wanted: of the verified points that keep as much, the
    one that sends least is chosen; if none does, the one that keeps most."""
    trials: Positive = 2000
    """Number of splits with their codings that the study looks up, each once."""
    verify: Positive = 8
    """Number of these that are measured on ground truth."""
    recalibrate: Literal["auto", "none"] = "auto"
    """Whether BatchNorms behind a verified split are measured again on decoded frames, where
    held-out frames gain by it (`auto`)."""
    against: AgainstConfig = AgainstConfig()
    """What the splits are compared with."""


def count_macs(value: object, unmerged: int) -> int:
    """Return a limit of MACs that a config gives as text or as a whole number.

    Raises:
        ValueError: the value has another form, or means less than 1 MAC or more than 100%.
    """
    text = str(value).strip()
    if type(value) not in (int, str) or not (text.isdecimal() or text.endswith("%")):
        raise ValueError(MACS_FORMS)
    return Budget.parse(value).count_bytes(unmerged)
