"""The unmerged models of a bundle, which holds their networks but not their weights."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from search.deploy.run_folder import DOCUMENT, read_run
from spaces.bundle import BundleContents, write_bundle
from spaces.errors import MergeSearchError
from spaces.merged import MergedModel
from spaces.model_spec import (
    ModelSpec,
    arch_form,
    is_file,
    spec_fields,
    spec_from_fields,
    without_folders,
)
from spaces.plan import SharePlan
from spaces.stages import StagedModel
from spaces.zoo import load_model

SPECS = "models.json"
"""Beside the unmerged models as a bundle: their specs, by which their libraries load them."""

Specs = Mapping[str, ModelSpec]


class OtherRun(MergeSearchError):
    """A run is not the one that a bundle comes from."""


class NoWeights(MergeSearchError):
    """The original weights of a model were not found."""


def specs_of_run(contents: BundleContents, run: Path) -> Specs:
    """Return the specs of a bundle's models as the config of its run has them.

    Raises:
        NoSuchRun, BadRecord, BadConfig: the folder `run` holds no run that can be read.
        OtherRun: its models are others.
    """
    specs = read_run(run)[1].model_specs()
    if _portable(specs) != _portable(contents.specs):
        raise OtherRun(
            f"{run / DOCUMENT}: the models of this run are not those of the bundle; give the "
            "folder of the run that the bundle was exported from"
        )
    return specs


def find_specs(contents: BundleContents, folder: Path) -> Specs:
    """Return the specs of a bundle's models with the paths of their files.

    These are as in the run in the folder above the bundle, if it is the run of the bundle.
    Otherwise the files are beside the bundle.

    Raises:
        NoWeights: a file is not there.
    """
    above = folder.resolve().parent
    with contextlib.suppress(MergeSearchError):
        return specs_of_run(contents, above)
    return {name: _beside(above, spec) for name, spec in contents.specs.items()}


def write_unmerged(contents: BundleContents, specs: Specs, folder: Path) -> None:
    """Write the unmerged models in float32 as a bundle, with their specs.

    Raises:
        MergeSearchError: the weights of a model cannot be loaded.
    """
    models = {name: load_model(spec) for name, spec in specs.items()}
    unmerged = SharePlan()
    merged = MergedModel(models, contents.facts, unmerged, {})
    float_contents = replace(contents, specs=specs, plan=unmerged, points=(), dtype="float32")
    write_bundle(folder, float_contents, merged)
    fields = {name: spec_fields(spec) for name, spec in specs.items()}
    (folder / SPECS).write_text(json.dumps(fields), encoding="utf-8")


def load_unmerged(folder: Path) -> list[StagedModel]:
    """Load the models whose specs `write_unmerged` wrote, as their libraries do."""
    fields = json.loads((folder / SPECS).read_text(encoding="utf-8"))
    return [load_model(spec_from_fields(of_model)) for of_model in fields.values()]


def _portable(specs: Specs) -> dict[str, ModelSpec]:
    return {name: without_folders(spec) for name, spec in specs.items()}


def _beside(folder: Path, spec: ModelSpec) -> ModelSpec:
    """Return a spec whose files are in a folder; bundles of version 1 say where they are."""
    form = arch_form(spec.arch)
    arch, weights = spec.arch, spec.weights
    if form is not None and form.is_file:
        arch = form.prefix + _path_in(folder, arch.removeprefix(form.prefix), spec)
    if is_file(weights):
        weights = _path_in(folder, weights, spec)
    return replace(spec, arch=arch, weights=weights)


def _path_in(folder: Path, file: str, spec: ModelSpec) -> str:
    path = folder / Path(file).expanduser()
    if not path.is_file():
        raise NoWeights(
            f"{spec.name}: {path} does not exist; name the output folder of the bundle's run "
            "with --run, so that its config says where the weights are"
        )
    return str(path)
