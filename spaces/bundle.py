"""A merged model on disk, and back: every tensor once, and all that it takes to run it.

    DIR/bundle.json          the networks, their inputs, what is known of them, the dtype
    DIR/plan.json            the plan
    DIR/weights.safetensors  every tensor, once

Nothing of the search is needed to load it, and nothing is unpickled: the networks are built
without numbers, cut and merged as they were, and then given the tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spaces.adapters import LinearMap
from spaces.errors import BadInput, BadPlan, MergeSearchError
from spaces.inputs import Frame, InputSpec, boxes_to_frame, prepare_batch
from spaces.merged import MergedModel
from spaces.model_facts import ModelFacts, facts_from_json, facts_to_json
from spaces.plan import Share, SharePlan
from spaces.precision import Dtype, compute_in_float32, to_stored_dtype, weight_names
from spaces.stages import Task, total_bytes
from spaces.zoo import ModelSpec, build_skeleton

BUNDLE, PLAN, WEIGHTS = "bundle.json", "plan.json", "weights.safetensors"
BUNDLE_VERSION = 1


class BadBundle(MergeSearchError):
    """A folder that holds no bundle, or only part of one."""


class Detections(NamedTuple):
    """What a detector finds in one frame, the surest first."""

    boxes: Tensor
    """(n, 4) as x1, y1, x2, y2 in pixels of the frame."""
    scores: Tensor
    """(n,) from 0 to 1."""
    classes: Tensor
    """(n,) from 1."""


ModelOutput = Tensor | list[Detections]
"""(frames, classes) logits of a classifier; of a detector what it finds in each frame."""


@dataclass(frozen=True)
class BundleContents:
    """All of a bundle but its tensors."""

    specs: Mapping[str, ModelSpec]
    inputs: Mapping[str, InputSpec]
    facts: Mapping[str, ModelFacts]
    plan: SharePlan
    dtype: Dtype

    @property
    def tasks(self) -> dict[str, Task]:
        return {name: fact.task for name, fact in self.facts.items()}


class Bundle(nn.Module):
    """A merged model that takes camera frames."""

    def __init__(
        self, merged: MergedModel, inputs: Mapping[str, InputSpec], tasks: Mapping[str, Task]
    ) -> None:
        super().__init__()
        self.merged = merged
        self.inputs = dict(inputs)
        self.tasks = dict(tasks)

    @torch.inference_mode()
    def forward(self, frames: Frame | Sequence[Frame]) -> dict[str, ModelOutput]:
        """Every model's answer for one uint8 (H, W, 3) frame, or for several of any sizes.

        Raises:
            BadInput: a frame is something else, or there is none.
        """
        several = _checked([frames] if isinstance(frames, np.ndarray) else list(frames))
        answers = self.merged(self.prepare_frames(several))
        return {name: self._usual(name, answer, several) for name, answer in answers.items()}

    def prepare_frames(self, frames: list[Frame]) -> dict[str, Tensor]:
        """The inputs that are read, each (batch, 3, height, width)."""
        device = next(self.merged.parameters()).device
        return {
            name: prepare_batch(frames, self.inputs[name]).to(device)
            for name in sorted(self.merged.inputs_read)
        }

    def _usual(self, name: str, answer: Tensor, frames: Sequence[Frame]) -> ModelOutput:
        if self.tasks[name] == "classification":
            return answer
        sizes = [(frame.shape[0], frame.shape[1]) for frame in frames]
        return [
            _detections(rows.cpu(), size, self.inputs[name])
            for rows, size in zip(answer, sizes, strict=True)
        ]


def _checked(frames: list[Frame]) -> list[Frame]:
    for number, frame in enumerate(frames):
        shape: tuple[int, ...] = getattr(frame, "shape", ())
        kind = getattr(frame, "dtype", type(frame).__name__)
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or kind != np.uint8:
            raise BadInput(
                f"frame {number}: {kind} of shape {tuple(shape)}; a frame is a uint8 array "
                "(height, width, 3), red first"
            )
    if not frames:
        raise BadInput("no frame was given")
    return frames


def _detections(rows: Tensor, size: tuple[int, int], spec: InputSpec) -> Detections:
    rows = rows[rows[:, 4] > 0]
    boxes = torch.from_numpy(boxes_to_frame(rows[:, :4].numpy(), size, spec)).float()
    return Detections(boxes, rows[:, 4], rows[:, 5].long())


def write_bundle(folder: Path, contents: BundleContents, merged: MergedModel) -> int:
    """Write the three files into a folder that is there; returns the bytes of all tensors.

    Raises:
        BadWeights: the dtype cannot hold the weights.
    """
    weights = weight_names(merged)
    tensors = {
        places[0].name: _kept(tensor, contents.dtype, weights)
        for tensor, places in _tensors(merged)
    }
    save_file(tensors, folder / WEIGHTS)
    (folder / PLAN).write_text(json.dumps(contents.plan.to_dict(), indent=2) + "\n")
    data = {
        "version": BUNDLE_VERSION,
        "dtype": contents.dtype,
        "plan": contents.plan.hash,
        "models": {name: asdict(spec) for name, spec in contents.specs.items()},
        "inputs": {name: asdict(spec) for name, spec in contents.inputs.items()},
        "facts": facts_to_json(contents.facts),
    }
    (folder / BUNDLE).write_text(json.dumps(data, indent=1) + "\n")
    return total_bytes([*tensors.values()])


def load_bundle(folder: Path | str) -> Bundle:
    """The merged model in a folder that `merge-search export` wrote.

    Raises:
        BadBundle: a file is missing, damaged, or does not fit the others.
    """
    folder = Path(folder)
    contents = read_bundle_contents(folder)
    models = {name: build_skeleton(spec) for name, spec in contents.specs.items()}
    try:
        with torch.device("meta"):
            maps = {share: _hollow(share, contents.facts) for share in contents.plan.shares}
            merged = MergedModel(models, contents.facts, contents.plan, maps)
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, BadPlan, KeyError, ValueError) as error:
        raise BadBundle(f"{folder}: is not a whole bundle ({error})") from error
    _fill(merged, tensors, folder)
    compute_in_float32(merged)
    bundle = Bundle(merged, contents.inputs, contents.tasks)
    return bundle.eval().requires_grad_(False)


def read_bundle_contents(folder: Path) -> BundleContents:
    """All of a bundle but its tensors.

    Raises:
        BadBundle: a file is missing, damaged, or of another version.
    """
    try:
        data = json.loads((folder / BUNDLE).read_text(encoding="utf-8"))
        plan = SharePlan.from_json((folder / PLAN).read_text(encoding="utf-8"))
        if data["version"] != BUNDLE_VERSION:
            raise BadBundle(
                f"{folder / BUNDLE}: version {data['version']!r}; only {BUNDLE_VERSION} is known"
            )
        if data["plan"] != plan.hash:
            raise BadBundle(f"{folder / PLAN}: is plan {plan.hash}, not {data['plan']}")
        return BundleContents(
            specs={name: _spec(fields) for name, fields in data["models"].items()},
            inputs={name: _input(fields) for name, fields in data["inputs"].items()},
            facts=facts_from_json(data["facts"]),
            plan=plan,
            dtype=data["dtype"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, BadPlan, BadInput) as error:
        raise BadBundle(f"{folder}: is not a whole bundle ({error})") from error


def bundle_id(folder: Path) -> str:
    """What tells a bundle from all others: twelve digits of the SHA-256 of its three files.

    Raises:
        BadBundle: one is missing.
    """
    digest = hashlib.sha256()
    try:
        for name in (BUNDLE, PLAN, WEIGHTS):
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise BadBundle(f"{folder}: is not a whole bundle ({error})") from error
    return digest.hexdigest()[:12]


def holds_bundle(folder: Path, identity: str) -> bool:
    """Whether a folder holds just that bundle, whole."""
    try:
        return bundle_id(folder) == identity
    except BadBundle:
        return False


def _spec(fields: dict[str, Any]) -> ModelSpec:
    size = fields["size"]
    return ModelSpec(**{**fields, "size": tuple(size) if size else None})


def _input(fields: dict[str, Any]) -> InputSpec:
    return InputSpec(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})


def _hollow(share: Share, facts: Mapping[str, ModelFacts]) -> LinearMap:
    """A map of the right shape, without numbers."""
    donor = facts[share.donor.model].stage(share.donor.stage).channels
    recipient = facts[share.recipient.model].stage(share.recipient.stage).channels
    return LinearMap(torch.empty(recipient, donor), torch.empty(recipient))


class _Place(NamedTuple):
    """Where a tensor hangs; one that is tied hangs in several."""

    module: nn.Module
    attribute: str
    name: str


def _tensors(module: nn.Module) -> Iterator[tuple[Tensor, list[_Place]]]:
    """Every tensor within a module, once, with all its places."""
    places: dict[int, tuple[Tensor, list[_Place]]] = {}
    for path, part in module.named_modules():
        for attribute, tensor in [
            *part.named_parameters(recurse=False),
            *part.named_buffers(recurse=False),
        ]:
            place = _Place(part, attribute, f"{path}.{attribute}")
            places.setdefault(id(tensor), (tensor, []))[1].append(place)
    yield from places.values()


def _kept(tensor: Tensor, dtype: Dtype, weights: Mapping[int, str]) -> Tensor:
    name = weights.get(id(tensor))
    kept = tensor.detach() if name is None else to_stored_dtype(tensor.detach(), dtype, name)
    return kept.cpu().contiguous()


def _fill(merged: MergedModel, tensors: dict[str, Tensor], folder: Path) -> None:
    """Give the hollow model its numbers.

    Raises:
        BadBundle: a tensor is missing, left over, or of another shape.
    """
    for hollow, places in [*_tensors(merged)]:
        tensor = tensors.pop(places[0].name, None)
        if tensor is None or tensor.shape != hollow.shape:
            found = "missing" if tensor is None else f"{tuple(tensor.shape)}"
            raise BadBundle(
                f"{folder / WEIGHTS}: {places[0].name} is {found}, not {tuple(hollow.shape)}"
            )
        # Laid out as the network had it: some convolutions are slower in any other order.
        laid_out = torch.empty_strided(hollow.shape, hollow.stride(), dtype=tensor.dtype)
        laid_out.copy_(tensor)
        for place in places:
            _put(place, laid_out)
    if tensors:
        raise BadBundle(f"{folder / WEIGHTS}: holds {len(tensors)} tensors too many")


def _put(place: _Place, tensor: Tensor) -> None:
    if place.attribute in dict(place.module.named_parameters(recurse=False)):
        parameter = nn.Parameter(tensor, requires_grad=False)
        place.module.register_parameter(place.attribute, parameter)
    else:
        place.module.register_buffer(place.attribute, tensor)
