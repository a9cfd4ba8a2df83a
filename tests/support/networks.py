"""Real networks with seeded random weights, each built once, and plans of shares among them."""

from __future__ import annotations

import random
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from spaces.adapters import LinearMap
from spaces.errors import BadPlan
from spaces.liveness import liveness
from spaces.model_facts import ModelFacts, collect_model_facts, layouts_by_model
from spaces.model_spec import ModelSpec
from spaces.plan import IDENTITY, LINEAR, AdapterSpec, Share, SharePlan
from spaces.shares import enumerate_shares, find_pairs
from spaces.stages import StagedModel, total_bytes, unique_tensors
from spaces.zoo import load_model

CLASSIFIERS = (
    "timm/efficientnet_b0",
    "timm/tf_efficientnet_lite0",
    "timm/tf_efficientnet_lite1",
    "timm/tf_efficientnet_lite2",
    "timm/mobilenetv2_100",
    "timm/mobilenetv3_large_100",
    "timm/resnet18",
    "timm/resnet50",
    "timm/regnety_002",
)
DETECTORS = ("effdet/tf_efficientdet_lite0", "effdet/tf_efficientdet_d0")
every_network = pytest.mark.parametrize("arch", CLASSIFIERS + DETECTORS)

LOW_RANK = AdapterSpec("linear", 3)
SVD_LIMIT = 200_000
"""Entries of the largest map with a low-rank share: an SVD of larger ones takes seconds."""


@dataclass(frozen=True)
class Original:
    """Facts of an uncut network that tests compare with, without the network itself."""

    inputs: Tensor
    answers: tuple[Tensor, ...]
    bytes: int
    features: tuple[tuple[str, int, int], ...]
    """The library's own table: module, channels, reduction."""


class Zoo:
    """Cached networks by architecture; all have the same field of view, so that any can share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._originals: dict[str, Original] = {}
        self._models: dict[tuple[str, str], StagedModel] = {}
        self._facts: dict[tuple[str, str], ModelFacts] = {}

    def original(self, arch: str) -> Original:
        if arch not in self._originals:
            self._originals[arch] = self._build(arch)
        return self._originals[arch]

    def weights(self, arch: str) -> Path:
        """Return a file with the weights of `original(arch)`."""
        self.original(arch)
        return self._file(arch)

    def model(self, arch: str, name: str = "net") -> StagedModel:
        if (arch, name) not in self._models:
            spec = ModelSpec(
                name, arch, str(self.weights(arch)), size=size_of(arch), fit="letterbox"
            )
            self._models[arch, name] = load_model(spec)
        return self._models[arch, name]

    def facts(self, arch: str, name: str = "net") -> ModelFacts:
        if (arch, name) not in self._facts:
            self._facts[arch, name] = collect_model_facts(self.model(arch, name))
        return self._facts[arch, name]

    def deployment(self, archs: Mapping[str, str]) -> ZooDeployment:
        return ZooDeployment(
            {name: self.model(arch, name) for name, arch in archs.items()},
            {name: self.facts(arch, name) for name, arch in archs.items()},
        )

    def _file(self, arch: str) -> Path:
        return self._folder / f"{arch.replace('/', '-')}.safetensors"

    @torch.no_grad()
    def _build(self, arch: str) -> Original:
        net = library_network(arch)
        save_file(net.state_dict(), self._file(arch))
        inputs = torch.randn(1, 3, *size_of(arch), generator=torch.Generator().manual_seed(1))
        answer = net(inputs)
        info = net.backbone.feature_info if arch.startswith("effdet") else net.feature_info
        entries = info.get_dicts() if hasattr(info, "get_dicts") else info
        return Original(
            inputs,
            (answer,) if isinstance(answer, Tensor) else tuple(m for maps in answer for m in maps),
            total_bytes(unique_tensors(net)),
            tuple((e["module"], e["num_chs"], e["reduction"]) for e in entries),
        )


def size_of(arch: str) -> tuple[int, int]:
    return (128, 128) if arch.startswith("effdet") else (96, 96)


def library_network(arch: str) -> Any:
    """Build the uncut network with its library, with seeded random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import effdet
        import timm
    library, _, name = arch.partition("/")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(zlib.crc32(arch.encode()))
        if library == "timm":
            net = timm.create_model(name)
        else:
            net = effdet.create_model(
                name, bench_task="", pretrained_backbone=False, image_size=size_of(arch)
            )
        randomise_batchnorms(net)
    return net.eval()


@torch.no_grad()
def randomise_batchnorms(net: nn.Module) -> None:
    """Randomise the BatchNorms: fresh ones are the identity, and some branches start at zero."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.weight.uniform_(0.5, 1.5)
            part.bias.normal_(0, 0.1)
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)


@dataclass(frozen=True)
class ZooDeployment:
    """Models of a deployment, and all legal shares between them."""

    models: dict[str, StagedModel]
    facts: dict[str, ModelFacts]

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """Every legal share: identity and full rank for all, low rank only for small maps."""
        legal = find_pairs(self.facts).legal
        shares = enumerate_shares(legal, self.facts, (IDENTITY, LINEAR, LOW_RANK))
        return tuple(s for s in shares if not s.adapter.rank or self._entries(s) < SVD_LIMIT)

    def inputs(self, batch: int = 1) -> dict[str, Tensor]:
        return {name: model.example_input(batch) for name, model in self.models.items()}

    def maps(self, *plans: SharePlan) -> dict[Share, LinearMap]:
        """Return a seeded random map for each share; a pair has the same map in all plans."""
        return {share: self._map(share) for plan in plans for share in plan.shares}

    def random_plans(self, count: int) -> list[SharePlan]:
        """Return seeded plans of legal shares, with at most one per recipient and no cycles."""
        chance, plans = random.Random(count), list[SharePlan]()
        while len(plans) < count:
            shares = chance.choices(self.shares, k=chance.randint(1, 9))
            plan = SharePlan(tuple({share.recipient: share for share in shares}.values()))
            with suppress(BadPlan):
                liveness(plan, layouts_by_model(self.facts))
                plans.append(plan)
        return plans

    def _channels(self, share: Share) -> tuple[int, int]:
        return (
            self.facts[share.donor.model].stage(share.donor.stage).channels,
            self.facts[share.recipient.model].stage(share.recipient.stage).channels,
        )

    def _entries(self, share: Share) -> int:
        donor, recipient = self._channels(share)
        return donor * recipient

    def _map(self, share: Share) -> LinearMap:
        donor, recipient = self._channels(share)
        seed = zlib.crc32(f"{share.donor}{share.recipient}".encode())
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(recipient, donor, generator=generator) / donor**0.5
        return LinearMap(weight, torch.randn(recipient, generator=generator))


@contextmanager
def raw_maps(models: Mapping[str, StagedModel]) -> Iterator[None]:
    """Make detectors output the maps of their heads, which are continuous, unlike detections."""

    def replace_output(head: Any, args: tuple[list[Tensor]], detections: Tensor) -> Tensor:
        classes, boxes = head.raw(*args)
        return torch.cat([level.flatten(1) for level in (*classes, *boxes)], dim=1)

    handles = [
        model.head.register_forward_hook(replace_output)
        for model in models.values()
        if model.task == "detection"
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected value."""
    return float((actual - expected).abs().max() / expected.abs().max())
