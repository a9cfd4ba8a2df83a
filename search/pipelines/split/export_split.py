"""`merge-search export` of a split: its verified points as two folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.config.loading import config_of
from search.config.run import RunConfig
from search.data.frames import BadFrames
from search.deploy.export import CHECKED_FRAMES, known_classes
from search.deploy.split.split_export import SplitSource, export_parts
from search.pipelines.finished_run import NoSuchPlan
from search.pipelines.open_data import class_names_in_labels
from search.pipelines.split.coded import codec_settings
from search.pipelines.split.inputs import SplitInputs, load_split_inputs
from search.pipelines.split.recalibration import recalibrate_splits
from search.results.documents import read_document
from search.results.split_result import SPLIT_DOCUMENT, SplitPointRecord, SplitResult
from search.split.components import fit_joined_codecs
from search.split.fit import FITTING_PASSES, FittedCodec
from search.utils.records import BadRecord
from search.utils.reporter import Reporter
from spaces.errors import MergeSearchError
from spaces.split.split import Split

SAME_BYTES = 0.001
"""A codec that is fitted again predicts the same bytes, up to this share."""


class TooFewPoints(MergeSearchError):
    """A split has verified fewer points than a bundle is to hold."""


class CodecChanged(MergeSearchError):
    """A codec that is fitted again is another one."""


@dataclass(frozen=True)
class ExportedSplit:
    """A split bundle that was written and checked."""

    folder: Path
    points: tuple[str, ...]
    """Hashes of the points that it holds."""
    checks: tuple[str, ...]
    """One sentence for each check."""


def holds_split(folder: Path) -> bool:
    """Return whether `merge-search split` wrote a folder."""
    return (folder / SPLIT_DOCUMENT).is_file()


def export_split(
    out: Path, point: str | None, count: int, folder: Path, reporter: Reporter
) -> ExportedSplit:
    """Write `count` verified points of the split in the folder OUT/split to a folder.

    The first is the one whose hash begins with `point`, by default the chosen one. The codecs are
    fitted again, on the same frames.

    Raises:
        NoSuchPlan: there is no such point, or none was chosen.
        TooFewPoints: fewer than `count` points were verified.
        BadFrames: the frames have changed since.
        CodecChanged: the codecs have become others, as with another version of a library.
        CannotWrite: the folder holds other files or cannot be written.
        MergeSearchError: anything else that the user can correct.
    """
    result, config = _read_split(out)
    records = _chosen_points(out, result, point, count)
    inputs = load_split_inputs(config, reporter)
    if inputs.frames.hash != result.frames["hash"]:
        raise BadFrames(
            f"{out / SPLIT_DOCUMENT}: the frames of the split have changed since; put them back, "
            "or split again"
        )
    exact = _exact_splits(inputs, records)
    codecs = _fit_again(inputs, records, exact, reporter)
    verified = [
        (split, point.coding)
        for split in dict.fromkeys(exact.values())
        for point in result.points
        if point.plan == split.plan.hash and Split.from_dict(point.split).ends == split.ends
    ]
    statistics = recalibrate_splits(inputs, verified, codecs, reporter)
    names = class_names_in_labels(config, inputs.deployment.models)
    specs = config.model_specs()
    source = SplitSource(
        result=result,
        setup=inputs.setup,
        specs=specs,
        classes=known_classes(specs, names),
        codecs={stored: codecs[split] for stored, split in exact.items()},
        statistics={s: statistics[e] for s, e in exact.items() if e in statistics},
        frames=[inputs.held_out[k] for k in range(min(CHECKED_FRAMES, len(inputs.held_out)))],
    )
    reporter.step(f"Device and server of {', '.join(r.label for r in records)}")
    with reporter.working("bundle"):
        checks = export_parts(source, records, folder)
    for check in checks:
        reporter.say(f"  {check}")
    return ExportedSplit(folder, tuple(r.hash for r in records), tuple(checks))


def _read_split(out: Path) -> tuple[SplitResult, RunConfig]:
    document = out / SPLIT_DOCUMENT
    result = read_document(document)
    if not isinstance(result, SplitResult):
        raise BadRecord(f"{document} is no result of `merge-search split`")
    base = (out.parent / result.base).resolve()
    return result, config_of(result.config, base, document)


def _chosen_points(
    out: Path, result: SplitResult, prefix: str | None, count: int
) -> list[SplitPointRecord]:
    """Return the point with a prefix, and further ones of the same plan before those of others."""
    hashes = ", ".join(point.hash for point in result.points)
    wanted = prefix or result.chosen
    if wanted is None:
        raise NoSuchPlan(f"{out}: no point was chosen; name one of {hashes}")
    first = result.point(wanted)
    if first is None:
        raise NoSuchPlan(
            f"{out}: not one point with a hash that begins with {wanted!r}; there are {hashes}"
        )
    others = [point for point in result.points if point.hash != first.hash and point.feasible]
    others.sort(key=lambda point: (point.plan != first.plan, point.precision != first.precision))
    if count > len(others) + 1:
        raise TooFewPoints(
            f"{out}: {count} points are asked for, and {len(others) + 1} that stay within the "
            "limits were verified; raise split.verify"
        )
    return [first, *others[: count - 1]]


def _exact_splits(inputs: SplitInputs, records: Sequence[SplitPointRecord]) -> dict[Split, Split]:
    """Return, by the split of each point, that of the plan without the device's precision."""
    plans = {plan.hash: plan for plan in inputs.plans}
    exact: dict[Split, Split] = {}
    for record in records:
        stored = Split.from_dict(record.split)
        if record.plan not in plans:
            raise NoSuchPlan(
                f"plan {record.plan}, which point {record.hash} splits, is no longer among the "
                "verified plans of the run: run `merge-search split` again"
            )
        exact[stored] = Split(plans[record.plan], stored.ends)
    return exact


def _fit_again(
    inputs: SplitInputs,
    records: Sequence[SplitPointRecord],
    exact: Mapping[Split, Split],
    reporter: Reporter,
) -> dict[Split, FittedCodec]:
    """Return the codec of each split of a plan without the device's precision."""
    frames, distinct = inputs.fitted_on, len({split.plan for split in exact.values()})
    reporter.step(f"Codecs of {len({*exact.values()})} splits on {len(frames)} frames")
    with reporter.progress("frames", distinct * FITTING_PASSES * len(frames)) as progress:
        fitted = fit_joined_codecs(
            inputs.setup, [*exact.values()], frames, codec_settings(inputs), progress
        )
    for record in records:
        _check_same(record, fitted[exact[Split.from_dict(record.split)]])
    return fitted


def _check_same(record: SplitPointRecord, codec: FittedCodec) -> None:
    predicted = codec.curve.bytes(record.coding)
    if abs(predicted - record.predicted_bytes) > SAME_BYTES * record.predicted_bytes:
        raise CodecChanged(
            f"point {record.hash}: the codec that is fitted again takes {predicted:.0f} bytes a "
            f"frame, and took {record.predicted_bytes:.0f}: run `merge-search split` again"
        )
