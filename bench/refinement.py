"""Compare ways to train what lies between a share and the recipient's answers, without labels.

    MERGE_SEARCH_DATA=/path/to/data python bench/refinement.py

The share is `lite1:blocks.5` for `lite0:blocks.5`, in float32. Statistics and training use one
half of the photos of `bench/metrics.py`, without their labels; every number is measured on the
reporting photos of the other half. Variants differ in what is trained (the map; also the scales
and biases of the BatchNorms behind the share; also all weights there) and in the loss. The last
line is one JSON object: by variant `closeness`, `same` (the share of frames with the unmerged
top-1 class), `top1` and `seconds`.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from metrics import build_config, split_photos
from samplers import DATA
from torch import Tensor, nn

from search.data.frames import FrameSet
from search.data.ground_truth import ClassTruth
from search.data.label_table import csv_truth
from search.pipelines.deployment.load import load_deployment
from search.pipelines.open_data import sampling_of
from search.pipelines.prepare import observe
from search.refinement.loss import TapLoss
from search.refinement.recorded import record_representations
from search.refinement.training import LEARNING_RATE, Loss, minimise
from search.refinement.views import FRAME_VIEWS
from search.statistics.observed import Observed
from search.utils.console import ConsoleReporter
from search.utils.progress import silent
from search.utils.reporter import Reporter
from spaces.liveness import canonical
from spaces.model_facts import layouts_by_model
from spaces.plan import Ref, Share, SharePlan
from spaces.stages import StagedModel
from spaces.trainable_maps import TrainableMaps

MODELS = ("lite0", "lite1")
SHARE = Share.between("lite1:blocks.5", "lite0:blocks.5")
RECIPIENT = SHARE.recipient.model
TEMPERATURE = 2.0
SMALLER_RATE = LEARNING_RATE / 3
"""For all weights behind the share."""
Taps = Mapping[Ref, Tensor]
Parameters = Callable[["Tail"], Iterator[nn.Parameter]]


@dataclass
class Tail:
    """A share with a trainable map, and its own copy of the recipient."""

    maps: TrainableMaps
    model: StagedModel

    @property
    def stages(self) -> list[nn.Module]:
        """The recipient's stages behind the share."""
        return [*self.model.stages][self.model.layout.index(SHARE.recipient.stage) + 1 :]

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        parts = (part for stage in self.stages for part in stage.modules())
        return [part for part in parts if isinstance(part, nn.BatchNorm2d)]


@dataclass(frozen=True)
class Photos:
    """Unmerged representations, for training and for measuring."""

    train: Taps
    """Of all views of each photo."""
    test: Taps
    labels: Tensor


def main() -> None:
    argparse.ArgumentParser(description=str(__doc__).partition("\n")[0]).parse_args()
    reporter = ConsoleReporter()
    config = build_config(MODELS)
    deployment = load_deployment(config, reporter)
    truth = csv_truth(DATA / "labels.csv", sampling_of(config.frames))
    unlabelled, parts = split_photos(truth, MODELS)
    reporting = parts["reporting"][RECIPIENT]
    assert isinstance(reporting, ClassTruth)
    observed = observe(config, deployment, unlabelled, reporter)
    reporter.step("Unmerged representations")
    photos = record(observed, reporting)
    results = {}
    for name, run in variants(photos).items():
        start = time.perf_counter()
        tail = new_tail(observed)
        run(tail)
        results[name] = measure(tail, photos) | {"seconds": round(time.perf_counter() - start, 1)}
    print_results(results, reporter)
    print(json.dumps(results))


def record(observed: Observed, reporting: ClassTruth) -> Photos:
    reads = new_tail(observed).maps.reads

    def representations(frames: FrameSet) -> Taps:
        models = observed.deployment.fused_models
        return record_representations(models, dict.fromkeys(reads, len(frames)), frames, silent)

    test = {ref: v[::FRAME_VIEWS] for ref, v in representations(reporting.frames).items()}
    labels = torch.tensor([next(iter(right)) for right in reporting.labels])
    return Photos(representations(observed.statistics_frames), test, labels)


def new_tail(observed: Observed) -> Tail:
    deployment = observed.deployment
    model = copy.deepcopy(deployment.models[RECIPIENT])
    plan = canonical(SharePlan((SHARE,)), layouts_by_model(deployment.facts))
    models = {**deployment.models, RECIPIENT: model}
    return Tail(TrainableMaps(models, deployment.facts, plan, observed.maps_for([plan])), model)


