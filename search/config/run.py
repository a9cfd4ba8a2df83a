"""The config of a run. This package validates everything that a user writes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from search.config.base import BadConfig, Positive, Section, path_from
from search.config.budget import Budget
from search.config.data import FramesConfig, TruthConfig
from search.config.error_words import DEVICE, SCHEDULER, error_sentences
from search.config.models import ModelConfig, section_of_loaded_model
from search.config.search import (
    ExportConfig,
    MlflowConfig,
    PromotionConfig,
    SearchConfig,
    StatisticsConfig,
    VerifyConfig,
)
from search.config.split import SplitConfig
from search.config.watch import WatchConfig
from search.statistics.streaming import PassSettings
from search.study.problem import Limits
from search.study.storage_url import POSTGRESQL
from search.utils.format import list_names
from search.utils.redact import without_credentials
from spaces.model_spec import ModelSpec
from spaces.precision import Dtype
from spaces.stages import StagedModel

HALF_DTYPES = ("float16", "bfloat16")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""Names of runs and models, which become parts of file names and of MLflow's keys."""
NAME_WORDS = (
    "use at most 100 letters, digits, dots, dashes and underscores, a letter or a digit first"
)
TOO_FEW_MODELS = "models: name at least two; there is nothing to share with one"
REQUEST_WORDS = (
    "give either budget (the best quality within it) or quality_floor (the fewest bytes that keep "
    "it)"
)
DASK_WORDS = (
    "execution: dask needs the key dask: the address of a scheduler, such as "
    "tcp://scheduler:8786, or a number of workers to start on this machine"
)


