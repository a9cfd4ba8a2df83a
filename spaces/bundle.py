"""Write a merged model to a folder, the bundle, and load it again.

    DIR/bundle.json          the networks, their inputs and classes, the facts about them, the
                             dtype, and the other files with their hashes
    DIR/plan.json            the plan
    DIR/weights.safetensors  every tensor, once
    DIR/network.NAME.*       the network NAME without its weights, if it came from a file

Loading needs nothing of the search, and nothing is unpickled: the networks are built without
weights, cut and merged in the same way, and then filled with the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spaces.adapters import LinearMap
from spaces.bundle_files import (
    BUNDLE,
    PLAN,
    WEIGHTS,
    BadBundle,
    check_files,
    incomplete_bundle,
    write_description,
)
from spaces.bundle_tensors import collect_tensors, fill_tensors
from spaces.errors import BadInput, BadPlan, MergeSearchError
from spaces.execution import EntryPoint
from spaces.frame_arrays import as_frames
from spaces.inputs import Frame, InputSpec, prepare_batch
from spaces.json_text import load_json
from spaces.merged import MergedModel
from spaces.model_facts import ModelFacts, facts_from_json, facts_to_json
from spaces.model_spec import ModelSpec, spec_fields, spec_from_fields, without_folders
from spaces.node import Node
from spaces.plan import Share, SharePlan
from spaces.precision import Dtype
from spaces.stages import StagedModel, total_bytes
from spaces.tasks.registry import TASKS
from spaces.tasks.task import ClassNames, TaskName
from spaces.zoo import build_skeleton, spec_within, structure_name, write_structure

BUNDLE_VERSION = 2
READABLE_VERSIONS = (1, 2)


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

    @property
    def tasks(self) -> dict[str, TaskName]:
        """The task of each model, by name."""
        return {name: model_facts.task for name, model_facts in self.facts.items()}


@dataclass(frozen=True)
class Trunk:
    """What several models need of some frames, computed once: see `Bundle.trunk`."""

    frames: list[Frame]
    representations: Mapping[Node, Tensor]


class Bundle(nn.Module):
    """A merged model that takes camera frames: what runs on the box."""

    def __init__(
        self,
        merged: MergedModel,
        inputs: Mapping[str, InputSpec],
        tasks: Mapping[str, TaskName],
        classes: Mapping[str, ClassNames] | None = None,
    ) -> None:
        super().__init__()
        self.merged = merged
        self.inputs = dict(inputs)
        self.tasks = dict(tasks)
        self.classes = dict(classes or {})

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
    def trunk(self, frames: object) -> Trunk:
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
        return Trunk(frame_list, self.merged.run(entry, inputs, {}, _run_head).representations)

    @torch.inference_mode()
    def model(self, name: str, trunk: Trunk) -> Any:
        """Return the answer of one model, of what `trunk` returned for some frames.

        Raises:
            BadInput: there is no such model, or the trunk is of another plan.
        """
        self._check_name(name)
        entry = self.merged.tail(name)
        if not set(entry.takes) <= trunk.representations.keys():
            raise BadInput("this trunk was computed with another plan: compute it again")
        taken = {node: trunk.representations[node] for node in entry.takes}
        return self._answers(entry, trunk.frames, taken)[name]

    @torch.inference_mode()
    def alone(self, name: str, frames: object) -> Any:
        """Return the answer of one model to frames; nothing that only others need is computed.

        Raises:
            BadInput: there is no such model; otherwise as in `forward`.
        """
        self._check_name(name)
        return self._answers(self.merged.answering([name]), as_frames(frames), {})[name]

    def _check_name(self, name: str) -> None:
        if name not in self.tasks:
            raise BadInput(f"no model {name!r}; the bundle has {', '.join(self.tasks)}")

    def _answers(
        self, entry: EntryPoint, frames: list[Frame], taken: Mapping[Node, Tensor]
    ) -> dict[str, Any]:
        outputs = self.merged.run(entry, self._inputs(entry, frames), taken, _run_head).answers
        sizes = [(frame.shape[0], frame.shape[1]) for frame in frames]
        return {
            name: TASKS[self.tasks[name]].finish(output, sizes, self.inputs[name])
            for name, output in outputs.items()
        }

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
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _run_head(head: nn.Module, taps: list[Tensor]) -> Tensor:
    answer: Tensor = head(taps)
    return answer


def write_bundle(folder: Path, contents: BundleContents, merged: MergedModel) -> int:
    """Write the files of a bundle into an existing folder; return the bytes of all tensors.

    Raises:
        BadWeights: a weight is too large for the dtype.
    """
    tensors = collect_tensors(merged, contents.dtype)
    save_file(tensors, folder / WEIGHTS)
    (folder / PLAN).write_text(json.dumps(contents.plan.to_dict(), indent=2) + "\n")
    specs = {name: without_folders(spec) for name, spec in contents.specs.items()}
    data = {
        "version": BUNDLE_VERSION,
        "dtype": contents.dtype,
        "plan": contents.plan.hash,
        "models": {name: spec_fields(spec) for name, spec in specs.items()},
        "inputs": {name: asdict(spec) for name, spec in contents.inputs.items()},
        "classes": {name: list(names) for name, names in contents.classes.items()},
        "facts": facts_to_json(contents.facts),
        **({"rates": dict(contents.rates)} if contents.rates else {}),
    }
    write_description(folder, data)
    for spec in contents.specs.values():
        write_structure(spec, folder)
    return total_bytes([*tensors.values()])


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
    models = {name: _skeleton(spec, folder) for name, spec in contents.specs.items()}
    try:
        with torch.device("meta"):
            shares = contents.plan.with_own_maps().shares
            maps = {share: _empty_map(share, contents.facts) for share in shares}
            merged = MergedModel(models, contents.facts, contents.plan, maps)
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, BadPlan, KeyError, ValueError) as error:
        raise incomplete_bundle(folder, error) from error
    fill_tensors(merged, tensors, contents.dtype, folder)
    bundle = Bundle(merged, contents.inputs, contents.tasks, contents.classes)
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
        return BundleContents(
            specs={name: spec_from_fields(fields) for name, fields in data["models"].items()},
            inputs={name: _input(fields) for name, fields in data["inputs"].items()},
            facts=facts_from_json(data["facts"]),
            plan=plan,
            dtype=data["dtype"],
            classes={name: tuple(names) for name, names in data.get("classes", {}).items()},
            rates={name: float(rate) for name, rate in data.get("rates", {}).items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, BadPlan, BadInput) as error:
        raise incomplete_bundle(folder, error) from error


def _skeleton(spec: ModelSpec, folder: Path) -> StagedModel:
    within = spec_within(folder, spec)
    if within is not spec and not (folder / structure_name(spec)).is_file():
        raise incomplete_bundle(folder, f"{structure_name(spec)} is missing")
    return build_skeleton(within)


def _input(fields: dict[str, Any]) -> InputSpec:
    return InputSpec(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})


def _empty_map(share: Share, facts: Mapping[str, ModelFacts]) -> LinearMap:
    """Return a linear map of the right shape without values."""
    donor = facts[share.donor.model].stage(share.donor.stage).channels
    recipient = facts[share.recipient.model].stage(share.recipient.stage).channels
    return LinearMap(torch.empty(recipient, donor), torch.empty(recipient))
