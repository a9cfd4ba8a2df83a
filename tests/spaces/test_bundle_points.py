"""One bundle holds several plans: every tensor once, and the answers of each plan's own bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from bundles import model_specs, write_plan_bundle, write_points_bundle
from safetensors.torch import load_file, save_file
from tiny import STREET, Weights, shares_in
from torch import Tensor

from search.data.frames import RenderedScenes
from search.statistics.observed import Observed
from spaces.bundle import Bundle, BundleContents, NoSuchPoint, load_bundle
from spaces.bundle_files import BadBundle
from spaces.plan import HEAD, LINEAR, AdapterSpec, Ref, SharePlan
from spaces.stages import total_bytes, unique_tensors


def plans_of(observed: Observed) -> list[SharePlan]:
    """Return plans that differ in shares, in maps alone, and in precisions alone."""
    early, *_, late = shares_in(observed, LINEAR)
    low = next(s for s in shares_in(observed, AdapterSpec("linear", 3)) if s.donor == late.donor)
    heads = [Ref(name, HEAD) for name in observed.deployment.models]
    stored = tuple((head, "int8") for head in heads)
    return [
        SharePlan((late,)),
        SharePlan(),
        SharePlan((early,)),
        SharePlan((low,)),
        SharePlan((late,), stored),  # type: ignore[arg-type]
        SharePlan((), stored),  # type: ignore[arg-type]
    ]


@pytest.fixture(scope="module")
def folders(
    pair: Observed, weights: Weights, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Mapping[str, Path]]:
    """Return a bundle with several points, and that of each plan alone by the plan's hash."""
    folder = tmp_path_factory.mktemp("points")
    specs, alone = model_specs(weights), {}
    for plan in plans_of(pair):
        merged, _, _ = write_plan_bundle(pair, plan, specs, folder / plan.hash)
        alone[merged.plan.hash] = folder / plan.hash
    written = write_points_bundle(pair, plans_of(pair), specs, folder / "all")
    assert written == total_bytes([*load_file(folder / "all" / "weights.safetensors").values()])
    return folder / "all", alone


