"""The head of a split's page: what the chosen split sends, keeps and costs, and what is better.

A way to answer keeps as much as the chosen split if its quality is at least the low end of the
95% interval of the split's.
"""

from __future__ import annotations

from collections.abc import Sequence

from search.report.split.series import baselines_of
from search.report.split.texts import (
    fewer_text,
    has_quality,
    milliseconds,
    quality_interval_text,
    quality_text,
    sent_text,
    shown_interval,
    shown_quality,
)
from search.report.summary import HeadlineNumber
from search.results.kept_quality import no_baseline_text
from search.results.split_result import (
    SplitBaselineRecord,
    SplitPointRecord,
    SplitResult,
)
from search.utils.format import list_names, megabytes, percent


def split_headline(result: SplitResult) -> str:
    """Return the outcome in one sentence."""
    point, models = result.chosen_point, list_names(list(result.models))
    if point is None:
        return f"No verified split of {models} stays within the limits of device, link and time."
    return (
        f"Split at {point.label}, {models} {'sends' if len(result.models) == 1 else 'send'} "
        f"{sent_text(point.bytes)} per frame and {_keep(result, point)}."
    )


def split_comparisons(result: SplitResult) -> list[str]:
    """Return how the chosen split compares with pictures and with the network on the device."""
    point = result.chosen_point
    if point is None:
        return _without_split(result)
    texts = [
        compare_with_pictures(result, point),
        compare_with_device(result, point),
        compare_with_plain(result, point),
    ]
    return [text for text in texts if text]


def compare_with_pictures(result: SplitResult, point: SplitPointRecord) -> str:
    """Say whether a picture that is sent to the server is as good; empty if none was measured."""
    pictures = baselines_of(result, "picture")
    if not pictures:
        return ""
    rivals = _keeping(result, pictures, point)
    if not rivals:
        best = max(pictures, key=lambda p: shown_quality(result, p) or 0.0)
        return (
            f"No picture that was measured keeps as much: the best, {best.name}, sends "
            f"{sent_text(best.bytes)} and keeps {quality_text(result, best)}."
        )
    rival = min(rivals, key=lambda p: p.bytes)
    what = f"{rival.name} sends {sent_text(rival.bytes)} and keeps {quality_text(result, rival)}"
    if rival.bytes <= point.bytes:
        return (
            f"A picture codec is as good or better: {what}. The split saves no bytes; the server "
            "can compute everything."
        )
    return (
        f"Of the pictures that keep as much, the smallest is larger: {what}. The split sends "
        f"{fewer_text(point.bytes, rival.bytes)}."
    )


def compare_with_device(result: SplitResult, point: SplitPointRecord) -> str:
    """Say whether everything on the device is as good; empty if that was not measured."""
    whole = baselines_of(result, "device")
    if not whole:
        return ""
    rivals = _keeping(result, whole, point)
    if not rivals:
        best = max(whole, key=lambda w: shown_quality(result, w) or 0.0)
        return f"Everything on the device keeps less: {quality_text(result, best)}."
    fitting = [record for record in rivals if not _excess(result, record)]
    if not fitting:
        smallest = min(rivals, key=lambda w: w.device_bytes)
        return (
            f"Everything on the device does not fit. Of what keeps as much, {smallest.name} is "
            f"the smallest: {_excess(result, smallest)}."
        )
    return _against_device(point, min(fitting, key=lambda w: w.times.total_ms))


def _against_device(point: SplitPointRecord, rival: SplitBaselineRecord) -> str:
    """Compare times and memory with those of networks that fit on the device as a whole."""
    time = f"{milliseconds(rival.times.total_ms)} instead of {milliseconds(point.times.total_ms)}"
    size = f"{megabytes(point.device_bytes)} instead of {megabytes(rival.device_bytes)}"
    smaller = point.device_bytes < rival.device_bytes
    if rival.times.total_ms <= point.times.total_ms:
        saved = (
            f"What the split saves is memory: the device holds {size}."
            if smaller
            else "The split saves nothing."
        )
        return (
            f"Everything on the device is as good or better: {rival.name}, {time}, and no frame "
            f"is sent. {saved}"
        )
    held = f"with the split, the device holds {size}" if smaller else "the split saves no memory"
    return f"Everything on the device takes longer: {rival.name}, {time}; {held}."


def compare_with_plain(result: SplitResult, point: SplitPointRecord) -> str:
    """Say if a plain coding of what a split sends is as good; empty if none is."""
    rivals = _keeping(result, baselines_of(result, "plain"), point)
    rival = min(rivals, key=lambda r: r.bytes, default=None)
    if rival is None or rival.bytes > point.bytes:
        return ""
    return (
        f"A plain coding is as good or better: {rival.name} sends {sent_text(rival.bytes)} and "
        f"keeps {quality_text(result, rival)}."
    )


