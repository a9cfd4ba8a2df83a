"""The config section `watch`: cameras, schedule, and the conditions for a new search."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from search.config.base import Positive, Section, Share01, exactly_one
from search.config.cameras import CameraConfig
from search.config.error_words import CAMERA_NAME
from search.config.fleet import FleetConfig
from search.utils.schedule import Schedule

SMALLEST_WINDOW = 32
"""Fewer frames do not represent a camera."""


class WatchConfig(Section):
    """The settings of `merge-search watch`. Give exactly one of `schedule` and `interval`."""

    cameras: Annotated[
        dict[Annotated[str, Field(pattern=CAMERA_NAME)], CameraConfig], Field(min_length=1)
    ]
    """The cameras, by name."""
    schedule: str | None = None
    """When rounds are due, as the five fields of a crontab line: `*/30 * * * *`."""
    interval: str | None = None
    """Time between two rounds, such as `30 min` or `6 h`."""
    timezone: str = "UTC"
    """Time zone of the schedule, such as `Europe/Berlin`."""
    window: Annotated[int, Field(ge=SMALLEST_WINDOW)] = 64
    """Number of distinct new frames of a camera that are compared at a time."""
    remember: Positive = 6
    """Number of drifted windows of each camera that a new search uses."""
    false_alarms: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Maximum false-alarm rate per round of unchanged cameras."""
    fidelity_drop: Share01 = 0.05
    """Mean fidelity that the plan in service may lose before a new search starts."""
    fleet: FleetConfig | None = None
    """Cameras in groups with a search and a plan each; by default all cameras have one plan."""

    @model_validator(mode="after")
    def _check_times(self) -> WatchConfig:
        exactly_one(self, ("schedule", "interval"))
        self.due_times()
        return self

    def due_times(self) -> Schedule:
        """Return the times at which rounds are due."""
        if self.schedule is not None:
            return Schedule.cron(self.schedule, self.timezone)
        assert self.interval is not None
        return Schedule.interval(self.interval)
