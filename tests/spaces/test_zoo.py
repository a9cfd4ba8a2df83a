"""Stage tables against the real tensors of every supported network family."""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from networks import CLASSIFIERS, DETECTORS, Zoo, every_network, relative_error, size_of
from safetensors.torch import save, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spaces.errors import BadInput, BadWeights, HubUnreachable, UncuttableModel
from spaces.inputs import InputSpec
from spaces.model_facts import ModelFacts, collect_model_facts
from spaces.model_spec import Cut, InputSettings, ModelSpec
from spaces.stages import Layout, StagedModel, total_bytes, unique_tensors
from spaces.zoo import build_skeleton, load_model

CUTS: tuple[Cut, ...] = ("stages", "blocks")
STAGES_BY_FAMILY = {
    "timm/test_vit": "patch_embed blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.5 pool",
    "timm/test_convnext": "stem stages.0 stages.1 stages.2 stages.3 pool",
    "timm/test_mambaout": "stem stages.0 stages.1 stages.2 stages.3 pool",
    "timm/test_coatnet": "stem stages.0 stages.1 stages.2 stages.3 pool",
    "timm/levit_128s": "stem stages.0 stages.1 stages.2 pool",
    "timm/starnet_s050": "stem stages.0 stages.1 stages.2 stages.3 pool",
    "timm/pvt_v2_b0": "patch_embed stages.0 stages.1 stages.2 stages.3 pool",
    "timm/mvitv2_tiny": "patch_embed stages.0 stages.1 stages.2 stages.3 pool",
    "timm/swin_s3_tiny_224": "patch_embed layers.0 layers.1 layers.2 layers.3 pool",
    "torchvision/resnet18": "stem layer1 layer2 layer3 layer4 pool",
    "torchvision/shufflenet_v2_x0_5": "conv1 stage2 stage3 stage4 conv5 pool",
    "torchvision/squeezenet1_1": "stem features.3 features.4 features.6 features.7 features.9 "
    "features.10 features.11 features.12",
}
"""By architecture, networks that are no plain chain of their children."""


@every_network
@torch.no_grad()
def test_the_chain_of_stages_computes_the_forward_pass(zoo: Zoo, arch: str) -> None:
    model, original = zoo.model(arch), zoo.original(arch)
    if model.task == "classification":
        answers: list[Any] = [model(original.inputs)]
    else:
        representations = dict(model.walk(original.inputs))
        head: Any = model.head
        classes, boxes = head.raw([representations[tap] for tap in model.layout.taps])
        answers = [*classes, *boxes]
    for actual, expected in zip(answers, original.answers, strict=True):
        assert relative_error(actual, expected) < 1e-5


