"""The config's section `watch`: which cameras are looked at, when, and what calls for a search."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from search.config.base import Positive, Section, Share01, exactly_one
from search.config.cameras import CameraConfig
from search.utils.schedule import Schedule

SMALLEST_WINDOW = 32
"""Fewer frames are too few to know a camera by."""
CAMERA_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


class WatchConfig(Section):
    """What `merge-search watch` does."""

    cameras: Annotated[
        dict[Annotated[str, Field(pattern=CAMERA_NAME)], CameraConfig], Field(min_length=1)
    ]
    schedule: str | None = None
    """Five fields of cron."""
    interval: str | None = None
    """Instead: `30 min`, `6 h`."""
    timezone: str = "UTC"
    """Of the schedule, as `Europe/Berlin`."""
    window: Annotated[int, Field(ge=SMALLEST_WINDOW)] = 64
    """Distinct new frames of a camera that are compared at once."""
    remember: Positive = 6
    """Windows of each camera, of those that looked new, that a search looks back on."""
    false_alarms: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """In how many rounds of unchanged cameras, at most, a change is seen that is none."""
    fidelity_drop: Share01 = 0.05
    """Mean fidelity that the plan in service may lose before it is searched again."""

    @model_validator(mode="after")
    def _when(self) -> WatchConfig:
        exactly_one(self, ("schedule", "interval"))
        self.due_times()
        return self

    def due_times(self) -> Schedule:
        """When rounds are due."""
        if self.schedule is not None:
            return Schedule.cron(self.schedule, self.timezone)
        assert self.interval is not None
        return Schedule.interval(self.interval)
