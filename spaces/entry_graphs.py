"""The graphs of a bundle: one whole, or one for each part that a box runs by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from spaces.bundle import Bundle
from spaces.errors import MergeSearchError
from spaces.graph_export import BundleGraph

WHOLE, TRUNK = "model", "trunk"
ALONE = "_alone"
"""Ends the name of the graph of one model by itself."""


class CannotSplit(MergeSearchError):
    """The graphs of a merged model would have equal names."""


def entry_graphs(bundle: Bundle) -> dict[str, BundleGraph]:
    """Return the trunk, the tail of each model, and each model alone, by name and in this order.

    Without a share there is no trunk.

    Raises:
        CannotSplit: a model has a name that another graph has, too.
    """
    merged, models = bundle.merged, [*bundle.tasks]
    names = [WHOLE, TRUNK, *models, *(f"{model}{ALONE}" for model in models)]
    for model in models:
        if names.count(model) > 1:
            raise CannotSplit(
                f"--split: the model {model!r} cannot have a graph of its own, because "
                f"{model}.onnx is another graph; rename the model in the config"
            )
    graphs = {TRUNK: BundleGraph(bundle, merged.trunk)} if merged.trunk.steps else {}
    graphs |= {model: BundleGraph(bundle, merged.tail(model)) for model in models}
    return graphs | {
        f"{model}{ALONE}": BundleGraph(bundle, merged.alone(model)) for model in models
    }


def run_in_turn(
    graphs: Mapping[str, BundleGraph],
    inputs: Mapping[str, Tensor],
    run: Callable[[str, dict[str, Tensor]], Mapping[str, Tensor]],
) -> dict[str, dict[str, Tensor]]:
    """Run graphs in their order and return the outputs of each, by name.

    `inputs` are the prepared frames by the names of inputs. A graph takes the representations that
    graphs before it returned. `run` computes the outputs of one graph from its inputs.
    """
    known = dict(inputs)
    outputs: dict[str, dict[str, Tensor]] = {}
    for name, graph in graphs.items():
        outputs[name] = dict(run(name, {key: known[key] for key in graph.inputs}))
        known |= outputs[name]
    return outputs
