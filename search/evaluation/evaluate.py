"""Fidelity and ground truth of many plans in one pass over the frames."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from search.data.frames import FrameSet, batch_ranges
from search.data.ground_truth import Truth
from search.data.inputs.input_batches import input_batches
from search.evaluation.per_frame import FrameScores, Scores, main_score, scores_by_model
from search.evaluation.tasks.registry import SCORING
from search.evaluation.tasks.scoring import AnswerArray, Expected, FrameSizes, Setting
from search.execution.jobs import Engine, FrameShard
from search.utils.progress import Progress
from spaces.deployment import Deployment
from spaces.inputs import InputSpec
from spaces.merged import LinearMaps, ModelsByName
from spaces.model_facts import ModelFacts
from spaces.node import Output
from spaces.plan import SharePlan
from spaces.plan_set import PlanSet
from spaces.stages import StagedModel

ModelForm = Literal["deployed", "fused"]
"""Whether a deployment's models hold their weights as a bundle stores them, or as given."""
BATCHES_PER_TASK = 2
"""Batches that a worker runs in one task: each task builds the plans' modules again."""
UNMERGED_PLAN = SharePlan()


class AnswerFunction(Protocol):
    """From a batch of inputs to the distinct answers."""

    @property
    def inputs(self) -> Mapping[str, InputSpec]:
        """The specs of the inputs, by whatever names the function has for them."""
        ...

    def __call__(self, inputs: Mapping[str, Tensor]) -> Iterable[tuple[Output, Tensor]]:
        """Return each answer with its key. `inputs` are by the same names, and on the CPU."""
        ...


@dataclass(frozen=True)
class EvaluationSetup:
    """The models that plans are evaluated with."""

    models: ModelsByName
    facts: Mapping[str, ModelFacts]
    maps: LinearMaps
    """The linear map of every share that has one."""
    batch: int
    """Frames per forward pass."""
    cluster: Engine | None = None
    """Runs plans on frames; None: this process does it with `models`."""
    model_form: ModelForm = "deployed"
    """Which models of its own a cluster runs plans with."""


@dataclass(frozen=True)
class CollectedAnswers:
    """Every distinct answer over all frames."""

    answers: Mapping[Output, AnswerArray]
    frame_sizes: FrameSizes


def compute_fidelity(
    setup: EvaluationSetup, plans: Sequence[SharePlan], frames: FrameSet, progress: Progress
) -> list[dict[str, float | None]]:
    """Return, per plan and model, how well merged and unmerged answers agree, from 0 to 1.

    Of a classifier it is the share of frames with the same top-1 class; of a detector the mAP
    against the unmerged model's confident detections, or None where there are none; of an
    embedding the share of nearest frames that stay; of a segmentation the share of pixels with the
    same class. `progress` counts frames.
    """
    plan_set = PlanSet(setup.models, setup.facts, [UNMERGED_PLAN, *plans], setup.maps)
    collected = collect_plan_answers(plan_set, setup, frames, progress)
    unmerged, *merged = plan_set.outputs
    unmerged_answers = {name: collected.answers[output] for name, output in unmerged.items()}
    expected = answers_as_expected(unmerged_answers, collected.frame_sizes, setup.models, frames)
    fidelity: dict[Output, float | None] = {}
    for output in {output for outputs in merged for output in outputs.values()}:
        name = output.model
        fidelity[output] = (
            main_score(
                score_answers(
                    collected.answers[output],
                    expected[name],
                    setup.models[name],
                    collected.frame_sizes,
                ).scores
            )
            if name in expected
            else None
        )
    return [{name: fidelity[output] for name, output in outputs.items()} for outputs in merged]


def answers_as_expected(
    answers: Mapping[str, AnswerArray],
    frame_sizes: FrameSizes,
    models: ModelsByName,
    frames: FrameSet,
) -> dict[str, Expected]:
    """Return the unmerged models' answers as what fidelity is scored against.

    Models whose answers have nothing to score against are left out, such as detectors without a
    confident detection.
    """
    expected: dict[str, Expected] = {}
    for name, model_answers in answers.items():
        setting = Setting(models[name], frame_sizes)
        of_model = SCORING[models[name].task].as_expected(model_answers, setting, frames)
        if of_model is not None:
            expected[name] = of_model
    return expected