class RunConfig(Section):
    """The config of a run, from a file or written in Python.

    Sections are given as mappings. A model may also be a `StagedModel` that `spaces.load_model`
    has returned, or such a model with its rate: `{"model": staged_model, "rate": 10}`.

    Raises:
        BadConfig: a key or value is not accepted.

    Examples:
        >>> from spaces import ModelSpec, load_model
        >>> spec = ModelSpec("a", "timm/test_efficientnet", "a.safetensors", num_classes=7)
        >>> config = RunConfig(
        ...     name="street",
        ...     models={
        ...         "a": load_model(spec),
        ...         "b": {"arch": spec.arch, "weights": "b.safetensors", "num_classes": 7},
        ...     },
        ...     frames={"scenes": {"seed": 1}, "count": 28},
        ...     budget="80%",
        ... )
        >>> config.out_folder.name
        'street'
    """

    model_config = ConfigDict(
        json_schema_extra={
            "description": "The config of a run. Give exactly one of `budget` and "
            "`quality_floor`; `merge-search split` needs neither."
        }
    )
    name: str
    """Name of the run, of its output folder and of its study."""
    models: dict[str, ModelConfig]
    """The models of the deployment by name, at least two; with `split`, at least one."""
    frames: FramesConfig
    """Unlabelled frames."""
    budget: str | Positive | None = None
    """Bytes that the merged models may hold: `24 MB` (10^6), `23 MiB` (2^20), a number, or a share
    of the unmerged bytes such as `65%`. The search maximises quality within it."""
    quality_floor: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of its quality that every model must keep. The search minimises bytes under it."""
    truth: dict[str, TruthConfig] = Field(default={})
    """Ground truth by model, on frames that are not among the unlabelled frames."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of all random choices. The same config, frames and versions give the same front."""
    device: Annotated[str, Field(pattern=DEVICE)] = "auto"
    """Device that runs the networks: `cpu`, `cuda`, `cuda:N`, or `auto`, which is cuda if
    available."""
    execution: Literal["local", "dask"] = "local"
    """Where the networks run on the frames: `local`, in this process, or `dask`, by the workers of
    a Dask cluster."""
    dask: Annotated[str, Field(pattern=SCHEDULER)] | Positive | None = None
    """The cluster of `execution: dask`: the address of its scheduler, such as
    `tcp://scheduler:8786`, or a number of workers to start on this machine."""
    dtype: Dtype = "float32"
    """Data type in which the merged models hold their weights; they compute in float32."""
    statistics: StatisticsConfig = StatisticsConfig()
    """The pass over the unlabelled frames."""
    search: SearchConfig = SearchConfig()
    """The study."""
    verify: VerifyConfig = VerifyConfig()
    """The verification stages."""
    export: ExportConfig = ExportConfig()
    """What `merge-search export` warns of."""
    mlflow: MlflowConfig = MlflowConfig()
    """Where runs are logged."""
    promotion: PromotionConfig = PromotionConfig()
    """When a challenger may replace the champion."""
    split: SplitConfig | None = None
    """The settings of `merge-search split`."""
    watch: WatchConfig | None = Field(default=None, exclude=True)
    """The settings of `merge-search watch`. Results neither depend on them nor hold them."""
    out: str | None = None
    """Output folder; by default out/NAME."""
    cache: str = "cache"
    """Folder for statistics, which later runs reuse."""
    storage: str | None = None
    """Storage of the trials: a file, by default OUT/study.log, or
    postgresql://USER:PASSWORD@HOST/DATABASE."""
    base: Annotated[Path, Field(strict=False)] = Field(default_factory=Path.cwd, exclude=True)
    """Folder at which relative paths start: that of the config file, in Python the current one."""

    _loaded_models: dict[str, StagedModel] = PrivateAttr(default_factory=dict)

    def __init__(self, **data: Any) -> None:
        """Validate the keys of a config.

        Raises:
            BadConfig: a key or value is not accepted; the message is one line.
        """
        loaded = _loaded_models_in(data.get("models"))
        if loaded:
            given = data["models"]
            sections = {
                name: section_of_loaded_model(name, given[name], model)
                for name, model in loaded.items()
            }
            data["models"] = given | sections
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise BadConfig(error_sentences(error, RunConfig)) from error
        self._loaded_models = loaded

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError(NAME_WORDS)
        return value

    @field_validator("budget", mode="before")
    @classmethod
    def _check_budget(cls, value: object) -> object:
        if value is not None:
            Budget.parse(value)
        return value

    @field_validator("storage")
    @classmethod
    def _check_storage(cls, value: str | None) -> str | None:
        if value and "://" in value and not POSTGRESQL.match(value):
            raise ValueError("must be a file, or postgresql://USER:PASSWORD@HOST/DATABASE")
        return value

    @model_validator(mode="before")
    @classmethod
    def _default_precision(cls, data: Any) -> Any:
        """Let plans choose from no precision that takes more bytes than `dtype`."""
        if not isinstance(data, Mapping) or data.get("dtype") not in HALF_DTYPES:
            return data
        search = data.get("search", {})
        if not isinstance(search, Mapping) or "precision" in search:
            return data
        return {**data, "search": {**search, "precision": [data["dtype"], "int8"]}}

    @model_validator(mode="after")
    def _check_request(self) -> RunConfig:
        given = (self.budget is not None) + (self.quality_floor is not None)
        if given > 1 or (not given and self.split is None):
            raise ValueError(REQUEST_WORDS)
        return self

    @model_validator(mode="after")
    def _check_models(self) -> RunConfig:
        if not self.models or (len(self.models) < 2 and self.split is None):
            raise ValueError(TOO_FEW_MODELS)
        for name in self.models:
            if not NAME.fullmatch(name):
                raise ValueError(f"models: {name!r}: {NAME_WORDS}")
        unknown = sorted(set(self.truth) - set(self.models))
        if unknown:
            raise ValueError(f"truth: {unknown[0]!r} is none of the models {sorted(self.models)}")
        return self

    @model_validator(mode="after")
    def _check_execution(self) -> RunConfig:
        if self.execution == "dask" and self.dask is None:
            raise ValueError(DASK_WORDS)
        return self

    @model_validator(mode="after")
    def _check_rates(self) -> RunConfig:
        missing = [name for name, model in self.models.items() if model.rate is None]
        if missing and len(missing) < len(self.models):
            raise ValueError(
                "models: give a rate to every model or to none; "
                f"{list_names(missing)} {'has' if len(missing) == 1 else 'have'} none"
            )
        return self

    @property
    def loaded_models(self) -> Mapping[str, StagedModel]:
        """The models that the caller has loaded, by name; a run works on copies of them."""
        return self._loaded_models

    @property
    def out_folder(self) -> Path:
        """The folder OUT."""
        return path_from(self.base, self.out or f"out/{self.name}")

    @property
    def cache_folder(self) -> Path:
        return path_from(self.base, self.cache)

    @property
    def stores_trials_in_file(self) -> bool:
        """Whether the trials are stored in a file and not in a database."""
        return not POSTGRESQL.match(self.store)

    @property
    def store(self) -> str:
        """The storage of the trials: an absolute path or a PostgreSQL URL."""
        if self.storage and POSTGRESQL.match(self.storage):
            return self.storage
        if self.storage:
            return os.path.normpath(path_from(self.base, self.storage))
        return os.path.normpath(self.out_folder / "study.log")

    def limits(self, unmerged: int) -> Limits:
        """Return the limits of a feasible plan, for unmerged models of that many bytes.

        Raises:
            BadConfig: the budget is a share of them of less than 1 byte; or as `check_request`.
        """
        if self.budget is None:
            self.check_request()
            return Limits(quality=self.quality_floor or 0.0)
        try:
            return Limits(bytes=Budget.parse(self.budget).count_bytes(unmerged))
        except ValueError as error:
            raise BadConfig(f"budget: {error}") from error

    def check_request(self) -> None:
        """Check what a search needs and a split does not.

        Raises:
            BadConfig: there is one model, or neither a budget nor a floor of quality is given.
        """
        if len(self.models) < 2:
            raise BadConfig(TOO_FEW_MODELS)
        if self.budget is None and self.quality_floor is None:
            raise BadConfig(REQUEST_WORDS)

    @property
    def pass_settings(self) -> PassSettings:
        return PassSettings(self.statistics.batch, self.statistics.positions, self.seed)

    def model_specs(self) -> dict[str, ModelSpec]:
        """Return the spec of each model by name."""
        return {name: model.spec(name, self.base) for name, model in self.models.items()}

    def rates(self) -> dict[str, float]:
        """Return the frames a second that each model answers for; empty if none are given."""
        return {name: m.rate for name, m in self.models.items() if m.rate is not None}

    def as_written(self) -> dict[str, Any]:
        """Return the config as plain data, with all defaults and without credentials."""
        data = self.model_dump(mode="json", exclude_none=True)
        if self.mlflow.tracking_uri:
            data["mlflow"]["tracking_uri"] = without_credentials(self.mlflow.tracking_uri)
        if self.storage:
            data["storage"] = without_credentials(self.storage)
        return data


def _loaded_models_in(models: Any) -> dict[str, StagedModel]:
    """Return the models that are given as such, or under the key `model` of their section."""
    if not isinstance(models, Mapping):
        return {}
    given = {
        name: section.get("model") if isinstance(section, Mapping) else section
        for name, section in models.items()
    }
    return {name: model for name, model in given.items() if isinstance(model, StagedModel)}
