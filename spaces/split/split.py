"""Where a merged model is split: what the device computes, what crosses the link, and the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spaces.errors import MergeSearchError
from spaces.execution import EntryPoint, split_between
from spaces.merged import MergedModel
from spaces.node import Node
from spaces.plan import HEAD, Ref, SharePlan


class BadSplit(MergeSearchError):
    """A split does not fit the merged model of its plan."""


@dataclass(frozen=True)
class Split:
    """A plan, and the representations up to which a device computes its merged model.

    An end may also be the head of a model: the device then answers for that model itself.

    Raises:
        ValueError: there is no end, or an end is given twice.
    """

    plan: SharePlan
    ends: tuple[Ref, ...]
    """What the device computes, with all that it needs, in order."""

    def __post_init__(self) -> None:
        if not self.ends or len({*self.ends}) < len(self.ends):
            raise ValueError("a split needs ends, each of them once")
        object.__setattr__(self, "ends", tuple(sorted(self.ends)))

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits, equal for equal splits."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def label(self) -> str:
        """The ends in words."""
        return " + ".join(map(str, self.ends))

    def to_dict(self) -> dict[str, Any]:
        """Return the split as JSON data."""
        return {"plan": self.plan.to_dict(), "ends": [str(end) for end in self.ends]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Split:
        """Return the split that `to_dict` wrote."""
        return cls(
            SharePlan.from_dict(data["plan"]), tuple(Ref.parse(end) for end in data["ends"])
        )


@dataclass(frozen=True)
class SplitParts:
    """The two parts of a split model."""

    device: EntryPoint
    """Takes frames, and gives the crossing representations."""
    server: EntryPoint
    """Takes the crossing representations, and reads no frame."""

    @classmethod
    def of(cls, merged: MergedModel, split: Split) -> SplitParts:
        """Return the parts of a merged model on both sides of the link.

        Raises:
            BadSplit: an end is not computed, or the server would need frames, or nothing of the
                device.
        """
        outputs = merged.outputs
        local = {end.model for end in split.ends if end.stage == HEAD}
        unknown = local - set(outputs)
        if unknown:
            raise BadSplit(f"{split.label}: there is no model {min(unknown)!r}")
        nodes = {step.makes.ref: step.makes for step in merged.whole.steps if step.makes}
        ends = [end for end in split.ends if end.stage != HEAD]
        missing = [end for end in ends if end not in nodes]
        if missing:
            raise BadSplit(f"{split.label}: plan {split.plan.hash} does not compute {missing[0]}")
        device, server = split_between(outputs.values(), tuple(nodes[end] for end in ends), local)
        if server.inputs_read:
            raise BadSplit(
                f"{split.label}: the server would need the frames of {min(server.inputs_read)}"
            )
        if not server.takes:
            raise BadSplit(f"{split.label}: nothing is left for the server")
        return cls(device, server)

    @property
    def crossing(self) -> tuple[Node, ...]:
        """The representations that are sent, in order."""
        return self.server.takes
