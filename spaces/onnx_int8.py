"""An ONNX graph whose layers compute in int8: with weights, activations and biases in integers.

The graph holds `QuantizeLinear` and `DequantizeLinear` around its layers, which runtimes turn into
integer kernels. onnxruntime's quantiser makes it: weights symmetric per output channel,
activations unsigned per tensor, between their extremes. A `Clip` or
`Relu` behind a layer becomes the limits of that range. The layers' biases then take up the mean
error, see `spaces.onnx_grafts`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from spaces.graph_export import INPUTS_KEY
from spaces.onnx_grafts import INT8_OPERATORS, correct_biases

ACTIVATIONS = ("Clip", "Relu")
Feeds = Iterable[Mapping[str, Tensor]]
"""The inputs of the graph, by name, frame by frame; they are read several times."""


def fold_graph(graph: Path) -> onnx.ModelProto:
    """Return the graph of a file as quantisers need it: normalisations folded into the layers."""
    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"
        quant_pre_process(graph, folded, skip_symbolic_shape=True)
        model = onnx.load(folded)
    # The quantiser transposes weights and infers the shapes again.
    del model.graph.value_info[:]
    used = {node.domain for node in model.graph.node}
    imports = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    return model


def layers_by_part(model: onnx.ModelProto, parts: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of the layers of each part of a merged model that has any.

    `parts` are the paths of `MergedModel.parts`, which begin the names of their weights.
    """
    layers = [node for node in model.graph.node if node.op_type in INT8_OPERATORS]
    by_part = {
        part: [node.name for node in layers if any(_holds(part, name) for name in node.input)]
        for part in parts
    }
    return {part: names for part, names in by_part.items() if names}


def _holds(part: str, weight: str) -> bool:
    return f"merged.{part}." in weight


def quantize_graph(
    model: onnx.ModelProto, feeds: Feeds, excluded: Collection[str]
) -> onnx.ModelProto:
    """Return a folded graph with its layers in int8, except the `excluded` ones, by name."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "folded.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantization.quantize_static(
            source,
            target,
            _Calibration(feeds),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=[*INT8_OPERATORS, *ACTIVATIONS],
            nodes_to_exclude=list(excluded),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Answers in 256 steps would have ties.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        quantised = onnx.load(target)
    correct_biases(model, quantised, feeds)
    inputs = [entry for entry in model.metadata_props if entry.key == INPUTS_KEY]
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(inputs)
    return quantised


class _Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Gives the quantiser the inputs frame by frame."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds: Iterator[Mapping[str, Tensor]] = iter(feeds)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        feed = next(self._feeds, None)
        return None if feed is None else {name: t.numpy() for name, t in feed.items()}
