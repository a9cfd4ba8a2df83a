"""`merge-search history`: the rounds of a watch as a table."""

from __future__ import annotations

from collections.abc import Sequence

from search.deploy.champion import CURRENT
from search.evaluation.per_frame import mean_known
from search.results.rounds import PromotionRecord, Round
from search.utils.format import megabytes, percent
from search.utils.reporter import Reporter
from search.utils.timing import to_the_minute
from search.watch.workspace import Workspace

HEADER = ["round", "due (UTC)", "new frames", "drift p", "fidelity", "decision", "in service"]


def show_history(rounds: Sequence[Round], post: Workspace, reporter: Reporter) -> None:
    """The rounds, newest last; what there is to be told of them; and what is in service."""
    if not rounds:
        reporter.say(f"No round of {post.folder} has ended yet: merge-search watch does them.")
        return
    reporter.table("Rounds", HEADER, [_row(known) for known in rounds])
    reporter.say("")
    for known in rounds:
        if known.decision not in ("waiting", "unchanged"):
            reporter.say(f"{known.number}: {known.decision}: {known.reason}")
        for sentence in sentences(known):
            reporter.say(f"{known.number}:   {sentence}")
    champion = post.service.champion()
    if champion is None:
        reporter.say("No plan is in service.")
        return
    standing = champion.standing
    reporter.say(
        f"In service since {to_the_minute(champion.since)} UTC: plan {standing.plan}, "
        f"{megabytes(standing.bytes)}, in {post.service.folder / CURRENT}"
    )


def sentences(known: Round) -> list[str]:
    """What a round has to tell besides its reason."""
    told = [f"{camera}: {c.fault}" for camera, c in known.cameras.items() if c.fault]
    if known.verdict is not None:
        told += _of_verdict(known.verdict)
    if known.missed:
        told.append(f"{known.missed} rounds before it were missed")
    return told


def _of_verdict(verdict: PromotionRecord) -> list[str]:
    what = "quality kept on ground truth" if verdict.by == "truth" else "fidelity"
    where = f", {verdict.measured_on}" if verdict.measured_on else ""
    measured = (
        f"{what}{where}: challenger {verdict.challenger} {percent(verdict.challenger_quality)}, "
        f"plan in service {percent(verdict.champion_quality)}"
    )
    taken = "promoted" if verdict.promoted else "not promoted"
    return [*verdict.difference, measured, f"{taken}: {verdict.reason}"]


def _row(known: Round) -> list[str]:
    faithful = mean_known(known.fidelity)
    p = known.p_value
    return [
        str(known.number),
        to_the_minute(known.due),
        str(known.new_frames),
        "-" if p is None else f"{p:.2g}",
        percent(faithful),
        known.decision,
        known.champion or "-",
    ]
