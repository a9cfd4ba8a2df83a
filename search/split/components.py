"""Parts of splits that are independent of each other, whose codecs are fitted once.

Two crossing representations are independent if no model on the server reads both. So the codec of
a split is made of those of simpler splits, in which all other models are answered on the device.
Many splits have such parts in common: of two networks that share nothing, n and m of them make
all n times m splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from search.data.frames import FrameSet
from search.split.fit import FittedCodec, fit_codecs
from search.split.rate_curve import RateCurve
from search.split.settings import CodecSettings
from search.split.setup import SplitSetup
from search.utils.progress import Progress, silent
from spaces.merged import MergedModel
from spaces.node import Node, Output
from spaces.plan import HEAD, Ref
from spaces.split.codec import Decoder, Encoder
from spaces.split.coefficients import Coding, CoefficientRows
from spaces.split.message import HEADER_BYTES
from spaces.split.split import Split, SplitParts
from spaces.split.tables import CodingTables
from spaces.split.transform import ForwardTransform, InverseTransform


def fit_joined_codecs(
    setup: SplitSetup,
    splits: Sequence[Split],
    frames: FrameSet,
    settings: CodecSettings,
    progress: Progress = silent,
) -> dict[Split, FittedCodec]:
    """Return the codec of each split, of those of its independent parts.

    Raises:
        BadSplit: a split does not fit its plan.
    """
    components: dict[Split, list[Split]] = {}
    for plan in dict.fromkeys(split.plan for split in splits):
        merged = setup.merged(plan)
        of_plan = [split for split in splits if split.plan == plan]
        components |= {split: component_splits(split, merged) for split in of_plan}
    distinct = [*dict.fromkeys(part for parts in components.values() for part in parts)]
    fitted = fit_codecs(setup, distinct, frames, settings, progress)
    codecs: dict[Split, FittedCodec] = {}
    for split, parts in components.items():
        merged = setup.merged(split.plan)
        codecs[split] = join_codecs(
            SplitParts.of(merged, split).crossing,
            [(SplitParts.of(merged, part).crossing, fitted[part]) for part in parts],
        )
    return codecs


def component_splits(split: Split, merged: MergedModel) -> list[Split]:
    """Return the independent parts of a split: every crossing representation is in one of them."""
    parts = SplitParts.of(merged, split)
    takes = {*parts.crossing}
    groups: list[tuple[set[str], set[Node]]] = []
    for name in parts.server.models:
        models, nodes = {name}, taken_nodes(merged.outputs[name], takes)
        apart = [group for group in groups if not group[1] & nodes]
        for group in groups:
            if group[1] & nodes:
                models, nodes = models | group[0], nodes | group[1]
        groups = [*apart, (models, nodes)]
    return [
        Split(
            split.plan,
            (
                *(node.ref for node in nodes),
                *(Ref(name, HEAD) for name in merged.outputs if name not in models),
            ),
        )
        for models, nodes in groups
    ]


def taken_nodes(output: Output, takes: set[Node]) -> set[Node]:
    """Return which of the crossing representations a model on the server depends on."""
    found = set()
    for tap in output.taps:
        node: Node | None = tap
        while node is not None and node not in takes:
            node = node.source
        if node is not None:
            found.add(node)
    return found


class _Tensor(NamedTuple):
    """What a codec has of one crossing representation."""

    forward: ForwardTransform
    inverse: InverseTransform
    rows: CoefficientRows


def join_codecs(
    crossing: Sequence[Node], parts: Sequence[tuple[Sequence[Node], FittedCodec]]
) -> FittedCodec:
    """Return one codec of several, with the crossing representations in another order."""
    if len(parts) == 1 and (*parts[0][0],) == (*crossing,):
        return parts[0][1]
    tensors: dict[Node, _Tensor] = {}
    for nodes, codec in parts:
        tensors |= dict(zip(nodes, _tensors(codec), strict=True))
    ordered = [tensors[node] for node in crossing]
    rows = CoefficientRows(
        *(
            np.concatenate([getattr(tensor.rows, name) for tensor in ordered])
            for name in ("counts", "zones", "classes")
        )
    )
    tables: CodingTables = parts[0][1].encoder.coder.tables
    return FittedCodec(
        Encoder([tensor.forward for tensor in ordered], rows, tables),
        Decoder([tensor.inverse for tensor in ordered], rows, tables),
        JoinedCurve([codec.curve for _, codec in parts]),
    )


def _tensors(codec: FittedCodec) -> list[_Tensor]:
    rows = codec.encoder.coder.rows
    forwards, inverses = codec.encoder.parts, codec.decoder.parts
    ends = np.cumsum([len(part.row_counts) for part in forwards])[:-1]
    parts = zip(*(np.split(a, ends) for a in (rows.counts, rows.zones, rows.classes)), strict=True)
    return [
        _Tensor(forward, inverse, CoefficientRows(*own))
        for forward, inverse, own in zip(forwards, inverses, parts, strict=True)
    ]


class JoinedCurve(RateCurve):
    """The rates of codecs whose coefficients are sent in one message: bytes and distortions add
    up, and the header is sent once."""

    def __init__(self, curves: Sequence[RateCurve]) -> None:
        self._curves = (*curves,)
        self.zones = max(curve.zones for curve in curves)

    def bytes(self, coding: Coding) -> float:
        own = sum(curve.bytes(coding) for curve in self._curves)
        return own - (len(self._curves) - 1) * HEADER_BYTES

    def distortion(self, coding: Coding) -> float:
        return sum(curve.distortion(coding) for curve in self._curves)

    @property
    def steps(self) -> range:
        """The steps that are useful to any of the codecs."""
        steps = [curve.steps for curve in self._curves]
        return range(min(own.start for own in steps), max(own.stop for own in steps))
