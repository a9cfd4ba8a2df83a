"""Write a merged model to a folder, the bundle, and load it again.

    DIR/bundle.json          the networks, their inputs, the facts about them, the dtype
    DIR/plan.json            the plan
    DIR/weights.safetensors  every tensor, once
    DIR/network.NAME.*       the network NAME without its weights, if it came from a file

Loading needs nothing of the search, and nothing is unpickled: the networks are built without
weights, cut and merged in the same way, and then filled with the tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spaces.adapters import LinearMap
from spaces.errors import BadInput, BadPlan, MergeSearchError
from spaces.frame_arrays import as_frames
from spaces.inputs import Frame, InputSpec, prepare_batch
from spaces.json_text import load_json
from spaces.merged import MergedModel
from spaces.model_facts import ModelFacts, facts_from_json, facts_to_json
from spaces.model_spec import InputSettings, ModelSpec
from spaces.plan import Precision, Share, SharePlan
from spaces.precision import Dtype, StoredWeight, hold_stored, to_stored, weight_names
from spaces.stages import StagedModel, total_bytes
from spaces.tasks.registry import TASKS
from spaces.tasks.task import TaskName
from spaces.zoo import STRUCTURE, build_skeleton, spec_within, structure_name, write_structure

BUNDLE, PLAN, WEIGHTS = "bundle.json", "plan.json", "weights.safetensors"
SCALE = ".scale"
"""Ends the names of the scales of weights in int8."""
BUNDLE_VERSION = 1


class BadBundle(MergeSearchError):
    """A folder that does not hold a complete, undamaged bundle."""


class FixedBundle(MergeSearchError):
    """A bundle was to be trained, or to compute in another precision."""


@dataclass(frozen=True)
class BundleContents:
    """Everything in a bundle except the tensors."""

    specs: Mapping[str, ModelSpec]
    inputs: Mapping[str, InputSpec]
    facts: Mapping[str, ModelFacts]
    plan: SharePlan
    dtype: Dtype
    """The precision in which the weights are stored, unless the plan says otherwise."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """The frames a second that each model answers for, by name; empty if none are given."""

    @property
    def tasks(self) -> dict[str, TaskName]:
        """The task of each model, by name."""
        return {name: model_facts.task for name, model_facts in self.facts.items()}


class Bundle(nn.Module):
    """A merged model that takes camera frames: what runs on the box."""

    def __init__(
        self, merged: MergedModel, inputs: Mapping[str, InputSpec], tasks: Mapping[str, TaskName]
    ) -> None:
        super().__init__()
        self.merged = merged
        self.inputs = dict(inputs)
        self.tasks = dict(tasks)

    @torch.inference_mode()
    def forward(self, frames: object) -> dict[str, Any]:
        """Return the output of each model, by name.

        `frames` is one uint8 (height, width, 3) RGB frame, a stack of frames, or a sequence of
        frames of any sizes: arrays, tensors or images, see `spaces.frame_arrays.as_frames`.
        A classifier returns (frames, classes) logits, a detector one `Detections` per frame; the
        answers of each task are described in `spaces.tasks`.

        Raises:
            BadInput: a frame has another shape or type, or there is no frame.
        """
        frame_list = as_frames(frames)
        outputs = self.merged(self.prepare_frames(frame_list))
        sizes = [(frame.shape[0], frame.shape[1]) for frame in frame_list]
        return {
            name: TASKS[self.tasks[name]].finish(output, sizes, self.inputs[name])
            for name, output in outputs.items()
        }

    def describe(self, model: str, answer: Any, frame: int = 0) -> list[str]:
        """Return the answer of a model to one of the frames in words, line by line."""
        return TASKS[self.tasks[model]].describe(answer, frame)

    def prepare_frames(self, frames: list[Frame]) -> dict[str, Tensor]:
        """Return the (batch, c, height, width) input of each model in `merged.inputs_read`."""
        device = next(self.merged.parameters()).device
        return {
            name: prepare_batch(frames, self.inputs[name]).to(device)
            for name in sorted(self.merged.inputs_read)
        }

    def train(self, mode: bool = True) -> Bundle:
        """Leave evaluation mode, which no bundle can.

        Raises:
            FixedBundle: `mode` is true.
        """
        if mode:
            raise FixedBundle(
                "a bundle cannot be trained: its stages serve several models; train the models "
                "by themselves and merge them again"
            )
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Bundle:
        """Move the tensors, as every conversion of a module does, and keep their dtype.

        Raises:
            FixedBundle: the function converts them.
        """
        dtype = fn(torch.zeros(1)).dtype
        if dtype != torch.float32:
            raise FixedBundle(
                f"a bundle computes in float32, not in {str(dtype).removeprefix('torch.')}: set "
                "`dtype: float16` or `dtype: bfloat16` in the config and export it again, which "
                "stores the weights in half their bytes"
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def write_bundle(folder: Path, contents: BundleContents, merged: MergedModel) -> int:
    """Write the files of a bundle into an existing folder; return the bytes of all tensors.

    Raises:
        BadWeights: a weight is too large for the dtype.
    """
    weights, tensors = weight_names(merged), dict[str, Tensor]()
    for tensor, precision, places in _tensors(merged, contents.dtype):
        name, stored = places[0].name, StoredWeight(tensor.detach())
        if id(tensor) in weights:
            stored = to_stored(stored.values, precision, weights[id(tensor)])
        tensors[name] = stored.values.cpu().contiguous()
        if stored.scale is not None:
            tensors[name + SCALE] = stored.scale.cpu().contiguous()
    save_file(tensors, folder / WEIGHTS)
    (folder / PLAN).write_text(json.dumps(contents.plan.to_dict(), indent=2) + "\n")
    data = {
        "version": BUNDLE_VERSION,
        "dtype": contents.dtype,
        "plan": contents.plan.hash,
        "models": {name: _spec_fields(spec) for name, spec in contents.specs.items()},
        "inputs": {name: asdict(spec) for name, spec in contents.inputs.items()},
        "facts": facts_to_json(contents.facts),
        **({"rates": dict(contents.rates)} if contents.rates else {}),
    }
    (folder / BUNDLE).write_text(json.dumps(data, indent=1) + "\n")
    for spec in contents.specs.values():
        write_structure(spec, folder)
    return total_bytes([*tensors.values()])


def load_bundle(folder: Path | str) -> Bundle:
    """Load the merged model in a folder that `merge-search export` wrote.

    The bundle is on the CPU and in evaluation mode; its parameters need no gradients.

    Raises:
        BadBundle: a file is missing, damaged, or does not fit the others.

    Examples:
        >>> import numpy as np
        >>> bundle = load_bundle("out/tiny/bundle")
        >>> answers = bundle(np.zeros((480, 640, 3), np.uint8))
        >>> answers["a"].shape
        torch.Size([1, 7])
    """
    folder = Path(folder)
    contents = read_bundle_contents(folder)
    models = {name: _skeleton(spec, folder) for name, spec in contents.specs.items()}
    try:
        with torch.device("meta"):
            shares = contents.plan.with_own_maps().shares
            maps = {share: _empty_map(share, contents.facts) for share in shares}
            merged = MergedModel(models, contents.facts, contents.plan, maps)
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, BadPlan, KeyError, ValueError) as error:
        raise BadBundle(f"{folder}: is not a complete bundle ({error})") from error
    _fill(merged, tensors, contents.dtype, folder)
    bundle = Bundle(merged, contents.inputs, contents.tasks)
    return bundle.eval().requires_grad_(False)


def read_bundle_contents(folder: Path) -> BundleContents:
    """Read everything in a bundle except the tensors.

    Raises:
        BadBundle: a file is missing, damaged, or of another version.
    """
    try:
        data = load_json((folder / BUNDLE).read_text(encoding="utf-8"))
        plan = SharePlan.from_json((folder / PLAN).read_text(encoding="utf-8"))
        if data["version"] != BUNDLE_VERSION:
            raise BadBundle(
                f"{folder / BUNDLE}: version {data['version']!r}; "
                f"only {BUNDLE_VERSION} is supported"
            )
        if data["plan"] != plan.hash:
            raise BadBundle(f"{folder / PLAN}: holds plan {plan.hash}, expected {data['plan']}")
        return BundleContents(
            specs={name: _spec(fields) for name, fields in data["models"].items()},
            inputs={name: _input(fields) for name, fields in data["inputs"].items()},
            facts=facts_from_json(data["facts"]),
            plan=plan,
            dtype=data["dtype"],
            rates={name: float(rate) for name, rate in data.get("rates", {}).items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, BadPlan, BadInput) as error:
        raise BadBundle(f"{folder}: is not a complete bundle ({error})") from error


def bundle_id(folder: Path) -> str:
    """Return the identity of a bundle: twelve hexadecimal digits of the SHA-256 of its files.

    Raises:
        BadBundle: a file is missing.
    """
    digest = hashlib.sha256()
    try:
        networks = sorted(file.name for file in folder.glob(f"{STRUCTURE}.*"))
        for name in (BUNDLE, PLAN, WEIGHTS, *networks):
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise BadBundle(f"{folder}: is not a complete bundle ({error})") from error
    return digest.hexdigest()[:12]


def holds_bundle(folder: Path, identity: str) -> bool:
    """Return whether a folder holds the complete bundle with that identity."""
    try:
        return bundle_id(folder) == identity
    except BadBundle:
        return False


def _skeleton(spec: ModelSpec, folder: Path) -> StagedModel:
    within = spec_within(folder, spec)
    if within is not spec and not (folder / structure_name(spec)).is_file():
        raise BadBundle(f"{folder}: is not a complete bundle ({structure_name(spec)} is missing)")
    return build_skeleton(within)


def _spec_fields(spec: ModelSpec) -> dict[str, Any]:
    settings = {key: value for key, value in asdict(spec).items() if key not in ("input", "task")}
    optional = {"input": spec.input.as_dict, "task": spec.task}
    return settings | {key: value for key, value in optional.items() if value}


def _spec(fields: dict[str, Any]) -> ModelSpec:
    size, settings = fields["size"], fields.get("input", {})
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
    }
    return ModelSpec(
        **{**fields, "size": tuple(size) if size else None, "input": InputSettings(**given)}
    )


def _input(fields: dict[str, Any]) -> InputSpec:
    return InputSpec(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})


def _empty_map(share: Share, facts: Mapping[str, ModelFacts]) -> LinearMap:
    """Return a linear map of the right shape without values."""
    donor = facts[share.donor.model].stage(share.donor.stage).channels
    recipient = facts[share.recipient.model].stage(share.recipient.stage).channels
    return LinearMap(torch.empty(recipient, donor), torch.empty(recipient))


class _Place(NamedTuple):
    """An attribute of a module that holds a tensor; a tied tensor has several places."""

    module: nn.Module
    attribute: str
    name: str


def _tensors(
    merged: MergedModel, dtype: Dtype
) -> Iterator[tuple[Tensor, Precision, list[_Place]]]:
    """Yield each tensor once with its precision and its places, `dtype` where the plan has none.

    A tensor in places of several precisions is yielded once for each.
    """
    precisions = merged.plan.precision_by_owner
    places: dict[tuple[int, Precision], tuple[Tensor, list[_Place]]] = {}
    for start, owner, module in merged.parts():
        precision = precisions.get(owner, dtype)
        for path, part in module.named_modules(prefix=start):
            for attribute, tensor in [
                *part.named_parameters(recurse=False),
                *part.named_buffers(recurse=False),
            ]:
                place = _Place(part, attribute, f"{path}.{attribute}")
                places.setdefault((id(tensor), precision), (tensor, []))[1].append(place)
    for (_, precision), (tensor, places_of_tensor) in places.items():
        yield tensor, precision, places_of_tensor


def _fill(merged: MergedModel, tensors: dict[str, Tensor], dtype: Dtype, folder: Path) -> None:
    """Replace the empty tensors of a model by the loaded ones, which are read as float32.

    Raises:
        BadBundle: a tensor is missing, left over, of another shape, or not finite.
    """
    weights = weight_names(merged)
    for empty, precision, places in [*_tensors(merged, dtype)]:
        name, scale = places[0].name, None
        tensor = _take(tensors, name, tuple(empty.shape), folder)
        if precision == "int8" and id(empty) in weights and empty.dim() > 1:
            scale_shape = (empty.shape[0], *(1 for _ in empty.shape[1:]))
            scale = _take(tensors, name + SCALE, scale_shape, folder)
        # Keep the memory format of the network: some convolutions are slower in any other.
        laid_out = torch.empty_strided(empty.shape, empty.stride(), dtype=tensor.dtype)
        laid_out.copy_(tensor)
        for place in places:
            if id(empty) in weights:
                hold_stored(place.module, place.attribute, StoredWeight(laid_out, scale))
            else:
                _put(place, laid_out)
    if tensors:
        raise BadBundle(f"{folder / WEIGHTS}: holds {len(tensors)} unexpected tensors")


def _take(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], folder: Path) -> Tensor:
    """Remove a tensor from `tensors` and return it.

    Raises:
        BadBundle: it is missing, of another shape, or not finite.
    """
    tensor = tensors.pop(name, None)
    if tensor is None or tuple(tensor.shape) != shape:
        actual = "missing" if tensor is None else f"{tuple(tensor.shape)}"
        raise BadBundle(f"{folder / WEIGHTS}: {name} is {actual}, expected {shape}")
    if not torch.isfinite(tensor).all():
        raise BadBundle(
            f"{folder / WEIGHTS}: {name} holds NaN or infinite values, so the file is damaged; "
            "export the bundle again"
        )
    return tensor


def _put(place: _Place, tensor: Tensor) -> None:
    if place.attribute in dict(place.module.named_parameters(recurse=False)):
        parameter = nn.Parameter(tensor, requires_grad=False)
        place.module.register_parameter(place.attribute, parameter)
    else:
        place.module.register_buffer(place.attribute, tensor)
