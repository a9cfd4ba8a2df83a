"""Give a detector's graph the outputs of its last convolutions, besides its boxes and scores.

What follows them - anchors, exponentials, joined levels - loses most where a device computes in
few bits, and some devices do not have it: then the graph is compiled up to these outputs.
"""

from __future__ import annotations

import onnx_ir as ir

RAW = "raw"


def add_raw_outputs(model: ir.Model, detector: str) -> None:
    """Add an output `DETECTOR_boxes_raw_K` or `..._scores_raw_K` for each last convolution.

    K counts from 0, level by level. A convolution that both answers need is named by its boxes.
    """
    outputs = {value.name: value for value in model.graph.outputs}
    named: set[ir.Value] = set()
    for answer in ("boxes", "scores"):
        last = _last_convolutions(outputs[f"{detector}_{answer}"])
        order = {node: index for index, node in enumerate(model.graph)}
        fresh = [
            conv for conv in sorted(last, key=order.__getitem__) if conv.outputs[0] not in named
        ]
        for index, conv in enumerate(fresh):
            value = conv.outputs[0]
            if value.is_graph_output():
                continue
            value.name = f"{detector}_{answer}_{RAW}_{index}"
            model.graph.outputs.append(value)
            named.add(value)


def _last_convolutions(answer: ir.Value) -> set[ir.Node]:
    found: set[ir.Node] = set()
    seen: set[ir.Value] = set()
    pending: list[ir.Value | None] = [answer]
    while pending:
        value = pending.pop()
        maker = value.producer() if value is not None else None
        if value is None or maker is None or value in seen:
            continue
        seen.add(value)
        if maker.op_type == "Conv":
            found.add(maker)
        else:
            pending += maker.inputs
    return found
