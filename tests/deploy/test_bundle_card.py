"""The card of a bundle says how the input of each network is made of a frame."""

from __future__ import annotations

import html
from dataclasses import replace

from tiny import FinishedRun

from search.deploy.bundle_card import render_card
from search.results.search_result import Result
from spaces.bundle import read_bundle_contents
from spaces.inputs import InputSpec
from spaces.plan import SharePlan

INPUTS = {
    "a": InputSpec(64, 96, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "crop", 0.95, "bicubic"),
    "b": InputSpec(48, 48, (0.5,), (0.25,), "letterbox"),
    "c": InputSpec(48, 48, (0, 0, 0), (1, 1, 1), channels="bgr"),
}
ROWS = """\
| model | height x width | fit | resized by | channels | mean | std |
| --- | --- | --- | --- | --- | --- | --- |
| a | 64 x 96 | crop of 95.0% | bicubic | RGB | 0.485, 0.456, 0.406 | 0.229, 0.224, 0.225 |
| b | 48 x 48 | letterbox | bilinear | grey | 0.5 | 0.25 |
| c | 48 x 48 | squash | bilinear | BGR | 0, 0, 0 | 1, 1, 1 |
"""


def test_the_inputs_are_a_table_of_size_fit_channels_and_normalisation(
    tiny_run: FinishedRun,
) -> None:
    contents = replace(read_bundle_contents(tiny_run.out / "bundle"), inputs=INPUTS)
    card = render_card(tiny_run.result, tiny_run.result.candidates[0], contents, [])
    section = card.partition("## Inputs\n\n")[2].partition("## ")[0]
    assert section.endswith(f"the input of each network is made so:\n\n{ROWS}\n")


def test_at_chance_the_card_gives_the_reason_in_place_of_a_quality_kept(
    tiny_run: FinishedRun,
) -> None:
    """The networks of the run are untrained; only a has labels."""
    record = tiny_run.result.candidates[0]
    contents = read_bundle_contents(tiny_run.out / "bundle")
    quality = render_card(tiny_run.result, record, contents, []).partition("## Quality")[2]
    rows = [line.split(" | ") for line in quality.splitlines() if line.startswith("| ")]
    assert [row[4] for row in rows] == [
        "quality kept", "---", "-", f"{100 * record.kept['b']:.1f}%",
    ]  # fmt: skip
    assert "no baseline: unmerged, a is no better than chance on the labels." in quality


def test_text_of_the_user_is_escaped(tiny_run: FinishedRun) -> None:
    evil = "<img src=x> [a](b) `c` | *d* _e_ &"
    contents = read_bundle_contents(tiny_run.out / "bundle")
    result = tiny_run.result
    poisoned = replace(
        contents,
        specs={evil: replace(contents.specs["a"], arch=f"timm/{evil}", weights=f"/w/{evil}.pth")},
        inputs={evil: contents.inputs["a"]},
    )
    share = {"recipient": f"{evil}:blocks.1", "donor": f"b{evil}:blocks.1", "adapter": "identity"}
    record = replace(
        result.candidates[0],
        plan={**result.candidates[0].plan, "shares": [share]},
        kept={evil: 0.5},
        fidelity={evil: 0.5},
    )
    (truth,) = result.truth.values()
    named = replace(
        result, name=evil, models={evil: result.models["a"]}, truth={evil: truth}, baseline={}
    )
    card = render_card(named, record, poisoned, [f"the answers of {evil} are equal"])
    text = card.replace("``", "").partition("## Usage")[0]
    for sign in ("<", "[a]", "`c`", "*d", "_e", "e_", "&amp", "| *"):
        assert sign not in text, sign
    assert len([line for line in card.splitlines() if line.count("&#124;")]) >= 6
    tables = [line for line in card.splitlines() if line.startswith("| &#60;")]
    assert [line.count(" | ") for line in tables] == [4, 6, 5]
    assert html.unescape(card).count(evil) >= 8


def test_the_card_lists_bytes_and_stages_of_each_precision(
    precise_run: FinishedRun, mixed_result: Result
) -> None:
    record = mixed_result.candidates[0]
    contents = replace(
        read_bundle_contents(precise_run.out / "bundle"), plan=SharePlan.from_dict(record.plan)
    )
    card = render_card(mixed_result, record, contents, [])
    assert f"Weights are stored in {record.precision_text.removeprefix('weights in ')}." in card
    section = card.partition("## How weights are stored\n\n")[2].partition("## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"][2:]
    assert {row[0]: int(row[1].replace(",", "")) for row in rows} == {
        precision: sum(owners.values()) for precision, owners in record.stored.items()
    }
    assert sum(int(row[1].replace(",", "")) for row in rows) == record.bytes
    for (precision, _, stages), owners in zip(rows, record.stored.values(), strict=True):
        for owner in owners:
            assert owner.partition(":")[2].strip("()") in stages, (precision, owner)


def test_without_precisions_the_card_names_the_dtype_alone(tiny_run: FinishedRun) -> None:
    contents = read_bundle_contents(tiny_run.out / "bundle")
    card = render_card(tiny_run.result, tiny_run.result.candidates[0], contents, [])
    assert "Weights are stored in float32.\n" in card
    assert "How weights are stored" not in card


def test_the_card_names_the_modules_that_a_bundle_needs_to_load(tiny_run: FinishedRun) -> None:
    contents = read_bundle_contents(tiny_run.out / "bundle")
    own = replace(contents.specs["a"], arch="python:street.nets:build")
    for specs, clause in (
        (contents.specs, "merge-search installed:"),
        ({**contents.specs, "a": own}, "installed, and the module `street.nets` on the path:"),
    ):
        changed = replace(contents, specs=specs)
        card = render_card(tiny_run.result, tiny_run.result.candidates[0], changed, [])
        assert clause in card