def compute_accuracy(
    setup: EvaluationSetup,
    plans: Sequence[SharePlan],
    truth: Mapping[str, Truth],
    progress: Progress,
) -> list[dict[str, Scores]]:
    """Return, per plan and model with ground truth, its scores.

    `progress` counts the steps of `verification_steps`.
    """
    return [scores_by_model(scores) for scores in score_frames(setup, plans, truth, progress)]


def score_frames(
    setup: EvaluationSetup,
    plans: Sequence[SharePlan],
    truth: Mapping[str, Expected],
    progress: Progress,
) -> list[dict[str, FrameScores]]:
    """Return, per plan and model with ground truth, its correct answers on each frame.

    Plans with the same answers share one object. `progress` counts the steps of
    `verification_steps`.
    """
    plan_set = PlanSet(setup.models, setup.facts, plans, setup.maps)
    plan_counts = Counter(output for outputs in plan_set.outputs for output in outputs.values())
    scores: dict[Output, FrameScores] = {}
    for names in group_by_frames(truth):
        restricted = plan_set.restrict_to(names)
        collected = collect_plan_answers(restricted, setup, truth[names[0]].frames, progress)
        for output, array in collected.answers.items():
            name = output.model
            scores[output] = score_answers(
                array, truth[name], setup.models[name], collected.frame_sizes
            )
            progress(plan_counts[output])
    return [
        {name: scores[output] for name, output in outputs.items() if name in truth}
        for outputs in plan_set.outputs
    ]


def verification_steps(plans: int, truth: Mapping[str, Truth]) -> int:
    """Return how many steps `compute_accuracy` reports: frames read and answers scored.

    Scoring counts because it takes minutes for hundreds of detectors.
    """
    frames = sum(len(truth[names[0]].frames) for names in group_by_frames(truth))
    return frames + plans * len(truth)


def quality_kept_by_model(
    scores: Mapping[str, Scores],
    baseline: Mapping[str, Scores],
    fidelity: Mapping[str, float | None],
) -> dict[str, float]:
    """Return each model's quality kept: its merged main score / its unmerged one (`baseline`).

    A model without ground truth, or with an unmerged score of 0, counts with its fidelity; it is
    left out if that is None.
    """
    quality: dict[str, float] = {name: f for name, f in fidelity.items() if f is not None}
    for name in _verifiable(baseline):
        quality[name] = main_score(scores[name]) / main_score(baseline[name])
    return quality


def quality_kept(
    scores: Mapping[str, Scores],
    baseline: Mapping[str, Scores],
    fidelity: Mapping[str, float | None],
) -> float | None:
    """Return the mean of `quality_kept_by_model`.

    Return None if no model has an unmerged score above 0: then nothing was verified.
    """
    quality = quality_kept_by_model(scores, baseline, fidelity)
    return float(np.mean(list(quality.values()))) if _verifiable(baseline) else None


def _verifiable(baseline: Mapping[str, Scores]) -> list[str]:
    return [name for name, scores in baseline.items() if main_score(scores) > 0]


def score_answers(
    answers: AnswerArray, expected: Expected, model: StagedModel, frame_sizes: FrameSizes
) -> FrameScores:
    """Score one model's answers against its ground truth, or against the unmerged answers."""
    return SCORING[model.task].score(answers, expected, Setting(model, frame_sizes))


def group_by_frames(truth: Mapping[str, Expected]) -> list[list[str]]:
    """Group models by the frames of their ground truth, so that each frame is read once."""
    groups: dict[str, list[str]] = {}
    for name, model_truth in truth.items():
        groups.setdefault(model_truth.frames.hash, []).append(name)
    return list(groups.values())


@dataclass(frozen=True)
class PlanSetAnswers:
    """Computes every distinct answer of some plans."""

    plan_set: PlanSet
    models: ModelsByName

    @property
    def inputs(self) -> Mapping[str, InputSpec]:
        return {name: self.models[name].input for name in self.plan_set.inputs_read}

    def __call__(self, inputs: Mapping[str, Tensor]) -> Iterable[tuple[Output, Tensor]]:
        on_devices = {name: value.to(self.models[name].device) for name, value in inputs.items()}
        return self.plan_set.answers(on_devices)


