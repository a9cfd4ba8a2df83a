"""Labelled pictures on which random networks are right: the labels are their own answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import (
    CLASSES,
    CLASSIFIER,
    SIZE,
    STREET,
    CapturedReporter,
    Weights,
    capture_reporter,
    config_data,
    load_tiny,
    random_network,
    with_changes,
    write_config,
)

from search.config.loading import load_config
from search.config.run import RunConfig
from search.data.frames import cached_scene
from search.pipelines.correlate import correlate
from search.results.metric_comparison import MetricComparison
from spaces.inputs import prepare_batch
from spaces.model_spec import ModelSpec
from spaces.stages import StagedModel
from spaces.zoo import load_model

PICTURES = 20
SEEDS = {"a": 1, "b": 2}
Labels = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Labelled:
    """A config whose classifiers `a` and `b` have only right answers while nothing is shared."""

    folder: Path
    data: dict[str, Any]
    labels: dict[str, list[int]]


@dataclass(frozen=True)
class FinishedComparison:
    """A finished metric comparison."""

    config: RunConfig
    comparison: MetricComparison
    captured: CapturedReporter

    @property
    def out(self) -> Path:
        return self.config.out_folder / "correlate"


@torch.no_grad()
def build_labelled(weights: Weights, folder: Path) -> Labelled:
    """Write the pictures, the networks and their answers into a folder."""
    pictures = [cached_scene(STREET, i).image for i in range(PICTURES)]
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{k:02d}.png")
    data = config_data(weights)
    labels = {}
    plain = load_tiny(weights, {name: (CLASSIFIER, seed) for name, seed in SEEDS.items()})
    for name, seed in SEEDS.items():
        file = folder / f"{name}.safetensors"
        save_file(unbiased_weights(seed, plain[name], pictures), file)
        data["models"][name]["weights"] = str(file)
        size = (SIZE[CLASSIFIER], SIZE[CLASSIFIER])
        model = load_model(
            ModelSpec(name, CLASSIFIER, str(file), CLASSES[CLASSIFIER], size, "squash")
        )
        labels[name] = model(prepare_batch(pictures, model.input)).argmax(1).tolist()
        assert len(set(labels[name])) > 3
    data = with_changes(data, {"truth": {name: {"csv": f"{name}.csv"} for name in labels}})
    write_labels(folder, labels)
    return Labelled(folder, data, labels)


def unbiased_weights(
    seed: int, model: StagedModel, pictures: Sequence[np.ndarray]
) -> dict[str, torch.Tensor]:
    """Return the weights of a random network that prefers no class on these pictures."""
    net = random_network(CLASSIFIER, seed)
    net.classifier.bias -= model(prepare_batch(list(pictures), model.input)).mean(0)
    state: dict[str, torch.Tensor] = net.state_dict()
    return state


def write_labels(folder: Path, labels: Labels) -> None:
    for name, answers in labels.items():
        rows = [f"{k:02d}.png,{label}\n" for k, label in enumerate(answers)]
        (folder / f"{name}.csv").write_text("path,label_index\n" + "".join(rows))


def run_comparison(
    labelled: Labelled, labels: Labels, overrides: Sequence[str] = ()
) -> FinishedComparison:
    """Run the metric comparison with these labels."""
    write_labels(labelled.folder, labels)
    config = load_config(write_config(labelled.folder, labelled.data), overrides)
    captured = capture_reporter()
    return FinishedComparison(config, correlate(config, captured.reporter), captured)