@every_network
def test_channels_and_reductions_are_those_of_feature_info(zoo: Zoo, arch: str) -> None:
    facts, features = zoo.facts(arch), zoo.original(arch).features
    listed = [entry for entry in features if entry[0] in facts.layout.stages]
    assert len(listed) >= 3
    for module, channels, reduction in listed:
        grid = tuple(side // reduction for side in size_of(arch))
        assert facts.stage(module).shape == (channels, *grid), module


@every_network
@torch.no_grad()
def test_the_table_has_the_shapes_of_the_real_tensors(zoo: Zoo, arch: str) -> None:
    model, facts = zoo.model(arch), zoo.facts(arch)
    walked = [
        (name, tuple(rep.shape[1:])) for name, rep in model.walk(model.example_input(batch=2))
    ]
    assert walked == [(stage.name, stage.shape) for stage in facts.stages]


@every_network
@torch.no_grad()
def test_no_stage_or_head_modifies_its_input(zoo: Zoo, arch: str) -> None:
    """Another model may read the same tensor later."""
    model = zoo.model(arch)
    walked = [(name, rep, rep.clone()) for name, rep in model.walk(model.example_input(batch=1))]
    model.head([rep for name, rep, _ in walked if name in model.layout.taps])
    assert [name for name, now, then in walked if not torch.equal(now, then)] == []


@every_network
def test_the_stages_and_the_head_hold_every_tensor_once(zoo: Zoo, arch: str) -> None:
    model, facts = zoo.model(arch), zoo.facts(arch)
    head: Any = model.head
    anchors = total_bytes(unique_tensors(head.anchors)) if model.task == "detection" else 0
    actual = sum(stage.bytes for stage in facts.stages) + facts.head_bytes
    assert actual == zoo.original(arch).bytes + anchors == total_bytes(unique_tensors(model))


@every_network
def test_the_macs_of_the_table_are_those_of_one_forward_pass(zoo: Zoo, arch: str) -> None:
    model, facts = zoo.model(arch), zoo.facts(arch)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(model.example_input(batch=1))
    table = sum(stage.macs for stage in facts.stages) + facts.head_macs
    assert 2 * table == counter.get_total_flops()


@pytest.mark.parametrize("arch", CLASSIFIERS)
def test_the_only_tap_of_a_classifier_is_its_last_stage(zoo: Zoo, arch: str) -> None:
    facts = zoo.facts(arch)
    assert facts.layout.taps == facts.layout.stages[-1:]
    assert facts.stages[-1].grid is None
    assert [stage.name for stage in facts.stages if stage.tap] == list(facts.layout.taps)


@pytest.mark.parametrize("arch", DETECTORS)
def test_the_taps_of_a_detector_are_the_three_inputs_of_its_pyramid(zoo: Zoo, arch: str) -> None:
    facts = zoo.facts(arch)
    assert facts.layout.taps == ("blocks.2", "blocks.4", "blocks.6")
    assert [facts.stage(tap).grid for tap in facts.layout.taps] == [(16, 16), (8, 8), (4, 4)]
    assert [stage.name for stage in facts.stages if stage.tap] == list(facts.layout.taps)


@torch.no_grad()
@pytest.mark.parametrize("arch", DETECTORS)
def test_detections_are_boxes_with_scores_and_classes_from_one(zoo: Zoo, arch: str) -> None:
    model = zoo.model(arch)
    detections = model(model.example_input(batch=2))
    assert detections.shape[0] == 2 and detections.shape[2] == 6
    scores, classes = detections[..., 4], detections[..., 5]
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (classes[scores > 0] >= 1).all() and (classes <= model.num_classes).all()


def test_the_efficientnet_table_ends_with_the_last_convolution_and_the_pool(zoo: Zoo) -> None:
    assert zoo.facts("timm/efficientnet_b0").layout.stages == (
        "stem",
        *(f"blocks.{i}" for i in range(7)),
        "conv_head",
        "pool",
    )


def test_macs_and_bytes_have_the_closed_form_of_a_convolution() -> None:
    facts = _survey_of(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 16, 1, bias=False))
    first, second = facts.stages
    assert (first.shape, second.shape) == ((8, 16, 16), (16, 16, 16))
    assert (first.macs, second.macs) == (8 * 3 * 9 * 16 * 16, 16 * 8 * 16 * 16)
    assert (first.bytes, second.bytes) == (4 * (8 * 3 * 9 + 8), 4 * 16 * 8)


def test_a_tensor_in_two_stages_is_counted_once() -> None:
    shared = nn.Conv2d(3, 3, 1)
    facts = _survey_of(shared, nn.Sequential(shared, nn.ReLU()))
    names = {name for owner in facts.tensors.values() for name in owner}
    assert len(names) == 2


def _survey_of(*stages: nn.Module) -> ModelFacts:
    names = tuple(str(i) for i in range(len(stages)))
    head = nn.Sequential(_First(), nn.AdaptiveAvgPool2d(1))
    spec = InputSpec(32, 32, (0, 0, 0), (1, 1, 1))
    layout = Layout("tiny", names, names[-1:])
    return collect_model_facts(StagedModel(layout, stages, head, spec, "classification", 1))


class _First(nn.Module):
    def forward(self, taps: list[torch.Tensor]) -> torch.Tensor:
        return taps[0]


def test_the_number_of_classes_changes_only_the_head(zoo: Zoo) -> None:
    arch = "timm/mobilenetv2_100"
    few = load_model(ModelSpec("few", arch, "none", num_classes=7, size=(64, 64)))
    assert few.num_classes == 7
    assert few(few.example_input(batch=2)).shape == (2, 7)
    of_stages = [stage.bytes for stage in zoo.facts(arch).stages]
    assert [stage.bytes for stage in collect_model_facts(few).stages] == of_stages


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        ("crossvit_9_240", "no tensor but its answer"),
        ("efficientvim_m1", r"heads\.3, with 9\d% of its weights, pass on several tensors"),
    ],
)
def test_the_error_says_why_a_network_cannot_be_cut(arch: str, reason: str) -> None:
    with pytest.raises(UncuttableModel, match=rf"mine: timm/{arch} cannot be cut: .*{reason}"):
        load_model(ModelSpec("mine", f"timm/{arch}", "none"))


@pytest.mark.parametrize(("arch", "stages"), STAGES_BY_FAMILY.items())
def test_networks_of_every_kind_are_cut_into_stages_with_their_answers(
    arch: str, stages: str
) -> None:
    """`load_model` compares the answers; a skeleton of the same spec has the same tensors."""
    for cut in CUTS:
        spec = ModelSpec("mine", arch, "none", num_classes=7, cut=cut)
        model = load_model(spec)
        if cut == "stages":
            assert " ".join(model.layout.stages) == stages
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        empty = build_skeleton(spec)
        assert {name: value.shape for name, value in empty.state_dict().items()} == shapes
        assert empty.layout == model.layout


