"""The config section `watch.cameras`: the sources of new frames."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from search.config.base import Positive, Section, exactly_one
from search.config.scenes import ScenesConfig

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

SOURCES = ("folder", "video", "stream", "scenes")


class CameraConfig(Section):
    """One camera: give exactly one of `folder`, `video`, `stream` and `scenes`."""

    folder: str | None = None
    """Folder to which images are added."""
    video: str | None = None
    """Video file, or a glob pattern of files such as `recordings/**/*.mkv`."""
    stream: str | None = None
    """Network stream: an rtsp, rtsps, http or https address."""
    scenes: ScenesConfig | None = None
    """Rendered scenes, for tests and demonstrations."""
    every: Seconds | None = None
    """Seconds between two frames; by default 1, and for a folder every image."""
    count: Positive | None = None
    """With `scenes`: new frames per poll."""
    patience: Seconds | None = None
    """With `stream`: seconds without a frame after which a poll gives up; by default 10."""

    @field_validator("stream")
    @classmethod
    def _check_stream(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"(rtsp|rtsps|http|https)://", value):
            raise ValueError("must begin with rtsp://, rtsps://, http:// or https://")
        return value

    @model_validator(mode="after")
    def _check_keys_together(self) -> CameraConfig:
        exactly_one(self, SOURCES)
        if (self.scenes is None) != (self.count is None):
            raise ValueError("scenes need a count, and nothing else does")
        if self.scenes is not None and self.every is not None:
            raise ValueError("every does not go with scenes: they have no time between them")
        if self.stream is None and self.patience is not None:
            raise ValueError("patience goes with stream only")
        return self
