"""Run the merged models on pictures: python example.py PICTURE ...

Needs the package merge-search, which contains `spaces`, and nothing of the run.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import spaces

if getattr(spaces, "__distribution__", "") != "merge-search":
    sys.exit(
        f"{spaces.__file__} is another package named `spaces`, not that of merge-search: install "
        "merge-search in an environment of its own (pip install merge-search)"
    )
bundle = spaces.load_bundle(Path(__file__).parent)
for name in sys.argv[1:]:
    frame = np.asarray(ImageOps.exif_transpose(Image.open(name)).convert("RGB"))  # uint8, any size
    for model, answer in bundle(frame).items():
        if bundle.tasks[model] == "classification":
            best = answer[0].softmax(0).topk(min(3, answer.shape[1]))
            description = ", ".join(
                f"class {k} {p:.0%}"
                for p, k in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            )
            print(f"{name}: {model}: {description}")
            continue
        for box, score, kind in zip(*answer[0], strict=True):
            if score >= 0.3:
                corners = ", ".join(f"{side:.0f}" for side in box.tolist())
                print(f"{name}: {model}: class {int(kind)} {score:.0%} at {corners}")