def test_a_network_of_torchvision_loads_its_checkpoint_and_its_evaluation_input(
    tmp_path: Path,
) -> None:
    net = torchvision.models.get_model("mobilenet_v3_small", weights=None, num_classes=5)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    arch = "torchvision/mobilenet_v3_small"
    model = load_model(ModelSpec("mine", arch, str(tmp_path / "net.safetensors"), num_classes=5))
    assert torch.equal(next(model.stages[0].parameters()), net.features[0][0].weight)
    assert (model.input.height, model.input.fit, model.num_classes) == (224, "crop", 5)
    assert model.input.crop_pct == 224 / 256 and model.input.mean == (0.485, 0.456, 0.406)
    with pytest.raises(BadWeights, match="has 5 classes, the network 1000: set num_classes: 5"):
        load_model(ModelSpec("mine", arch, str(tmp_path / "net.safetensors")))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec("mine", "torchvision/resnet19", "none"), "has no network 'resnet19'; it has "),
        (
            ModelSpec("mine", "torchvision/resnet18", "none", input=InputSettings(in_chans=1)),
            "torchvision's networks take 3 channels",
        ),
        (ModelSpec("mine", "torchvision/vit_b_32", "none", size=(96, 128)), "vit_b_32 is square"),
    ],
    ids=["unknown", "grey", "not square"],
)
def test_what_torchvision_cannot_build_is_refused(spec: ModelSpec, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_model(spec)


@torch.no_grad()
def test_a_transformer_takes_the_input_size_of_its_spec() -> None:
    model = load_model(ModelSpec("mine", "timm/test_vit", "none", size=(96, 128)))
    assert model(model.example_input(batch=3)).shape == (3, 1000)
    assert collect_model_facts(model).stages[0].shape == (128, 6, 8)


def test_a_layout_with_a_tap_that_is_no_stage_is_refused() -> None:
    spec = InputSpec(32, 32, (0, 0, 0), (1, 1, 1))
    for layout in (Layout("m", ("a",), ("b",)), Layout("m", ("a", "b"), ("b",))):
        with pytest.raises(UncuttableModel, match="m: "):
            StagedModel(layout, [nn.Identity()], nn.Identity(), spec, "classification", 1)


@pytest.mark.parametrize(
    "arch",
    [
        "timm/no_such_net",
        "timm/resnet18.no_such_tag",
        "effdet/no_such_net",
        "keras/resnet50",
        "resnet50",
        "",
    ],
)
def test_the_error_names_an_unknown_architecture(arch: str) -> None:
    with pytest.raises(BadInput, match=rf"mine: .*{arch.rpartition('/')[2]}"):
        load_model(ModelSpec("mine", arch, "none"))


@pytest.mark.parametrize("size", [(96, 96), (128, 130), (0, 128), (-128, 128)])
def test_a_detector_with_an_input_size_that_does_not_fit_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match="multiples of 32"):
        load_model(ModelSpec("mine", DETECTORS[0], "none", size=size))


@pytest.mark.parametrize("size", [(16, 96), (0, 0), (-96, 96)])
def test_a_classifier_with_too_small_an_input_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match="at least 32x32"):
        load_model(ModelSpec("mine", "timm/mobilenetv2_100", "none", size=size))


def test_a_detector_on_a_crop_is_refused() -> None:
    with pytest.raises(BadInput, match="crop"):
        load_model(ModelSpec("mine", DETECTORS[0], "none", size=(128, 128), fit="crop"))


@pytest.mark.parametrize("arch", ["timm/mobilenetv2_100", DETECTORS[0]])
@pytest.mark.parametrize("count", [0, -1])
def test_a_network_without_classes_is_refused(arch: str, count: int) -> None:
    with pytest.raises(BadInput, match="num_classes"):
        load_model(ModelSpec("mine", arch, "none", num_classes=count))


def test_an_unreachable_hub_gives_one_clear_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(HubUnreachable, match=r"mine: .*local \.safetensors"):
        load_model(ModelSpec("mine", DETECTORS[1], "hub", size=(128, 128)))


