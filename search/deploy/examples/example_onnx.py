"""Run the merged models on pictures with onnxruntime: python example_onnx.py PICTURE ...

Needs onnxruntime, numpy and Pillow, and neither torch nor merge-search. The pictures are fitted to
the networks' inputs as bundle.json says; Pillow's resizing differs from torch's by a grey level in
some pixels.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).parent
DESCRIPTION = json.loads((HERE / "bundle.json").read_text())
INPUTS, CLASS_NAMES = DESCRIPTION["inputs"], DESCRIPTION["classes"]
IOU_THRESHOLD, MIN_SCORE = 0.5, 0.3


def prepare_picture(picture, spec):
    """Return a picture as a normalised (1, c, height, width) input, and the scales of its boxes.

    The scales turn (x1, y1, x2, y2) in input pixels into picture pixels.
    """
    width, height = spec["width"], spec["height"]
    mean, std = (np.array(spec[key], np.float32) for key in ("mean", "std"))
    if len(mean) == 1:
        picture = picture.convert("L")
    resample = Image.Resampling[spec["interpolation"].upper()]
    canvas = np.empty((height, width, len(mean)), np.float32)
    canvas[:] = mean * 255
    if spec["fit"] == "squash":
        inner = (width, height)
    elif spec["fit"] == "letterbox":
        scale = min(width / picture.width, height / picture.height)
        inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    else:  # crop: the centred part of a larger picture
        scale = max(width / picture.width, height / picture.height) / spec["crop_pct"]
        inner = (width, height)
        larger = (
            max(width, round(picture.width * scale)),
            max(height, round(picture.height * scale)),
        )
        left, top = (larger[0] - width) // 2, (larger[1] - height) // 2
        picture = picture.resize(larger, resample)
        picture = picture.crop((left, top, left + width, top + height))
    resized = picture.resize(inner, resample)
    pixels = np.asarray(resized, np.float32).reshape(inner[1], inner[0], -1)
    canvas[: inner[1], : inner[0]] = pixels[..., ::-1] if spec["channels"] == "bgr" else pixels
    scales = np.array([picture.width / inner[0], picture.height / inner[1]] * 2)
    return ((canvas / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32), scales


def suppress(boxes, scores):
    """Return rows of box, score and class (from 1) after non-maximum suppression per class."""
    detections = []
    for kind in range(scores.shape[1]):
        confident = np.flatnonzero(scores[:, kind] >= MIN_SCORE)
        remaining = confident[np.argsort(-scores[confident, kind])]
        while len(remaining):
            best, remaining = remaining[0], remaining[1:]
            detections.append((boxes[best], float(scores[best, kind]), kind + 1))
            low = np.maximum(boxes[remaining, :2], boxes[best, :2])
            high = np.minimum(boxes[remaining, 2:], boxes[best, 2:])
            intersection = np.clip(high - low, 0, None).prod(1)
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
            union = areas[remaining] + areas[best] - intersection
            remaining = remaining[intersection <= IOU_THRESHOLD * union]
    return sorted(detections, key=lambda row: -row[1])


def call_class(model, number):
    """Return the name of a class of a model, or its number in words."""
    names = CLASS_NAMES.get(model, [])
    return (names[number] if number < len(names) else "") or f"class {number}"


def describe_answer(model, answers):
    """Return in words what a model that is no detector says of the picture."""
    for output in (f"{model}_embedding", f"{model}_values"):
        if output in answers:
            values = answers[output][0]
            return f"{values.shape} numbers from {values.min():.3g} to {values.max():.3g}"
    logits = answers[f"{model}_logits"][0]
    if logits.ndim == 1:
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = np.argsort(-shares)[:3]
        return ", ".join(f"{call_class(model, k)} {shares[k]:.0%}" for k in best)
    classes, counts = np.unique(logits.argmax(0), return_counts=True)  # of every pixel
    largest = np.argsort(-counts)[:4]
    return ", ".join(
        f"{call_class(model, classes[k])} on {counts[k] / counts.sum():.0%}" for k in largest
    )


session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
models_with_input = [value.name.removesuffix("_input") for value in session.get_inputs()]
for name in sys.argv[1:]:
    picture = ImageOps.exif_transpose(Image.open(name)).convert("RGB")
    prepared = {model: prepare_picture(picture, spec) for model, spec in INPUTS.items()}
    inputs = {f"{model}_input": prepared[model][0] for model in models_with_input}
    outputs = [value.name for value in session.get_outputs()]
    answers = dict(zip(outputs, session.run(None, inputs), strict=True))
    for model in INPUTS:
        if f"{model}_boxes" not in answers:
            print(f"{name}: {model}: {describe_answer(model, answers)}")
            continue
        for box, score, kind in suppress(
            answers[f"{model}_boxes"][0], answers[f"{model}_scores"][0]
        ):
            box = np.clip(box * prepared[model][1], 0, [*picture.size, *picture.size])
            corners = ", ".join(f"{side:.0f}" for side in box)
            print(f"{name}: {model}: {call_class(model, kind)} {score:.0%} at {corners}")
