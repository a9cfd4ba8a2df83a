"""Write verified points of a split into folders for the device and for the server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from search.deploy.bundle_card import CARD, escape_markdown, markdown_table
from search.deploy.export import BundleCheckFailed
from search.deploy.split.points import operating_points
from search.results.split_result import SplitPointRecord, SplitResult
from search.split.fit import FittedCodec
from search.split.setup import SplitSetup
from search.utils.files import replace_folder
from search.utils.format import megabytes, percent
from spaces.bundle import BundleContents
from spaces.inputs import Frame, InputSpec
from spaces.merged import run_head
from spaces.model_spec import ModelSpec
from spaces.split.coefficients import Coding
from spaces.split.device import SplitDevice, load_device
from spaces.split.recalibrated import StatisticsByCoding
from spaces.split.server import SplitServer, load_server
from spaces.split.split import Split
from spaces.split.split_bundle import (
    DEVICE_PART,
    SERVER_PART,
    PartName,
    SplitCodec,
    SplitContents,
    seal_parts,
    write_split_bundle,
)
from spaces.tasks.task import ClassNames

MARKER = "device/bundle.json"
"""The file by which a folder is known to hold a split bundle, which another may replace."""
EXAMPLE = "example.py"
UNCODED_TOLERANCE = 1e-5
"""Largest difference that rounding order makes, relative to the largest answer."""


@dataclass(frozen=True, eq=False)
class SplitSource:
    """What the parts are written from."""

    result: SplitResult
    setup: SplitSetup
    specs: Mapping[str, ModelSpec]
    classes: Mapping[str, ClassNames]
    codecs: Mapping[Split, FittedCodec]
    """By the split of the plan as it is stored."""
    statistics: Mapping[Split, StatisticsByCoding]
    """Of the server's BatchNorms, by the same splits; those without are left out."""
    frames: Sequence[Frame]
    """Frames for the checks."""

    @property
    def inputs(self) -> dict[str, InputSpec]:
        return {name: model.input for name, model in self.setup.models.items()}

    def contents(self, records: Sequence[SplitPointRecord]) -> SplitContents:
        """Return the contents of a bundle with the splits of some points."""
        splits = [*dict.fromkeys(Split.from_dict(record.split) for record in records)]
        first, *others = dict.fromkeys(split.plan for split in splits)
        models = BundleContents(
            specs=self.specs,
            inputs=self.inputs,
            facts=self.setup.facts,
            plan=first,
            dtype=self.setup.dtype,
            classes=self.classes,
            points=tuple(others),
        )
        points = operating_points(splits, self.codecs, self.result.points)
        return SplitContents(models, tuple(splits), tuple(points))


def export_parts(
    source: SplitSource, records: Sequence[SplitPointRecord], folder: Path
) -> list[str]:
    """Write both parts of the points, wholly or not at all; return the checks as sentences.

    Raises:
        BundleCheckFailed: a written part fails a check.
        CannotWrite: the folder holds other files or cannot be written.
    """
    contents = source.contents(records)
    merged = {plan.hash: source.setup.merged(plan) for plan in contents.models.plans}
    codecs = [
        SplitCodec(
            source.codecs[split].encoder,
            source.codecs[split].decoder,
            source.statistics.get(split),
        )
        for split in contents.splits
    ]
    with replace_folder(folder, MARKER) as part:
        sizes = write_split_bundle(part, contents, merged, codecs)
        device, server = load_device(part / DEVICE_PART), load_server(part / SERVER_PART)
        checks = [
            _check_bytes(device, server, sizes, records),
            _check_uncoded(device, server, source),
            _check_messages(device, server, part, records, source.frames),
        ]
        for name in (DEVICE_PART, SERVER_PART):
            card = _card(name, source.result, records, contents, sizes, checks)
            (part / name / CARD).write_text(card, encoding="utf-8")
        example = files("search.deploy").joinpath("examples", "device_example.py")
        (part / DEVICE_PART / EXAMPLE).write_text(
            example.read_text(encoding="utf-8"), encoding="utf-8"
        )
        seal_parts(part)
    return checks


