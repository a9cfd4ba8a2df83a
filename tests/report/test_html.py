"""The report page agrees with result.json in every branch, is escaped, and needs no network."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from html_pages import Element, parse_page, read_page
from tiny import FinishedRun, Weights, run_config, three_model_config, with_changes, write_config

from search.cli.main import main
from search.config.loading import load_config
from search.report.charts.front import front_legend, front_svg
from search.report.charts.interactive import record_hint
from search.report.html import render_page
from search.report.next_steps import RunPaths, next_steps
from search.report.rejected import (
    SearchTrace,
    ShortlistedPlan,
    count_reasons,
    dissimilar_shares,
    plans_not_chosen,
    unverified_plans,
)
from search.report.summary import headline, headline_numbers
from search.results.search_result import CandidateRecord, Result
from spaces.plan import Ref, Share, SharePlan
from spaces.shares import Pair

NO_CONFIG = RunPaths("out/tiny", None)
NO_BASELINE = "no baseline: unmerged, a is no better than chance on the labels"
SECTIONS = ["candidates", "agreement", "similarity", "rejected", "settings", "next"]


@pytest.fixture(scope="module")
def three_run(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Three models without ground truth, whose budget asks for several shares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        changes = {"truth": {}, "budget": "60%", "search.trials": 60}
        folder = tmp_path_factory.mktemp("three-run")
        data = with_changes(three_model_config(weights), changes)
        return run_config(write_config(folder, data, "tiny.yaml"))


@pytest.fixture(scope="module")
def report(tiny_run: FinishedRun) -> Element:
    return read_page(tiny_run.out / "report.html")


@pytest.fixture
def content(tiny_run: FinishedRun) -> dict[str, Any]:
    data = json.loads((tiny_run.out / "result.json").read_text(encoding="utf-8"))
    assert isinstance(data, dict)
    return data


def minimal_trace(result: Result) -> SearchTrace:
    """Return the least that a page needs besides its result."""
    shares = [s for c in result.candidates for s in SharePlan.from_dict(c.plan).shares]
    similarity = {share: 0.5 for share in shares}
    return SearchTrace(similarity, {}, len(shares), len(result.front), ())


def rendered_page(
    result: Result, trace: SearchTrace | None = None, paths: RunPaths = NO_CONFIG
) -> Element:
    return parse_page(render_page(result, trace or minimal_trace(result), paths))


def section(page: Element, name: str) -> Element:
    (part,) = page.all("section", id=name)
    return part


def mb(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


@pytest.fixture
def measured(tiny_run: FinishedRun) -> Result:
    """The result of a run whose untrained networks count as better than chance."""
    result: Result = tiny_run.result
    truth = {
        name: {key: value for key, value in record.items() if key != "at_chance"}
        for name, record in result.truth.items()
    }
    return replace(result, truth=truth)


@pytest.fixture
def measured_report(measured: Result) -> Element:
    return rendered_page(measured)


def test_an_unmerged_score_at_chance_is_a_warning_and_no_baseline(
    tiny_run: FinishedRun, report: Element
) -> None:
    """The networks of the run are untrained."""
    (warning,) = report.all("p", class_="warning")
    assert warning.text.endswith(tiny_run.result.at_chance["a"])
    (table,) = report.all("table", class_="sortable")
    assert {row[3] for row in table.rows()[1:]} == {"-"}
    (title,) = report.all("h1")
    assert "of their quality" not in title.text
    notes = " ".join(note.text for note in report.all("dd", class_="note"))
    assert NO_BASELINE in notes


def test_at_chance_the_charts_and_reasons_show_no_percentage_of_quality_kept(
    tiny_run: FinishedRun, measured: Result
) -> None:
    chosen = chosen_of(tiny_run.result)
    others = [c for c in tiny_run.result.candidates if c is not chosen]
    candidates = [replace(chosen, quality_kept=0.613, quality_interval=[0.521, 0.727])]
    candidates += [replace(c, quality_kept=0.417, quality_interval=[0.312, 0.521]) for c in others]
    numbers = {"61.3%", "41.7%", "31.2…52.1%", "52.1…72.7%"}

    above = rendered_page(replace(measured, candidates=candidates))
    assert all(number in texts_of(above) for number in numbers)
    page = rendered_page(replace(tiny_run.result, candidates=candidates))
    assert not any(number in texts_of(page) for number in numbers)

    front = page.all("figure")[0]
    assert front.all("h2")[0].text == "Fidelity against bytes"
    description = front.all("desc")[0].raw
    assert description.endswith(f"Quality kept has {NO_BASELINE}.")
    for c in candidates:
        assert (
            f"{c.hash} holds {mb(c.bytes)} at {100 * (c.mean_fidelity or 0):.1f}%" in description
        )
    assert above.all("line", class_="c-interval") and not page.all("line", class_="c-interval")
    pictures = [len(f.all("svg")) for f in section(page, "agreement").all("figure")]
    assert pictures == [0, 0, 0]  # this page has no shortlist
    reasons = section(page, "rejected").all("ul", class_="plain")[-1].text
    assert reasons.count(f"it scores lower than the chosen plan; {NO_BASELINE}") == len(others) > 0


def texts_of(page: Element) -> str:
    """Return the text of a page with the descriptions and hints of its pictures."""
    return " ".join([page.text, *(part.raw for part in page.all("desc") + page.all("title"))])


def test_at_chance_the_page_names_no_nearest_plan_to_the_floor(tiny_run: FinishedRun) -> None:
    candidates = [replace(c, kept={"a": 0.613, "b": 0.727}) for c in tiny_run.result.candidates]
    result = replace(
        tiny_run.result, budget_bytes=None, quality_floor=0.999, chosen=None, candidates=candidates
    )
    page = rendered_page(result)
    assert page.all("h1")[0].text == (
        f"No verified plan lets a and b all keep 99.9% of their quality: {NO_BASELINE}."
    )
    assert "61.3%" not in page.text
    reasons = {plan.reason for plan in plans_not_chosen(result)}
    # The quality of b is its fidelity, which has a baseline.
    assert reasons == {f"b keeps 72.7%, {NO_BASELINE}; every model must keep 99.9%"}
    front = page.all("figure")[0]
    assert not front.all("line", class_="c-limit") and "required of every model" not in front.text
    assert [value.text for value in page.all("dd", class_="value")][1] == "-"


def test_the_headline_shows_the_numbers_of_result_json(
    measured_report: Element, content: dict[str, Any]
) -> None:
    report = measured_report
    (chosen,) = (c for c in content["candidates"] if c["hash"] == content["chosen"])
    (title,) = report.all("h1")
    assert title.text == (
        f"Within {mb(content['budget_bytes'])}, a and b hold {mb(chosen['bytes'])} instead of "
        f"{content['unmerged_bytes'] / 1e6:.2f} ({chosen['saved_pct']:.1f}% less) and keep "
        f"{100 * chosen['quality_kept']:.1f}% of their quality."
    )
    values = [value.text for value in report.all("dd", class_="value")]
    assert len(values) == 3
    assert values[:2] == [mb(chosen["bytes"]), f"{100 * chosen['quality_kept']:.1f}%"]
    notes = " ".join(note.text for note in report.all("dd", class_="note"))
    low, high = chosen["quality_interval"]
    assert f"95% interval {100 * low:.1f}…{100 * high:.1f}%" in notes
    assert f"budget {mb(content['budget_bytes'])}" in notes and "no labels for b" in notes
    assert f"top-1 {100 * chosen['accuracy']['a']['top1']:.1f}%" in notes
    assert f"unmerged {100 * content['baseline']['a']['top1']:.1f}%" in notes


def test_every_candidate_has_a_row(measured_report: Element, content: dict[str, Any]) -> None:
    report = measured_report
    (table,) = report.all("table", class_="sortable")
    header, unmerged, *rows = table.rows()
    assert header == ["Plan", "MB", "Saved", "Quality kept", "Fidelity", "Proxy", "a top-1"]
    assert unmerged[:2] == ["unmerged", f"{content['unmerged_bytes'] / 1e6:.2f}"]
    candidates = sorted(content["candidates"], key=lambda c: c["bytes"])
    for c, row in zip(candidates, rows, strict=True):
        assert row[0].split()[0] == c["hash"]
        assert ("chosen" in row[0]) == (c["hash"] == content["chosen"])
        assert ("verified front" in row[0]) == (c["hash"] in content["verified_front"])
        assert row[1:3] == [f"{c['bytes'] / 1e6:.2f}", f"{c['saved_pct']:.1f}%"]
        low, high = c["quality_interval"]
        assert row[3] == f"{100 * c['quality_kept']:.1f}% {100 * low:.1f}…{100 * high:.1f}%"
        defined = [f for f in c["fidelity"].values() if f is not None]
        assert row[4:6] == [f"{100 * sum(defined) / len(defined):.1f}%", f"{c['proxy']:.3f}"]
        low, high = c["intervals"]["a"]["top1"]
        top1 = f"{100 * c['accuracy']['a']['top1']:.1f}% {100 * low:.1f}…{100 * high:.1f}%"
        assert row[6].startswith(f"{top1}, ")
        assert row[6].rpartition(", ")[2] in ("better", "worse", "no difference")


def test_heat_maps_have_a_cell_for_every_pair_of_stages(
    tiny_run: FinishedRun, report: Element
) -> None:
    maps = report.all("table", class_="heat")
    stages = [stage["name"] for stage in tiny_run.result.models["a"].stages]
    assert [table.all("caption")[0].text for table in maps] == [
        "b (down) to a (across)", "a (down) to b (across)",
    ]  # fmt: skip
    for table in maps:
        header, *rows = table.rows()
        assert header == ["", *stages] and [row[0] for row in rows] == stages
        cells = [cell for row in rows for cell in row[1:]]
        assert len(cells) == len(stages) ** 2
        assert all(re.fullmatch(r"-?\d\.\d\d|", cell) for cell in cells)
    shares = SharePlan.from_dict(chosen_of(tiny_run.result).plan).shares
    assert len([td for t in maps for td in t.all("td", class_="shared")]) == len(shares) > 0


def chosen_of(result: Result) -> CandidateRecord:
    return next(c for c in result.candidates if c.hash == result.chosen)


def test_rank_agreements_are_those_of_the_result(report: Element, content: dict[str, Any]) -> None:
    texts = [figure.all("b")[0].text for figure in section(report, "agreement").all("figure")]
    names = ("shortlist_proxy_fidelity", "proxy_truth", "fidelity_truth")
    expected = [content["rungs"][name] for name in names]
    assert texts == ["not defined" if rho is None else f"{rho:z.2f}" for rho in expected]


def test_counts_of_rejected_plans_add_up(report: Element, content: dict[str, Any]) -> None:
    part = section(report, "rejected")
    titles = [title.text for title in part.all("h3")]
    stages = [len(model["stages"]) for model in content["models"].values()]
    rejected, pairs = map(int, re.findall(r"\d+", titles[0]))
    assert pairs == 2 * stages[0] * stages[1]
    counts = [int(number.text) for number in part.all("b")]
    *by_reason, infeasible, dominated, front = counts
    assert sum(by_reason) == rejected > 0
    assert infeasible + dominated + front == content["study"]["trials"]
    assert front == len(content["front"])
    assert titles[-1].endswith(f"{len(content['candidates']) - 1} of {len(content['candidates'])}")
    listed = int(titles[-2].rpartition(" ")[2])
    unlisted = int(titles[-2].split()[-3])
    assert listed - unlisted == len(content["candidates"])


def test_every_section_has_a_heading(report: Element, three_run: FinishedRun) -> None:
    for page in (report, read_page(three_run.out / "report.html")):
        sections = [s for s in page.all("section") if "id" in s.attributes]
        assert [s.attributes["id"] for s in sections] == SECTIONS
        for part in sections:
            (heading,) = part.all("h2")
            assert part.attributes["aria-labelledby"] == heading.attributes["id"]


def test_every_picture_has_a_description_and_every_id_is_unique(
    report: Element, three_run: FinishedRun
) -> None:
    for page in (report, read_page(three_run.out / "report.html")):
        pictures = page.all("svg")
        assert len(pictures) >= 4 and not page.all("img")
        for picture in pictures:
            assert picture.attributes["role"] == "img"
            (title,) = (p for p in picture.inside if isinstance(p, Element) and p.name == "title")
            (description,) = picture.all("desc")
            names = picture.attributes["aria-labelledby"].split()
            assert names == [title.attributes["id"], description.attributes["id"]]
            assert title.raw.strip() and description.raw.strip()
        ids = [t.attributes["id"] for t in page.tree() if "id" in t.attributes]
        assert [name for name, count in Counter(ids).items() if count > 1] == []


def test_the_page_loads_no_external_resource(tiny_run: FinishedRun, report: Element) -> None:
    for tag in report.tree():
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert tag.attributes.get(name, "#").startswith(("#", "data:"))
        assert "style" not in tag.attributes  # the content policy forbids it
        assert not [name for name in tag.attributes if name.startswith("on")]
    (policy,) = report.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy.attributes["content"].startswith("default-src 'none'; ")
    assert "unsafe" not in policy.attributes["content"]
    (style,) = report.all("style")
    assert "@import" not in style.raw and "url(" not in style.raw
    text = (tiny_run.out / "report.html").read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a namespace, which no browser fetches


def test_all_text_is_escaped(tiny_run: FinishedRun) -> None:
    result, evil = tiny_run.result, "<script>alert(1)</script><img src=x>&\"'"
    models = {name: replace(model, arch=f"timm/{evil}") for name, model in result.models.items()}
    config = {**result.config, "out": evil}
    poisoned = replace(result, name=evil, models=models, config=config)
    pair = Pair(Ref("a", "x"), Ref("b", "y"))
    trace = replace(minimal_trace(result), rejected={pair: evil})
    page = rendered_page(poisoned, trace, RunPaths(f"out/{evil}", f"{evil}.yaml"))
    assert len(page.all("script")) == 1 and not page.all("img")
    assert page.all("title")[0].raw.startswith(evil)
    assert evil in section(page, "rejected").text and evil in section(page, "settings").raw
    commands = [shlex.split(code.raw) for code in section(page, "next").all("code")]
    assert ["merge-search", "ui", f"{evil}.yaml"] in commands
    last = evil.rpartition("/")[2]  # the name of a network without its library
    assert any(text.raw.startswith(last) for text in page.all("tspan"))


def test_credentials_do_not_appear(tiny_run: FinishedRun) -> None:
    path = tiny_run.path
    secret = load_config(path, ["mlflow.tracking_uri=http://me:s3cret@host:5000"])
    result = replace(tiny_run.result, config=secret.as_written())
    page = render_page(result, minimal_trace(result), NO_CONFIG)
    assert "host:5000" in page and "s3cret" not in page


def test_rendering_is_deterministic(tiny_run: FinishedRun) -> None:
    result = tiny_run.result
    assert render_page(result, minimal_trace(result), NO_CONFIG) == render_page(
        result, minimal_trace(result), NO_CONFIG
    )


def test_the_suggested_commands_exist_and_work(tiny_run: FinishedRun, report: Element) -> None:
    commands = [shlex.split(code.raw) for code in section(report, "next").all("code")]
    out = Path(commands[0][-1]).parent.parent
    assert out.resolve() == tiny_run.out.resolve()
    names = [words[1] for words in commands]
    assert names == ["plan", "export", "verify", "ui"]
    assert set(names) <= set(main.commands)
    assert Path(commands[-1][-1]).resolve() == tiny_run.path.resolve()
    assert commands[2][3:] == ["--labels", "a=labels.csv", "--labels", "b=labels.csv"]
    answer = CliRunner().invoke(main, commands[0][1:])
    assert answer.exit_code == 0 and tiny_run.result.chosen in answer.output


def test_the_ui_is_not_suggested_without_a_config(tiny_run: FinishedRun) -> None:
    commands = [step.command for step in next_steps(tiny_run.result, NO_CONFIG)]
    assert not [command for command in commands if " ui " in command]
    config = tiny_run.config
    assert RunPaths.find(config.name, config.out_folder, config.base).config is not None
    assert RunPaths.find("other", config.out_folder, config.base).config is None


def test_three_models_without_labels_are_compared_by_fidelity(three_run: FinishedRun) -> None:
    result, page = three_run.result, read_page(three_run.out / "report.html")
    chosen = chosen_of(result)
    defined = [f for f in chosen.fidelity.values() if f is not None]
    fidelity = f"{100 * sum(defined) / len(defined):.1f}%"
    assert page.all("h1")[0].text.startswith(f"Within {mb(result.budget_bytes or 0)}, a, b and c")
    assert f"agree {fidelity} with the unmerged models" in page.all("h1")[0].text
    values = [value.text for value in page.all("dd", class_="value")]
    shares = chosen.plan["shares"]
    assert values == [mb(chosen.bytes), fidelity, str(len(shares))] and len(shares) > 1
    assert "there are no labels" in section(page, "candidates").text
    assert len(page.all("table", class_="heat")) == 6
    assert [b.text for b in section(page, "agreement").all("b")][1:] == ["not defined"] * 2
    (first,) = page.all("figure", class_="plan")
    for share in shares:
        model, stage = share["recipient"].split(":")
        assert f"{model} takes {stage} from {share['donor']}" in first.text


def test_the_page_says_that_no_plan_reaches_the_quality_floor(measured: Result) -> None:
    quality_by_model = ({"a": 0.5, "b": 1.0}, {"a": 0.9, "b": 0.8}, {"a": 0.7, "b": 0.6})
    candidates = [
        replace(c, kept=k) for c, k in zip(measured.candidates, quality_by_model, strict=True)
    ]
    result = replace(
        measured, budget_bytes=None, quality_floor=0.999, chosen=None, candidates=candidates
    )
    page = rendered_page(result)
    assert page.all("h1")[0].text == (
        "No verified plan lets a and b all keep 99.9% of their quality: the nearest keeps "
        "80.0% on its worst model."
    )
    assert "No plan chosen: the unmerged models" in page.text
    (diagram,) = page.all("figure", class_="plan")
    assert diagram.all("g", class_="pd-live") and not diagram.all("g", class_="pd-released")
    rejected = section(page, "rejected").text
    for c in result.candidates:
        assert f"{c.hash} " in rejected
    assert rejected.count("every model must keep 99.9%") == len(result.candidates)
    commands = " ".join(code.raw for code in section(page, "next").all("code"))
    assert "export" not in commands and "verify" in commands


def test_a_reached_quality_floor_is_shown_with_the_bytes(tiny_run: FinishedRun) -> None:
    smallest = min(tiny_run.result.candidates, key=lambda c: c.bytes)
    floor = min(min(c.kept.values()) for c in tiny_run.result.candidates)
    result = replace(tiny_run.result, budget_bytes=None, quality_floor=floor, chosen=smallest.hash)
    assert headline(result).startswith(f"To keep {100 * floor:.1f}% of every model's quality, a")
    assert f"hold {mb(smallest.bytes)} instead of" in headline(result)
    assert {rejected.hash for rejected in plans_not_chosen(result)} == {
        c.hash for c in result.candidates if c is not smallest
    }
    for rejected in plans_not_chosen(result):
        assert rejected.reason.endswith(f"the chosen plan's {mb(smallest.bytes)}")


def test_a_plan_without_shares_and_measurements_has_a_page(tiny_run: FinishedRun) -> None:
    unmeasured = replace(
        tiny_run.result.candidates[0], plan=SharePlan().to_dict(), hash=SharePlan().hash,
        fidelity={"a": None, "b": None}, accuracy={}, kept={}, quality_kept=None, intervals={},
        differences={}, quality_interval=None,
    )  # fmt: skip
    result = replace(
        tiny_run.result, candidates=[unmeasured], chosen=unmeasured.hash, baseline={},
        baseline_intervals={}, verified_front=[], front=[unmeasured],
    )  # fmt: skip
    page = rendered_page(result)
    assert "their quality is not known" in page.all("h1")[0].text
    assert "Nothing is shared." in page.text
    assert "1 plan was verified by fidelity only" in section(page, "candidates").text
    assert [number.value for number in headline_numbers(result)][1:] == ["-", "0"]


def test_plan_svg_is_the_diagram_on_the_page(tiny_run: FinishedRun, report: Element) -> None:
    root = ET.parse(tiny_run.out / "plan.svg").getroot()
    description = root.findtext("{http://www.w3.org/2000/svg}desc")
    figure = report.all("figure", class_="plan")[0]
    assert description in [picture.all("desc")[0].raw for picture in figure.all("svg")]


def test_front_svg_is_the_chart_on_the_page(tiny_run: FinishedRun, report: Element) -> None:
    """It also has the title, the legend and the style that the page gives the chart."""
    text = (tiny_run.out / "front.svg").read_text(encoding="utf-8")
    assert text == front_svg(tiny_run.result)
    root = ET.fromstring(text)
    svg = "{http://www.w3.org/2000/svg}"
    on_page = report.all("figure")[0]
    assert root.findtext(f"{svg}desc") == on_page.all("desc")[0].raw
    marks = Counter(c.get("class") for c in root.iter(f"{svg}circle"))
    legend = [entry.mark for entry in front_legend(tiny_run.result)]
    for mark in ("verified", "behind", "chosen", "unmerged"):
        in_chart = len(on_page.all("circle", class_=f"c-{mark}"))
        assert marks[f"c-{mark}"] == in_chart + legend.count(mark) and f"c-{mark}" in text
    texts = [part.text for part in root.iter(f"{svg}text")]
    assert f"{tiny_run.result.name}: fidelity against bytes" in texts
    assert {entry.text for entry in front_legend(tiny_run.result)} <= set(texts)
    style = root.findtext(f"{svg}style") or ""
    assert "prefers-color-scheme: dark" in style and "@import" not in style
    used = {c for part in root.iter() for c in (part.get("class") or "").split()}
    for name in used - {"chart", "c-tick"}:
        assert f".{name} " in style, name


def test_front_svg_shows_the_quality_kept_above_chance(measured: Result) -> None:
    root = ET.fromstring(front_svg(measured))
    texts = [part.text or "" for part in root.iter("{http://www.w3.org/2000/svg}text")]
    assert f"{measured.name}: quality kept against bytes" in texts
    assert {"verified front", "verified, dominated", "95% interval"} <= set(texts)
    description = root.findtext("{http://www.w3.org/2000/svg}desc") or ""
    for c in measured.candidates:
        assert f"{c.hash} holds {mb(c.bytes)} at {100 * (c.quality_kept or 0):.1f}%" in description
    assert len(root.findall(".//*[@class='c-interval']")) == len(measured.candidates) + 1


def test_reasons_that_differ_only_in_numbers_are_counted_together() -> None:
    grid = "the donor's grid is {} times coarser than the recipient's"
    counts = count_reasons([grid.format("16.0"), "pooled", grid.format("4.0"), grid.format("8.0")])
    assert counts == [(grid.format("4.0 to 16.0"), 3), ("pooled", 1)]
    assert count_reasons(["at 2 of 3", "at 2 of 4"]) == [("at 2 of 3 to 4", 2)]
    assert count_reasons([]) == []


def test_shares_at_or_below_the_floor_are_dissimilar() -> None:
    high, equal, low = (Share(Ref("b", f"s{k}"), Ref("a", "s0")) for k in range(3))
    trace = SearchTrace({high: 0.3, equal: 0.2, low: 0.05}, {}, 3, 1, ())
    assert dissimilar_shares(trace, 0.2) == [(equal, 0.2), (low, 0.05)]
    assert dissimilar_shares(trace, 0.0) == []


def test_every_shortlisted_plan_that_was_not_verified_has_a_reason(tiny_run: FinishedRun) -> None:
    result = tiny_run.result
    verified = result.candidates[0]
    worst = min(f for c in result.candidates if (f := c.mean_fidelity) is not None)
    listed = (
        ShortlistedPlan(verified.hash, 1, 0.5, 0.1),
        ShortlistedPlan("unfaithful", 1, 0.5, worst - 0.01),
        ShortlistedPlan("large", 1, 0.5, worst),
        ShortlistedPlan("unknown", 1, 0.5, None),
    )
    trace = replace(minimal_trace(result), shortlist=listed)
    why = {plan.hash: reason for plan, reason in unverified_plans(trace, result)}
    assert set(why) == {"unfaithful", "large", "unknown"}
    assert f"at least {100 * worst:.1f}%" in why["unfaithful"]
    assert "larger" in why["large"] and "not known" in why["unknown"]
    floored = replace(result, quality_floor=0.9)
    assert "every model must keep" in dict(
        (plan.hash, reason) for plan, reason in unverified_plans(trace, floored)
    )["large"]  # fmt: skip


def test_every_candidate_that_was_not_chosen_has_a_reason(
    measured: Result,
) -> None:
    chosen = chosen_of(measured)
    assert chosen.quality_kept is not None
    worse = replace(chosen, hash="worse", quality_kept=chosen.quality_kept - 0.1)
    unfaithful = replace(chosen, hash="unfaithful", fidelity={"a": 0.0, "b": 0.0})
    larger = replace(chosen, hash="larger", bytes=chosen.bytes + 10_000)
    result = replace(measured, candidates=[chosen, worse, unfaithful, larger])
    why = {rejected.hash: rejected.reason for rejected in plans_not_chosen(result)}
    assert why["worse"].startswith("quality kept ") and why["unfaithful"].startswith("fidelity 0")
    assert mb(larger.bytes) in why["larger"]


def test_the_page_says_how_the_weights_of_each_candidate_are_stored(mixed_result: Result) -> None:
    page = rendered_page(mixed_result)
    (table,) = page.all("table", class_="sortable")
    header, unmerged, *rows = table.rows()
    at = header.index("Weights")
    assert unmerged[at] == "float32"
    ordered = sorted(mixed_result.candidates, key=lambda c: c.bytes)
    for row, candidate in zip(rows, ordered, strict=True):
        most = next(iter(candidate.stored), "float32")
        assert row[at].startswith(most)
        assert all(precision in row[at] for precision in candidate.stored)
    for candidate in mixed_result.candidates:
        words = candidate.precision_text or "weights in float32"
        assert f"W{words[1:]}." in page.text


def test_a_page_without_precisions_says_nothing_of_them(report: Element) -> None:
    (table,) = report.all("table", class_="sortable")
    assert "Weights" not in table.rows()[0] and "Weights in" not in report.text


def test_hints_of_the_explorer_name_precisions(mixed_result: Result) -> None:
    names = [record_hint(record) for record in mixed_result.candidates]
    for hint, record in zip(names, mixed_result.candidates, strict=True):
        assert hint.endswith(record.precision_text)
        assert ("weights" in hint) == bool(record.stored)
