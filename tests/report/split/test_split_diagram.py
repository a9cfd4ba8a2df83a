"""The drawing of a split shows each computed stage once, on its side, and all that crosses."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree as ET

import pytest
from split_results import MERGED, UNMERGED, MadeUpSplit, model_records, two_model_split

from search.report.plan_diagram.layout import layouts_of
from search.report.split.diagram import NARROW_DRAWING, WIDE_DRAWING, split_diagram
from search.report.split.panels import LANES_APART, SplitSheet, lay_out_split
from search.report.split.sides import SplitSides
from search.results.split_result import SplitResult
from spaces.node import Output, tap_nodes, upstream_nodes
from spaces.plan import HEAD, Ref, Share, SharePlan
from spaces.split.possible import possible_splits
from spaces.split.split import Split

MODELS = model_records(("classifier", "detector"))
LATE = SharePlan((Share.between("detector:blocks.5", "classifier:blocks.6"),))
PLANS = (UNMERGED, MERGED, LATE)


def outputs_of(plan: SharePlan) -> list[Output]:
    layouts = layouts_of(MODELS)
    return [Output(name, tap_nodes(name, plan, layouts)) for name in MODELS]


def splits() -> list[Split]:
    """Return every possible split of the plans, or 30 of them."""
    return [split for plan in PLANS for split in possible_splits(plan, outputs_of(plan), most=30)]


@pytest.mark.parametrize("split", splits(), ids=lambda split: f"{split.plan.hash} {split.label}")
def test_every_stage_that_is_computed_is_on_one_side(split: Split) -> None:
    sides = SplitSides.of(MODELS, split)
    nodes = {n.ref for output in outputs_of(split.plan) for n in upstream_nodes(output.taps)}
    assert not sides.device & sides.server
    assert sides.device | sides.server == nodes | {Ref(name, HEAD) for name in MODELS}
    assert (
        set(sides.crossing)
        <= sides.device
        == sides.device | {end for end in split.ends if end.stage == HEAD}
    )
    assert {reader.ref for reader in sides.readers} == set(sides.crossing)
    sheet = lay_out_split(MODELS, sides, WIDE_DRAWING)
    _assert_each_box_once(sheet)
    lanes = sorted(sheet.lanes.values())
    assert all(b - a >= LANES_APART - 1e-9 for a, b in itertools.pairwise(lanes))


def _assert_each_box_once(sheet: SplitSheet) -> None:
    for name, model in MODELS.items():
        boxes = [
            box.name
            for panel in (sheet.device, sheet.server)
            for part in panel.rows
            if part.row.model == name
            for box in part.row.stages
        ]
        assert boxes == [stage["name"] for stage in model.stages]
    heads = [
        part.row.model for p in (sheet.device, sheet.server) for part in p.rows if part.has_head
    ]
    assert sorted(heads) == sorted(MODELS)
    assert sheet.device.bottom < sheet.server.y
    assert all(sheet.device.bottom < y < sheet.server.y for y in sheet.label_lines.values())


@pytest.mark.parametrize("width", [WIDE_DRAWING, NARROW_DRAWING])
def test_the_drawing_of_each_point_names_what_crosses(width: float) -> None:
    result: SplitResult = two_model_split()
    for point in result.points:
        root = split_diagram(result, point, width)
        sides = SplitSides.of(result.models, Split.from_dict(point.split))
        texts = [text.text or "" for text in root.iter("text")]
        for ref in sides.crossing:
            assert any(text.startswith(f"{ref}  ") for text in texts)
        lines = [p for p in root.iter("path") if "pd-crossing" in p.get("class", "")]
        assert len(lines) == 2 * len(sides.readers)  # each with a rim
        assert _texts_within(root)


def _texts_within(root: ET.Element) -> bool:
    width = float(root.get("viewBox", "").split()[2])
    return all(0 <= float(text.get("x", "0")) <= width for text in root.iter("text"))


def test_a_model_that_the_device_answers_for_is_drawn_there() -> None:
    split = Split.from_dict(
        {"plan": MERGED.to_dict(), "ends": ["classifier:(head)", "detector:blocks.4"]}
    )
    sides = SplitSides.of(MODELS, split)
    assert Ref("classifier", HEAD) in sides.device and Ref("detector", HEAD) in sides.server
    sheet = lay_out_split(MODELS, sides, WIDE_DRAWING)
    assert [part.row.model for part in sheet.server.rows] == ["detector"]
    assert (
        MadeUpSplit(split, 0.6, 1, 1.0, 0.1).split.label == "classifier:(head) + detector:blocks.4"
    )
