"""Evaluate many plans in one pass: every distinct representation is computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from spaces.adapters import Adapter, build_adapter
from spaces.liveness import canonical
from spaces.merged import LinearMaps, ModelsByName, execution_order
from spaces.model_facts import ModelFacts, layouts_by_model
from spaces.node import Node, tap_nodes, upstream_nodes
from spaces.plan import Share, SharePlan
from spaces.stages import StagedModel

OutputKey = tuple[str, tuple[Node, ...]]
"""Identifies the output of a model under a plan: the model and the nodes that its head reads."""


class PlanSet:
    """Plans over the same models, evaluated together. Maps are applied as adapters, never folded.

    Raises:
        BadPlan: a plan does not fit the models, contains a cycle, or a linear share has no map.
    """

    def __init__(
        self,
        models: ModelsByName,
        facts: Mapping[str, ModelFacts],
        plans: Sequence[SharePlan],
        maps: LinearMaps,
    ) -> None:
        layouts = layouts_by_model(facts)
        self.models = models
        self.plans = [canonical(plan, layouts) for plan in plans]
        self.outputs: list[dict[str, OutputKey]] = [
            {name: (name, tap_nodes(name, plan, layouts)) for name in models}
            for plan in self.plans
        ]
        """For each plan, the key of the output of each model."""
        self.distinct: list[OutputKey] = list(
            dict.fromkeys(output for plan in self.outputs for output in plan.values())
        )
        """The distinct output keys over all plans and models."""
        shares = {share for plan in self.plans for share in plan.shares}
        self._adapters: dict[Share, Adapter] = {
            share: build_adapter(
                share,
                maps.get(share),
                facts[share.recipient.model].stage(share.recipient.stage).grid,
            ).to(models[share.recipient.model].device)
            for share in shares
        }

    def restrict_to(self, names: Collection[str]) -> PlanSet:
        """Return the same plans, restricted to the outputs of some models."""
        restricted = copy.copy(self)
        restricted.distinct = [output for output in self.distinct if output[0] in names]
        return restricted

    @property
    def inputs_read(self) -> frozenset[str]:
        """The models whose input some plan reads."""
        nodes = upstream_nodes(tuple(node for _, taps in self.distinct for node in taps))
        return frozenset(node.ref.model for node in nodes if node.source is None)

    def answers(self, inputs: Mapping[str, Tensor]) -> Iterator[tuple[OutputKey, Tensor]]:
        """Yield each distinct output for one batch, in the order of `distinct`.

        `inputs` holds the (batch, channels, height, width) input of each model in `inputs_read`.
        """
        return self._evaluate(inputs, lambda model, taps: model.head(taps))

    def probabilities(self, inputs: Mapping[str, Tensor]) -> Iterator[tuple[OutputKey, Tensor]]:
        """Yield the probabilities of each distinct output; see `StagedModel.probabilities`."""
        return self._evaluate(inputs, lambda model, taps: model.probabilities(taps))

    @torch.no_grad()
    def _evaluate(
        self, inputs: Mapping[str, Tensor], read: Callable[[StagedModel, list[Tensor]], Tensor]
    ) -> Iterator[tuple[OutputKey, Tensor]]:
        """Run all steps; free each representation after its last use."""
        values: dict[Node, Tensor] = {}
        for step in execution_order(self.distinct):
            if step.makes is None:
                output = read(self.models[step.model], [values[tap] for tap in step.reads])
            else:
                values[step.makes] = self._compute(
                    step.makes, values[step.reads[0]] if step.reads else inputs[step.model]
                )
            for node in step.frees:
                del values[node]
            if step.makes is None:
                yield (step.model, step.reads), output

    def _compute(self, node: Node, read: Tensor) -> Tensor:
        if node.share:
            adapted: Tensor = self._adapters[node.share](read)
            return adapted
        return self.models[node.ref.model].run_stage(node.ref.stage, read)
