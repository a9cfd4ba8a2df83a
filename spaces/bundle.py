"""Write a merged model to a folder, the bundle, and load it again.

    DIR/bundle.json          the networks, their inputs and classes, the facts about them, the
                             dtype, the plans of further operating points, and the other files
                             with their hashes
    DIR/plan.json            the plan
    DIR/weights.safetensors  every tensor, once
    DIR/network.NAME.*       the network NAME without its weights, if it came from a file

Loading needs nothing of the search, and nothing is unpickled: the networks are built without
weights, cut and merged in the same way, and then filled with the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from spaces.adapters import LinearMap
from spaces.bundle_files import (
    BUNDLE,
    PLAN,
    BadBundle,
    check_files,
    incomplete_bundle,
    write_description,
)
from spaces.bundle_tensors import LoadedTensors, TensorCollection
from spaces.errors import BadInput, BadPlan, MergeSearchError
from spaces.execution import EntryPoint
from spaces.frame_arrays import as_frames
from spaces.inputs import Frame, InputSpec, prepare_batch
from spaces.json_text import load_json
from spaces.merged import MergedModel, run_head
from spaces.model_facts import ModelFacts, facts_from_json, facts_to_json
from spaces.model_spec import ModelSpec, spec_fields, spec_from_fields, without_folders
from spaces.node import Node
from spaces.plan import Share, SharePlan
from spaces.precision import Dtype
from spaces.stages import StagedModel
from spaces.tasks.registry import TASKS
from spaces.tasks.task import ClassNames, FrameSize, TaskName
from spaces.zoo import build_skeleton, spec_within, structure_name, write_structure

BUNDLE_VERSION = 2
READABLE_VERSIONS = (1, 2)


class NoSuchPoint(MergeSearchError):
    """A bundle holds no plan with that hash, or several."""


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
    classes: Mapping[str, ClassNames] = field(default_factory=dict)
    """The names of the classes of each model, as far as they are known."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """The frames a second that each model answers for, by name; empty if none are given."""
    points: tuple[SharePlan, ...] = ()
    """The plans of further operating points."""

    def __post_init__(self) -> None:
        if len({plan.hash for plan in self.plans}) <= len(self.points):
            raise ValueError("a plan is there twice")

    @property
    def plans(self) -> tuple[SharePlan, ...]:
        """The plan of each operating point, beginning with the one that is loaded."""
        return (self.plan, *self.points)

    @property
    def tasks(self) -> dict[str, TaskName]:
        """The task of each model, by name."""
        return {name: model_facts.task for name, model_facts in self.facts.items()}

    def describe(self) -> dict[str, Any]:
        """Return everything but the first plan as JSON data."""
        specs = {name: without_folders(spec) for name, spec in self.specs.items()}
        return {
            "version": BUNDLE_VERSION,
            "dtype": self.dtype,
            "plan": self.plan.hash,
            "models": {name: spec_fields(spec) for name, spec in specs.items()},
            "inputs": {name: asdict(spec) for name, spec in self.inputs.items()},
            "classes": {name: list(names) for name, names in self.classes.items()},
            "facts": facts_to_json(self.facts),
            **({"rates": dict(self.rates)} if self.rates else {}),
            **({"points": [plan.to_dict() for plan in self.points]} if self.points else {}),
        }

    @classmethod
    def from_description(cls, data: Mapping[str, Any], plan: SharePlan) -> BundleContents:
        """Return the contents that `describe` described; `plan` is the first plan.

        Raises:
            ValueError, KeyError, TypeError, AttributeError, BadPlan, BadInput: it did not.
        """
        return cls(
            specs={name: spec_from_fields(fields) for name, fields in data["models"].items()},
            inputs={name: _input(fields) for name, fields in data["inputs"].items()},
            facts=facts_from_json(data["facts"]),
            plan=plan,
            dtype=data["dtype"],
            classes={name: tuple(names) for name, names in data.get("classes", {}).items()},
            rates={name: float(rate) for name, rate in data.get("rates", {}).items()},
            points=tuple(map(SharePlan.from_dict, data.get("points", []))),
        )


@dataclass(frozen=True)
class TrunkValues:
    """What several models need of some frames, computed once: see `Bundle.trunk`."""

    plan: str
    """The hash of the plan that it was computed with."""
    frames: list[Frame]
    representations: Mapping[Node, Tensor]


class Bundle(nn.Module):
    """A merged model that takes camera frames: what runs on the box.

    It may hold the merged models of several plans, its operating points, which share their
    tensors. `points` are the hashes of the plans; `merged` is the model of the one in use.
    """

    def __init__(
        self,
        merged: MergedModel,
        inputs: Mapping[str, InputSpec],
        tasks: Mapping[str, TaskName],
        classes: Mapping[str, ClassNames] | None = None,
        others: Sequence[MergedModel] = (),
    ) -> None:
        super().__init__()
        self.merged = merged
        self.others = nn.ModuleDict({other.plan.hash: other for other in others})
        self.points = (self.plan, *self.others)
        self.inputs = dict(inputs)
        self.tasks = dict(tasks)
        self.classes = dict(classes or {})

    @property
    def plan(self) -> str:
        """The hash of the plan in use."""
        return self.merged.plan.hash

    def use(self, plan: str) -> None:
        """Answer with another plan of `points` from now on; nothing is loaded or copied.

        `plan` is the beginning of its hash. Switch between two frames, not while one is answered.

        Raises:
            NoSuchPoint: no plan or several have such a hash.
        """
        matches = [point for point in self.points if point.startswith(plan)]
        if len(matches) != 1:
            count = "no plan" if not matches else f"{len(matches)} plans"
            raise NoSuchPoint(
                f"{count} of this bundle with a hash that begins with {plan!r}; there are "
                f"{', '.join(self.points)}"
            )
        if matches[0] != self.plan:
            merged = self.others.pop(matches[0])
            assert isinstance(merged, MergedModel)
            self.others[self.plan] = self.merged
            self.merged = merged

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
        return self._answers(self.merged.whole, frame_list, {})

    @torch.inference_mode()
    def trunk(self, frames: object) -> TrunkValues:
        """Compute what several models need, once, so that each can then run at its own rate.

        Raises:
            BadInput: as in `forward`.

        Examples:
            >>> import numpy as np
            >>> bundle = load_bundle("out/tiny/bundle")
            >>> trunk = bundle.trunk(np.zeros((480, 640, 3), np.uint8))
            >>> bundle.model("a", trunk).shape
            torch.Size([1, 7])
        """
        frame_list, entry = as_frames(frames), self.merged.trunk
        inputs = self._inputs(entry, frame_list)
        made = self.merged.run(entry, inputs, {}, run_head).representations
        return TrunkValues(self.plan, frame_list, made)

    @torch.inference_mode()
    def model(self, name: str, trunk: TrunkValues) -> Any:
        """Return the answer of one model, of what `trunk` returned for some frames.

        Raises:
            BadInput: there is no such model, or the trunk is of another plan.
        """
        self._check_name(name)
        if trunk.plan != self.plan:
            raise BadInput(
                f"this trunk was computed with plan {trunk.plan}, and {self.plan} is in use: "
                "compute it again"
            )
        entry = self.merged.tail(name)
        taken = {node: trunk.representations[node] for node in entry.takes}
        return self._answers(entry, trunk.frames, taken)[name]

    @torch.inference_mode()
    def alone(self, name: str, frames: object) -> Any:
        """Return the answer of one model to frames; nothing that only others need is computed.

        Raises:
            BadInput: there is no such model; otherwise as in `forward`.
        """
        self._check_name(name)
        return self._answers(self.merged.alone(name), as_frames(frames), {})[name]

    def _check_name(self, name: str) -> None:
        if name not in self.tasks:
            raise BadInput(f"no model {name!r}; the bundle has {', '.join(self.tasks)}")

    def _answers(
        self, entry: EntryPoint, frames: list[Frame], taken: Mapping[Node, Tensor]
    ) -> dict[str, Any]:
        outputs = self.merged.run(entry, self._inputs(entry, frames), taken, run_head).answers
        sizes = [(frame.shape[0], frame.shape[1]) for frame in frames]
        return finished_answers(outputs, sizes, self.tasks, self.inputs)

    def describe(self, model: str, answer: Any, frame: int = 0) -> list[str]:
        """Return the answer of a model to one of the frames in words, line by line.

        A class whose name is not known is called by its number.
        """
        names = self.classes.get(model, ())
        return TASKS[self.tasks[model]].describe(answer, frame, names)

    def prepare_frames(self, frames: list[Frame]) -> dict[str, Tensor]:
        """Return the (batch, c, height, width) input of each model in `merged.inputs_read`."""
        return self._inputs(self.merged.whole, frames)

    def _inputs(self, entry: EntryPoint, frames: list[Frame]) -> dict[str, Tensor]:
        device = next(self.merged.parameters()).device
        return {
            name: prepare_batch(frames, self.inputs[name]).to(device)
            for name in sorted(entry.inputs_read)
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
        super()._apply(_once(fn), recurse)  # type: ignore[no-untyped-call]
        return self


def finished_answers(
    outputs: Mapping[str, Tensor],
    sizes: Sequence[FrameSize],
    tasks: Mapping[str, TaskName],
    inputs: Mapping[str, InputSpec],
) -> dict[str, Any]:
    """Return what a bundle answers to frames of these sizes, by model, of the heads' outputs."""
    return {
        name: TASKS[tasks[name]].finish(output, sizes, inputs[name])
        for name, output in outputs.items()
    }