def split_numbers(result: SplitResult) -> list[HeadlineNumber]:
    """Return bytes, quality, the part of the device, and the time from a frame to its answers."""
    point = result.chosen_point
    if point is None:
        return []
    return [
        HeadlineNumber("sent per frame", sent_text(point.bytes),
                       (f"95% of the frames at most {sent_text(point.bytes_p95)}",)),
        HeadlineNumber("quality kept" if has_quality(result) else "fidelity",
                       quality_text(result, point), _quality_notes(result, point)),
        HeadlineNumber("computed on the device", percent(point.device_share),
                       (f"of the MACs; {megabytes(point.device_bytes)} of weights and codec",
                        f"{megabytes(point.device_memory)} with activations{_memory(result)}")),
        HeadlineNumber("from frame to answers", milliseconds(point.times.total_ms),
                       (_parts_text(point), _deadline(result, point))),
    ]  # fmt: skip


def _keep(result: SplitResult, point: SplitPointRecord) -> str:
    text = quality_text(result, point)
    if not has_quality(result):
        return f"agree {text} with the unsplit models"
    verb = "keeps" if len(result.models) == 1 else "keep"
    return f"{verb} {text} of {'its' if len(result.models) == 1 else 'their'} quality"


def _keeping(
    result: SplitResult, records: Sequence[SplitBaselineRecord], point: SplitPointRecord
) -> list[SplitBaselineRecord]:
    """Return the ways to answer that keep as much as a point."""
    interval, quality = shown_interval(result, point), shown_quality(result, point)
    needed = interval[0] if interval else quality
    if needed is None:
        return []
    return [
        r for r in records if (kept := shown_quality(result, r)) is not None and kept >= needed
    ]


def _excess(result: SplitResult, whole: SplitBaselineRecord) -> str:
    """Say which limit of the device the whole network exceeds."""
    link, texts = result.link, []
    needed = max(whole.device_memory, whole.device_bytes)
    if link.memory is not None and needed > link.memory:
        texts.append(f"it needs {megabytes(needed)}, and the limit is {megabytes(link.memory)}")
    if link.macs is not None and whole.device_macs > link.macs:
        texts.append(
            f"{whole.device_macs / 1e6:,.0f} M MACs per frame, and the limit is "
            f"{link.macs / 1e6:,.0f} M"
        )
    if link.deadline_ms is not None and whole.times.total_ms > link.deadline_ms:
        texts.append(
            f"{milliseconds(whole.times.total_ms)}, and the deadline is {link.deadline_ms:g} ms"
        )
    return "; ".join(texts)


def _without_split(result: SplitResult) -> list[str]:
    feasible = [point for point in result.points if point.feasible]
    if feasible:
        return ["Points within the limits were verified, but none was chosen."]
    if not result.points:
        return ["No point was within the limits by prediction, so none was verified."]
    nearest = min(result.points, key=lambda point: point.times.total_ms)
    return [
        f"The quickest verified split, at {nearest.label}, takes "
        f"{milliseconds(nearest.times.total_ms)} and sends {sent_text(nearest.bytes)}."
    ]


def _quality_notes(result: SplitResult, point: SplitPointRecord) -> tuple[str, ...]:
    if result.unsplit.at_chance:
        return (no_baseline_text(result.unsplit.at_chance),)
    if not has_quality(result):
        return ("agreement with the unsplit models; there are no labels",)
    interval = quality_interval_text(result, point)
    notes = [f"95% interval {interval}"] if interval else []
    unlabelled = [name for name in result.models if name not in result.unsplit.accuracy]
    if unlabelled:
        notes.append(f"no labels for {list_names(unlabelled)}: fidelity counts instead")
    return (*notes, "mean over the models; 100% is unsplit")


def _parts_text(point: SplitPointRecord) -> str:
    times = point.times
    coding = times.encode_ms + times.decode_ms
    return (
        f"device {milliseconds(times.device_ms)}, link {milliseconds(times.link_ms)}, "
        f"server {milliseconds(times.server_ms)}, coding {milliseconds(coding)}"
    )


def _memory(result: SplitResult) -> str:
    limit = result.link.memory
    return "" if limit is None else f"; limit {megabytes(limit)}"


def _deadline(result: SplitResult, point: SplitPointRecord) -> str:
    deadline = result.link.deadline_ms
    if deadline is None:
        return "no deadline"
    word = "within" if point.times.total_ms <= deadline else "beyond"
    return f"{word} the deadline of {deadline:g} ms"