def contents_of(folder: Path) -> set[tuple[str, torch.dtype, bytes]]:
    """Return the name, the dtype and the bytes of every tensor in a file."""
    tensors = load_file(folder / "weights.safetensors")
    return {
        (name, tensor.dtype, tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors.items()
    }


def test_every_tensor_is_once_in_the_file_and_in_memory(
    folders: tuple[Path, Mapping[str, Path]],
) -> None:
    """The union of the tensors in the bundles of the plans, found by comparing their bytes."""
    folder, alone = folders
    union = set[tuple[str, torch.dtype, bytes]]().union(*map(contents_of, alone.values()))
    expected = sum(len(content) for _, _, content in union)
    in_file = sum(len(content) for _, _, content in contents_of(folder))
    apart = sum(len(content) for path in alone.values() for _, _, content in contents_of(path))
    bundle = load_bundle(folder)
    assert expected == in_file == total_bytes(unique_tensors(bundle)) < apart / 2
    for plan, path in alone.items():
        bundle.use(plan)
        own = sum(len(content) for _, _, content in contents_of(path))
        assert total_bytes(unique_tensors(bundle.merged)) == own


def test_the_first_plan_has_its_tensors_under_its_own_names(
    folders: tuple[Path, Mapping[str, Path]],
) -> None:
    folder, alone = folders
    first, *others = alone
    further = contents_of(folder) - contents_of(alone[first])
    assert contents_of(alone[first]) <= contents_of(folder)
    assert further and {name.partition(".")[0] for name, _, _ in further} <= {*others}


def test_each_point_answers_as_the_bundle_of_its_plan(
    folders: tuple[Path, Mapping[str, Path]],
) -> None:
    folder, alone = folders
    frames = [RenderedScenes(STREET, 2)[k] for k in range(2)]
    bundle = load_bundle(folder)
    expected = {plan: load_bundle(path)(frames) for plan, path in alone.items()}
    assert bundle.points == tuple(alone) and bundle.plan == bundle.points[0]
    for plan in (*bundle.points, *reversed(bundle.points)):
        bundle.use(plan)
        assert_equal(bundle(frames), expected[plan])


def assert_equal(answers: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(answers) == set(expected) == {"a", "b"}
    assert all(torch.equal(answers[name], expected[name]) for name in expected)


def addresses(bundle: Bundle) -> set[int]:
    return {tensor.data_ptr() for tensor in unique_tensors(bundle)}


def test_switching_loads_and_copies_nothing(
    folders: tuple[Path, Mapping[str, Path]], tmp_path: Path
) -> None:
    bundle = load_bundle(shutil.copytree(folders[0], tmp_path / "bundle"))
    shutil.rmtree(tmp_path / "bundle")
    before, frame = addresses(bundle), RenderedScenes(STREET, 1)[0]
    for plan in bundle.points[::-1]:
        bundle.use(plan[:10])
        assert bundle.plan == plan and set(bundle(frame)) == {"a", "b"}
        assert addresses(bundle) == before and len(bundle.points) == 6


def test_tensors_stay_shared_when_a_bundle_is_moved(
    folders: tuple[Path, Mapping[str, Path]],
) -> None:
    bundle = load_bundle(folders[0])
    held, before = total_bytes(unique_tensors(bundle)), addresses(bundle)
    frame = RenderedScenes(STREET, 1)[0]
    expected = {plan: answers(bundle, plan, frame) for plan in bundle.points}
    bundle._apply(torch.clone)
    assert total_bytes(unique_tensors(bundle)) == held and addresses(bundle) != before
    for plan in bundle.points:
        assert torch.equal(answers(bundle, plan, frame), expected[plan])


def answers(bundle: Bundle, plan: str, frame: Any) -> Tensor:
    bundle.use(plan)
    answer = bundle(frame)["b"]
    assert isinstance(answer, Tensor)
    return answer


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_stay_shared_on_a_gpu(folders: tuple[Path, Mapping[str, Path]]) -> None:
    bundle = load_bundle(folders[0])
    held, before = total_bytes(unique_tensors(bundle)), torch.cuda.memory_allocated()
    parameters = {id(parameter) for parameter in bundle.parameters()}
    bundle.to("cuda")
    assert total_bytes(unique_tensors(bundle)) == held
    assert {id(parameter) for parameter in bundle.parameters()} == parameters
    blocks = 512 * len(unique_tensors(bundle))  # the allocator rounds every tensor up
    assert held <= torch.cuda.memory_allocated() - before <= held + blocks


def test_a_plan_that_a_bundle_does_not_hold_is_refused(
    folders: tuple[Path, Mapping[str, Path]],
) -> None:
    bundle = load_bundle(folders[0])
    for prefix, count in (("xyz", "no plan"), ("", "6 plans")):
        with pytest.raises(NoSuchPoint, match=f"^{count} .* begins with '{prefix}'; there are "):
            bundle.use(prefix)
    assert bundle.plan == bundle.points[0]


def test_a_bundle_of_one_plan_is_written_as_before(
    pair: Observed, weights: Weights, tmp_path: Path
) -> None:
    plan, specs = plans_of(pair)[0], model_specs(weights)
    write_plan_bundle(pair, plan, specs, tmp_path / "one", "float16")
    write_points_bundle(pair, [plan], specs, tmp_path / "same", "float16")
    for file in (tmp_path / "one").iterdir():
        assert (tmp_path / "same" / file.name).read_bytes() == file.read_bytes()
    assert "points" not in json.loads((tmp_path / "one" / "bundle.json").read_text())
    bundle = load_bundle(tmp_path / "one")
    assert bundle.points == (bundle.plan,) and len(bundle.others) == 0


def test_a_damaged_list_of_points_is_refused(
    folders: tuple[Path, Mapping[str, Path]], tmp_path: Path
) -> None:
    data = json.loads((folders[0] / "bundle.json").read_text())
    file = "weights.safetensors"
    for number, (points, message) in enumerate(
        [
            (data["points"][:1], "unexpected tensors"),
            ([data["points"][0]] * 2, "a plan is there twice"),
            ([{"shares": 1}], "is not a complete bundle"),
        ]
    ):
        other = shutil.copytree(folders[0], tmp_path / str(number))
        (other / "bundle.json").write_text(json.dumps({**data, "points": points}))
        with pytest.raises(BadBundle, match=message):
            load_bundle(other)
    other = shutil.copytree(folders[0], tmp_path / "without names")
    save_file(load_file(folders[0] / file), other / file)
    with pytest.raises(BadBundle, match=r"(is missing|is \(.*), expected"):
        load_bundle(other)
    names = {plan: "[1]" for plan in folders[1]}
    save_file(load_file(folders[0] / file), other / file, names)
    with pytest.raises(BadBundle, match="are damaged"):
        load_bundle(other)


def test_a_plan_stands_once_in_a_bundle(pair: Observed) -> None:
    for one, other in pairwise(plans_of(pair)):
        contents = BundleContents({}, {}, pair.deployment.facts, one, "float32", points=(other,))
        assert contents.plans == (one, other)
        with pytest.raises(ValueError, match="twice"):
            BundleContents({}, {}, pair.deployment.facts, one, "float32", points=(one,))
