"""The part of a merged model that the linear maps of a plan can change, with trainable maps."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from spaces.adapters import Adapter, LinearAdapter, LinearMap, build_adapter
from spaces.liveness import canonical
from spaces.merged import LinearMaps, ModelsByName
from spaces.model_facts import ModelFacts, layouts_by_model
from spaces.node import Node, tap_nodes, upstream_nodes
from spaces.plan import Ref, Share, SharePlan
from spaces.stages import Grid

Representations = Mapping[Ref, Tensor]


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
            share: copy.deepcopy(build_adapter(share, maps.get(share), _grid(share, facts)))
            for share in plan.shares
        }
        self._maps = nn.ModuleList(self._adapters.values())
        self._maps.requires_grad_(True)

    def forward(self, sources: Representations) -> dict[Ref, Tensor]:
        """Return the taps that the maps can change; `sources` are unmerged representations."""
        values: dict[Node, Tensor] = {}
        for node in self._nodes:
            assert node.source is not None  # an adapter is upstream of it
            read = values[node.source] if _is_merged(node.source) else sources[node.source.ref]
            if node.share:
                values[node] = self._adapters[node.share](read)
            else:
                values[node] = self._models[node.ref.model].run_stage(node.ref.stage, read)
        return {node.ref: values[node] for node in self._taps}

    def linear_maps(self) -> dict[Share, LinearMap]:
        """Return the maps as they are now."""
        return {
            share: adapter.as_map()
            for share, adapter in self._adapters.items()
            if isinstance(adapter, LinearAdapter)
        }


def _grid(share: Share, facts: Mapping[str, ModelFacts]) -> Grid:
    return facts[share.recipient.model].stage(share.recipient.stage).grid


def _is_merged(node: Node) -> bool:
    """Return whether an adapter is upstream of a node, or the node is one."""
    upstream: Node | None = node
    while upstream is not None:
        if upstream.share:
            return True
        upstream = upstream.source
    return False