def _check_bytes(
    device: SplitDevice,
    server: SplitServer,
    sizes: Mapping[PartName, int],
    records: Sequence[SplitPointRecord],
) -> str:
    """Check that both parts hold what was written, and the device what a split promised."""
    held: Mapping[PartName, int] = {"device": device.held_bytes, "server": server.held_bytes}
    for name, size in sizes.items():
        if held[name] != size:
            raise BundleCheckFailed(f"{name}: {size} bytes written, {held[name]} loaded")
    text = ", ".join(
        f"{name}: {size:,} bytes of tensors ({megabytes(size)})" for name, size in sizes.items()
    )
    if len(device.splits) > 1:
        return text
    if sizes[DEVICE_PART] != records[0].device_bytes:
        raise BundleCheckFailed(
            f"point {records[0].hash}: {sizes[DEVICE_PART]} bytes on the device, "
            f"{records[0].device_bytes} promised"
        )
    return f"{text}, on the device as predicted"


@torch.inference_mode()
def _check_uncoded(device: SplitDevice, server: SplitServer, source: SplitSource) -> str:
    """Compare device and server without a codec with the merged model, split by split."""
    difference = 0.0
    for number, split in enumerate(device.splits):
        merged = source.setup.merged(split.plan)
        inputs = source.setup.inputs(merged, list(source.frames))
        sent = device.run(number, inputs)
        answers = sent.answers | server.run(number, sent.representations)
        for name, expected in merged.run(merged.whole, inputs, {}, run_head).answers.items():
            difference = max(difference, _difference(expected, answers[name]))
    if difference > UNCODED_TOLERANCE:
        raise BundleCheckFailed(
            f"read back, device and server answer with a difference of {difference:.1e} of the "
            "greatest, without a codec"
        )
    return (
        f"without the codec, device and server answer as the merged model on {len(source.frames)} "
        f"frames: the difference is at most {difference:.1g} of the greatest"
    )


def _difference(expected: Tensor, answer: Tensor) -> float:
    greatest = float(expected.abs().max()) or 1.0
    return float((expected - answer).abs().max()) / greatest


def _check_messages(
    device: SplitDevice,
    server: SplitServer,
    folder: Path,
    records: Sequence[SplitPointRecord],
    frames: Sequence[Frame],
) -> str:
    """Send frames at every point, and decode the messages in another process."""
    splits = [split.hash for split in device.splits]
    messages = [
        device.encode(frame, Coding(record.step, record.bands), number)
        for record in records
        for number in [splits.index(Split.from_dict(record.split).hash)]
        for frame in frames
    ]
    here = b"".join(server.receive(message).coefficients.tobytes() for message in messages)
    there = subprocess.run(
        [sys.executable, "-c", _DECODE, str(folder / SERVER_PART)],
        input=b"".join(len(m).to_bytes(4, "little") + m for m in messages),
        capture_output=True,
        check=False,
    )
    if there.returncode or there.stdout != here:
        raise BundleCheckFailed(
            f"another process decodes other coefficients {there.stderr.decode(errors='replace')}"
        )
    sizes = np.array([len(message) for message in messages])
    return (
        f"{len(messages)} messages of {sizes.min():,} to {sizes.max():,} bytes, which another "
        "process decodes to the same coefficients"
    )


_DECODE = """
import sys
from spaces.split.server import load_server
server, data = load_server(sys.argv[1]), sys.stdin.buffer.read()
while data:
    size = int.from_bytes(data[:4], "little")
    sys.stdout.buffer.write(server.receive(data[4 : 4 + size]).coefficients.tobytes())
    data = data[4 + size :]
"""


def _card(
    name: PartName,
    result: SplitResult,
    records: Sequence[SplitPointRecord],
    contents: SplitContents,
    sizes: Mapping[PartName, int],
    checks: Sequence[str],
) -> str:
    """Return the card of one part in Markdown."""
    models = escape_markdown(", ".join(contents.models.specs))
    rows = [
        [
            escape_markdown(record.label),
            f"{record.bytes:,.0f}",
            percent(record.device_share),
            "" if record.quality is None else percent(record.quality),
            f"{record.step}",
        ]
        for record in records
    ]
    use = {
        "device": "Run `python example.py http://SERVER:PORT PICTURE ...`, which sends "
        "frames and prints the answers; it needs merge-search and nothing of the other part.",
        "server": "Run `merge-search serve` with this folder; it needs nothing of the other part.",
    }[name]
    return "\n\n".join(
        [
            f"# {escape_markdown(result.name)}: the {name}'s part of {models}",
            use,
            f"It holds {sizes[name]:,} bytes of tensors ({megabytes(sizes[name])}).",
            "## What is sent",
            markdown_table(
                ["end on the device", "bytes a frame", "MACs on the device", "quality", "step"],
                rows,
            ),
            "## Checks of the export",
            "\n".join(f"- {escape_markdown(check)}" for check in checks),
            "",
        ]
    )
