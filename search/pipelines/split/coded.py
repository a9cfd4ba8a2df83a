"""The second step of a split: codecs for all splits, and what they cost on device and server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search.data.frames import Sampling, Subset
from search.evaluation.evaluate import UNMERGED_PLAN
from search.pipelines.split.inputs import SplitInputs
from search.pipelines.split.options import SplitOption
from search.split.answer_change import answer_changes
from search.split.components import fit_joined_codecs
from search.split.fit import FITTING_PASSES, FittedCodec
from search.split.levels import cheapest_codings, distortion_levels
from search.split.settings import CodecSettings
from search.utils.reporter import Reporter
from spaces.activations import run_with_footprint
from spaces.execution import computing
from spaces.plan import SharePlan
from spaces.split.coefficients import Coding

CHANGE_FRAMES = 16
"""Held-out frames on which it is measured how rounding and shares change the answers, at most."""


@dataclass(frozen=True, eq=False)
class CodedOption:
    """A split with its codec."""

    option: SplitOption
    codec: FittedCodec
    codings: tuple[Coding, ...]
    """The cheapest for each of `distortion_levels`."""
    codec_bytes: int
    """On the device."""
    peak_activations: int
    """Bytes on the device for one frame, while stages run or while the codec does."""
    tensors: tuple[Tensor, ...]
    """What crosses for one frame."""
    changes: Mapping[SharePlan, float]
    """How much the answers change by the plan itself, by the plan with the device's precision."""


def fit_options(
    inputs: SplitInputs, options: Sequence[SplitOption], reporter: Reporter
) -> list[CodedOption]:
    """Fit the codec of every split on the unlabelled frames.

    A codec does not depend on the precision of the device.
    """
    settings = codec_settings(inputs)
    frames, splits = inputs.fitted_on, [option.split for option in options]
    plans = len({split.plan for split in splits})
    reporter.step(f"Codecs of {len(splits)} splits of {plans} plans on {len(frames)} frames")
    with reporter.progress("frames", plans * FITTING_PASSES * len(frames)) as progress:
        codecs = fit_joined_codecs(inputs.setup, splits, frames, settings, progress)
    changes = _measure_changes(inputs, options, reporter)
    with reporter.progress("codecs", len(options)) as progress:
        coded = []
        for option, tensors in _crossing_tensors(inputs, options):
            coded.append(_coded(option, codecs[option.split], tensors, changes))
            progress(1)
    return coded


def codec_settings(inputs: SplitInputs) -> CodecSettings:
    """Return how the codecs of a config are fitted."""
    return CodecSettings(
        weight=inputs.settings.weight,
        gradient_frames=inputs.settings.gradient_frames,
        seed=inputs.config.seed,
        batch=inputs.config.verify.batch,
    )


def _measure_changes(
    inputs: SplitInputs, options: Sequence[SplitOption], reporter: Reporter
) -> dict[SharePlan, float]:
    deployment = inputs.deployment
    plans = [*dict.fromkeys(s.split.plan for o in options for s in o.stored.values())]
    count = min(CHANGE_FRAMES, len(inputs.held_out))
    frames = Subset(inputs.held_out, tuple(Sampling(count).indices(len(inputs.held_out))))
    with reporter.progress("rounding on the device, frames", len(frames)) as progress:
        changes = answer_changes(
            deployment.deployed_models, deployment.facts, inputs.maps, UNMERGED_PLAN, plans,
            frames, inputs.config.verify.batch, progress,
        )  # fmt: skip
    return dict(zip(plans, changes, strict=True))


@torch.inference_mode()
def _crossing_tensors(
    inputs: SplitInputs, options: Sequence[SplitOption]
) -> Iterator[tuple[SplitOption, list[Tensor]]]:
    """Yield what crosses in each split for the first frame."""
    for plan in inputs.plans:
        of_plan = [option for option in options if option.split.plan == plan]
        crossing = dict.fromkeys(n for option in of_plan for n in option.parts.crossing)
        merged = inputs.setup.merged(plan)
        prepared = inputs.setup.inputs(merged, [inputs.fitted_on[0]])
        run = merged.run(computing(tuple(crossing)), prepared, {}, lambda head, taps: None)
        for option in of_plan:
            yield option, [run.representations[node] for node in option.parts.crossing]


def _coded(
    option: SplitOption,
    codec: FittedCodec,
    tensors: Sequence[Tensor],
    changes: Mapping[SharePlan, float],
) -> CodedOption:
    on_cpu = [tensor.cpu() for tensor in tensors]
    _, footprint = run_with_footprint(codec.encoder, on_cpu)
    crossing_bytes = sum(tensor.nbytes for tensor in on_cpu)
    codings = tuple(cheapest_codings(codec.curve, distortion_levels()))
    return CodedOption(
        option=option,
        codec=codec,
        codings=codings,
        codec_bytes=sum(tensor.nbytes for tensor in codec.encoder.stored().values()),
        peak_activations=max(option.peak_activations, crossing_bytes + footprint.peak),
        tensors=(*on_cpu,),
        changes={s.split.plan: changes[s.split.plan] for s in option.stored.values()},
    )
