"""`merge-search run`: from a config to a verified front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from search import report, tracking
from search.accuracy import Scores
from search.clock import Clock
from search.config import RunConfig, parse_budget
from search.console import MEGABYTE, Reporter, megabytes, percent
from search.encoding import Encoding
from search.files import make_folder, write_json
from search.observed import Deployment, Observed
from search.pareto import spread
from search.prepare import load_deployment, observe, open_truth, similarities
from search.proxy import Proxy
from search.result import (
    CandidateRecord,
    ModelRecord,
    PlanRecord,
    Result,
    choose,
    mean_known,
    verified_front,
)
from search.study import (
    Explored,
    StudySettings,
    Valued,
    Valuer,
    explore,
    smallest,
    smallest_thoroughly,
)
from search.truth import Truth
from search.verify import BASELINE, Bench, accuracy, fidelity, quality_kept, steps_to_verify
from spaces.cost import CostModel
from spaces.errors import MergeSearchError
from spaces.facts import layouts_of
from spaces.plan import SharePlan

STORE = "study.log"


class BudgetTooSmall(MergeSearchError):
    """No plan fits the budget; the smallest reachable one is named."""

    exit_code = 2

    def __init__(self, budget: int, unmerged: int, least: Valued) -> None:
        self.least = least
        share = f"{least.bytes / unmerged:.1%}"
        super().__init__(
            f"budget {megabytes(budget)} cannot be met: the smallest reachable is "
            f"{megabytes(least.bytes)} ({least.bytes} bytes, {share} of the unmerged "
            f"{megabytes(unmerged)}), by plan {least.plan.hash}: {least.plan}"
        )


def run(config: RunConfig, reporter: Reporter) -> Result:
    """Run the search that the config describes, write its files, and log it.

    Raises:
        BudgetTooSmall: no plan fits.
        MergeSearchError: anything else the user can put right.
    """
    out = make_folder(config.out_folder)
    clock = Clock()
    with clock.timing("models"):
        deployment = load_deployment(config, reporter)
        frames = config.frames.open(config.base)
        truth = open_truth(config, deployment, frames)
    costs = CostModel(deployment.facts)
    budget = parse_budget(config.budget, costs.unmerged_bytes)
    with clock.timing("statistics"):
        observed = observe(config, deployment, frames, reporter)
    with clock.timing("similarity"):
        similarity = similarities(config, observed, config.search.adapter_specs, reporter)
        shares = {s: value for s, value in similarity.items() if value > config.search.floor}
    layouts = layouts_of(deployment.facts)
    encoding = Encoding(layouts, sorted(shares))
    valuer = Valuer(costs, Proxy(shares, layouts))
    least = smallest(encoding, valuer)
    if least.bytes > budget:
        least = smallest_thoroughly(encoding, valuer)
    if least.bytes > budget:
        write_json(out / "plans" / f"{least.plan.hash}.json", least.plan.to_dict())
        raise BudgetTooSmall(budget, costs.unmerged_bytes, least)
    with clock.timing("search"):
        explored = search(config, encoding, valuer, budget, least, reporter)
    with clock.timing("verification"):
        baseline, candidates = verify(config, observed, costs, explored, truth, reporter)
    chosen = choose(candidates)
    result = Result(
        name=config.name,
        seed=config.seed,
        metric=config.search.metric,
        budget_bytes=budget,
        unmerged_bytes=costs.unmerged_bytes,
        unmerged_macs=costs.unmerged_macs,
        smallest_bytes=least.bytes,
        frames={"hash": observed.frames.hash, "count": len(observed.frames)},
        models=_model_records(config, deployment),
        study={
            "sampler": config.search.sampler,
            "trials": explored.trials,
            "distinct": explored.distinct,
            "space": encoding.size,
            "hypervolume": list(explored.progress),
        },
        baseline=baseline,
        front=[PlanRecord(**_facts_of(valued, costs)) for valued in explored.front],
        candidates=candidates,
        verified_front=verified_front(candidates),
        chosen=chosen.hash if chosen else None,
        config=config.as_written(),
        seconds=clock.seconds,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    save(result, out)
    report.draw(result, similarity, out)
    summarise(result, reporter)
    reporter.step("Logging to MLflow")
    logged = tracking.record(result, out, tracking.Target.of(config))
    reporter.say(f"  {logged}")
    return result


def search(
    config: RunConfig,
    encoding: Encoding,
    valuer: Valuer,
    budget: int,
    least: Valued,
    reporter: Reporter,
) -> Explored:
    """Explore the plans within the budget."""
    reporter.step(
        f"Exploring {encoding.size:,} combinations with {config.search.sampler}, "
        f"budget {megabytes(budget)}"
    )
    settings = StudySettings(
        name=config.name,
        store=config.out_folder / STORE,
        sampler=config.search.sampler,
        trials=config.search.trials,
        seed=config.seed,
    )
    with reporter.progress("trials", config.search.trials) as progress:
        explored = explore(encoding, valuer, budget, settings, least.plan, progress)
    reporter.say(
        f"  {explored.trials} trials, {explored.distinct} different plans, "
        f"{len(explored.front)} on the front"
    )
    return explored


def verify(
    config: RunConfig,
    observed: Observed,
    costs: CostModel,
    explored: Explored,
    truth: Mapping[str, Truth],
    reporter: Reporter,
) -> tuple[dict[str, Scores], list[CandidateRecord]]:
    """Climb the ladder: part of the front to fidelity, the best of those to ground truth."""
    settings = config.verify
    listed = explored.shortlist(settings.shortlist)
    plans = [valued.plan for valued in listed]
    deployment = observed.deployment
    bench = Bench(deployment.running, deployment.facts, observed.maps_for(plans), settings.batch)
    reporter.step(
        f"Fidelity of the {len(plans)} most promising plans on {len(observed.unseen)} frames"
    )
    with reporter.progress("frames", len(observed.unseen)) as progress:
        faithful = fidelity(bench, plans, observed.unseen, progress)
    best = _most_faithful(faithful, settings.candidates)
    chosen = [plans[k] for k in best]
    baseline: dict[str, Scores] = {}
    scores: list[dict[str, Scores]] = [{} for _ in chosen]
    if truth:
        total = steps_to_verify(1 + len(chosen), truth)
        reporter.step(f"Ground truth of {len(chosen)} candidates and the unmerged models")
        with reporter.progress("steps", total) as progress:
            baseline, *scores = accuracy(bench, [BASELINE, *chosen], truth, progress)
    return baseline, [
        CandidateRecord(
            **_facts_of(listed[k], costs),
            fidelity=faithful[k],
            accuracy=score,
            quality_kept=quality_kept(score, baseline, faithful[k]),
        )
        for k, score in zip(best, scores, strict=True)
    ]


def save(result: Result, out: Path) -> None:
    """OUT/plans/*.json and OUT/result.json, each wholly or not at all; result.json last."""
    for record in result.front:
        write_json(out / "plans" / f"{record.hash}.json", record.plan)
    write_json(out / "result.json", result.to_dict())


def summarise(result: Result, reporter: Reporter) -> None:
    """The verified front as a table."""
    scored = list(result.baseline)
    header = ["plan", "MB", "saved", "kept", "proxy", "fidelity"]
    header += [_score_name(name, result) for name in scored]
    full = f"{result.unmerged_bytes / MEGABYTE:.2f}"
    rows = [
        ["unmerged", full, "0.0%", "100.0%", "1.000", "100.0%",
         *(_main(result.baseline[name]) for name in scored)]
    ]  # fmt: skip
    for c in sorted(result.candidates, key=lambda c: c.bytes):
        mark = "*" if c.hash == result.chosen else ""
        mark += "+" if c.hash in result.verified_front else ""
        rows.append(
            [f"{c.hash} {mark}", f"{c.bytes / MEGABYTE:.2f}", f"{c.saved_pct:.1f}%",
             percent(c.quality_kept), f"{c.proxy:.3f}", percent(c.mean_fidelity),
             *(_main(c.accuracy[name]) for name in scored)]
        )  # fmt: skip
    title = f"Verified within {megabytes(result.budget_bytes)} (* chosen, + on the verified front)"
    reporter.table(title, header, rows)
    reporter.say("")
    for c in sorted(result.candidates, key=lambda c: c.bytes):
        reporter.say(f"{c.hash}:  " + "\n               ".join(_shares(c.plan)))


def _score_name(name: str, result: Result) -> str:
    return f"{name} {'mAP' if 'map' in result.baseline[name] else 'top-1'}"


def _main(scores: Scores) -> str:
    return f"{scores['map']:.3f}" if "map" in scores else percent(scores["top1"])


def _shares(plan: dict[str, object]) -> list[str]:
    return [str(share) for share in SharePlan.from_dict(plan).shares]


def _most_faithful(faithful: Sequence[Mapping[str, float | None]], most: int) -> list[int]:
    """Indices of the plans with the best mean fidelity; with none known, spread evenly."""
    means = [mean_known(by_model) for by_model in faithful]
    ranked = [k for k, mean in enumerate(means) if mean is not None]
    if not ranked:
        return spread(len(faithful), most)
    return sorted(sorted(ranked, key=lambda k: -(means[k] or 0.0))[:most])


def _facts_of(valued: Valued, costs: CostModel) -> dict[str, Any]:
    return {
        "hash": valued.plan.hash,
        "plan": valued.plan.to_dict(),
        "bytes": valued.bytes,
        "macs": costs.macs(valued.plan),
        "saved_pct": round(100 * (1 - valued.bytes / costs.unmerged_bytes), 3),
        "proxy": valued.proxy,
    }


def _model_records(config: RunConfig, deployment: Deployment) -> dict[str, ModelRecord]:
    return {
        name: ModelRecord(
            arch=config.models[name].arch,
            task=fact.task,
            stages=[{**asdict(stage), "shape": list(stage.shape)} for stage in fact.stages],
            head_bytes=fact.head_bytes,
            head_macs=fact.head_macs,
        )
        for name, fact in deployment.facts.items()
    }
