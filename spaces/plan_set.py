"""Evaluate many plans in one pass: every distinct representation is computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from spaces.execution import execution_order
from spaces.liveness import canonical
from spaces.merged import LinearMaps, ModelsByName
from spaces.model_facts import ModelFacts, layouts_by_model
from spaces.node import AS_GIVEN, Node, Output, tap_nodes, upstream_nodes
from spaces.plan import HEAD, Ref, SharePlan
from spaces.stages import Layout, StagedModel
from spaces.stored_modules import StoredModules, stored_weights

FrameMeasure = Callable[[StagedModel, Tensor, Tensor], Tensor]


class PlanSet:
    """Plans over the same models, evaluated together.

    A map is applied as an adapter, unless a layer that takes it in is rounded after folding: then
    the layer is a copy with the map folded in, as in a bundle.

    Raises:
        BadPlan: a plan does not fit the models, contains a cycle, or a linear share has no map.
        BadWeights: a weight is too large for the precision that a plan gives it.
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
        self.plans = [canonical(plan, layouts).with_own_maps() for plan in plans]
        self.outputs: list[dict[str, Output]] = [
            _outputs(plan, facts, layouts) for plan in self.plans
        ]
        """For each plan, the output of each model."""
        self.distinct: list[Output] = list(
            dict.fromkeys(output for plan in self.outputs for output in plan.values())
        )
        """The distinct outputs over all plans and models."""
        self._modules = StoredModules(models, facts, maps)
        self._modules.build(self._nodes(), self.distinct)

    def _nodes(self) -> list[Node]:
        return upstream_nodes(tuple(node for output in self.distinct for node in output.taps))

    def restrict_to(self, names: Collection[str]) -> PlanSet:
        """Return the same plans, restricted to the outputs of some models."""
        restricted = copy.copy(self)
        restricted.distinct = [output for output in self.distinct if output[0] in names]
        return restricted

    @property
    def inputs_read(self) -> frozenset[str]:
        """The models whose input some plan reads."""
        return frozenset(node.ref.model for node in self._nodes() if node.source is None)

    def answers(self, inputs: Mapping[str, Tensor]) -> Iterator[tuple[Output, Tensor]]:
        """Yield each distinct output for one batch, in the order of `distinct`.

        `inputs` holds the (batch, channels, height, width) input of each model in `inputs_read`.
        """
        return self._evaluate(inputs, lambda model, head, taps: head(taps))

    def comparables(self, inputs: Mapping[str, Tensor]) -> Iterator[tuple[Output, Tensor]]:
        """Yield each distinct output in its comparable form; see `spaces.tasks.task`."""
        return self._evaluate(inputs, lambda model, head, taps: model.comparable(taps, head))

    def compare_with_first(
        self, inputs: Mapping[str, Tensor], measure: FrameMeasure
    ) -> Iterator[tuple[Output, Tensor]]:
        """Yield each distinct output with its measure per frame, (batch,), against the first plan.

        A measure, such as `StagedModel.agreement`, compares two comparable answers.
        """
        first = self.outputs[0]
        originals: dict[str, Tensor] = {}
        for output, answer in self.comparables(inputs):
            if output == first[output.model]:  # comes before all others of its model
                originals[output.model] = answer
            model = self.models[output.model]
            yield output, measure(model, answer, originals[output.model])

    @torch.no_grad()
    def _evaluate(
        self,
        inputs: Mapping[str, Tensor],
        read: Callable[[StagedModel, nn.Module, list[Tensor]], Tensor],
    ) -> Iterator[tuple[Output, Tensor]]:
        """Run all steps; free each representation after its last use."""
        values: dict[Node, Tensor] = {}
        for step in execution_order(self.distinct):
            if step.output:
                head = self._modules.head(step.output)
                answer = read(self.models[step.model], head, [values[tap] for tap in step.reads])
            elif step.makes:
                values[step.makes] = self._modules.compute(
                    step.makes, values[step.reads[0]] if step.reads else inputs[step.model]
                )
            for node in step.frees:
                del values[node]
            if step.output:
                yield step.output, answer


def _outputs(
    plan: SharePlan, facts: Mapping[str, ModelFacts], layouts: Mapping[str, Layout]
) -> dict[str, Output]:
    weights = stored_weights(plan, facts)
    return {
        name: Output(
            name,
            tap_nodes(name, plan, layouts, weights),
            weights.get(Ref(name, HEAD), AS_GIVEN),
        )
        for name in layouts
    }
