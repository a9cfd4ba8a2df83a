"""The answers of an ONNX graph in the form that the evaluation scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from spaces.graph_export import OnnxSession
from spaces.inputs import Frame, InputSpec, prepare_batch
from spaces.node import Output

NMS_ANCHORS, MAX_DETECTIONS, NMS_IOU = 5000, 100, 0.5
"""As in effdet: anchors for non-maximum suppression, detections per frame, and the IoU."""


class GraphAnswers:
    """Answers of the graph of a bundle: those of its detectors with non-maximum suppression.

    `graph` is an ONNX file, or its content; `inputs` holds the input spec of each model.

    Raises:
        ExporterMissing: onnxruntime is not installed.
    """

    def __init__(self, graph: Path | bytes, inputs: Mapping[str, InputSpec]) -> None:
        self._session, self._inputs = OnnxSession(graph), inputs

    def __call__(self, pictures: list[Frame]) -> list[tuple[Output, Tensor]]:
        """Return the answer of each model to frames, as its head in torch gives it."""
        outputs = self.outputs(pictures)
        return [
            (Output(name, ()), answer)
            for name in self._inputs
            if (answer := _answer(name, outputs)) is not None
        ]

    def outputs(self, pictures: list[Frame]) -> dict[str, Tensor]:
        """Return the outputs of the graph by name."""
        prepared = prepare_feed(pictures, self._session.inputs, self._inputs)
        return {name: torch.from_numpy(a) for name, a in self._session.run(prepared).items()}

    def probabilities(self, pictures: list[Frame]) -> dict[str, Tensor]:
        """Return the (frames, n) probabilities of each model, as `StagedModel.probabilities`."""
        outputs = self.outputs(pictures)
        logits = {
            n.removesuffix("_logits"): t for n, t in outputs.items() if n.endswith("_logits")
        }
        scores = {
            n.removesuffix("_scores"): t for n, t in outputs.items() if n.endswith("_scores")
        }
        return {name: values.softmax(1) for name, values in logits.items()} | {
            name: values.flatten(1) for name, values in scores.items()
        }


def prepare_feed(
    pictures: list[Frame], names: Iterable[str], inputs: Mapping[str, InputSpec]
) -> dict[str, Tensor]:
    """Return the inputs of a graph, which are called `MODEL_input`."""
    return {name: prepare_batch(pictures, inputs[name.removesuffix("_input")]) for name in names}


def _answer(name: str, outputs: Mapping[str, Tensor]) -> Tensor | None:
    """Return (frames, classes) logits, or (frames, detections, 6) rows; None without outputs."""
    if f"{name}_logits" in outputs:
        return outputs[f"{name}_logits"]
    if f"{name}_boxes" not in outputs:
        return None
    frames = zip(outputs[f"{name}_boxes"], outputs[f"{name}_scores"], strict=True)
    return torch.stack([suppress_anchors(boxes, scores) for boxes, scores in frames])


def suppress_anchors(boxes: Tensor, scores: Tensor) -> Tensor:
    """Return (detections, 6) rows from (anchors, 4) boxes and (anchors, classes) scores."""
    best_scores, indices = scores.flatten().topk(min(NMS_ANCHORS, scores.numel()))
    anchors, classes = indices // scores.shape[1], indices % scores.shape[1]
    remaining = batched_nms(boxes[anchors], best_scores, classes, NMS_IOU)[:MAX_DETECTIONS]
    parts = (boxes[anchors], best_scores[:, None], classes[:, None] + 1.0)
    rows = torch.cat([part[remaining] for part in parts], dim=1)
    padded = torch.zeros(MAX_DETECTIONS, 6)
    padded[: len(rows)] = rows
    return padded
