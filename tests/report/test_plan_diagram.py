"""The diagram of a plan shows its liveness, bytes and shares, as read back from the SVG."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from tiny import FinishedRun, MadeUpDeployment

from search.report.plan_diagram.drawing import NARROW, WIDE, describe_share, draw_plan, plan_svg
from search.report.plan_diagram.layout import (
    FONT,
    GAP,
    LEAST_WIDTH,
    Box,
    Sheet,
    Storage,
    lay_out,
    layouts_of,
    row_order,
)
from search.report.svg import NAMESPACE, text_width, to_text
from search.results.precisions import owner_precisions
from search.results.search_result import CandidateRecord, ModelRecord, Result
from spaces.errors import BadPlan
from spaces.liveness import liveness
from spaces.plan import Ref, Share, SharePlan

SVG = f"{{{NAMESPACE}}}"
THREE = MadeUpDeployment({"a": 7, "b": 5, "c": 9}, {"b": (2, 4)})
FOUR = MadeUpDeployment({"a": 6, "b": 6, "c": 6, "d": 6})


def records(world: MadeUpDeployment) -> dict[str, ModelRecord]:
    """Return the models of the world as a result holds them."""
    return {
        name: ModelRecord(
            arch=f"timm/{name}",
            task=fact.task,
            stages=[
                {**asdict(stage), "tap": stage.name in fact.layout.taps} for stage in fact.stages
            ],
            head_bytes=fact.head_bytes,
            head_macs=fact.head_macs,
        )
        for name, fact in world.facts.items()
    }


def plans(world: MadeUpDeployment, count: int) -> list[SharePlan]:
    """Return seeded plans of one to five shares, without cycles."""
    chance, result = random.Random(count), list[SharePlan]()
    while len(result) < count:
        shares = chance.choices(sorted(world.similarities), k=chance.randint(1, 5))
        with suppress(BadPlan):
            plan = SharePlan(tuple({share.recipient: share for share in shares}.values()))
            liveness(plan, layouts_of(records(world)))
            result.append(plan)
    return result


def share(donor: str, recipient: str) -> Share:
    return Share(Ref.parse(recipient), Ref.parse(donor))


def drawn_plan(
    result: Result,
    models: Mapping[str, ModelRecord],
    plan: SharePlan,
    world: MadeUpDeployment,
    width: float,
) -> ET.Element:
    """Return the diagram, parsed from its text."""
    made_up = replace(result, models=dict(models))
    record = replace(result.candidates[0], plan=plan.to_dict(), hash=plan.hash)
    return ET.fromstring(to_text(draw_plan(made_up, record, world.similarities, width)))


def stage_outlines(root: ET.Element) -> dict[str, ET.Element]:
    """Return the outline of every stage and head by the name in its title."""
    outlines = {}
    for part in root.iter(f"{SVG}g"):
        if "pd-stage" in part.get("class", "").split():
            title, outline = part.findtext(f"{SVG}title"), part.find(f"{SVG}rect")
            assert title is not None and outline is not None
            outlines[title.partition(",")[0]] = outline
    return outlines


def with_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [part for part in root.iter() if name in part.get("class", "").split()]


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("world", [THREE, FOUR], ids=["three", "four"])
def test_live_stages_are_solid_and_released_stages_dashed(
    tiny_run: FinishedRun, world: MadeUpDeployment, width: float
) -> None:
    models = records(world)
    dashed = 0
    for plan in plans(world, 12):
        alive = liveness(plan, layouts_of(models)).stages
        outlines = stage_outlines(drawn_plan(tiny_run.result, models, plan, world, width))
        stages = {f"{m}:{s['name']}" for m, model in models.items() for s in model.stages}
        assert set(outlines) == stages | {f"{m}:head" for m in models}
        for name, outline in outlines.items():
            is_dashed = outline.get("stroke-dasharray") is not None
            assert is_dashed == (not name.endswith(":head") and Ref.parse(name) not in alive), name
            dashed += is_dashed
    assert dashed


@pytest.mark.parametrize("world", [THREE, FOUR], ids=["three", "four"])
def test_arrows_are_the_shares_with_their_similarities(
    tiny_run: FinishedRun, world: MadeUpDeployment
) -> None:
    for plan in plans(world, 12):
        root = drawn_plan(tiny_run.result, records(world), plan, world, WIDE)
        titles = {part.findtext(f"{SVG}title") for part in with_class(root, "pd-share")}
        assert titles == {describe_share(s, world.similarities[s]) for s in plan.shares}
        labels = sorted(
            part.findtext(f"{SVG}text") or "" for part in with_class(root, "pd-similarity")
        )
        assert labels == sorted(f"{world.similarities[s]:.2f}" for s in plan.shares)


def test_an_arrow_runs_from_the_donor_to_the_recipient() -> None:
    models = records(THREE)
    for plan in plans(THREE, 12):
        sheet = lay_out(models, plan, THREE.similarities, WIDE)
        rows = {row.model: row for row in sheet.rows}
        for arrow in sheet.arrows:
            donor, recipient = rows[arrow.share.donor.model], rows[arrow.share.recipient.model]
            (x, y), (to_x, to_y) = arrow.points[0], arrow.points[-1]
            assert x == pytest.approx(donor.box(arrow.share.donor.stage).end + GAP / 2)
            assert to_x == pytest.approx(recipient.box(arrow.share.recipient.stage).end + GAP / 2)
            edges = {0: 0.0, 1: sheet.box_height}
            down = recipient.y > donor.y
            assert (y, to_y) == (donor.y + edges[down], recipient.y + edges[not down])


@pytest.mark.parametrize("width", [200.0, NARROW, WIDE])
@pytest.mark.parametrize("world", [THREE, FOUR], ids=["three", "four"])
def test_widths_are_proportional_to_bytes(world: MadeUpDeployment, width: float) -> None:
    sheet = lay_out(records(world), SharePlan(), {}, width)
    boxes = sorted(all_boxes(sheet), key=lambda box: box.bytes)
    assert len({box.bytes for box in boxes}) > 10
    for small, large in pairwise(boxes):
        assert small.width <= large.width
    wide = [box for box in boxes if box.width > LEAST_WIDTH]
    assert wide and min(box.width for box in boxes) == LEAST_WIDTH
    for box in wide:
        assert box.width == pytest.approx(sheet.scale * box.bytes)
    assert sheet.width >= width


def all_boxes(sheet: Sheet) -> list[Box]:
    return [box for row in sheet.rows for box in (*row.stages, row.head)]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_boxes_do_not_overlap_and_names_fit(tiny_run: FinishedRun, width: float) -> None:
    for models in (records(THREE), records(FOUR), tiny_run.result.models):
        sheet = lay_out(models, SharePlan(), {}, width)
        for row in sheet.rows:
            boxes = [*row.stages, row.head]
            for left, right in pairwise(boxes):
                assert left.end + GAP <= right.x + 1e-6
            assert boxes[0].x >= 0 and boxes[-1].end <= sheet.width
            assert row.y + sheet.box_height <= sheet.bottom
            for box in boxes:
                upright = box.width >= text_width(box.name, FONT) + 6
                assert upright or sheet.box_height >= text_width(box.name, FONT)
                assert box.width >= FONT


def test_a_donor_of_two_models_is_drawn_between_them() -> None:
    plan = SharePlan((share("a:s5", "b:s3"), share("a:s5", "c:s5")))
    assert row_order(["a", "b", "c"], plan)[1] == "a"
    assert row_order(["a", "b", "c"], SharePlan()) == ("a", "b", "c")


def test_an_arrow_crosses_another_row_in_a_gap() -> None:
    plan = SharePlan(tuple(share("a:s4", f"{name}:s4") for name in "bcd"))
    sheet = lay_out(records(FOUR), plan, {}, WIDE)
    (arrow,) = (arrow for arrow in sheet.arrows if len(arrow.points) > 2)
    (x, _), (same, _) = arrow.points[1:3]
    crossed = next(row for row in sheet.rows if row.y in (arrow.points[1][1], arrow.points[2][1]))
    assert x == same and crossed.outlet("s4") != x  # where the row's own share arrives
    assert all(not box.x < x < box.end for box in (*crossed.stages, crossed.head))


def test_labels_of_arrows_do_not_overlap() -> None:
    plan = SharePlan((share("a:s3", "b:s1"), share("a:s4", "b:s2"), share("a:s5", "b:s4")))
    for width in (WIDE, NARROW):
        places = [
            arrow.label
            for arrow in lay_out(records(THREE), plan, THREE.similarities, width).arrows
        ]
        for k, (x, y) in enumerate(places):
            for to_x, to_y in places[k + 1 :]:
                assert abs(x - to_x) > 40 or abs(y - to_y) > 18


def test_without_a_plan_all_stages_are_live(tiny_run: FinishedRun) -> None:
    result = tiny_run.result
    root = draw_plan(result, None, {})
    assert not with_class(root, "pd-released") and not with_class(root, "pd-share")
    sheet = lay_out(result.models, SharePlan(), {}, WIDE)
    assert sum(row.held for row in sheet.rows) == result.unmerged_bytes
    assert "nothing released" in (root.findtext("desc") or "")


def test_the_description_agrees_with_the_picture(tiny_run: FinishedRun) -> None:
    chosen = chosen_of(tiny_run)
    root = draw_plan(tiny_run.result, chosen, {})
    assert root.get("role") == "img"
    title, description = root.findtext("title") or "", root.findtext("desc") or ""
    names = (root.get("aria-labelledby") or "").split()
    assert [part.get("id") for part in root[:2]] == names
    assert chosen.hash in title and f"{chosen.bytes / 1e6:.2f} MB" in title
    plan = SharePlan.from_dict(chosen.plan)
    assert plan.shares
    for plan_share in plan.shares:
        assert describe_share(plan_share, None) in description
    alive = liveness(plan, layouts_of(tiny_run.result.models)).stages
    for name, model in tiny_run.result.models.items():
        released = [s["name"] for s in model.stages if Ref(name, s["name"]) not in alive]
        assert not released or f"released {', '.join(released)}." in description


def chosen_of(finished: FinishedRun) -> CandidateRecord:
    candidate = next(c for c in finished.result.candidates if c.hash == finished.result.chosen)
    assert isinstance(candidate, CandidateRecord)
    return candidate


def test_the_standalone_picture_needs_no_page(tiny_run: FinishedRun) -> None:
    text = plan_svg(tiny_run.result, chosen_of(tiny_run), {})
    assert (tiny_run.out / "plan.svg").read_text(encoding="utf-8").startswith(text[:200])
    root = ET.fromstring(text)
    assert float(root.get("width", "")) > 0 and float(root.get("height", "")) > 0
    assert "var(" not in text and "<style" not in text
    paper = root[2]
    assert (paper.get("fill"), paper.get("width")) == ("#ffffff", "100%")
    for part in root.iter():
        if part.tag.removeprefix(SVG) in ("rect", "text", "circle"):
            assert (part.get("fill") or "").startswith("#")


def test_with_many_stages_the_diagram_grows_and_the_text_keeps_its_size(
    tiny_run: FinishedRun,
) -> None:
    many = MadeUpDeployment({"a": 40, "b": 5})
    root = drawn_plan(tiny_run.result, records(many), SharePlan(), many, WIDE)
    _, _, width, _ = root.get("viewBox", "").split()
    assert float(width) > WIDE and root.get("width") == width
    assert "pd-broad" in root.get("class", "").split()
    few = drawn_plan(tiny_run.result, records(THREE), SharePlan(), THREE, WIDE)
    assert few.get("width") is None and "pd-broad" not in few.get("class", "")


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_each_box_is_filled_as_far_as_its_precision_needs(
    mixed_result: Result, width: float
) -> None:
    for record in mixed_result.candidates:
        root = ET.fromstring(to_text(draw_plan(mixed_result, record, {}, width)))
        by_owner = owner_precisions(record.stored)
        titles = {}
        for part in with_class(root, "pd-stage"):
            name, _, facts = (part.findtext(f"{SVG}title") or "").partition(", ")
            titles[name.replace(":head", ":(head)")] = facts
            path = part.find(f"{SVG}path")
            if path is not None:
                precision = by_owner[Ref.parse(name.replace(":head", ":(head)"))]
                assert precision != "float32" and facts.endswith(f"weights in {precision}")
                bits = next(text.text for text in part.iter(f"{SVG}text"))
                assert bits in (precision, precision.removeprefix("float").removeprefix("int"))
        plan = SharePlan.from_dict(record.plan)
        for owner, precision in by_owner.items():
            if owner in plan.by_recipient():
                labels = [
                    part.findtext(f"{SVG}text") for part in with_class(root, "pd-similarity")
                ]
                assert any(str(label).endswith(f", {precision}") for label in labels)
            else:
                assert titles[str(owner)].endswith(f"weights in {precision}")
        legend = " ".join(text.text or "" for text in with_class(root, "pd-legend")[0].iter())
        assert all((precision in legend) == bool(record.stored) for precision in record.stored)
        assert ("the filled part is held" in legend) == bool(record.stored)


def test_the_held_bytes_of_all_rows_are_those_of_the_plan(mixed_result: Result) -> None:
    for record in mixed_result.candidates:
        if record.stored:
            plan, storage = SharePlan.from_dict(record.plan), Storage(record.stored, "float32")
            sheet = lay_out(mixed_result.models, plan, {}, WIDE, storage)
            assert sum(row.held for row in sheet.rows) == record.bytes


def test_labels_with_precisions_stay_on_the_sheet(mixed_result: Result) -> None:
    named = False
    for record in mixed_result.candidates:
        root = draw_plan(mixed_result, record, {}, NARROW)
        _, _, width, _ = map(float, root.get("viewBox", "").split())
        for part in with_class(root, "pd-similarity"):
            box = part.find("rect")
            assert box is not None
            x, wide = float(box.get("x", "")), float(box.get("width", ""))
            if ", " in (part.findtext("text") or ""):
                assert 0 <= x and x + wide <= width
                named = True
    assert named


def test_a_plan_without_precisions_is_drawn_without_them(tiny_run: FinishedRun) -> None:
    text = to_text(draw_plan(tiny_run.result, chosen_of(tiny_run), {}))
    assert "float32" not in text and "int8" not in text and ">live<" in text
