"""A camera of the `watch` section of a config."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from search.cameras.sources import Camera, FolderCamera, SceneCamera, StreamCamera, VideoCamera
from search.config.base import Positive, Section, exactly_one
from search.config.scenes import ScenesConfig

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

SOURCES = ("folder", "video", "stream", "scenes")


class CameraConfig(Section):
    """A growing folder of images, video files, a network stream, or rendered scenes."""

    folder: str | None = None
    video: str | None = None
    """A file, or a glob pattern of files such as `recordings/**/*.mkv`."""
    stream: str | None = None
    """Its address: rtsp, rtsps, http or https."""
    scenes: ScenesConfig | None = None
    every: Seconds | None = None
    """Seconds from frame to frame; by default 1, but of a folder every image."""
    count: Positive | None = None
    """With `scenes`: how many new ones there are at every look."""
    patience: Seconds | None = None
    """With `stream`: seconds without a frame after which it is given up; by default 10."""

    @field_validator("stream")
    @classmethod
    def _known_stream(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"(rtsp|rtsps|http|https)://", value):
            raise ValueError("must begin with rtsp://, rtsps://, http:// or https://")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> CameraConfig:
        exactly_one(self, SOURCES)
        if (self.scenes is None) != (self.count is None):
            raise ValueError("scenes need a count, and nothing else does")
        if self.scenes is not None and self.every is not None:
            raise ValueError("every does not go with scenes: they have no time between them")
        if self.stream is None and self.patience is not None:
            raise ValueError("patience goes with stream only")
        return self

    def open(self, base: Path) -> Camera:
        """The camera; nothing is read yet. Relative paths start from `base`."""
        if self.folder is not None:
            return FolderCamera(base / self.folder, self.every or 0.0)
        if self.video is not None:
            pattern = os.path.join(glob.escape(str(base)), self.video)
            return VideoCamera(pattern, self.every or 1.0)
        if self.stream is not None:
            return StreamCamera(self.stream, self.every or 1.0, self.patience or 10.0)
        assert self.scenes is not None and self.count is not None
        return SceneCamera(self.scenes.settings(), self.count)
