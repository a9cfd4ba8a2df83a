"""Draw docs/images/scenes.jpg: rendered frames with their boxes, for the quickstart's tutorial.

python bench/scene_sheet.py docs/images/scenes.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from search.data.synthetic.scenes import CLASSES, SCENE_CLASSES, Scene, SceneSettings, render

COLOURS = ("#38bdf8", "#a78bfa", "#fb923c", "#f87171", "#4ade80", "#facc15")
SETTINGS = SceneSettings(seed=12, night=0.3, rain=0.25)
INDICES = (1, 7, 4, 5, 0, 8)
COLUMNS = 3


def annotate(scene: Scene) -> Image.Image:
    """Return the frame with its boxes and, in the corner, its class."""
    picture = Image.fromarray(scene.image)
    draw = ImageDraw.Draw(picture)
    for (x, y, w, h), kind in zip(scene.boxes, scene.classes, strict=True):
        draw.rectangle((x, y, x + w, y + h), outline=COLOURS[kind], width=2)
        draw.text((x + 3, y + 1), CLASSES[kind], fill=COLOURS[kind])
    draw.text((5, 3), f"scene: {SCENE_CLASSES[scene.label]}", fill="white")
    return picture


def main(target: Path) -> None:
    """Draw the sheet of all frames."""
    tiles = [np.asarray(annotate(render(SETTINGS, i))) for i in INDICES]
    rows = [np.hstack(tiles[k : k + COLUMNS]) for k in range(0, len(tiles), COLUMNS)]
    Image.fromarray(np.vstack(rows)).save(target, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
