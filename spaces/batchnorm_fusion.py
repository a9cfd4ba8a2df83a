"""Build a faster copy of a network: BatchNorms fused into convolutions, batches run in chunks."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from spaces.stages import StagedModel

FUSION_TOLERANCE = 1e-4
"""Largest accepted error of a fused stage, relative to the largest value of its representation."""
CHUNK_SIZE = 4
"""Frames that run through a stage at a time: few enough for the intermediate tensors of a block,
several times as large as its output, to stay in the processor's cache."""


@torch.inference_mode(False)  # the copy must support gradients, even if built in that mode
@torch.no_grad()
def fuse_batchnorms(model: StagedModel) -> StagedModel:
    """Return a copy of the model with the BatchNorms of its stages fused, run in chunks.

    Its representations equal the model's up to rounding. A stage for which they would not, for
    example because another layer reads the output of a convolution too, is left as it is. The
    head is never fused.
    """
    fused = copy.deepcopy(model)
    fused.chunk_size = CHUNK_SIZE
    fused.remember_unfused(model)
    representation = model.example_input()
    for index, stage in enumerate(model.stages):
        fused.stages[index] = fuse_stage(stage, representation)
        representation = stage(representation)
    return fused


@torch.inference_mode(False)
@torch.no_grad()
def fuse_stage(stage: nn.Module, inputs: Tensor) -> nn.Module:
    """Return a copy of a stage with fused BatchNorms; the stage itself if its output would differ.

    `inputs` are an example.
    """
    expected = stage(inputs)
    candidate = _fused_stage(copy.deepcopy(stage), inputs)
    error = (candidate(inputs) - expected).abs().max()
    return candidate if error <= FUSION_TOLERANCE * expected.abs().max() else stage


def _fused_stage(stage: nn.Module, inputs: Tensor) -> nn.Module:
    paths = {module: path for path, module in stage.named_modules()}
    for conv, norm in _fusable_pairs(stage, inputs):
        assert norm.running_mean is not None and norm.running_var is not None
        weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps,
            norm.weight, norm.bias,
        )  # fmt: skip
        conv.weight = nn.Parameter(
            weight.contiguous(memory_format=torch.channels_last), requires_grad=False
        )
        # A BatchNorm of timm contains the activation that follows it.
        stage.set_submodule(paths[norm], nn.Sequential(*norm.children()))
    return stage


def _fusable_pairs(stage: nn.Module, inputs: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return each convolution with the BatchNorm that reads its output; both run exactly once."""
    runs: Counter[nn.Module] = Counter()
    conv_outputs: list[tuple[nn.Conv2d, Tensor]] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        runs[module] += 1
        if isinstance(module, nn.Conv2d):
            conv_outputs.append((module, output))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            pairs.extend((conv, module) for conv, tensor in conv_outputs if tensor is inputs[0])

    hooks = [part.register_forward_hook(record) for part in stage.modules()]
    stage(inputs)
    for hook in hooks:
        hook.remove()
    return [(conv, norm) for conv, norm in pairs if runs[conv] == runs[norm] == 1]
