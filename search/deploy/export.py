"""`merge-search export`: a plan that a run has found, as a folder that can be deployed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.config.run import RunConfig
from search.deploy.bundle_card import CARD, card
from search.results.search_result import PlanRecord, Result
from search.statistics.observed import Observed
from search.utils.files import replace_folder
from search.utils.format import megabytes
from spaces.bundle import BUNDLE, Bundle, BundleContents, load_bundle, write_bundle
from spaces.errors import MergeSearchError
from spaces.graph_export import (
    BundleGraph,
    export_program,
    max_relative_difference,
    run_onnx,
    write_onnx,
    write_program,
)
from spaces.inputs import Frame
from spaces.merged import MergedModel
from spaces.plan import SharePlan

Format = Literal["onnx", "program"]
FORMATS: tuple[Format, ...] = ("onnx", "program")
ONNX, PROGRAM = "model.onnx", "model.pt2"
EXAMPLES = {"example.py": "", "example_onnx.py": "onnx"}
"""Files of ours that are put beside, and the format that they need."""
CHECKED_FRAMES = 4
TOLERANCE = {"float32": 1e-4, "float16": 5e-2, "bfloat16": 2e-1}
"""How far a bundle that was read back may be from what was merged, by the greatest number: half
precision rounds the weights. Other formats must be as near to the bundle as float32 is."""


class BundleCheckFailed(MergeSearchError):
    """What was written does not give what was promised: a fault of merge-search."""


@dataclass(frozen=True)
class Source:
    """What a bundle is made of."""

    config: RunConfig
    result: Result
    observed: Observed

    @cached_property
    def frames(self) -> list[Frame]:
        """Real frames to check with, which the maps have not seen if there are such."""
        frames = self.observed.held_out if len(self.observed.held_out) else self.observed.frames
        return [frames[k] for k in range(min(CHECKED_FRAMES, len(frames)))]


def write(
    source: Source, record: PlanRecord, folder: Path, formats: Sequence[Format]
) -> list[str]:
    """Write the bundle, wholly or not at all; returns what was checked, in sentences."""
    plan, known = SharePlan.from_dict(record.plan), source.observed.deployment
    merged = MergedModel(known.models, known.facts, plan, source.observed.maps_for([plan]))
    contents = BundleContents(
        specs=source.config.model_specs(),
        inputs={name: model.input for name, model in known.models.items()},
        facts=known.facts,
        plan=merged.plan,
        dtype=known.dtype,
    )
    with replace_folder(folder, BUNDLE) as part:
        held = write_bundle(part, contents, merged)
        checks = [_bytes_are_as_promised(held, record)]
        bundle = load_bundle(part)
        before = Bundle(merged, contents.inputs, contents.tasks)
        checks.append(_answers_are_the_same(bundle, before, source))
        checks += _write_formats(bundle, source, part, formats)
        text = card(source.result, record, contents.specs, checks)
        (part / CARD).write_text(text, encoding="utf-8")
        for name, needed in EXAMPLES.items():
            if not needed or needed in formats:
                example = (
                    files("search.deploy").joinpath("examples", name).read_text(encoding="utf-8")
                )
                (part / name).write_text(example, encoding="utf-8")
    return checks


def remove_bundle(folder: Path) -> None:
    """Of an earlier run that chose a plan; what is no bundle stays."""
    if (folder / BUNDLE).is_file():
        shutil.rmtree(folder, ignore_errors=True)


def _bytes_are_as_promised(held: int, record: PlanRecord) -> str:
    if held != record.bytes:
        raise BundleCheckFailed(
            f"plan {record.hash}: {held} bytes written, {record.bytes} promised"
        )
    return f"{held:,} bytes of tensors ({megabytes(held)}), as predicted"


@torch.inference_mode()
def _answers_are_the_same(bundle: Bundle, before: Bundle, source: Source) -> str:
    inputs = BundleGraph(bundle).rename_inputs(bundle.prepare_frames(source.frames)).values()
    far = max_relative_difference(BundleGraph(before)(*inputs), BundleGraph(bundle)(*inputs))
    if far > TOLERANCE[source.observed.deployment.dtype]:
        raise BundleCheckFailed(
            f"read back, the bundle's answers differ by {far:.1e} of the greatest"
        )
    return (
        f"read back, its answers on {len(source.frames)} frames differ by at most {far:.1g} of "
        "the greatest"
    )


def _write_formats(
    bundle: Bundle, source: Source, folder: Path, formats: Sequence[Format]
) -> list[str]:
    if not formats:
        return []
    graph = BundleGraph(bundle)
    inputs = graph.rename_inputs(bundle.prepare_frames(source.frames))
    with torch.inference_mode():
        wanted = graph(*inputs.values())
    examples = graph.rename_inputs(bundle.prepare_frames([*source.frames, *source.frames][:2]))
    program = export_program(graph, list(examples.values()))
    checks = []
    if "program" in formats:
        write_program(program, folder / PROGRAM)
        with torch.inference_mode():
            found = program.module()(*inputs.values())
        checks.append(_near(PROGRAM, wanted, found))
    if "onnx" in formats:
        write_onnx(graph, program, folder / ONNX)
        checks.append(_near(ONNX, wanted, run_onnx(folder / ONNX, inputs)))
    return checks


def _near(
    name: str, wanted: Sequence[Tensor], found: Sequence[Tensor | NDArray[np.float32]]
) -> str:
    far = max_relative_difference(wanted, found)
    if far > TOLERANCE["float32"]:
        raise BundleCheckFailed(
            f"{name}: its answers differ from the bundle's by {far:.1e} of the greatest"
        )
    return f"{name}: its answers differ from the bundle's by at most {far:.1g} of the greatest"
