"""A network's faster twin: BatchNorms folded into convolutions, a few frames at a time."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from spaces.stages import StagedModel

ROUNDING = 1e-4
"""How far a fused stage may be from the stage's own representation, by its greatest value."""
CHUNK_SIZE = 4
"""What a block holds between its layers is several times what it gives: of so few frames it stays
in the processor's cache."""


@torch.inference_mode(False)  # whoever asks in that mode, others will want gradients of the twin
@torch.no_grad()
def fuse_batchnorms(model: StagedModel) -> StagedModel:
    """The same network with the BatchNorms of its stages folded, run in parts of the batch.

    Its representations are the model's own but for rounding. A stage of which that does not hold,
    because more than its BatchNorm reads what a convolution gives, say, stays as it is, and so
    does the head.
    """
    twin = copy.deepcopy(model)
    twin.chunk_size = CHUNK_SIZE
    representation = model.example_input()
    for place, stage in enumerate(model.stages):
        wanted = stage(representation)
        candidate = _fused_stage(copy.deepcopy(stage), representation)
        if (candidate(representation) - wanted).abs().max() <= ROUNDING * wanted.abs().max():
            twin.stages[place] = candidate
        representation = wanted
    return twin


def _fused_stage(stage: nn.Module, inputs: Tensor) -> nn.Module:
    paths = {module: path for path, module in stage.named_modules()}
    for conv, norm in _couples(stage, inputs):
        assert norm.running_mean is not None and norm.running_var is not None
        weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps,
            norm.weight, norm.bias,
        )  # fmt: skip
        conv.weight = nn.Parameter(
            weight.contiguous(memory_format=torch.channels_last), requires_grad=False
        )
        # What a BatchNorm of timm's holds is the activation behind it.
        stage.set_submodule(paths[norm], nn.Sequential(*norm.children()))
    return stage


def _couples(stage: nn.Module, inputs: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and BatchNorms that run once, one on what the other gives."""
    runs: Counter[nn.Module] = Counter()
    given: list[tuple[nn.Conv2d, Tensor]] = []
    couples: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def ran(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        runs[module] += 1
        if isinstance(module, nn.Conv2d):
            given.append((module, output))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            couples.extend((conv, module) for conv, read in given if read is inputs[0])

    hooks = [part.register_forward_hook(ran) for part in stage.modules()]
    stage(inputs)
    for hook in hooks:
        hook.remove()
    return [(conv, norm) for conv, norm in couples if runs[conv] == runs[norm] == 1]
