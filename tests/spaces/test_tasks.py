"""What every task promises of its answers, on a real network of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import own_networks
import pytest
import torch
from torch import Tensor

from spaces.inputs import InputSpec, prepare
from spaces.model_spec import ModelSpec
from spaces.quiet import quiet
from spaces.stages import StagedModel
from spaces.tasks.registry import TASKS
from spaces.tasks.segmentation import to_frame
from spaces.tasks.task import Task, TaskName
from spaces.zoo import load_model

FUNCTIONS: dict[TaskName, str] = {
    "classification": "classifier",
    "detection": "detector",
    "embedding": "embedding",
    "segmentation": "segmentation",
    "dense": "depth",
}
SIZES = [(48, 96), (64, 64), (90, 30), (64, 65)]


class Example:
    """A network that does a task, and its answers to four frames."""

    def __init__(self, name: TaskName) -> None:
        self.task: Task = TASKS[name]
        arch = f"python:own_networks:{FUNCTIONS[name]}"
        self.model: StagedModel = load_model(ModelSpec("net", arch, "none"))
        self.inputs = self.model.example_input(4)
        representations = dict(self.model.walk(self.inputs))
        self.taps = [representations[tap] for tap in self.model.layout.taps]

    def comparable(self, taps: list[Tensor] | None = None) -> Tensor:
        return self.task.comparable(self.model.head, taps or self.taps)

    def changed(self, size: float) -> Tensor:
        """Return the comparable answer with random changes of the taps."""
        generator = torch.Generator().manual_seed(1)
        noise = [torch.randn(tap.shape, generator=generator) for tap in self.taps]
        return self.comparable(
            [tap + size * tap.std() * n for tap, n in zip(self.taps, noise, strict=True)]
        )


@pytest.fixture(scope="module", params=sorted(FUNCTIONS))
def example(request: pytest.FixtureRequest) -> Example:
    with torch.no_grad():
        return Example(request.param)


def test_every_task_has_an_example() -> None:
    assert set(TASKS) == set(FUNCTIONS)


def test_a_module_of_the_users_own_says_its_task(example: Example) -> None:
    assert example.model.task == example.task.name


@torch.no_grad()
def test_equal_answers_agree_fully_and_others_less_the_more_they_differ(example: Example) -> None:
    original = example.comparable()
    for measure in (example.task.agreement, example.task.closeness):
        torch.testing.assert_close(measure(original, original), torch.ones(4))
        means = [float(measure(example.changed(size), original).mean()) for size in (0.05, 0.5, 5)]
        assert 1 >= means[0] > means[2] and means[0] >= means[1] >= means[2] - 0.3
        assert all(-1e-6 <= mean <= 1 for mean in means)


@torch.no_grad()
def test_measures_compare_each_frame_with_itself(example: Example) -> None:
    """Frames in another order are measured in that order."""
    order = torch.tensor([2, 0, 3, 1])
    original, changed = example.comparable(), example.changed(0.5)
    for measure in (example.task.agreement, example.task.closeness):
        values = measure(changed, original)
        assert values.shape == (4,)
        torch.testing.assert_close(measure(changed[order], original[order]), values[order])


def test_amplitudes_have_a_gradient_for_every_tap(example: Example) -> None:
    taps = [tap.detach().clone().requires_grad_() for tap in example.taps]
    amplitudes = example.task.amplitudes(example.comparable(taps))
    assert amplitudes.shape[0] == 4 and amplitudes.dim() == 2
    gradients = torch.autograd.grad(amplitudes.square().sum() + amplitudes.sum(), taps)
    assert all(bool(g.isfinite().all()) and bool(g.abs().sum() > 0) for g in gradients)


@torch.no_grad()
def test_a_graph_gives_the_answer_and_its_comparable_form(example: Example) -> None:
    outputs = example.task.graph_answers(example.model.head, example.taps)
    assert len(outputs) == len(example.task.graph_outputs)
    torch.testing.assert_close(example.task.from_graph(outputs), example.model(example.inputs))
    torch.testing.assert_close(example.task.comparable_from_graph(outputs), example.comparable())


@torch.no_grad()
def test_a_bundle_answers_each_frame_and_describes_its_answer(example: Example) -> None:
    answer = example.model(example.inputs)
    finished = example.task.finish(answer, SIZES, example.model.input)
    assert len(finished) == 4
    is_tensor = isinstance(finished, Tensor)
    assert is_tensor == (example.task.name in ("classification", "embedding", "dense"))
    assert example.task.is_matrix == (is_tensor and finished.dim() == 2)
    lines = [example.task.describe(finished, frame) for frame in range(4)]
    assert all(isinstance(line, str) for frame in lines for line in frame) and any(lines)


@pytest.mark.parametrize("fit", ["squash", "letterbox", "crop"])
def test_a_map_of_classes_lies_on_the_frame_where_the_input_shows_it(fit: str) -> None:
    """A frame whose left half is red is answered with class 1 on its left half."""
    spec = InputSpec(64, 64, (0.0,) * 3, (1.0,) * 3, fit, 0.8)  # type: ignore[arg-type]
    for height, width in ((50, 120), (120, 50), (77, 77)):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[:, : width // 2, 0] = 255
        classes = (prepare(frame, spec)[0] > 0.5).long()
        mapped = to_frame(classes, (height, width), spec).numpy()
        expected = np.broadcast_to(np.arange(width) < width // 2, (height, width))
        shown = mapped >= 0
        wrong = (mapped != expected) & shown
        assert shown.all() == (fit != "crop")
        assert shown.mean() > 0.15
        assert wrong.mean() < 2.1 / width  # the edge lies within a pixel of the input


def test_pixels_that_a_crop_does_not_show_have_no_class() -> None:
    spec = InputSpec(32, 32, (0.0,) * 3, (1.0,) * 3, "crop", 0.5)
    mapped = to_frame(torch.zeros(8, 8, dtype=torch.int64), (100, 200), spec)
    assert mapped.shape == (100, 200)
    assert (mapped[25:75, 75:125] == 0).all()
    assert int((mapped == 0).sum()) == 50 * 50


@pytest.mark.parametrize("kind", ["program", "onnx"])
@torch.no_grad()
def test_files_hold_networks_of_every_task(example: Example, kind: str, tmp_path: Path) -> None:
    """The task is in the config: a file holds numbers only."""
    net = getattr(own_networks, FUNCTIONS[example.task.name])().eval()
    file, inputs = tmp_path / f"net.{kind}", example.inputs
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(net, (inputs,), dynamic_shapes=batch)
    with quiet():
        if kind == "program":
            torch.export.save(program, file)
        else:
            torch.onnx.export(program, (), str(file), dynamo=True)
    spec = ModelSpec("net", f"{kind}:{file}", "none", task=example.task.name, fit="letterbox")
    model = load_model(spec)
    assert len(model.layout.stages) >= 4 and model.num_classes == example.model.num_classes
    torch.testing.assert_close(model(inputs), example.model(inputs), rtol=1e-4, atol=1e-4)
