"""The answers of each task as JSON data."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from spaces.split.server import SplitServer
from spaces.tasks.detection import Detections
from spaces.tasks.task import ClassNames, TaskName

MOST_CLASSES = 5
"""Classes of a classifier that are listed, the most probable first."""


def answers_as_json(server: SplitServer, answers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answers to one frame, by model."""
    contents = server.contents
    return {
        name: _AS_JSON[contents.tasks[name]](answer, contents.classes.get(name, ()))
        for name, answer in answers.items()
    }


def _classification(logits: Tensor, names: ClassNames) -> list[dict[str, Any]]:
    probabilities = logits[0].softmax(0)
    best = probabilities.topk(min(MOST_CLASSES, len(probabilities)))
    return [
        {**_class(number, names), "probability": round(probability, 6)}
        for number, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _detection(answer: list[Detections], names: ClassNames) -> list[dict[str, Any]]:
    (detections,) = answer
    rows = zip(*(tensor.tolist() for tensor in detections), strict=True)
    return [
        {
            **_class(number, names),
            "score": round(score, 6),
            "box": [round(side, 2) for side in box],
        }
        for box, score, number in rows
    ]


def _segmentation(answer: list[Tensor], names: ClassNames) -> dict[str, Any]:
    return _array(answer[0].short())


def _numbers(answer: Tensor, names: ClassNames) -> dict[str, Any]:
    return _array(answer[0].float())


def _array(tensor: Tensor) -> dict[str, Any]:
    """Return a tensor as its shape, its type, and its compressed bytes in base64."""
    array = tensor.cpu().contiguous().numpy()
    little = array.astype(array.dtype.newbyteorder("<"))
    return {
        "shape": list(array.shape),
        "dtype": little.dtype.str,
        "zlib_base64": base64.b64encode(zlib.compress(little.tobytes())).decode(),
    }


def _class(number: int, names: ClassNames) -> dict[str, Any]:
    name = names[number] if 0 <= number < len(names) else ""
    return {"class": int(number), **({"name": name} if name else {})}


_AS_JSON: Mapping[TaskName, Callable[[Any, ClassNames], Any]] = {
    "classification": _classification,
    "detection": _detection,
    "embedding": _numbers,
    "dense": _numbers,
    "segmentation": _segmentation,
}
