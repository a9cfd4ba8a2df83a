"""A bundle has the predicted bytes, and the loaded model has the outputs of the merged model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import model_specs, write_plan_bundle
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import STREET, Weights, shares_in

from search.data.frames import RenderedScenes
from search.statistics.observed import Observed
from spaces.bundle import Bundle, BundleContents, FixedBundle, load_bundle, write_bundle
from spaces.bundle_files import BadBundle, bundle_id, holds_bundle
from spaces.cost import CostModel
from spaces.errors import BadInput, BadWeights
from spaces.inputs import boxes_to_frame, prepare_batch
from spaces.liveness import canonical
from spaces.merged import MergedModel
from spaces.model_spec import ModelSpec
from spaces.plan import IDENTITY, LINEAR, AdapterSpec, SharePlan
from spaces.precision import Dtype
from spaces.stages import total_bytes, unique_tensors

DTYPES: tuple[Dtype, ...] = ("float32", "float16", "bfloat16")


@pytest.fixture(scope="session")
def specs(weights: Weights) -> dict[str, ModelSpec]:
    return model_specs(weights)


def some_plans(observed: Observed) -> list[SharePlan]:
    """Return the empty plan, single shares with every adapter, and plans of two shares."""
    shares = shares_in(observed, LINEAR, IDENTITY, AdapterSpec("linear", 3))
    singles = [SharePlan((share,)) for share in shares[:: max(1, len(shares) // 4)]]
    both = [
        SharePlan((one, other))
        for one, other in zip(shares[3::29], shares[11::31], strict=False)
        if one.recipient != other.recipient and one.recipient.model == other.recipient.model
    ]
    return [SharePlan(), *singles, *both[:1]]


@pytest.mark.parametrize("which", ["pair", "mixed"])
def test_a_loaded_bundle_has_the_outputs_of_the_merged_model(
    which: str, request: pytest.FixtureRequest, specs: dict[str, ModelSpec], tmp_path: Path
) -> None:
    observed: Observed = request.getfixturevalue(which)
    models = observed.deployment.models
    frames = [RenderedScenes(STREET, 4)[k] for k in range(3)]
    for number, plan in enumerate(some_plans(observed)):
        folder = tmp_path / str(number)
        merged, _, _ = write_plan_bundle(observed, plan, specs, folder, "float32")
        with torch.inference_mode():
            expected = merged({n: prepare_batch(frames, m.input) for n, m in models.items()})
        answers = load_bundle(folder)(frames)
        for name, model in models.items():
            answer = answers[name]
            if isinstance(answer, torch.Tensor):
                torch.testing.assert_close(answer, expected[name], rtol=1e-5, atol=1e-5)
                continue
            for actual, rows, frame in zip(answer, expected[name], frames, strict=True):
                boxes = boxes_to_frame(rows[:, :4].numpy(), frame.shape[:2], model.input)
                expected_rows = torch.cat([torch.from_numpy(boxes).float(), rows[:, 4:]], dim=1)
                actual_rows = torch.cat(
                    [actual.boxes, actual.scores[:, None], actual.classes[:, None]], 1
                )
                assert len(actual_rows) == int((rows[:, 4] > 0).sum()) > 0
                # Rounding decides the order of equal scores, but each detection is there.
                assert (
                    torch.cdist(actual_rows.double(), expected_rows.double()).min(1).values.max()
                    < 0.05
                )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", ["pair", "mixed"])
def test_predicted_bytes_equal_written_and_resident_bytes(
    which: str,
    dtype: Dtype,
    request: pytest.FixtureRequest,
    specs: dict[str, ModelSpec],
    tmp_path: Path,
) -> None:
    observed: Observed = request.getfixturevalue(which)
    for number, plan in enumerate(some_plans(observed)):
        folder = tmp_path / str(number)
        _, contents, written = write_plan_bundle(observed, plan, specs, folder, dtype)
        assert CostModel(contents.facts).bytes(plan) == written == in_file(folder)
        assert written == total_bytes(unique_tensors(load_bundle(folder)))


def in_file(folder: Path) -> int:
    """Return the bytes of the tensors in the file, from its own header."""
    with safe_open(folder / "weights.safetensors", "pt") as file:
        return sum(total_bytes([file.get_tensor(name)]) for name in file.keys())


@pytest.mark.parametrize(("dtype", "near"), [("float16", 3e-3), ("bfloat16", 3e-2)])
def test_half_precision_halves_the_bytes_and_nearly_keeps_the_outputs(
    dtype: Dtype, near: float, mixed: Observed, specs: dict[str, ModelSpec], tmp_path: Path
) -> None:
    frames = [RenderedScenes(STREET, 4)[k] for k in range(3)]
    plan = some_plans(mixed)[4]
    _, _, full_bytes = write_plan_bundle(mixed, plan, specs, tmp_path / "whole", "float32")
    _, _, half_bytes = write_plan_bundle(mixed, plan, specs, tmp_path / "half", dtype)
    assert 0.5 < half_bytes / full_bytes < 0.6
    expected, actual = (load_bundle(tmp_path / name)(frames)["cls"] for name in ("whole", "half"))
    assert isinstance(expected, torch.Tensor) and isinstance(actual, torch.Tensor)
    assert actual.dtype == torch.float32 and not torch.equal(actual, expected)
    assert (actual - expected).abs().max() < near * expected.abs().max()


def test_weights_too_large_for_float16_are_refused(
    pair: Observed, specs: dict[str, ModelSpec], tmp_path: Path
) -> None:
    deployment = pair.deployment
    merged = MergedModel(deployment.models, deployment.facts, SharePlan(), {})
    classifier = next(p for n, p in merged.heads.named_parameters() if n.endswith("weight"))
    original_weights = classifier.clone()
    classifier.fill_(70_000.0)
    try:
        contents = BundleContents(specs, {}, deployment.facts, SharePlan(), "float16")
        with pytest.raises(
            BadWeights, match=r"heads.*weight.*too large for float16; use bfloat16"
        ):
            write_bundle(tmp_path, contents, merged)
    finally:
        classifier.copy_(original_weights)


def test_a_bundle_takes_one_frame_or_frames_of_several_sizes(
    mixed: Observed, specs: dict[str, ModelSpec], tmp_path: Path
) -> None:
    write_plan_bundle(mixed, some_plans(mixed)[3], specs, tmp_path / "x", "float32")
    bundle = load_bundle(tmp_path / "x")
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (h, w, 3), np.uint8) for h, w in ((48, 99), (200, 130))]
    batched, singles = bundle(frames), [bundle(frame) for frame in frames]
    for k, frame in enumerate(frames):
        logits = batched["cls"][k]
        assert torch.allclose(logits, singles[k]["cls"][0], atol=1e-5)
        boxes = singles[k]["det"][0].boxes
        assert len(boxes) and (boxes <= torch.tensor(frame.shape[1::-1] * 2)).all()


def test_arrays_that_are_no_frames_are_refused(written: Path) -> None:
    bundle = load_bundle(written)
    frame = np.zeros((40, 50, 3), np.uint8)
    for wrong, message in (
        (frame[0], r"frame 0: uint8 of shape \(50, 3\)"),
        (frame[..., :2], r"frame 0: uint8 of shape \(40, 50, 2\)"),
        ([frame, frame.astype(np.float32)], "frame 1: float32"),
        ([frame[:0]], r"of shape \(0, 50, 3\)"),
        ([[1, 2]], r"frame 0: list of shape \(\)"),
        ([], "no frame was given"),
    ):
        with pytest.raises(BadInput, match=message):
            bundle(wrong)


def test_a_stack_of_tensors_has_the_answers_of_its_frames(written: Path) -> None:
    bundle = load_bundle(written)
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    expected = bundle([*frames])["cls"]
    for stack in (frames, torch.from_numpy(frames)):
        answers = bundle(stack)["cls"]
        assert isinstance(answers, torch.Tensor) and isinstance(expected, torch.Tensor)
        assert torch.equal(answers, expected)


@pytest.mark.parametrize(
    "convert",
    [
        Bundle.half,
        Bundle.bfloat16,
        Bundle.double,
        lambda bundle: bundle.to(torch.float16),
        lambda bundle: bundle.to("cpu", torch.float64),
        lambda bundle: bundle.type(torch.float16),
    ],
)
def test_a_bundle_stays_in_float32(written: Path, convert: Callable[[Bundle], object]) -> None:
    bundle = load_bundle(written)
    with pytest.raises(FixedBundle, match=r"computes in float32, not in .*set `dtype"):
        convert(bundle)
    assert {p.dtype for p in bundle.parameters()} == {torch.float32}


def test_a_bundle_is_moved_but_not_trained(written: Path) -> None:
    bundle = load_bundle(written)
    assert bundle.to("cpu") is bundle.eval() is bundle.float() and not bundle.training
    assert {p.device.type for p in load_bundle(written).to("meta").parameters()} == {"meta"}
    with pytest.raises(FixedBundle, match="cannot be trained"):
        bundle.train()
    assert not any(part.training for part in bundle.modules())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_refused_by_its_name(
    dtype: Dtype, value: float, pair: Observed, specs: dict[str, ModelSpec], tmp_path: Path
) -> None:
    write_plan_bundle(pair, SharePlan(), specs, tmp_path / "x", dtype)
    file = tmp_path / "x" / "weights.safetensors"
    tensors = load_file(file)
    name = next(n for n, t in tensors.items() if t.dim() == 4)
    tensors[name][0, 0, 0, 0] = value
    save_file(tensors, file)
    with pytest.raises(BadBundle, match=f"{file}: {re.escape(name)} holds NaN or infinite"):
        load_bundle(tmp_path / "x")


def test_a_plan_is_written_in_canonical_form(
    pair: Observed, specs: dict[str, ModelSpec], tmp_path: Path
) -> None:
    """A share that no output reads is not in the bundle."""
    last = shares_in(pair)[-1]
    early = next(s for s in shares_in(pair) if s.recipient.model == last.recipient.model)
    write_plan_bundle(pair, SharePlan((last, early)), specs, tmp_path / "x", "float32")
    plan = SharePlan.from_json((tmp_path / "x" / "plan.json").read_text())
    assert plan == SharePlan((last,))
    assert plan == canonical(plan, CostModel(pair.deployment.facts).layouts)


@pytest.fixture(scope="module")
def written(
    mixed: Observed, specs: dict[str, ModelSpec], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a bundle that loads, for all tests that only read it."""
    folder = tmp_path_factory.mktemp("written") / "good"
    write_plan_bundle(mixed, some_plans(mixed)[3], specs, folder, "float32")
    assert isinstance(load_bundle(folder), Bundle)
    return folder


