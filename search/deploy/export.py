"""Write a plan of a run as a bundle: a folder that can be deployed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.config.run import RunConfig
from search.deploy.bundle_card import CARD, render_card
from search.deploy.operating_points import points_section
from search.deploy.rated_cost import rated_cost_section
from search.deploy.runtimes.graph_request import NO_GRAPHS, GraphRequest
from search.deploy.triton.repository import write_triton_repository
from search.refinement.refined_maps import maps_of
from search.results.search_result import PlanRecord, Result
from search.statistics.observed import Observed
from search.utils.files import replace_folder
from search.utils.format import list_names, megabytes
from spaces.bundle import Bundle, BundleContents, load_bundle, write_bundle
from spaces.bundle_files import BUNDLE, seal_bundle
from spaces.errors import MergeSearchError
from spaces.graph_export import (
    BundleGraph,
    NoGraph,
    export_program,
    max_relative_difference,
    run_onnx,
    write_onnx,
    write_program,
)
from spaces.inputs import Frame
from spaces.merged import MergedModel
from spaces.model_spec import ModelSpec
from spaces.plan import SharePlan
from spaces.stages import total_bytes, unique_tensors
from spaces.stored_modules import rounded_copy
from spaces.tasks.task import ClassNames
from spaces.zoo import STRUCTURE, class_names

ExportFormat = Literal["onnx", "program", "triton"]
FORMATS: tuple[ExportFormat, ...] = ("onnx", "program", "triton")
ONNX, PROGRAM, TRITON = "model.onnx", "model.pt2", "triton"
FILES: Mapping[ExportFormat, str] = {"onnx": ONNX, "program": PROGRAM, "triton": f"{TRITON}/"}
"""The file or folder of each format. A repository of Triton is made of the ONNX graphs."""
EXAMPLES = {"example.py": BUNDLE, "example_onnx.py": ONNX, "bench_onnx.py": "**/*.onnx"}
"""Programs in the bundle, and the file that each runs."""
CHECKED_FRAMES = 4
ANSWER_TOLERANCE = 1e-4
"""Largest difference between the answers of the written bundle and of the merged models with
rounded weights, relative to the largest answer."""
FORMAT_TOLERANCE = 5e-4
"""The same between another format, which other kernels run, and the bundle."""


BundleExtra = Callable[[Bundle, Path], str]
"""Writes a further file into the folder of a bundle, and returns its section of the card.

The bundle that it takes holds its rounded weights in float32.
"""


@dataclass(frozen=True)
class ExportRequest:
    """What an export writes besides the bundle itself."""

    formats: Sequence[ExportFormat] = ()
    graphs: GraphRequest = NO_GRAPHS
    points: int = 1
    """The plans that the bundle holds."""


class BundleCheckFailed(MergeSearchError):
    """The written bundle fails a check: a fault of merge-search."""


@dataclass(frozen=True)
class BundleSource:
    """A finished run, from which bundles are written."""

    config: RunConfig
    result: Result
    observed: Observed
    label_names: Mapping[str, ClassNames] = field(default_factory=dict)
    """The names that labels give to the classes of each model."""

    @cached_property
    def classes(self) -> dict[str, ClassNames]:
        """The names of each model's classes: published with its weights, or else of its labels."""
        return known_classes(self.config.model_specs(), self.label_names)

    @cached_property
    def frames(self) -> list[Frame]:
        """Frames for the checks: held-out frames if there are any."""
        frames = self.observed.held_out if len(self.observed.held_out) else self.observed.frames
        return [frames[k] for k in range(min(CHECKED_FRAMES, len(frames)))]


def known_classes(
    specs: Mapping[str, ModelSpec], label_names: Mapping[str, ClassNames]
) -> dict[str, ClassNames]:
    """Return the names of each model's classes: published with its weights, or else of its labels.

    Models whose classes have no names are left out.
    """
    names = {name: class_names(spec) or label_names.get(name, ()) for name, spec in specs.items()}
    return {name: of_model for name, of_model in names.items() if any(of_model)}


def export_bundle(
    source: BundleSource,
    records: Sequence[PlanRecord],
    folder: Path,
    request: ExportRequest,
    extras: Sequence[BundleExtra] = (),
) -> list[str]:
    """Write the bundle and the extras, wholly or not at all; return its checks as sentences.

    The bundle holds the plans of all records; the first one alone is also written as graphs.

    Raises:
        BundleCheckFailed: A written file fails a check.
        CannotWrite: The folder holds other files or cannot be written.
    """
    deployment = source.observed.deployment
    merged = [_merge(source.observed, plan_record) for plan_record in records]
    contents = BundleContents(
        specs=source.config.model_specs(),
        inputs={name: model.input for name, model in deployment.models.items()},
        facts=deployment.facts,
        plan=merged[0].plan,
        dtype=deployment.dtype,
        classes=source.classes,
        rates=source.config.rates(),
        points=tuple(other.plan for other in merged[1:]),
    )
    with replace_folder(folder, BUNDLE) as part:
        written_bytes = write_bundle(part, contents, *merged)
        bundle = load_bundle(part)
        checks = [_check_bytes(bundle, written_bytes, records)]
        rounded = [rounded_copy(model, contents.dtype) for model in merged]
        checks.append(_check_answers(bundle, rounded, source))
        checks += _write_formats(bundle, source, part, request.formats)
        checks += request.graphs.write(bundle, source.frames, part)
        if "triton" in request.formats and (part / ONNX).is_file():
            checks.append(_write_repository(part, list(contents.specs)))
        unwritten = Bundle(rounded[0], contents.inputs, contents.tasks)
        sections = [
            *([points_section(records, written_bytes)] if len(records) > 1 else []),
            *([rated_cost_section(bundle, contents, source.frames)] if contents.rates else []),
            *(write(unwritten, part) for write in extras),
        ]
        text = render_card(source.result, records[0], contents, checks, sections)
        (part / CARD).write_text(text, encoding="utf-8")
        _write_examples(part)
        seal_bundle(part)
    return checks


