"""Plans of the `street` fixture, written by hand: one of each kind."""

from __future__ import annotations

import pytest

from spaces.plan import IDENTITY, LINEAR, AdapterSpec, Ref, Share

LOW = AdapterSpec("linear", 5)


def share(donor: str, recipient: str, adapter: AdapterSpec = LINEAR) -> Share:
    return Share(Ref.parse(recipient), Ref.parse(donor), adapter)


EXAMPLE_PLANS = {
    "nothing": [],
    "folded": [share("det:blocks.4", "b0:blocks.4")],
    "folded, low rank": [share("det:blocks.4", "b0:blocks.4", LOW)],
    "folded into a larger layer": [share("v3:blocks.6", "b0:blocks.4")],
    "folded behind the pool": [share("det:blocks.6", "b0:conv_head")],
    "folded into two consumers": [share("b0:blocks.2", "r50:layer1")],
    "identity": [share("det:blocks.4", "b0:blocks.4", IDENTITY)],
    "kept: depthwise consumer": [share("det:stem", "b0:stem")],
    "kept, low rank": [share("det:stem", "b0:stem", LOW)],
    "kept: donated on": [
        share("det:blocks.4", "b0:blocks.4"),
        share("b0:blocks.4", "v3:blocks.4"),
    ],
    "kept, low rank: donated on": [
        share("det:blocks.4", "b0:blocks.4", LOW),
        share("b0:blocks.4", "v3:blocks.4", IDENTITY),
    ],
    "one donor for three": [share("det:blocks.4", f"{m}:blocks.4") for m in ("b0", "v3")]
    + [share("det:blocks.4", "r50:layer3")],
    "all taps of the detector": [share(f"b0:blocks.{i}", f"det:blocks.{i}") for i in (2, 4, 6)],
    "two taps and a stage between": [
        share(f"b0:blocks.{i}", f"det:blocks.{i}") for i in (4, 5, 6)
    ],
    "both directions": [
        share("b0:blocks.2", "det:blocks.2"),
        share("det:blocks.6", "b0:blocks.6"),
    ],
    "pooled features": [share("r50:pool", "b0:pool"), share("r50:pool", "v3:pool")],
    "nothing is left but heads": [
        share("det:blocks.6", "b0:pool"),
        share("det:blocks.6", "r50:pool"),
        share("det:blocks.6", "v3:conv_head"),
    ],
    "dead shares": [share("b0:blocks.3", "det:blocks.5"), share("b0:blocks.4", "det:blocks.6")],
}
every_example_plan = pytest.mark.parametrize(
    "shares", EXAMPLE_PLANS.values(), ids=EXAMPLE_PLANS.keys()
)
