"""The `scenes` section of a config: which rendered frames."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from search.config.base import Section, Share01
from search.data.synthetic.scenes import SceneSettings


class ScenesConfig(Section):
    """Rendered street-camera frames; see `search.scenes.SceneSettings`."""

    seed: Annotated[int, Field(ge=0)] = 0
    night: Share01 = 0.0
    rain: Share01 = 0.0
    camera_height: float = 3.2
    camera_pitch: float = 9.0
    camera_yaw: float = 0.0

    @model_validator(mode="after")
    def _renderable(self) -> ScenesConfig:
        self.settings()  # the renderer knows its own limits; its ValueError names them
        return self

    def settings(self) -> SceneSettings:
        return SceneSettings(**self.model_dump())