def _merge(observed: Observed, record: PlanRecord) -> MergedModel:
    plan, deployment = SharePlan.from_dict(record.plan), observed.deployment
    maps = maps_of(observed, [plan])
    return MergedModel(deployment.models, deployment.facts, plan, maps)


def remove_bundle(folder: Path) -> None:
    """Delete the bundle of an earlier run; a folder that is no bundle stays."""
    if (folder / BUNDLE).is_file():
        shutil.rmtree(folder, ignore_errors=True)


def _write_examples(folder: Path) -> None:
    """Write the programs that have something to run in the folder."""
    for name, pattern in EXAMPLES.items():
        # a network that came from an ONNX file lies in the bundle as one, but without weights
        if any(not file.name.startswith(f"{STRUCTURE}.") for file in folder.glob(pattern)):
            example = files("search.deploy").joinpath("examples", name)
            (folder / name).write_text(example.read_text(encoding="utf-8"), encoding="utf-8")


def _check_bytes(bundle: Bundle, written_bytes: int, records: Sequence[PlanRecord]) -> str:
    """Check that each point holds the bytes of its record, and all those that were written."""
    for record in records:
        bundle.use(record.hash)
        held = total_bytes(unique_tensors(bundle.merged))
        if held != record.bytes:
            raise BundleCheckFailed(
                f"plan {record.hash}: {held} bytes written, {record.bytes} promised"
            )
    bundle.use(records[0].hash)
    text = f"{written_bytes:,} bytes of tensors ({megabytes(written_bytes)})"
    if (held := total_bytes(unique_tensors(bundle))) != written_bytes:
        raise BundleCheckFailed(f"{written_bytes} bytes written, {held} loaded")
    if len(records) == 1:
        return f"{text}, as predicted"
    sizes = ", ".join(f"{record.bytes:,}" for record in records)
    return f"{text} for {len(records)} operating points, which hold {sizes}, as predicted"


@torch.inference_mode()
def _check_answers(bundle: Bundle, merged: Sequence[MergedModel], source: BundleSource) -> str:
    """Compare the answers of each point with those of its merged model with rounded weights."""
    difference = 0.0
    for model in merged:
        bundle.use(model.plan.hash)
        unwritten = Bundle(model, bundle.inputs, bundle.tasks)
        inputs = BundleGraph(bundle).rename_inputs(bundle.prepare_frames(source.frames)).values()
        of_point = max_relative_difference(
            BundleGraph(unwritten)(*inputs), BundleGraph(bundle)(*inputs)
        )
        difference = max(difference, of_point)
    bundle.use(merged[0].plan.hash)
    if difference > ANSWER_TOLERANCE:
        raise BundleCheckFailed(
            f"read back, the bundle's answers differ by {difference:.1e} of the greatest"
        )
    return (
        f"read back, its answers on {len(source.frames)} frames differ by at most "
        f"{difference:.1g} of the greatest"
    )


def _write_formats(
    bundle: Bundle, source: BundleSource, folder: Path, formats: Sequence[ExportFormat]
) -> list[str]:
    if not formats:
        return []
    graph = BundleGraph(bundle)
    inputs = graph.rename_inputs(bundle.prepare_frames(source.frames))
    with torch.inference_mode():
        expected = graph(*inputs.values())
    examples = graph.rename_inputs(bundle.prepare_frames([*source.frames, *source.frames][:2]))
    try:
        program = export_program(graph, list(examples.values()))
    except NoGraph as error:
        names = " and ".join(FILES[name] for name in formats)
        return [f"without {names}: {error}"]
    checks = []
    if "program" in formats:
        write_program(program, folder / PROGRAM)
        with torch.inference_mode():
            answers = program.module()(*inputs.values())
        checks.append(_check_near(PROGRAM, expected, answers))
    if {"onnx", "triton"} & set(formats):
        write_onnx(graph, program, folder / ONNX)
        checks.append(_check_near(ONNX, expected, run_onnx(folder / ONNX, inputs)))
    return checks


def _write_repository(folder: Path, models: Sequence[str]) -> str:
    names = write_triton_repository(folder, models, folder / TRITON)
    return f"{TRITON}/: a model repository with {list_names(names)}, not tried in a server"


def _check_near(
    name: str, expected: Sequence[Tensor], answers: Sequence[Tensor | NDArray[np.float32]]
) -> str:
    difference = max_relative_difference(expected, answers)
    if difference > FORMAT_TOLERANCE:
        raise BundleCheckFailed(
            f"{name}: its answers differ from the bundle's by {difference:.1e} of the greatest"
        )
    return (
        f"{name}: its answers differ from the bundle's by at most {difference:.1g} of the greatest"
    )
