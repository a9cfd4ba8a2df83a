"""Compute the costs of a plan: bytes, multiply-accumulates (MACs) and activation memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise

from spaces.activations import ActivationLedger, Footprint
from spaces.execution import ExecutionStep, execution_order, running_rates
from spaces.liveness import Liveness, liveness
from spaces.map_folding import find_fold_targets
from spaces.model_facts import ModelFacts, layouts_by_model
from spaces.node import Node, Output, tap_nodes
from spaces.plan import HEAD, Precision, Ref, Share, SharePlan
from spaces.precision import stored_bytes
from spaces.stages import StageFacts

_FLOAT = 4


class CostModel:
    """Costs of plans over a fixed set of models; each tensor counts once.

    All methods take plans with names that are in `facts`.

    Raises:
        BadPlan: by every method, if a plan names an unknown stage or contains a cycle.
    """

    def __init__(self, facts: Mapping[str, ModelFacts]) -> None:
        self.facts = facts
        self.layouts = layouts_by_model(facts)
        self.unmerged_bytes = self.bytes(SharePlan())
        self.unmerged_macs = self.macs(SharePlan())
        self.unmerged_activation = self.activation(SharePlan())

    def bytes(self, plan: SharePlan) -> int:
        """Return the bytes of the parameters and buffers of live stages, heads and adapters."""
        live, precisions = liveness(plan, self.layouts), plan.precision_by_owner
        sizes: dict[tuple[str, Precision], int] = {}
        for owner in [*live.stages, *(Ref(name, HEAD) for name in self.facts)]:
            precision = self._precision(owner, precisions)
            tensors = self.facts[owner.model].tensors_at(owner.stage, precision)
            sizes.update({(name, precision): size for name, size in tensors.items()})
        adapters = (self.adapter_bytes(share, live, precisions) for share in live.shares)
        return sum(sizes.values()) + sum(adapters)

    def bytes_by_owner(
        self, plan: SharePlan, among: Collection[Ref] | None = None
    ) -> dict[Ref, int]:
        """Return the bytes of each live stage, head and unfolded map that holds tensors.

        A tensor of several stages of one precision counts for the first of them, a folded map for
        the layers that take it in. Models and stages are in order; a map stands in the place of
        the stage whose representation it replaces. Given owners, only these count: what a part of
        the merged model holds.
        """
        live, precisions = liveness(plan, self.layouts), plan.precision_by_owner
        added: dict[Ref, int] = {}
        for share in live.shares:
            for owner, size in self._bytes_of_map(share, live, precisions):
                added[owner] = added.get(owner, 0) + size
        held, counted = dict[Ref, int](), set[tuple[str, Precision]]()
        for name, facts in self.facts.items():
            for stage in (*facts.layout.stages, HEAD):
                owner = Ref(name, stage)
                if among is not None and owner not in among:
                    continue
                size = added.get(owner, 0)
                if owner in live.stages or stage == HEAD:
                    precision = self._precision(owner, precisions)
                    tensors = facts.tensors_at(stage, precision)
                    size += sum(n for t, n in tensors.items() if (t, precision) not in counted)
                    counted |= {(tensor, precision) for tensor in tensors}
                if size:
                    held[owner] = size
        return held

    def macs(self, plan: SharePlan) -> int:
        """Return the multiply-accumulates per frame of live stages, heads and adapters."""
        return sum(self.macs_by_owner(plan).values())

    def macs_by_owner(self, plan: SharePlan) -> dict[Ref, int]:
        """Return the MACs per frame of each live stage, head and unfolded map.

        A folded map counts for the layers that take it in, an unfolded one for the stage whose
        representation it replaces.
        """
        live = liveness(plan, self.layouts)
        macs = {ref: self.facts[ref.model].stage(ref.stage).macs for ref in live.stages}
        macs |= {Ref(name, HEAD): facts.head_macs for name, facts in self.facts.items()}
        for share in live.shares:
            for owner, added in self.macs_of_map(share, live).items():
                macs[owner] = macs.get(owner, 0) + added
        return macs

    def macs_of_map(self, share: Share, live: Liveness) -> dict[Ref, int]:
        """Return the MACs per frame that a live share adds, by the owner of the layer.

        They are negative where folding makes a layer smaller.
        """
        added: dict[Ref, int] = {}
        for owner, macs in self._macs_of_map(share, live):
            added[owner] = added.get(owner, 0) + macs
        return added

    def macs_per_second(self, plan: SharePlan, rates: Mapping[str, float]) -> float:
        """Return the multiply-accumulates per second of camera time.

        `rates` are the frames a second that each model answers for, by name. What several models
        need runs at the highest of their rates, see `spaces.execution.ticks`.
        """
        macs_by_owner, macs_by_rate = self.macs_by_owner(plan), Counter[float]()
        rate_by_owner = running_rates(self._outputs(plan), rates)
        for owner, macs in macs_by_owner.items():
            macs_by_rate[rate_by_owner[owner]] += macs
        # Whole numbers are summed first: the order of a set must not change the last digit.
        return sum((rate * macs for rate, macs in sorted(macs_by_rate.items())), 0.0)

    def activation(self, plan: SharePlan) -> int:
        """Return the peak of float32 activations for one frame, in bytes."""
        return max(peak for _, peak in self.activations(plan))

    def activations(self, plan: SharePlan) -> list[tuple[ExecutionStep, int]]:
        """Return the execution steps of the merged model with the peak of live bytes in each.

        Live are the inputs that are still to be read, the representations that a later step
        reads, the outputs so far, and what the step itself allocates. A caller that keeps its
        inputs while the merged model runs holds their bytes in addition.
        """
        return self.part_activations(plan, execution_order(self._outputs(plan)))

    def part_activations(
        self, plan: SharePlan, steps: Sequence[ExecutionStep]
    ) -> list[tuple[ExecutionStep, int]]:
        """Return the same for some steps of the plan that take no representations."""
        live = liveness(plan, self.layouts)
        memory, peaks = ActivationLedger(), list[int]()
        for step in steps:
            if not step.reads:
                memory.add(("input", step.model), self.facts[step.model].input_bytes)
        for step in steps:
            model_input = ("input", step.model)
            reads = step.reads[0] if step.reads else model_input
            makes = step.makes or ("answer", step.model)
            peaks.append(memory.run(makes, reads, self._footprint(step, live)))
            for value in step.frees if step.reads else (model_input,):
                memory.free(value)
        return list(zip(steps, peaks, strict=True))

    def _outputs(self, plan: SharePlan) -> Iterator[Output]:
        """Yield the output of each model under a plan without cycles."""
        return (Output(name, tap_nodes(name, plan, self.layouts)) for name in self.layouts)

    def _footprint(self, step: ExecutionStep, live: Liveness) -> Footprint:
        node = step.makes
        if node is None:
            return self.facts[step.model].head_footprint
        if node.share:
            return self.adapter_footprint(node.share, live)
        own = self.facts[step.model].stage(node.ref.stage).footprint
        share = self._passed_on(node)
        if share is None or not self._is_folded(share, live):
            return own
        donor, recipient = self._channels(share)
        return Footprint(own.peak * donor // recipient, own.held * donor // recipient)

    def _passed_on(self, node: Node) -> Share | None:
        """Return the share whose tensor a stage passes on, as a pool does, with donor channels."""
        while node.share is None and node.source is not None:
            consumers = self.facts[node.ref.model].consumers[node.source.ref.stage]
            if node.ref.stage not in consumers or not consumers[node.ref.stage].passes:
                return None
            node = node.source
        return node.share

    def _is_folded(self, share: Share, live: Liveness) -> bool:
        return (
            share.adapter.kind == "linear"
            and not find_fold_targets(share, live, self.facts).refusal
        )

    def adapter_footprint(self, share: Share, live: Liveness) -> Footprint:
        """Return the footprint of a live share: the resized donor, then the result of each map."""
        donor, recipient = self._ends(share)
        height, width = recipient.grid or (1, 1)
        channels = [] if donor.grid in (None, recipient.grid) else [donor.channels]
        if share.adapter.kind == "linear" and not self._is_folded(share, live):
            channels += [share.adapter.rank] if share.adapter.rank else []
            channels += [recipient.channels]
        sizes = [0, *(_FLOAT * height * width * count for count in channels)]
        return Footprint(max((a + b for a, b in pairwise(sizes)), default=0), sizes[-1])

    def _channels(self, share: Share) -> tuple[int, int]:
        donor, recipient = self._ends(share)
        return donor.channels, recipient.channels

    def _ends(self, share: Share) -> tuple[StageFacts, StageFacts]:
        return (
            self.facts[share.donor.model].stage(share.donor.stage),
            self.facts[share.recipient.model].stage(share.recipient.stage),
        )

    def adapter_bytes(
        self, share: Share, live: Liveness, precisions: Mapping[Ref, Precision]
    ) -> int:
        """Return the bytes that a live share adds; negative if folding makes a layer smaller.

        `precisions` are those of the plan, by owner.
        """
        return sum(size for _, size in self._bytes_of_map(share, live, precisions))

    def _bytes_of_map(
        self, share: Share, live: Liveness, precisions: Mapping[Ref, Precision]
    ) -> Iterator[tuple[Ref, int]]:
        """Yield the bytes that a live share adds, by the owner of the weights."""
        if share.adapter.kind == "identity":
            return
        donor, recipient = self._channels(share)
        fold = find_fold_targets(share, live, self.facts)
        if fold.refusal:
            shapes = _map_shapes(donor, recipient, share.adapter.rank)
            precision = self._precision(share.recipient, precisions)
            sizes = (stored_bytes(shape, precision) for shape in (*shapes, (recipient,)))
            yield share.recipient, sum(sizes)
            return
        for consumer in fold.consumers:
            owner = Ref(share.recipient.model, consumer.owner)
            precision = self._precision(owner, precisions)
            folded = consumer.folded_bytes(donor, precision)
            yield owner, folded - consumer.own_bytes(recipient, precision)

    def _precision(self, owner: Ref, precisions: Mapping[Ref, Precision]) -> Precision:
        return precisions.get(owner, self.facts[owner.model].dtype)

    def _macs_of_map(self, share: Share, live: Liveness) -> Iterator[tuple[Ref, int]]:
        if share.adapter.kind == "identity":
            return
        donor, recipient = self._ends(share)
        fold = find_fold_targets(share, live, self.facts)
        if fold.refusal:
            height, width = recipient.grid or (1, 1)
            shapes = _map_shapes(donor.channels, recipient.channels, share.adapter.rank)
            yield share.recipient, height * width * sum(rows * columns for rows, columns in shapes)
            return
        for consumer in fold.consumers:
            added = donor.channels - recipient.channels
            yield Ref(share.recipient.model, consumer.owner), added * consumer.macs_per_channel


def _map_shapes(donor: int, recipient: int, rank: int) -> list[tuple[int, int]]:
    return [(rank, donor), (recipient, rank)] if rank else [(recipient, donor)]
