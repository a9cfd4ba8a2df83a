"""Features of windows, computed once in a round."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from search.drift.frame_features import Description
from search.drift.reference import Reference
from search.watch.inspection import Inspector
from search.watch.windows import Window
from spaces.deployment import Deployment


class WindowFeatures:
    """The features of windows that are asked for, each described once."""

    def __init__(self, deployment: Deployment, inspector: Inspector) -> None:
        self.deployment = deployment
        self.inspector = inspector
        self._by_window: dict[str, Description] = {}

    @cached_property
    def base(self) -> tuple[str, Reference]:
        """The name and the reference of the config's own frames."""
        return self.inspector.base_reference(self.deployment)

    def reference(self, window: Window) -> Reference:
        """Return the fleet's reference of a window, or build it."""
        return self.inspector.reference(self.deployment, window.name, window.frames)

    def of(self, windows: Sequence[Window]) -> Description:
        """Return the features of one or more windows of a camera, in their order.

        Raises:
            MergeSearchError: the frames cannot be read, or a model gives no finite values.
        """
        return joined_descriptions([self._of_window(window) for window in windows])

    def _of_window(self, window: Window) -> Description:
        if window.name not in self._by_window:
            self._by_window[window.name] = self.inspector.describe(
                self.deployment, window.frames, window.name
            )
        return self._by_window[window.name]


def joined_descriptions(descriptions: Sequence[Description]) -> Description:
    """Return the features of the frames of all descriptions, one after another."""
    first = descriptions[0]
    rows = {view: np.concatenate([d.rows[view] for d in descriptions]) for view in first.rows}
    return Description(first.models, rows)
