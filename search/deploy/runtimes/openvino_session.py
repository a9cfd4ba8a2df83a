"""Run an ONNX file with OpenVINO; the only door to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spaces.errors import MergeSearchError

Values = NDArray[np.float32] | Tensor


class OpenvinoMissing(MergeSearchError):
    """OpenVINO is not installed."""


EXACT = {"EXECUTION_MODE_HINT": "ACCURACY", "INFERENCE_PRECISION_HINT": "f32"}
"""By default OpenVINO computes in bfloat16 or float16 where the processor has it, and rounds the
inputs of layers with int8 weights to int8: the answers then depend on the machine, and differ from
those of other runtimes by a percent."""


class OpenvinoSession:
    """An ONNX file that OpenVINO runs on the CPU, in float32.

    Raises:
        OpenvinoMissing: openvino is not installed.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Load the file; `threads` is the number of threads, and 0 takes all cores."""
        openvino = _import_openvino()
        settings: dict[str, Any] = dict(EXACT)
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        # Not `convert_model`: it sends usage statistics, reading a file does not.
        self._model = openvino.Core().compile_model(str(path), "CPU", settings)
        self.inputs = [port.any_name for port in self._model.inputs]
        self.outputs = [port.any_name for port in self._model.outputs]

    def run(
        self, inputs: Mapping[str, Tensor | NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float32]]:
        """Return each output by name."""
        request = self._model.create_infer_request()
        results = request.infer({name: np.asarray(value) for name, value in inputs.items()})
        return {name: np.array(results[name]) for name in self.outputs}


def _import_openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise OpenvinoMissing(
            f"OpenVINO is not installed ({error}): pip install 'merge-search[openvino]'"
        ) from error
    return openvino
