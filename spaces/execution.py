"""The order in which the stages, adapters and heads of a merged model run, whole or in parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from spaces.node import Node, Output, upstream_nodes
from spaces.plan import HEAD, Ref


@dataclass(frozen=True)
class ExecutionStep:
    """One call of a stage, an adapter or a head."""

    makes: Node | None
    """The node whose value a stage or an adapter computes; None for a head."""
    reads: tuple[Node, ...]
    """The nodes that are read; empty for a first stage, which reads the input of its model."""
    model: str
    """The model that the stage or head belongs to; for an adapter, the recipient."""
    output: Output | None = None
    """The output that a head computes; None for a stage or an adapter."""
    frees: tuple[Node, ...] = ()
    """The nodes that no later step reads."""


def execution_order(outputs: Iterable[Output]) -> list[ExecutionStep]:
    """Return the steps that compute outputs, every node once.

    A head runs as soon as its taps are computed, so that they can be freed early.
    """
    return list(answering(outputs).steps)


@dataclass(frozen=True)
class EntryPoint:
    """A part of a merged model that can be run by itself."""

    steps: tuple[ExecutionStep, ...]
    takes: tuple[Node, ...] = ()
    """The nodes whose values it is given."""
    gives: tuple[Node, ...] = ()
    """The nodes whose values it returns, besides the answers of its models."""

    @property
    def inputs_read(self) -> frozenset[str]:
        """The models whose prepared frames it reads."""
        return frozenset(step.model for step in self.steps if not step.reads)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it answers for, in order."""
        return tuple(step.model for step in self.steps if step.output is not None)


def answering(outputs: Iterable[Output]) -> EntryPoint:
    """Return the part that computes outputs from frames alone."""
    return _entry_point(outputs, computed=frozenset())


def trunk(outputs: Collection[Output]) -> EntryPoint:
    """Return the part that several outputs need.

    It gives the nodes that the rest reads. Without a share it has no steps.
    """
    readers = Counter(node for output in outputs for node in upstream_nodes(output.taps))
    shared = {node: None for node, count in readers.items() if count > 1}
    read_later = {
        node
        for step in answering(outputs).steps
        if step.makes not in shared
        for node in step.reads
    }
    gives = tuple(node for node in shared if node in read_later)
    steps = [_step(node) for node in upstream_nodes(gives)]
    return EntryPoint(_freeing(steps, kept=gives), gives=gives)


def tail(output: Output, trunk: EntryPoint) -> EntryPoint:
    """Return the part that computes an output from what the trunk gives, and from frames."""
    computed = frozenset(step.makes for step in trunk.steps if step.makes)
    return _entry_point([output], computed)


def split_between(
    outputs: Collection[Output], ends: tuple[Node, ...], local: Collection[str]
) -> tuple[EntryPoint, EntryPoint]:
    """Return the part that computes some nodes and answers for some models, and the rest.

    `local` are the models that the first part answers for. It gives what the rest takes.
    """
    here = [output for output in outputs if output.model in local]
    taps = tuple(tap for output in here for tap in output.taps)
    computed = frozenset(upstream_nodes((*ends, *taps)))
    rest = _entry_point((o for o in outputs if o.model not in local), computed)
    steps = [_step(node) for node in upstream_nodes((*rest.takes, *taps))]
    heads = [ExecutionStep(None, output.taps, output.model, output) for output in here]
    return EntryPoint(_freeing([*steps, *heads], kept=rest.takes), gives=rest.takes), rest


def computing(nodes: tuple[Node, ...]) -> EntryPoint:
    """Return the part that computes nodes from frames alone, and gives them."""
    steps = [_step(node) for node in upstream_nodes(nodes)]
    return EntryPoint(_freeing(steps, kept=nodes), gives=nodes)


def keeping(part: EntryPoint, nodes: tuple[Node, ...]) -> EntryPoint:
    """Return a part that also gives some of the nodes that it computes."""
    steps = [
        replace(step, frees=tuple(node for node in step.frees if node not in nodes))
        for step in part.steps
    ]
    return replace(part, steps=tuple(steps), gives=tuple(dict.fromkeys((*part.gives, *nodes))))


def _entry_point(outputs: Iterable[Output], computed: frozenset[Node]) -> EntryPoint:
    steps: list[ExecutionStep] = []
    scheduled = set(computed)
    for output in outputs:
        needed = upstream_nodes(output.taps)
        steps += [_step(node) for node in needed if node not in scheduled]
        steps.append(ExecutionStep(None, output.taps, output.model, output))
        scheduled.update(needed)
    read = dict.fromkeys(node for step in steps for node in step.reads)
    return EntryPoint(_freeing(steps), takes=tuple(node for node in read if node in computed))


def _step(node: Node) -> ExecutionStep:
    return ExecutionStep(node, () if node.source is None else (node.source,), node.ref.model)


def _freeing(steps: list[ExecutionStep], kept: Collection[Node] = ()) -> tuple[ExecutionStep, ...]:
    """Return the steps with what each frees: everything but the nodes to keep."""
    last_read = {node: index for index, step in enumerate(steps) for node in step.reads}
    return tuple(
        replace(
            step,
            frees=tuple(
                node
                for node in dict.fromkeys(step.reads)
                if last_read[node] == index and node not in kept
            ),
        )
        for index, step in enumerate(steps)
    )


def ticks(rates: Mapping[str, float]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield sets of models that answer for the same frames, with frames per second.

    A model of a lower rate answers for some of the frames that a faster one answers for: the
    sets begin with all models and lose the slowest, one rate after another.

    Examples:
        >>> [*ticks({"classifier": 1, "detector": 10})]
        [(('classifier', 'detector'), 1), (('detector',), 9)]
    """
    slower = 0.0
    for rate in sorted({*rates.values()}):
        yield tuple(name for name in rates if rates[name] >= rate), rate - slower
        slower = rate


def running_rates(outputs: Iterable[Output], rates: Mapping[str, float]) -> dict[Ref, float]:
    """Return at which rate each stage, adapter and head runs, by owner.

    It is the highest rate of the models that need it. An adapter has the name of the
    representation that it replaces.
    """
    by_owner: dict[Ref, float] = {}
    for output in sorted(outputs, key=lambda output: rates[output.model]):
        owners = [node.ref for node in upstream_nodes(output.taps)]
        by_owner.update(dict.fromkeys([*owners, Ref(output.model, HEAD)], rates[output.model]))
    return by_owner
