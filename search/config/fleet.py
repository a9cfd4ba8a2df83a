"""The config section `watch.fleet`: cameras in groups, with one search and one plan each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from search.config.base import Section

LEAST_FRAMES = 32
"""With fewer frames, too few are left for the statistics and for fidelity."""


class FleetConfig(Section):
    """Cameras in groups with one plan each; `fleet: {}` takes the defaults."""

    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    """How far the cameras of one group may lie apart, in standard deviations of the frames of one
    camera. More makes fewer groups."""
    frames: Annotated[int, Field(ge=LEAST_FRAMES)] = 64
    """Frames of the cameras that the search of a group uses, spread evenly over their windows."""
