"""Open the cameras that a config names."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from search.cameras.sources import Camera, FolderCamera, SceneCamera, StreamCamera, VideoCamera
from search.config.base import path_from
from search.config.cameras import CameraConfig


def open_camera(section: CameraConfig, base: Path) -> Camera:
    """Return the camera without reading from it; relative paths start at the folder `base`."""
    if section.folder is not None:
        return FolderCamera(path_from(base, section.folder), section.every or 0.0)
    if section.video is not None:
        pattern = os.path.join(glob.escape(str(base)), os.path.expanduser(section.video))
        return VideoCamera(pattern, section.every or 1.0)
    if section.stream is not None:
        return StreamCamera(section.stream, section.every or 1.0, section.patience or 10.0)
    assert section.scenes is not None and section.count is not None
    return SceneCamera(section.scenes.settings(), section.count)