def variants(photos: Photos) -> dict[str, Callable[[Tail], None]]:
    cosine = TapLoss.of({ref: v for ref, v in photos.train.items() if ref.model == RECIPIENT})
    return {
        "closed form": lambda tail: None,
        "BatchNorms measured again": lambda tail: measure_again(tail, photos.train),
        "map, squared error of the taps": lambda t: train(t, photos, map_only, squared_error),
        "map, answers": lambda t: train(t, photos, map_only, answers_of(t)),
        "map, cosine": lambda t: train(t, photos, map_only, cosine),
        "map and BatchNorms, cosine": lambda t: train(t, photos, map_and_norms, cosine),
        "all weights, cosine": lambda t: train(t, photos, everything, cosine, SMALLER_RATE),
        "all weights, answers": lambda t: train(
            t, photos, everything, answers_of(t), SMALLER_RATE
        ),
    }


# What is trained.


def map_only(tail: Tail) -> Iterator[nn.Parameter]:
    yield from tail.maps.parameters()


def map_and_norms(tail: Tail) -> Iterator[nn.Parameter]:
    yield from map_only(tail)
    for norm in tail.norms:
        yield from norm.parameters()


def everything(tail: Tail) -> Iterator[nn.Parameter]:
    yield from map_only(tail)
    for stage in tail.stages:
        yield from stage.parameters()


# What it is trained for.


def squared_error(merged: Taps, unmerged: Taps) -> Tensor:
    return torch.stack(
        [(v - unmerged[ref]).square().mean() / unmerged[ref].var() for ref, v in merged.items()]
    ).mean()


def answers_of(tail: Tail) -> Loss:
    """Return the Kullback-Leibler divergence of the merged from the unmerged answers."""

    def loss(merged: Taps, unmerged: Taps) -> Tensor:
        refs = [Ref(RECIPIENT, tap) for tap in tail.model.layout.taps]
        own, target = (
            tail.model.head([taps[ref] for ref in refs]) / TEMPERATURE
            for taps in (merged, unmerged)
        )
        return TEMPERATURE**2 * F.kl_div(
            own.log_softmax(1), target.softmax(1), reduction="batchmean"
        )

    return loss


def train(
    tail: Tail, photos: Photos, parameters: Parameters, loss: Loss, rate: float = LEARNING_RATE
) -> None:
    """Train as `search.refinement.training.train_maps` does, with other parameters and losses."""
    trained = [*parameters(tail)]
    for parameter in trained:
        parameter.requires_grad_(True)
    minimise(loss, tail.maps, trained, rate, photos.train, silent)


@torch.no_grad()
def measure_again(tail: Tail, train: Taps) -> None:
    """Measure the statistics of the BatchNorms behind the share on what they read now."""
    for norm in tail.norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for start in range(0, len(next(iter(train.values()))), 64):
        tail.maps({ref: v[start : start + 64].float() for ref, v in train.items()})
    for norm in tail.norms:
        norm.eval()


@torch.no_grad()
def measure(tail: Tail, photos: Photos) -> dict[str, float]:
    unmerged = {ref: v.float() for ref, v in photos.test.items()}
    merged, taps = tail.maps(unmerged), [Ref(RECIPIENT, tap) for tap in tail.model.layout.taps]
    original, own = (
        tail.model.comparable([values[ref] for ref in taps]) for values in (unmerged, merged)
    )
    return {
        "closeness": round(float(tail.model.closeness(own, original).mean()), 4),
        "same": round(float(tail.model.agreement(own, original).mean()), 4),
        "top1": round(float((own.argmax(1) == photos.labels).float().mean()), 4),
    }


def print_results(results: Mapping[str, Mapping[str, float]], reporter: Reporter) -> None:
    reporter.table(
        f"{SHARE}, on labelled photos",
        ["variant", "closeness", "same answer", "top-1", "seconds"],
        [
            [
                name,
                f"{r['closeness']:.1%}",
                f"{r['same']:.1%}",
                f"{r['top1']:.1%}",
                f"{r['seconds']}",
            ]
            for name, r in results.items()
        ],
    )


if __name__ == "__main__":
    main()