@pytest.fixture
def good(written: Path, tmp_path: Path) -> Path:
    """Return a copy of that bundle, for a test to change."""
    return Path(shutil.copytree(written, tmp_path / "good"))


@pytest.mark.parametrize("name", ["bundle.json", "plan.json", "weights.safetensors"])
@pytest.mark.parametrize("damage", [None, b"", b"{", b"[]", b'{"version": 1}', b"\0" * 40])
def test_the_error_names_a_damaged_bundle(good: Path, name: str, damage: bytes | None) -> None:
    (good / name).unlink()
    if damage is not None:
        (good / name).write_bytes(damage)
    with pytest.raises(BadBundle, match=f"{good}"):
        load_bundle(good)


def test_a_bundle_with_another_version_or_plan_is_refused(good: Path) -> None:
    data = json.loads((good / "bundle.json").read_text())
    (good / "bundle.json").write_text(json.dumps({**data, "version": 3}))
    with pytest.raises(BadBundle, match="version 3; only 1 and 2 are supported"):
        load_bundle(good)
    (good / "bundle.json").write_text(json.dumps({**data, "plan": "0" * 12}))
    with pytest.raises(BadBundle, match="expected 000000000000"):
        load_bundle(good)


def test_a_bundle_of_an_earlier_version_without_later_input_settings_is_loaded(
    good: Path,
) -> None:
    frame = RenderedScenes(STREET, 1)[0]
    expected = load_bundle(good)(frame)["cls"]
    data = json.loads((good / "bundle.json").read_text())
    assert all(spec.pop("input", None) is None for spec in data["models"].values())
    for spec in data["inputs"].values():
        assert (spec.pop("interpolation"), spec.pop("channels")) == ("bilinear", "rgb")
    (good / "bundle.json").write_text(json.dumps(data))
    answer = load_bundle(good)(frame)["cls"]
    assert isinstance(answer, torch.Tensor) and isinstance(expected, torch.Tensor)
    assert torch.equal(answer, expected)


def test_tensors_that_do_not_fit_are_refused(good: Path, tmp_path: Path) -> None:
    tensors = load_file(good / "weights.safetensors")
    name, tensor = next((n, t) for n, t in tensors.items() if t.dim() == 4)
    changes = {
        "missing": {n: t for n, t in tensors.items() if n != name},
        f"is {tuple(tensor[1:].shape)}, expected": {**tensors, name: tensor[1:].contiguous()},
        "1 unexpected tensors": {**tensors, "more": tensor.clone()},
    }
    for number, (message, changed) in enumerate(changes.items()):
        other = tmp_path / str(number)
        shutil.copytree(good, other)
        save_file(changed, other / "weights.safetensors")
        with pytest.raises(BadBundle, match=message.replace("(", r"\(").replace(")", r"\)")):
            load_bundle(other)


def test_a_folder_holds_its_bundle_only_while_it_is_complete(good: Path, tmp_path: Path) -> None:
    identity = bundle_id(good)
    assert holds_bundle(good, identity)
    assert not holds_bundle(good, "0" * 12) and not holds_bundle(tmp_path / "nowhere", identity)
    with (good / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    assert not holds_bundle(good, identity)
    (good / "weights.safetensors").unlink()
    assert not holds_bundle(good, identity)
