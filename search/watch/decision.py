"""Decide from an inspection whether to search again, and say why in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from search.cameras.recordings import Recordings
from search.config.watch import WatchConfig
from search.deploy.champion import Champion
from search.results.rounds import RoundHistory
from search.utils.format import percent, percent_interval
from search.watch.inspection import Inspection
from search.watch.round_builder import RoundBuilder


def reasons_to_search(
    inspection: Inspection,
    builder: RoundBuilder,
    champion: Champion | None,
    history: RoundHistory,
    watch: WatchConfig,
) -> list[str]:
    """Return the reasons to search again; empty if the plan in service still holds."""
    expected = builder.expected_fidelity(champion)
    return [
        *_promoted_before(champion, builder.number),
        *_no_plan_yet(champion, history),
        *_changed_cameras(inspection),
        *_lost_fidelity(inspection, expected, watch.fidelity_drop),
    ]


def too_few_frames(recordings: Mapping[str, Recordings], window: int) -> str:
    """Say how many frames of a window each camera has."""
    waiting = [f"{name} has {camera.waiting}" for name, camera in recordings.items()]
    return f"too few new frames: {', '.join(waiting)} of {window}"


def unchanged(inspection: Inspection) -> str:
    """Say why the plan in service still holds."""
    sentences = [
        f"{name}: too few or too similar frames to detect a change"
        if drift.blind
        else f"{name} is unchanged (p = {drift.p_value:.2g})"
        for name, drift in inspection.drift_by_camera.items()
    ]
    fidelity = inspection.fidelity
    if fidelity is not None and fidelity.mean is not None:
        sentences.append(
            f"the plan in service agrees with the unmerged models on {percent(fidelity.mean)}"
        )
    return "; ".join(sentences)


def _promoted_before(champion: Champion | None, number: int) -> list[str]:
    """Return the reason to record a promotion by this round, which was cut short after it."""
    if champion is None or champion.round != number:
        return []
    return ["a plan was put in service before the round was cut short"]


def _no_plan_yet(champion: Champion | None, history: RoundHistory) -> list[str]:
    """Ask for the first search of all; a plan that the rule refused waits for a person."""
    if champion is not None or any(ended.promotion is not None for ended in history.rounds()):
        return []
    return ["no plan is in service yet"]


def _changed_cameras(inspection: Inspection) -> list[str]:
    return [
        f"{name} has changed (p = {drift.p_value:.1g}, in {drift.view})"
        for name, drift in inspection.drift_by_camera.items()
        if drift.noticed
    ]


def _lost_fidelity(inspection: Inspection, expected: float | None, max_drop: float) -> list[str]:
    """Report a drop of fidelity that is larger than allowed and than the choice of frames
    explains."""
    fidelity = inspection.fidelity
    if expected is None or fidelity is None:
        return []
    if fidelity.mean is None or fidelity.interval is None:
        return []
    if fidelity.interval[1] + max_drop >= expected:
        return []
    return [
        "the plan in service agrees with the unmerged models on "
        f"{percent(fidelity.mean)} ({percent_interval(fidelity.interval)}) of confident answers, "
        f"down from {percent(expected)}"
    ]
