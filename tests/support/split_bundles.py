"""Write split bundles of small networks of a user's own, with codecs of rendered frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from networks import randomise_batchnorms
from own_bundles import random_map
from tiny import STREET

from search.data.frames import RenderedScenes
from search.split.fit import FittedCodec, fit_codecs
from search.split.settings import CodecSettings
from search.split.setup import SplitSetup
from spaces.bundle import BundleContents
from spaces.inputs import Frame
from spaces.model_facts import collect_facts
from spaces.model_spec import ModelSpec
from spaces.plan import HEAD, PRECISIONS, Ref, Share, SharePlan
from spaces.split.coefficients import Coding
from spaces.split.operating_point import OperatingPoint
from spaces.split.recalibrated import StatisticsByCoding
from spaces.split.split import Split, SplitParts
from spaces.split.split_bundle import (
    PartName,
    SplitCodec,
    SplitContents,
    seal_parts,
    write_split_bundle,
)
from spaces.zoo import load_model

TRUNK = SharePlan((Share.between("cls:trunk.body.1", "det:trunk.body.1"),))
"""Both networks read one representation of the classifier."""
UNMERGED = SharePlan()
FINE, COARSE = Coding(-40, 8), Coding(-12, 8)
SPLITS = {
    "one stream for both": Split(TRUNK, (Ref("cls", "trunk.body.1"),)),
    "later, in int8": Split(
        TRUNK.with_precisions({Ref("cls", "trunk.body.0"): "int8"}),
        (Ref("cls", "trunk.body.2"), Ref("det", "trunk.body.2")),
    ),
    "two streams": Split(UNMERGED, (Ref("cls", "trunk.body.0"), Ref("det", "trunk.body.2"))),
    "the classifier on the device": Split(
        UNMERGED, (Ref("cls", HEAD), Ref("det", "trunk.body.1"))
    ),
}


@dataclass(frozen=True, eq=False)
class SplitNetworks:
    """Two networks, and the fitted codecs of splits of them."""

    setup: SplitSetup
    codecs: dict[Split, FittedCodec]
    frames: list[Frame]

    def parts(self, split: Split) -> SplitParts:
        return SplitParts.of(self.setup.merged(split.plan), split)


@cache
def split_networks() -> SplitNetworks:
    """Return the networks, with a codec for each of `SPLITS`."""
    models = {
        name: load_model(ModelSpec(name, f"python:own_networks:{function}", "none"))
        for name, function in (("cls", "classifier"), ("det", "detector"))
    }
    for model in models.values():
        randomise_batchnorms(model)
    facts = collect_facts(models, precisions=PRECISIONS)
    maps = {share: random_map() for share in TRUNK.shares}
    setup = SplitSetup(models, facts, maps, "float32")
    frames = RenderedScenes(STREET, 24)
    codecs = fit_codecs(setup, [*SPLITS.values()], frames, CodecSettings(gradient_frames=8))
    return SplitNetworks(setup, codecs, [frames[k] for k in range(4)])


def write_own_split(
    folder: Path,
    splits: Sequence[Split],
    points: Sequence[OperatingPoint] = (),
    statistics: Mapping[int, StatisticsByCoding] | None = None,
) -> dict[PartName, int]:
    """Write a split bundle of `split_networks`; return the bytes of the tensors of each part.

    `statistics` are by the number of the split. Splits that differ in precisions have one codec.
    """
    networks = split_networks()
    models = networks.setup.models
    codecs = {split.ends: codec for split, codec in networks.codecs.items()}
    plan, *others = dict.fromkeys(split.plan for split in splits)
    contents = BundleContents(
        specs={name: model.source.spec for name, model in models.items() if model.source},
        inputs={name: model.input for name, model in models.items()},
        facts=networks.setup.facts,
        plan=plan,
        dtype="float32",
        classes={"cls": tuple("abcdefg")},
        points=tuple(others),
    )
    folder.mkdir()
    sizes = write_split_bundle(
        folder,
        SplitContents(contents, tuple(splits), tuple(points)),
        {split.plan.hash: networks.setup.merged(split.plan) for split in splits},
        [
            SplitCodec(
                codecs[split.ends].encoder,
                codecs[split.ends].decoder,
                (statistics or {}).get(number),
            )
            for number, split in enumerate(splits)
        ],
    )
    seal_parts(folder)
    return sizes
