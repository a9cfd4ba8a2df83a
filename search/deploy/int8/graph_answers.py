"""The answers of an ONNX graph in the form that the evaluation scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from spaces.graph_export import OnnxSession
from spaces.inputs import Frame, InputSpec, prepare_batch
from spaces.node import Output
from spaces.tasks.registry import TASKS
from spaces.tasks.task import Task, TaskName


class GraphAnswers:
    """Answers of the graph of a bundle: those of its detectors with non-maximum suppression.

    `graph` is an ONNX file, or its content; `inputs` and `tasks` hold the input spec and the task
    of each model. Models without outputs in the graph have no answers.

    Raises:
        ExporterMissing: onnxruntime is not installed.
    """

    def __init__(
        self,
        graph: Path | bytes,
        inputs: Mapping[str, InputSpec],
        tasks: Mapping[str, TaskName],
    ) -> None:
        self._session, self._tasks = OnnxSession(graph), tasks
        self.inputs = feed_inputs(self._session.inputs, inputs)
        """The specs of the graph's inputs, which are called `MODEL_input`."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[tuple[Output, Tensor]]:
        """Return the answer of each model to inputs, as its head in torch gives it."""
        return [
            (Output(name, ()), task.from_graph(parts))
            for name, task, parts in self._by_model(self._outputs(inputs))
        ]

    def comparables(self, pictures: list[Frame]) -> dict[str, Tensor]:
        """Return the answers to frames in their comparable form, see `spaces.tasks.task`."""
        return {
            name: task.comparable_from_graph(parts)
            for name, task, parts in self._by_model(
                self._outputs(prepare_feed(pictures, self.inputs))
            )
        }

    def _outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs of the graph by name."""
        return {name: torch.from_numpy(a) for name, a in self._session.run(inputs).items()}

    def _by_model(self, outputs: Mapping[str, Tensor]) -> Iterator[tuple[str, Task, list[Tensor]]]:
        """Yield the outputs of each model that has some."""
        for name, task_name in self._tasks.items():
            task = TASKS[task_name]
            parts = [outputs.get(f"{name}_{part}") for part in task.graph_outputs]
            present = [part for part in parts if part is not None]
            if len(present) == len(parts):
                yield name, task, present


def feed_inputs(names: Iterable[str], inputs: Mapping[str, InputSpec]) -> dict[str, InputSpec]:
    """Return the specs of the inputs of a graph, `MODEL_input`, from those by model."""
    return {name: inputs[name.removesuffix("_input")] for name in names}


def prepare_feed(pictures: list[Frame], feed: Mapping[str, InputSpec]) -> dict[str, Tensor]:
    """Return frames as inputs of a graph, of which `feed` has the specs by name."""
    return {name: prepare_batch(pictures, spec) for name, spec in feed.items()}
