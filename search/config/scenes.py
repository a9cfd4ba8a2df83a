"""The config section `scenes`: rendered street-camera frames."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from search.config.base import Section, Share01
from search.data.synthetic.scenes import SceneSettings


class ScenesConfig(Section):
    """Rendered street-camera frames."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Other seeds give other scenes."""
    night: Share01 = 0.0
    """Share of the frames that show the street at night."""
    rain: Share01 = 0.0
    """Share of the frames that show rain."""
    camera_height: float = 3.2
    """Height of the camera above the street, in metres."""
    camera_pitch: float = 9.0
    """Downward tilt of the camera, in degrees."""
    camera_yaw: float = 0.0
    """Sideways turn of the camera, in degrees."""

    @model_validator(mode="after")
    def _check_renderable(self) -> ScenesConfig:
        self.settings()  # the renderer checks its own limits, and its ValueError names them
        return self

    def settings(self) -> SceneSettings:
        return SceneSettings(**self.model_dump())
