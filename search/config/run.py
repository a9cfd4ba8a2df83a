"""YAML -> RunConfig. Every check of what a user writes is here, and only here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from search.config.base import BadConfig, Positive, Section, parse_budget
from search.config.data import FramesConfig, TruthConfig
from search.config.models import ModelConfig
from search.config.search import (
    MlflowConfig,
    PromotionConfig,
    SearchConfig,
    StatisticsConfig,
    VerifyConfig,
)
from search.config.watch import WatchConfig
from search.statistics.streaming import PassSettings
from search.study.problem import Limits
from search.study.storage_url import POSTGRESQL
from search.utils.redact import without_credentials
from spaces.precision import Dtype
from spaces.zoo import ModelSpec

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


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
