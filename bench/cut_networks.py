"""Which networks can be cut: a network of every architecture module of timm, and other libraries'.

    python bench/cut_networks.py

Each network gets random weights and is loaded as a run loads it, which compares the answers of its
stages with its own. It counts as cut if it has at least four stages. effdet's detectors are built
at 256 pixels, all others at their own size. The last line is one JSON object: `timm_cut` of
`timm_total` architecture modules, and likewise for torchvision's families of classifiers, its
detectors and segmentations (`torchvision_detectors_cut` and so on) and effdet's names; `stages`
has the names of the stages of each network, `refused` the reason for the others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import timm
from effdet.config.model_config import efficientdet_model_param_dict

from search.utils.console import ConsoleReporter
from spaces.errors import MergeSearchError
from spaces.model_spec import ModelSpec
from spaces.zoo import load_model

FEWEST_STAGES = 4
DETECTOR_SIZE = (256, 256)
TIMM = """
    beit_base_patch16_224 eca_botnext26ts_256 mobileone_s1 cait_xxs24_224 coat_tiny convit_tiny
    convmixer_768_32 convnext_atto_rms cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s
    cspnext_tiny davit_tiny deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla46_c dpn48b
    edgenext_xx_small efficientformer_l1 efficientformerv2_s0 tinynet_e efficientvim_m1
    efficientvit_b0 efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8
    focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m ghostnet_050 hardcorenas_b hgnetv2_b0
    hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small iformer_t inception_next_atto
    inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_128 lowformer_b0
    mambaout_femto maxvit_pico_rw_256 poolformer_s12 gmlp_ti16_224 mobilenetv3_small_050
    mobilenetv5_base mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_gap nasnetalarge
    nest_tiny nextvit_small nf_resnet26 pit_ti_224 pnasnet5large pvt_v2_b0 qwen3_vit_88m
    rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50 resnest14d resnet18 resnetv2_18
    rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050
    swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224
    tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny
    vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_srelpos_small_patch16_224
    samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception
    xception41p xcit_nano_12_p8_224
""".split()
"""One of the smallest networks of each architecture module of timm 1.0.31."""
TORCHVISION = """
    alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3
    maxvit_t mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_y_400mf resnet18 resnext50_32x4d
    shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11 vit_b_32 wide_resnet50_2
""".split()
"""One network of each of torchvision's families of classifiers."""

TORCHVISION_DETECTORS = """
    fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_mobilenet_v3_large_fpn fasterrcnn_resnet50_fpn
    fasterrcnn_resnet50_fpn_v2 fcos_resnet50_fpn retinanet_resnet50_fpn retinanet_resnet50_fpn_v2
    ssd300_vgg16 ssdlite320_mobilenet_v3_large
""".split()
"""All detectors of torchvision, without those that also find masks or keypoints."""
TORCHVISION_SEGMENTATIONS = """
    deeplabv3_mobilenet_v3_large deeplabv3_resnet50 deeplabv3_resnet101 fcn_resnet50 fcn_resnet101
    lraspp_mobilenet_v3_large
""".split()
"""All segmentations of torchvision."""


class Outcome(NamedTuple):
    """What became of a network."""

    stages: Sequence[str]
    reason: str
    """Why it cannot be cut; empty if it can."""

    @property
    def is_cut(self) -> bool:
        return len(self.stages) >= FEWEST_STAGES


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "library",
        nargs="*",
        help="timm, torchvision, torchvision_detectors, torchvision_segmentations, effdet; by "
        "default all",
    )
    chosen = parser.parse_args().library
    reporter = ConsoleReporter()
    networks: Mapping[str, Sequence[str]] = {
        "timm": TIMM,
        "torchvision": TORCHVISION,
        "torchvision_detectors": TORCHVISION_DETECTORS,
        "torchvision_segmentations": TORCHVISION_SEGMENTATIONS,
        "effdet": sorted(efficientdet_model_param_dict),
    }
    report: dict[str, object] = {"timm": timm.__version__}
    stages: dict[str, Sequence[str]] = {}
    refused: dict[str, str] = {}
    for library, names in networks.items():
        if chosen and library not in chosen:
            continue
        source = library.partition("_")[0]
        outcomes = {name: try_network(source, name) for name in names}
        rows = [
            [name, str(len(o.stages)), o.reason or " ".join(o.stages)]
            for name, o in outcomes.items()
        ]
        reporter.table(library, ["network", "stages", "their names, or why it is not cut"], rows)
        report[f"{library}_cut"] = sum(outcome.is_cut for outcome in outcomes.values())
        report[f"{library}_total"] = len(names)
        stages |= {f"{source}/{name}": o.stages for name, o in outcomes.items() if o.stages}
        refused |= {f"{source}/{name}": o.reason for name, o in outcomes.items() if o.reason}
    print(json.dumps({**report, "refused": refused, "stages": stages}))


def try_network(library: str, name: str) -> Outcome:
    """Load a network with random weights."""
    size = DETECTOR_SIZE if library == "effdet" else None
    try:
        model = load_model(ModelSpec("net", f"{library}/{name}", "none", size=size))
    except MergeSearchError as error:
        return Outcome((), str(error))
    return Outcome(model.layout.stages, "")


if __name__ == "__main__":
    main()
