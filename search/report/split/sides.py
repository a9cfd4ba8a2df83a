"""Which stages and heads of a split plan are on the device, and what crosses the link to where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search.report.plan_diagram.layout import layouts_of
from search.results.search_result import ModelRecord
from spaces.execution import EntryPoint, split_between
from spaces.node import Output, tap_nodes, upstream_nodes
from spaces.plan import HEAD, Ref, Share, SharePlan
from spaces.split.split import Split


@dataclass(frozen=True)
class CrossingReader:
    """A representation that crosses the link, and what reads it on the server."""

    ref: Ref
    share: Share | None = None
    """The share whose adapter reads it."""
    head: str | None = None
    """The model whose head reads it; with neither, the next stage of its own model does."""


@dataclass(frozen=True)
class SplitSides:
    """A split plan as two parts, without its weights."""

    plan: SharePlan
    device: frozenset[Ref]
    """Stages, recipients of shares and heads that the device computes."""
    server: frozenset[Ref]
    crossing: tuple[Ref, ...]
    """The representations that are sent, in order."""
    readers: tuple[CrossingReader, ...]

    @classmethod
    def of(cls, models: Mapping[str, ModelRecord], split: Split) -> SplitSides:
        """Return the sides of a split of these models.

        Raises:
            BadPlan: the plan is not a plan of these models.
        """
        layouts = layouts_of(models)
        outputs = [Output(name, tap_nodes(name, split.plan, layouts)) for name in models]
        nodes = {n.ref: n for output in outputs for n in upstream_nodes(output.taps)}
        ends = tuple(nodes[end] for end in split.ends if end.stage != HEAD)
        local = {end.model for end in split.ends if end.stage == HEAD}
        device, server = split_between(outputs, ends, local)
        readers = tuple(
            CrossingReader(
                node.ref,
                step.makes.share if step.makes else None,
                None if step.makes else step.model,
            )
            for step in server.steps
            for node in step.reads
            if node in server.takes
        )
        crossing = tuple(node.ref for node in server.takes)
        return cls(split.plan, _computed(device), _computed(server), crossing, readers)


def crossing_shape(models: Mapping[str, ModelRecord], ref: Ref) -> str:
    """Return the shape of a representation in words, such as `112x14x14`."""
    stages = models[ref.model].stages
    shape = next(stage["shape"] for stage in stages if stage["name"] == ref.stage)
    return "x".join(map(str, shape))


def _computed(part: EntryPoint) -> frozenset[Ref]:
    return frozenset(
        step.makes.ref if step.makes else Ref(step.model, HEAD) for step in part.steps
    )
