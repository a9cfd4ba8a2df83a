"""The runtimes that `export --target` knows, by name."""

from __future__ import annotations

from collections.abc import Mapping

from search.deploy.runtimes.operator_list import load_operator_list
from search.deploy.runtimes.target import RuntimeTarget

OPSET = 17
"""The newest set that TensorRT 8.5 and 8.6 read, within RKNN's 12 to 19, and the oldest with
LayerNormalization. Which sets Hailo reads is in its guide only, which was not at hand."""
IR_VERSION = 8
"""The version that came with OPSET; later versions only add types and functions."""

_TARGETS = (
    RuntimeTarget(
        name="onnxruntime",
        title="ONNX Runtime",
        opset=OPSET,
        ir_version=IR_VERSION,
        compressed_weights=True,
        keeps_integers=False,
        weights_beside=True,
        next_step="Load it with `onnxruntime.InferenceSession('model.onnx')`.",
    ),
    RuntimeTarget(
        name="openvino",
        title="OpenVINO",
        opset=OPSET,
        ir_version=IR_VERSION,
        compressed_weights=True,
        keeps_integers=True,
        weights_beside=True,
        next_step="Load it with `openvino.Core().compile_model('model.onnx', 'CPU', "
        "{'EXECUTION_MODE_HINT': 'ACCURACY'})`.",
    ),
    RuntimeTarget(
        name="tensorrt",
        title="TensorRT",
        opset=OPSET,
        ir_version=IR_VERSION,
        compressed_weights=False,
        keeps_integers=False,
        weights_beside=True,
        next_step="Build an engine on the device: "
        "`trtexec --onnx=model.onnx --saveEngine=model.engine --fp16`.",
        operators=load_operator_list("tensorrt"),
    ),
    RuntimeTarget(
        name="litert",
        title="LiteRT",
        opset=OPSET,
        ir_version=IR_VERSION,
        compressed_weights=False,
        keeps_integers=False,
        weights_beside=False,
        next_step="Convert it in an environment of its own: "
        "`onnx2tf -i model.onnx -o litert -rtpo Erf`.",
        operators=load_operator_list("litert"),
    ),
    RuntimeTarget(
        name="hailo",
        title="Hailo",
        opset=OPSET,
        ir_version=IR_VERSION,
        compressed_weights=False,
        keeps_integers=False,
        weights_beside=False,
        next_step="Parse it with `hailo parser onnx model.onnx --hw-arch hailo8`, a detector with "
        "`--end-node-names` and the convolutions that give its raw outputs; "
        "then `hailo optimize` and `hailo compiler`.",
        operators=load_operator_list("hailo"),
    ),
    RuntimeTarget(
        name="rknn",
        title="RKNN-Toolkit2",
        opset=OPSET,
        ir_version=IR_VERSION,
        compressed_weights=False,
        keeps_integers=False,
        weights_beside=True,
        next_step="Load it with `rknn.load_onnx(model='model.onnx')`, "
        "then `rknn.build(do_quantization=True, dataset='frames.txt')`.",
        operators=load_operator_list("rknn"),
    ),
)

TARGETS: Mapping[str, RuntimeTarget] = {target.name: target for target in _TARGETS}
