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
        for line in bundle.describe(model, answer):
            print(f"{name}: {model}: {line}")
