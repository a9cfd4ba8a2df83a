"""Plans, similarities and the league of guides told to a person."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from search.config.run import RunConfig
from search.evaluation.correlation import COEFFICIENTS, Correlation
from search.metrics.registry import METRICS
from search.report.figures import matrix, save_heatmap
from search.results.metric_comparison import GROUPS, MetricComparison
from search.results.search_result import CandidateRecord, PlanRecord, Result
from search.utils.files import make_folder, write_text
from search.utils.format import megabytes, percent, percents
from search.utils.records import BadRecord, read_record
from search.utils.reporter import Reporter
from spaces.deployment import Deployment
from spaces.errors import BadPlan
from spaces.model_facts import ModelFacts
from spaces.plan import Share, SharePlan

STAGE_HEADER = ("stage", "shape", "bytes", "MACs (M)", "tap")


def show_stages(facts: Mapping[str, ModelFacts], reporter: Reporter) -> None:
    """Show one table of stages per model."""
    for name, fact in facts.items():
        rows = [
            [stage.name, " x ".join(str(side) for side in stage.shape), f"{stage.bytes:,}",
             f"{stage.macs / 1e6:,.1f}", "tap" if stage.tap else ""]
            for stage in fact.stages
        ]  # fmt: skip
        rows.append(["head", "", f"{fact.head_bytes:,}", f"{fact.head_macs / 1e6:,.1f}", ""])
        reporter.details(f"{name} ({fact.task})", STAGE_HEADER, rows)


def show_plan(file: Path, reporter: Reporter) -> None:
    """Print a plan file; with the result it belongs to, also its costs and verification.

    Raises:
        BadPlan: the file cannot be read or is no plan, or the result is damaged.
    """
    plan = read_plan(file)
    count = len(plan.shares)
    reporter.say(f"plan {plan.hash}: {count} {'share' if count == 1 else 'shares'}")
    rows = [[str(s.recipient), str(s.donor), str(s.adapter)] for s in plan.shares]
    reporter.table("Shares", ["recipient takes its representation", "from donor", "adapter"], rows)
    record = _record(file, plan)
    if record is None:
        return
    reporter.say(
        f"holds {megabytes(record.bytes)}, {record.saved_pct:.1f}% less than unmerged; "
        f"{record.macs / 1e6:,.0f} M multiply-accumulates per frame; proxy {record.proxy:.3f}"
    )
    if isinstance(record, CandidateRecord):
        for name, scores in record.accuracy.items():
            told = ", ".join(f"{score} {value:.3f}" for score, value in scores.items())
            verdict = record.verdicts[name]
            reporter.say(f"verified {name}: {told}; against unmerged {verdict}")
        known = record.quality_interval
        sure = "" if known is None else f" (95% interval {percents(known)})"
        reporter.say(f"quality kept: {percent(record.quality_kept)}{sure}")


def read_plan(file: Path) -> SharePlan:
    try:
        return SharePlan.from_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadPlan(f"plan {file}: cannot be read ({error})") from error
    except BadPlan as error:
        raise BadPlan(f"plan {file}: {error}") from error


def _record(file: Path, plan: SharePlan) -> PlanRecord | None:
    """What the result beside the plan's folder says of it."""
    path = file.resolve().parent.parent / "result.json"
    if not path.is_file():
        return None
    try:
        result = read_record(Result, path)
    except BadRecord as error:
        raise BadPlan(f"{error}: this is not the result of a run") from error
    known: list[PlanRecord] = [*result.candidates, *result.front]
    return next((record for record in known if record.hash == plan.hash), None)


def show_similarity(
    values: Mapping[Share, float], deployment: Deployment, config: RunConfig, reporter: Reporter
) -> tuple[Path, Path]:
    """Print one matrix per ordered pair of models; write all of them as CSV and heatmap."""
    metric = config.search.metric
    stages = {name: list(fact.layout.stages) for name, fact in deployment.facts.items()}
    for recipient in stages:
        for donor in stages:
            if donor != recipient:
                rows = matrix(values, donor, stages[donor], recipient, stages[recipient])
                cells = [[f"{v:.2f}" if v == v else "" for v in row] for row in rows]
                reporter.table(
                    f"{METRICS[metric].label}: {donor} (down) -> {recipient} (across)",
                    ["", *(stage.removeprefix("blocks.") for stage in stages[recipient])],
                    [[name, *row] for name, row in zip(stages[donor], cells, strict=True)],
                )
    out = make_folder(config.out_folder)
    table, picture = out / f"similarity_{metric}.csv", out / f"similarity_{metric}.png"
    with reporter.working("heatmap"):
        write_text(table, _csv(values, metric))
        save_heatmap(values, stages, metric, picture)
    return table, picture


def show_metric_comparison(league: MetricComparison, reporter: Reporter) -> None:
    """One table per coefficient, in the order that the deciding frames gave the guides."""
    measured = league.reporting
    for coefficient in COEFFICIENTS:
        rows = []
        for guide in league.deciding.ranking:
            mark = " *" if guide == league.winner else ""
            cells = [interval(measured.guides[guide][group][coefficient]) for group in GROUPS]
            rows.append([guide + mark, *cells, f"{league.guide_seconds[guide]:.2f}"])
        title = f"{coefficient.capitalize()} correlation with accuracy kept, and its 95% interval"
        reporter.table(title, ["guide", *GROUPS, "seconds"], rows)
    reporter.say(
        f"{league.shares['all']} shares ({league.shares['same']} same, {league.shares['cross']} "
        f"cross stage), measured on labelled frames: {_counts(measured.frames)}"
    )
    reporter.say(
        "seconds: for all shares, given the statistics; those took "
        f"{league.seconds['statistics']:.1f} s, or were only read if cached"
    )
    deciding = league.deciding
    for part, table in (("deciding", deciding), ("reporting", measured)):
        for name, reason in table.left_out.items():
            reporter.say(f"{name} is left out on the {part} frames: {reason}")
    if league.winner is None:
        reporter.warn("no winner: no guide has a correlation on the frames that decide")
        return
    reporter.say(
        f"* wins: the greatest |r| over all shares on other labelled frames "
        f"({_counts(deciding.frames)}), r {deciding.pearson(league.winner).value:z.2f} there"
    )


def _counts(frames: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in frames.items())


def interval(found: Correlation) -> str:
    """The coefficient with its interval; a dash where it is not defined."""
    if found.value is None:
        return "-"
    return f"{found.value:z.2f} {found.low:z.2f}…{found.high:z.2f}"


def _csv(values: Mapping[Share, float], metric: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["donor", "recipient", "adapter", metric])
    for share, value in sorted(values.items()):
        writer.writerow([share.donor, share.recipient, share.adapter, repr(value)])
    return text.getvalue()
