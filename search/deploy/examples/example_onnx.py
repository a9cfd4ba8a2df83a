"""The merged models on pictures, by onnxruntime: python example_onnx.py PICTURE ...

Needs onnxruntime, numpy and Pillow, and neither torch nor merge-search. The pictures are squashed
or fitted to the networks' inputs as bundle.json says; Pillow's resizing differs from torch's by a
grey level here and there.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

HERE = Path(__file__).parent
INPUTS = json.loads((HERE / "bundle.json").read_text())["inputs"]
OVERLAP, LEAST_SCORE = 0.5, 0.3


def prepare_picture(picture, spec):
    """A picture as a normalised (1, c, height, width) input, and what one input pixel is in it."""
    wide, high = spec["width"], spec["height"]
    mean, std = (np.array(spec[key], np.float32) for key in ("mean", "std"))
    if len(mean) == 1:
        picture = picture.convert("L")
    resample = Image.Resampling[spec["interpolation"].upper()]
    canvas = np.empty((high, wide, len(mean)), np.float32)
    canvas[:] = mean * 255
    if spec["fit"] == "squash":
        inner = (wide, high)
    elif spec["fit"] == "letterbox":
        scale = min(wide / picture.width, high / picture.height)
        inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    else:  # crop: the centred part of a larger picture
        scale = max(wide / picture.width, high / picture.height) / spec["crop_pct"]
        larger = max(wide, round(picture.width * scale)), max(high, round(picture.height * scale))
        left, top = (larger[0] - wide) // 2, (larger[1] - high) // 2
        picture = picture.resize(larger, resample)
        picture, inner = picture.crop((left, top, left + wide, top + high)), (wide, high)
    resized = picture.resize(inner, resample)
    pixels = np.asarray(resized, np.float32).reshape(inner[1], inner[0], -1)
    canvas[: inner[1], : inner[0]] = pixels[..., ::-1] if spec["channels"] == "bgr" else pixels
    scales = np.array([picture.width / inner[0], picture.height / inner[1]] * 2)
    return ((canvas / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32), scales


def suppress(boxes, scores):
    """Rows of box, score and class (from 1) that no surer box of the same class covers."""
    found = []
    for kind in range(scores.shape[1]):
        sure = np.flatnonzero(scores[:, kind] >= LEAST_SCORE)
        rest = sure[np.argsort(-scores[sure, kind])]
        while len(rest):
            best, rest = rest[0], rest[1:]
            found.append((boxes[best], float(scores[best, kind]), kind + 1))
            low = np.maximum(boxes[rest, :2], boxes[best, :2])
            high = np.minimum(boxes[rest, 2:], boxes[best, 2:])
            common = np.clip(high - low, 0, None).prod(1)
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
            rest = rest[common <= OVERLAP * (areas[rest] + areas[best] - common)]
    return sorted(found, key=lambda row: -row[1])


session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
wanted = [value.name.removesuffix("_input") for value in session.get_inputs()]
for name in sys.argv[1:]:
    picture = Image.open(name).convert("RGB")
    prepared = {model: prepare_picture(picture, spec) for model, spec in INPUTS.items()}
    given = {f"{model}_input": prepared[model][0] for model in wanted}
    outputs = [value.name for value in session.get_outputs()]
    answers = dict(zip(outputs, session.run(None, given), strict=True))
    for model in INPUTS:
        if f"{model}_logits" in answers:
            logits = answers[f"{model}_logits"][0]
            likely = np.exp(logits - logits.max())
            likely /= likely.sum()
            best = np.argsort(-likely)[:3]
            print(f"{name}: {model}: " + ", ".join(f"class {k} {likely[k]:.0%}" for k in best))
            continue
        for box, score, kind in suppress(
            answers[f"{model}_boxes"][0], answers[f"{model}_scores"][0]
        ):
            box = np.clip(box * prepared[model][1], 0, [*picture.size, *picture.size])
            corners = ", ".join(f"{side:.0f}" for side in box)
            print(f"{name}: {model}: class {kind} {score:.0%} at {corners}")