def collect_plan_answers(
    plan_set: PlanSet, setup: EvaluationSetup, frames: FrameSet, progress: Progress
) -> CollectedAnswers:
    """Run plans over all frames, here or on the setup's cluster, and collect their answers."""
    if setup.cluster is None:
        return collect_answers(PlanSetAnswers(plan_set, setup.models), setup, frames, progress)
    job = answers_job(plan_set, setup)
    answers, frame_sizes = ShardAnswers.joined(setup.cluster.run(job, frames, progress))
    return CollectedAnswers(dict(zip(plan_set.distinct, answers, strict=True)), frame_sizes)


def answers_job(plan_set: PlanSet, setup: EvaluationSetup) -> AnswersJob:
    """Return the job that computes the distinct answers of plans."""
    names = frozenset(output.model for output in plan_set.distinct)
    return AnswersJob(tuple(plan_set.plans), setup.maps, names, setup.batch, setup.model_form)


class VerificationJob(NamedTuple):
    """The answers of plans on one of the frame sets that they are verified on."""

    job: AnswersJob
    frames: FrameSet


def verification_jobs(
    setup: EvaluationSetup,
    plans: Sequence[SharePlan],
    frames: FrameSet,
    truth: Mapping[str, Truth],
) -> list[VerificationJob]:
    """Return the jobs of a verification of plans: everything that runs a model.

    They are those of `compute_fidelity` on `frames`, and of `compute_accuracy` of the unmerged
    models and the plans.
    """
    plan_set = PlanSet(setup.models, setup.facts, [UNMERGED_PLAN, *plans], setup.maps)
    return [
        VerificationJob(answers_job(plan_set, setup), frames),
        *(
            VerificationJob(
                answers_job(plan_set.restrict_to(names), setup), truth[names[0]].frames
            )
            for names in group_by_frames(truth)
        ),
    ]


class ShardAnswers(NamedTuple):
    """The distinct answers of plans on the frames of a shard, in the order of `PlanSet.distinct`.

    Nodes, which outputs consist of, are not equal across processes.
    """

    answers: list[AnswerArray]
    frame_sizes: FrameSizes

    @classmethod
    def joined(cls, shards: Iterable[ShardAnswers]) -> ShardAnswers:
        """Return the answers on the frames of all shards, in their order."""
        listed = [*shards]
        by_output = zip(*(shard.answers for shard in listed), strict=True)
        return cls(
            [np.concatenate(arrays) for arrays in by_output],
            [size for shard in listed for size in shard.frame_sizes],
        )


@dataclass(frozen=True)
class AnswersJob:
    """The distinct answers of plans on frames."""

    plans: tuple[SharePlan, ...]
    maps: LinearMaps
    names: frozenset[str]
    """The models that answer."""
    batch: int
    model_form: ModelForm

    @property
    def shard_size(self) -> int:
        return self.batch * BATCHES_PER_TASK

    def pieces(self) -> list[AnswersJob]:
        return [self]

    def run(self, deployment: Deployment, shard: FrameShard, progress: Progress) -> ShardAnswers:
        deployed = self.model_form == "deployed"
        models = deployment.deployed_models if deployed else deployment.fused_models
        setup = EvaluationSetup(models, deployment.facts, self.maps, self.batch)
        plan_set = PlanSet(models, setup.facts, self.plans, self.maps).restrict_to(self.names)
        answers = PlanSetAnswers(plan_set, models)
        collected = collect_answers(answers, setup, shard.frames, progress)
        return ShardAnswers(
            [collected.answers[output] for output in plan_set.distinct], collected.frame_sizes
        )


def collect_answers(
    answer: AnswerFunction, setup: EvaluationSetup, frames: FrameSet, progress: Progress
) -> CollectedAnswers:
    """Run over all frames and collect the part of every answer that scoring needs.

    Frames are read with the pixels that all models of `setup` need, whatever `answer` takes.
    """
    batch_answers: defaultdict[Output, list[AnswerArray]] = defaultdict(list)
    sizes: list[tuple[int, int]] = []
    ranges = batch_ranges(len(frames), setup.batch)
    needed = [model.input for model in setup.models.values()]
    for batch in input_batches(frames, ranges, answer.inputs, needed):
        for output, tensor in answer(batch.inputs):
            scoring = SCORING[setup.models[output.model].task]
            batch_answers[output].append(scoring.compact(tensor))
        sizes += batch.frame_sizes
        progress(len(batch))
    return CollectedAnswers(
        {output: np.concatenate(arrays) for output, arrays in batch_answers.items()}, sizes
    )
