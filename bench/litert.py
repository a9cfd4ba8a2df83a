"""Convert a graph of `export --target litert` with onnx2tf, and compare its answers.

    python3.11 -m venv litert && litert/bin/pip install onnx2tf==1.29.24
    litert/bin/python bench/litert.py street/litert/model.onnx

onnx2tf needs another numpy and protobuf than merge-search, so the script has an environment of its
own and imports nothing of merge-search. It runs the graph with onnxruntime, and the converted file
with LiteRT, on the same random inputs. The last line is one JSON object:

- onnx_bytes, tflite_bytes: size of the two files
- operators: number of LiteRT's operators in the converted file, by name
- difference: by output, the largest difference of any number, relative to the largest number
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import onnx2tf
import onnxruntime
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

Array = NDArray[np.float32]
SAMPLES = "calibration_image_sample_data_20x128x128x3_float32.npy"
"""onnx2tf reads sample images from this file, and downloads it where it is missing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("graph", type=Path)
    graph = parser.parse_args().graph.resolve()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    inputs = {
        value.name: random.standard_normal(value.shape, np.float32)
        for value in session.get_inputs()
    }
    names = [value.name for value in session.get_outputs()]
    expected = dict(zip(names, session.run(None, inputs), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        converted = convert(graph, Path(folder))
        interpreter = Interpreter(str(converted), num_threads=1)
        answers = run(interpreter, inputs)
        report = {
            "onnx_bytes": graph.stat().st_size,
            "tflite_bytes": converted.stat().st_size,
            "operators": Counter(node["op_name"] for node in interpreter._get_ops_details()),
            "difference": {
                name: difference(expected[name], answer)
                for name, answer in zip(names, answers, strict=True)
            },
        }
    print(json.dumps(report))


def convert(graph: Path, folder: Path) -> Path:
    """Return the file in float32 that onnx2tf makes of a graph."""
    np.save(folder / SAMPLES, np.random.default_rng(1).random((20, 128, 128, 3), np.float32))
    with contextlib.chdir(folder):
        onnx2tf.convert(
            input_onnx_file_path=str(graph),
            output_folder_path="out",
            replace_to_pseudo_operators=["erf"],
            non_verbose=True,
        )
    return folder / "out" / f"{graph.stem}_float32.tflite"


def run(interpreter: Any, inputs: dict[str, Array]) -> list[Array]:
    """Return the outputs, in the order of the outputs of the ONNX graph."""
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        name = detail["name"].removeprefix("serving_default_").partition(":")[0]
        array = inputs[name] if name in inputs else inputs[name.replace("_", "/", 1)]
        interpreter.set_tensor(detail["index"], laid_out(array, tuple(detail["shape"])))
    interpreter.invoke()
    outputs = sorted(interpreter.get_output_details(), key=lambda detail: place(detail["name"]))
    return [interpreter.get_tensor(detail["index"]) for detail in outputs]


def place(name: str) -> int:
    """Return the place of an output, whose name is Identity, Identity_2 or PartitionedCall:2."""
    digits = name.replace(":", "_").rpartition("_")[2]
    return int(digits) if digits.isdigit() else 0


def laid_out(array: Array, shape: tuple[int, ...]) -> Array:
    """Return an array of (batch, c, height, width) in the given shape: channels may be last."""
    return array if array.shape == shape else array.transpose(0, 2, 3, 1)


def difference(expected: Array, answer: Array) -> float:
    """Return the largest difference, relative to the largest number expected."""
    expected = laid_out(expected, answer.shape)
    return float(abs(answer - expected).max() / abs(expected).max())


if __name__ == "__main__":
    main()