def _once(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function that converts a tensor of several modules once: it stays shared."""
    converted: dict[int, tuple[Tensor, Tensor]] = {}

    def convert(tensor: Tensor) -> Tensor:
        if id(tensor) not in converted:
            result = fn(tensor)
            # The ids last as long as the tensors. A module of several plans comes again.
            converted[id(tensor)] = tensor, result
            converted[id(result)] = result, result
        return converted[id(tensor)][1]

    return convert


def write_bundle(folder: Path, contents: BundleContents, *merged: MergedModel) -> int:
    """Write the files of a bundle into an existing folder; return the bytes of all tensors.

    `merged` are the models of `contents.plans`.

    Raises:
        BadWeights: a weight is too large for the dtype.
    """
    tensors = TensorCollection(contents.dtype)
    for _, model in zip(contents.plans, merged, strict=True):
        tensors.add(model)
    written_bytes = tensors.write(folder)
    (folder / PLAN).write_text(json.dumps(contents.plan.to_dict(), indent=2) + "\n")
    write_description(folder, contents.describe())
    for spec in contents.specs.values():
        write_structure(spec, folder)
    return written_bytes


def load_bundle(folder: Path | str) -> Bundle:
    """Load the merged model in a folder that `merge-search export` wrote.

    The bundle is on the CPU and in evaluation mode; its parameters need no gradients.

    Raises:
        BadBundle: a file is missing, damaged, changed, or does not fit the others.

    Examples:
        >>> import numpy as np
        >>> bundle = load_bundle("out/tiny/bundle")
        >>> answers = bundle(np.zeros((480, 640, 3), np.uint8))
        >>> answers["a"].shape
        torch.Size([1, 7])
    """
    folder = Path(folder)
    check_files(folder)
    contents = read_bundle_contents(folder)
    merged_models = empty_models(contents, folder)
    try:
        tensors = LoadedTensors(folder)
    except (OSError, SafetensorError) as error:
        raise incomplete_bundle(folder, error) from error
    tensors.fill(merged_models, contents.dtype)
    merged, *others = merged_models
    bundle = Bundle(merged, contents.inputs, contents.tasks, contents.classes, others)
    return bundle.eval().requires_grad_(False)


def read_bundle_contents(folder: Path) -> BundleContents:
    """Read everything in a bundle except the tensors.

    Raises:
        BadBundle: a file is missing, damaged, or of another version.
    """
    try:
        data = load_json((folder / BUNDLE).read_text(encoding="utf-8"))
        plan = SharePlan.from_json((folder / PLAN).read_text(encoding="utf-8"))
        if data["version"] not in READABLE_VERSIONS:
            supported = " and ".join(map(str, READABLE_VERSIONS))
            raise BadBundle(
                f"{folder / BUNDLE}: version {data['version']!r}; only {supported} are supported"
            )
        if data["plan"] != plan.hash:
            raise BadBundle(f"{folder / PLAN}: holds plan {plan.hash}, expected {data['plan']}")
        return BundleContents.from_description(data, plan)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, BadPlan, BadInput) as error:
        raise incomplete_bundle(folder, error) from error


def empty_models(contents: BundleContents, folder: Path) -> list[MergedModel]:
    """Return the merged model of each plan in a folder, without values.

    Raises:
        BadBundle: the folder lacks the structure of a network, or a plan does not fit.
    """
    models = {name: _skeleton(spec, folder) for name, spec in contents.specs.items()}
    try:
        with torch.device("meta"):
            return [_empty_model(models, contents.facts, plan) for plan in contents.plans]
    except (BadPlan, KeyError, ValueError) as error:
        raise incomplete_bundle(folder, error) from error


def _skeleton(spec: ModelSpec, folder: Path) -> StagedModel:
    within = spec_within(folder, spec)
    if within is not spec and not (folder / structure_name(spec)).is_file():
        raise incomplete_bundle(folder, f"{structure_name(spec)} is missing")
    return build_skeleton(within)


def _input(fields: dict[str, Any]) -> InputSpec:
    return InputSpec(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})


def _empty_model(
    models: Mapping[str, StagedModel], facts: Mapping[str, ModelFacts], plan: SharePlan
) -> MergedModel:
    """Return the merged model of a plan without values."""
    maps = {share: _empty_map(share, facts) for share in plan.with_own_maps().shares}
    return MergedModel(models, facts, plan, maps)


def _empty_map(share: Share, facts: Mapping[str, ModelFacts]) -> LinearMap:
    """Return a linear map of the right shape without values."""
    donor = facts[share.donor.model].stage(share.donor.stage).channels
    recipient = facts[share.recipient.model].stage(share.recipient.stage).channels
    return LinearMap(torch.empty(recipient, donor), torch.empty(recipient))
