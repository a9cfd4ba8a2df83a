"""Times and memory of a plan on a device, as `bench_onnx.py` measures them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from search.utils.format import MEGABYTE, megabytes
from search.utils.records import IsoTime

Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
SETS_OF_ALL_MODELS = ("merged", "split")
"""Sets of graphs that answer for all models: model.onnx, or trunk and tails."""
PROVIDER = "ExecutionProvider"
"""Ends the name of every provider of onnxruntime."""
CPU = f"CPU{PROVIDER}"


@dataclass(frozen=True)
class GraphSet:
    """Graphs that run together in one process."""

    milliseconds: Milliseconds
    """Per frame, through all of its graphs."""
    loaded_bytes: Bytes | None
    """Growth of the resident set by loading; None if the system does not say."""
    running_bytes: Bytes | None
    """Growth of the resident set after running frames."""


@dataclass(frozen=True)
class DeviceMeasurement:
    """A plan on a device: the JSON object that `bench_onnx.py` prints.

    Raises:
        ValueError: It measures neither model.onnx nor trunk and tails.
    """

    version: Literal[1]
    plan: str
    """Hash of the plan."""
    bundle: str
    """SHA-256 of the bundle's bundle.json."""
    folder: str
    """The folder of the bundle that holds the graphs; empty for the bundle itself."""
    device: str
    """Name of the board or of its processor."""
    cores: Count
    system: str
    provider: str
    """Execution provider of onnxruntime."""
    threads: Count
    runtime: str
    """Name and version."""
    opset: int
    frames: Count
    created: IsoTime
    graphs: dict[str, Milliseconds]
    """Per run of each graph."""
    sets: dict[str, GraphSet]
    models: dict[str, dict[Literal["split", "alone"], Milliseconds]]
    """Per frame of a model: by trunk and tail, and alone."""
    rates: dict[str, float] = field(default_factory=dict)
    """Frames per second of each model; may be empty."""
    per_second: dict[str, Milliseconds] = field(default_factory=dict)
    """For a second of camera time at these rates, by the way in which the models run."""

    def __post_init__(self) -> None:
        if not set(SETS_OF_ALL_MODELS) & set(self.sets):
            raise ValueError("neither model.onnx nor trunk and tails were measured")

    @property
    def place(self) -> str:
        """The device with all that makes it another one: its accelerator, its kind of graphs."""
        accelerator = "" if self.provider == CPU else self.provider.removesuffix(PROVIDER)
        return ", ".join(filter(None, (self.device, accelerator, self.folder)))

    @property
    def whole(self) -> GraphSet:
        """The graphs that answer for all models; model.onnx if it was measured."""
        return next(self.sets[name] for name in SETS_OF_ALL_MODELS if name in self.sets)

    @property
    def circumstances(self) -> str:
        """What else the numbers depend on, in words."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{threads}, {self.runtime}"

    @property
    def milliseconds_per_second(self) -> float | None:
        """For a second of camera time at the models' rates, in the better way to run the graphs;
        None without rates."""
        return min(
            (self.per_second[how] for how in SETS_OF_ALL_MODELS if how in self.per_second),
            default=None,
        )

    @property
    def notes(self) -> str:
        """The circumstances and, with rates, the time for a second of camera time."""
        spent = self.milliseconds_per_second
        rates = "" if spent is None else f"; {spent:.0f} ms per second of camera time"
        return self.circumstances + rates


def add_measurement(
    measured: Sequence[DeviceMeasurement], new: DeviceMeasurement
) -> list[DeviceMeasurement]:
    """Append a measurement; it replaces an earlier one of the same plan in the same place."""
    others = [m for m in measured if (m.plan, m.place) != (new.plan, new.place)]
    return [*others, new]


def find_measurement(
    measured: Sequence[DeviceMeasurement], plan: str, place: str
) -> DeviceMeasurement | None:
    return next((m for m in measured if (m.plan, m.place) == (plan, place)), None)


def measured_places(measured: Sequence[DeviceMeasurement]) -> list[str]:
    """Return the places, each once."""
    return list(dict.fromkeys(m.place for m in measured))


def measured_texts(measurement: DeviceMeasurement | None) -> tuple[str, str]:
    """Return milliseconds per frame and resident megabytes for a table; empty without a value."""
    if measurement is None:
        return "", ""
    resident = measurement.whole.running_bytes
    size = "" if resident is None else f"{resident / MEGABYTE:.1f}"
    return f"{measurement.whole.milliseconds:.2f}", size


def describe_measurement(measurement: DeviceMeasurement) -> str:
    """Return a measurement in words."""
    resident = measurement.whole.running_bytes
    memory = "" if resident is None else f", {megabytes(resident)} resident"
    return (
        f"{measurement.plan} on {measurement.place}: "
        f"{measurement.whole.milliseconds:.2f} ms per frame{memory} "
        f"({measurement.notes})"
    )
