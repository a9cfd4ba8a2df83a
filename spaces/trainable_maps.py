"""The part of a merged model that the linear maps of a plan can change, with trainable maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from spaces.adapters import Adapter, LinearAdapter, LinearMap, apply_maps, build_adapter
from spaces.liveness import canonical
from spaces.merged import LinearMaps, ModelsByName
from spaces.model_facts import ModelFacts, layouts_by_model
from spaces.node import Node, tap_nodes, upstream_nodes
from spaces.plan import Ref, Share, SharePlan

Representations = Mapping[Ref, Tensor]
SMALLEST_DEVIATION = 1e-6


class TrainableMaps(nn.Module):
    """The adapters of a plan and the stages behind them, from what they read to the taps.

    Everything upstream of the first adapters is as in the unmerged models, and is not part of it.
    The stages are those of the models themselves, and only the maps have gradients.

    Raises:
        BadPlan: the plan does not fit the models, contains a cycle, or a linear share has no map.
    """

    def __init__(
        self,
        models: ModelsByName,
        facts: Mapping[str, ModelFacts],
        plan: SharePlan,
        maps: LinearMaps,
    ) -> None:
        super().__init__()
        layouts = layouts_by_model(facts)
        plan = replace(canonical(plan, layouts), precisions=(), refined=False)
        taps = [node for name in layouts for node in tap_nodes(name, plan, layouts)]
        self._models = models
        self._nodes = [node for node in upstream_nodes(tuple(taps)) if _is_merged(node)]
        self._taps = [node for node in taps if _is_merged(node)]
        self.sources = frozenset(
            node.source.ref for node in self._nodes if node.source and not _is_merged(node.source)
        )
        """The representations of unmerged models that the adapters read."""
        self.taps = frozenset(node.ref for node in self._taps)
        """The taps that the maps can change."""
        self.reads = self.sources | self.taps
        """What a refinement needs of the unmerged models: where the maps start and lead to."""
        self._adapters: dict[Share, Adapter] = {
            share: _trainable_adapter(share, maps, facts) for share in plan.shares
        }
        device = next(iter(models.values())).device
        self._maps = nn.ModuleList(self._adapters.values()).to(device)

    def forward(self, sources: Representations) -> dict[Ref, Tensor]:
        """Return the taps that the maps can change; `sources` are unmerged representations."""
        return self._run(sources, lambda adapter, read: adapter(read))

    @torch.no_grad()
    def calibrate(self, sources: Representations) -> None:
        """Measure how much each channel varies that a map reads or makes.

        Trained is the change of a map in units of these deviations, so that one learning rate
        serves representations of any size.
        """

        def measure_and_apply(adapter: Adapter, read: Tensor) -> Tensor:
            if isinstance(adapter, _TrainableMap):
                adapter.calibrate(read)
            applied: Tensor = adapter(read)
            return applied

        self._run(sources, measure_and_apply)

    def _run(
        self, sources: Representations, apply: Callable[[Adapter, Tensor], Tensor]
    ) -> dict[Ref, Tensor]:
        values: dict[Node, Tensor] = {}
        for node in self._nodes:
            assert node.source is not None  # an adapter is upstream of it
            read = values[node.source] if node.source in values else sources[node.source.ref]
            if node.share:
                values[node] = apply(self._adapters[node.share], read)
            else:
                values[node] = self._models[node.ref.model].run_stage(node.ref.stage, read)
        return {node.ref: values[node] for node in self._taps}

    def linear_maps(self) -> dict[Share, LinearMap]:
        """Return the maps as they are now."""
        return {
            share: adapter.as_map()
            for share, adapter in self._adapters.items()
            if isinstance(adapter, _TrainableMap)
        }


class _Factor(nn.Module):
    """One matrix or bias of a map, with its change in units of the deviations of its channels."""

    start: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", weight.detach().clone())
        self.register_buffer("scale", torch.ones_like(self.start))
        self.change = nn.Parameter(torch.zeros_like(self.start))

    @property
    def weight(self) -> Tensor:
        return self.start + self.scale * self.change


class _TrainableMap(Adapter):
    """The adapter of a linear share: one matrix, or two factors of a low rank, and a bias."""

    def __init__(self, adapter: LinearAdapter) -> None:
        super().__init__(adapter.grid)
        self._factors = [_Factor(weight) for weight in adapter.weights]
        self._bias = _Factor(adapter.bias)
        self._trained = nn.ModuleList([*self._factors, self._bias])

    def calibrate(self, representation: Tensor) -> None:
        """Measure the deviations of the channels before and after each factor."""
        values = super().forward(representation)
        for factor in self._factors:
            made = apply_maps(values, [factor.weight], None)
            factor.scale = channel_deviations(made)[:, None] / channel_deviations(values)
            self._bias.scale = channel_deviations(made)
            values = made

    def forward(self, representation: Tensor) -> Tensor:
        values = super().forward(representation)
        return apply_maps(values, [f.weight for f in self._factors], self._bias.weight)

    @torch.no_grad()
    def as_map(self) -> LinearMap:
        """Return the map as it is now, the factors multiplied, on the CPU."""
        first, *others = self._factors
        weight = first.weight
        for factor in others:
            weight = factor.weight @ weight
        return LinearMap(weight.cpu(), self._bias.weight.cpu())


def _trainable_adapter(share: Share, maps: LinearMaps, facts: Mapping[str, ModelFacts]) -> Adapter:
    grid = facts[share.recipient.model].stage(share.recipient.stage).grid
    adapter = build_adapter(share, maps.get(share), grid)
    return _TrainableMap(adapter) if isinstance(adapter, LinearAdapter) else adapter


def channel_deviations(values: Tensor) -> Tensor:
    """Return the standard deviation of each channel, (channels,)."""
    return values.movedim(1, 0).flatten(1).std(1).clamp_min(SMALLEST_DEVIATION)


def _is_merged(node: Node) -> bool:
    """Return whether an adapter is upstream of a node, or the node is one."""
    upstream: Node | None = node
    while upstream is not None:
        if upstream.share:
            return True
        upstream = upstream.source
    return False