class Network:
    """The network of this machine, which refuses every connection and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attempts = 0
        monkeypatch.setattr(socket, "getaddrinfo", self.refuse)
        monkeypatch.setattr(socket.socket, "connect", self.refuse)

    def refuse(self, *_: object, **__: object) -> NoReturn:
        self.attempts += 1
        raise OSError("network is unreachable")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_hub_that_does_not_answer_is_asked_twice_and_never_again(
    monkeypatch: pytest.MonkeyPatch, hub_cache: Path
) -> None:
    network = Network(monkeypatch)
    with pytest.raises(HubUnreachable, match=r"mine: .*local \.safetensors"):
        load_model(ModelSpec("mine", "timm/test_efficientnet", "hub"))
    assert network.attempts == 2
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_weights_in_the_cache_of_the_hub_load_without_the_hub(
    monkeypatch: pytest.MonkeyPatch, hub_cache: Path
) -> None:
    net: Any = timm.create_model("test_efficientnet")
    repository = hub_cache / f"models--{net.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    save_file(net.state_dict(), snapshot / "model.safetensors")
    Network(monkeypatch)
    model = load_model(ModelSpec("mine", "timm/test_efficientnet", "hub"))
    stem = next(model.stages[0].parameters())
    assert torch.equal(stem, net.conv_stem.weight)


class Hub(BaseHTTPRequestHandler):
    """A hub that holds one file of weights."""

    content = b""

    def do_HEAD(self) -> None:
        found = self.path.endswith("/model.safetensors")
        self.send_response(200 if found else 404)
        for name, value in (
            ("Content-Length", str(len(self.content) if found else 0)),
            ("ETag", '"one"'), ("X-Repo-Commit", "b" * 40),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def test_weights_are_downloaded_from_a_hub_that_answers(
    monkeypatch: pytest.MonkeyPatch, hub_cache: Path
) -> None:
    net: Any = timm.create_model("test_efficientnet")
    monkeypatch.setattr(Hub, "content", save(net.state_dict()))
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(
            huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )  # fmt: skip
        model = load_model(ModelSpec("mine", "timm/test_efficientnet", "hub"))
        server.shutdown()
    assert torch.equal(next(model.stages[0].parameters()), net.conv_stem.weight)


@pytest.mark.parametrize("arch", ["timm/cs3darknet_s", "effdet/efficientdet_d2"])
def test_a_network_without_published_weights_never_gets_random_ones(arch: str) -> None:
    with pytest.raises(BadWeights, match=r"mine: .*no pretrained weights"):
        load_model(ModelSpec("mine", arch, "hub"))


def finely_cut(zoo: Zoo, arch: str) -> StagedModel:
    weights = str(zoo.weights(arch))
    return load_model(
        ModelSpec("net", arch, weights, size=size_of(arch), fit="letterbox", cut="blocks")
    )


@every_network
@torch.no_grad()
def test_cutting_at_blocks_keeps_the_outputs(zoo: Zoo, arch: str) -> None:
    coarse, fine = zoo.model(arch), finely_cut(zoo, arch)
    inputs = zoo.original(arch).inputs
    stages, blocks = dict(coarse.walk(inputs)), dict(fine.walk(inputs))
    for tap, block in zip(coarse.layout.taps, fine.layout.taps, strict=True):
        assert torch.equal(stages[tap], blocks[block])
    assert total_bytes(unique_tensors(fine)) == total_bytes(unique_tensors(coarse))


@every_network
@torch.no_grad()
def test_the_last_block_of_a_stage_has_its_representation(zoo: Zoo, arch: str) -> None:
    coarse, fine = zoo.model(arch), finely_cut(zoo, arch)
    inputs = zoo.original(arch).inputs
    stages, blocks = dict(coarse.walk(inputs)), dict(fine.walk(inputs))
    for stage, representation in stages.items():
        parts = [name for name in blocks if name == stage or name.startswith(f"{stage}.")]
        assert parts and torch.equal(blocks[parts[-1]], representation)


def test_the_names_of_blocks_begin_with_their_stage(zoo: Zoo) -> None:
    assert finely_cut(zoo, "timm/tf_efficientnet_lite0").layout.stages == (
        "stem", "blocks.0", "blocks.1.0", "blocks.1.1", "blocks.2.0", "blocks.2.1",
        "blocks.3.0", "blocks.3.1", "blocks.3.2", "blocks.4.0", "blocks.4.1", "blocks.4.2",
        "blocks.5.0", "blocks.5.1", "blocks.5.2", "blocks.5.3", "blocks.6", "conv_head", "pool",
    )  # fmt: skip
    detector = finely_cut(zoo, "effdet/tf_efficientdet_d0")
    assert detector.layout.taps == ("blocks.2.1", "blocks.4.2", "blocks.6")


def test_a_stage_with_code_of_its_own_is_cut_at_blocks_and_keeps_its_name(zoo: Zoo) -> None:
    arch = "timm/regnety_002"
    coarse, fine = zoo.model(arch).layout.stages, finely_cut(zoo, arch).layout.stages
    assert set(coarse) < set(fine)
    assert [name for name in fine if name.startswith("s3")] == ["s3.b1", "s3.b2", "s3.b3", "s3"]
