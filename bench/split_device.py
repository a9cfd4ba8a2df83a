"""What the device of `split.py` holds, computes and takes, and what int8 weights change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from split_networks import PRECISIONS, Networks, Setting

from search.evaluation.latency import PartTimer, default_stopwatch
from search.evaluation.splits.codec_coder import CodecCoder
from search.evaluation.splits.link_scores import ShownFrames
from search.evaluation.splits.link_times import time_picture, time_split
from search.evaluation.splits.pictures import PictureCoding, PictureView
from search.evaluation.splits.score_splits import SplitCandidate, score_splits
from search.pipelines.split.options import part_owners, with_device_precision
from search.split.setup import SplitSetup
from search.utils.progress import silent
from spaces.batchnorm_fusion import fuse_batchnorms
from spaces.cost import CostModel
from spaces.plan import Precision, Ref, SharePlan
from spaces.split.split import Split, SplitParts


def describe_device(networks: Networks, split: Split) -> dict[str, Any]:
    """Return what the device's part holds and computes, as parts of the merged model in float32.

    The bytes are given for each precision of its weights; the codec's matrices are in float32.
    """
    costs = CostModel(networks.setup.networks.facts)
    owners = device_owners(networks, split)
    macs = costs.macs_by_owner(split.plan)
    codec = codec_bytes(networks, split)
    held = {
        precision: codec + sum(
            costs.bytes_by_owner(stored_plan(networks, split, precision), owners).values())
        for precision in PRECISIONS
    }  # fmt: skip
    whole = costs.bytes(split.plan)
    return {
        "macs": sum(macs.get(owner, 0) for owner in owners) / costs.macs(split.plan),
        "codec_bytes": codec,
        "device_bytes": held,
        "of_network": {precision: size / whole for precision, size in held.items()},
    }


def codec_bytes(networks: Networks, split: Split) -> int:
    stored = networks.codecs[split].encoder.stored().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in stored)


def device_owners(networks: Networks, split: Split) -> frozenset[Ref]:
    merged = networks.setup.networks.merged(split.plan)
    return part_owners(SplitParts.of(merged, split).device)


def stored_plan(networks: Networks, split: Split, precision: Precision) -> SharePlan:
    """Return the plan whose device stores its weights in a precision."""
    facts = networks.setup.networks.facts
    return with_device_precision(split.plan, device_owners(networks, split), precision, facts)


def measure_int8(networks: Networks, setting: Setting, shown: ShownFrames) -> dict[str, float]:
    """Measure a setting whose device has int8 weights, against the unsplit answers in float32.

    Codec and statistics stay those of the exact network.
    """
    assert setting.split and not isinstance(setting.coder, PictureCoding)
    plan = stored_plan(networks, setting.split, "int8")
    candidate = SplitCandidate(Split(plan, setting.split.ends), setting.coder, setting.statistics)
    scored = score_splits(networks.setup, [candidate], [shown], silent, against=networks.plan)
    (scores,) = scored.methods
    return {"bytes": round(scores.mean_bytes), "fidelity": scores.mean_fidelity}


def measure_times(networks: Networks, settings: Iterable[Setting]) -> dict[str, Any]:
    """Time settings with fused BatchNorms, as a box runs them."""
    fused = {name: fuse_batchnorms(model) for name, model in networks.models.items()}
    setup = SplitSetup(fused, networks.setup.networks.facts, networks.maps, "float32")
    frames = [networks.unlabelled[k] for k in range(4)]
    merged = setup.merged(networks.plan)
    timer = PartTimer(default_stopwatch(torch.device("cpu")), merged,
                      [setup.inputs(merged, [frame]) for frame in frames])  # fmt: skip
    view = PictureView.of(networks.models)
    found: dict[str, Any] = {}
    for setting in settings:
        if isinstance(setting.coder, PictureCoding):
            found[setting.method] = vars(time_picture(timer, setting.coder, view, frames))
        elif isinstance(setting.coder, CodecCoder) and setting.split:
            taken = time_split(timer, SplitParts.of(merged, setting.split), setting.coder)
            coded = taken.encode_ms + taken.decode_ms
            found[setting.method] = vars(taken) | {
                "encoder_of_device": taken.encode_ms / taken.device_ms,
                "coder_of_device": coded / taken.device_ms,
            }
    return found
