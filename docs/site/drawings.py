"""The drawings of the architecture page as SVG: the floors, and the steps of a run.

The floors are read from tests/test_laws.py and their texts from the docstrings of the packages,
so the drawing cannot fall behind the code.
"""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path
from xml.sax.saxutils import escape

FONT = "font-family='system-ui, sans-serif'"
INK, MUTED, LINE = "#1f2933", "#52606d", "#9aa5b1"
FLOOR_COLOURS = ("#e3f2ef", "#eef2fb")
MONOSPACE = "ui-monospace, monospace"
WIDTH = 960


def text(x: float, y: float, words: str, size: int = 13, colour: str = INK, **style: str) -> str:
    extra = "".join(f" {name.replace('_', '-')}='{value}'" for name, value in style.items())
    place = f"x='{x:g}' y='{y:g}' font-size='{size}' fill='{colour}'"
    return f"<text {place}{extra}>{escape(words)}</text>"


def box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return (f"<rect x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' rx='6' "
            f"fill='{fill}' stroke='{LINE}'/>")  # fmt: skip


def line(path: str, colour: str) -> str:
    return f"<path d='{path}' fill='none' stroke='{colour}'/>"


def paragraph(x: float, y: float, words: str, columns: int, size: int = 12) -> list[str]:
    lines = textwrap.wrap(words, columns)
    return [text(x, y + 16 * i, row, size, MUTED) for i, row in enumerate(lines)]


def picture(height: float, title: str, parts: list[str]) -> str:
    head = (f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:g}' role='img' "
            f"{FONT}>\n<title>{escape(title)}</title>")  # fmt: skip
    background = f"<rect width='{WIDTH}' height='{height:g}' fill='white'/>"
    return "\n".join([head, background, *parts, "</svg>", ""])


# The floors of the packages.


def layers(root: Path) -> tuple[tuple[str, ...], ...]:
    """Return LAYERS of tests/test_laws.py, the lowest floor first."""
    tree = ast.parse((root / "tests/test_laws.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS":
            return tuple(ast.literal_eval(node.value))
    raise SystemExit("tests/test_laws.py no longer defines LAYERS")


def purpose(root: Path, package: str) -> str:
    """Return the first line of a package's docstring."""
    tree = ast.parse((root / package / "__init__.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").split("\n")[0]


def floors_drawing(root: Path) -> str:
    floors = [*reversed(layers(root)), ("spaces",)]
    gap, left = 10, 46
    y = float(gap)
    parts = []
    for row, floor in enumerate(floors):
        width = (WIDTH - left - gap * len(floor)) / len(floor)
        names = [package if package == "spaces" else f"search/{package}" for package in floor]
        texts = [paragraph(0, 0, purpose(root, name), int((width - 20) / 6.6)) for name in names]
        height = 32 + 16 * max(len(lines) for lines in texts)
        parts.append(text(18, y + height / 2 + 5, str(len(floors) - 1 - row), 15, MUTED))
        for column, name in enumerate(names):
            x = left + column * (width + gap)
            parts.append(box(x, y, width, height, FLOOR_COLOURS[row % 2]))
            parts.append(text(x + 12, y + 21, name, 14, font_weight="600"))
            parts += paragraph(x + 12, y + 39, purpose(root, name), int((width - 20) / 6.6))
        y += height + gap
    parts.append(text(left, y + 12, "A package imports itself and lower floors only.", 12, MUTED))
    return picture(y + 28, "The packages of merge-search on their floors", parts)


# The steps of a run.

STEPS = (
    ("config", "Read and check the config", "", ()),
    ("spaces", "Load the networks, cut them into stages, list legal shares",
     "Every illegal pair keeps its reason.", ()),
    ("data", "Open the frames; keep some of them out of the statistics", "", ()),
    ("statistics", "One pass over the frames: second moments and CKA sums of all pairs",
     "No feature map is stored.", ("cache/statistics/*.safetensors",)),
    ("metrics", "Compute the similarity of every legal share",
     "Default: the fidelity of each share alone.", ("cache/notes/",)),
    ("study", "Search the plans: similarity in, predicted quality and bytes out",
     "No network runs here.", ("OUT/study.log (or PostgreSQL)",)),
    ("evaluation", "Measure the fidelity of the shortlist, on held-out frames", "", ()),
    ("evaluation", "Measure the candidates on ground truth, with intervals",
     "Only here are labels used.", ()),
    ("report", "Draw the pictures", "",
     ("OUT/front.svg, explore.html and others", "OUT/trials.csv")),
    ("results", "Write the plans of the front and the result", "Each file in one step.",
     ("OUT/plans/*.json", "OUT/result.json")),
    ("deploy", "Write the chosen plan as a bundle and check it",
     "Bytes and answers must match the prediction.", ("OUT/bundle/",)),
    ("report", "Write the report", "", ("OUT/report.html", "OUT/plan.svg")),
    ("tracking", "Log to MLflow: a parent run, a child per candidate, the bundle",
     "Results wait on the disk while MLflow is away.", ("OUT/unlogged/, until MLflow has it",)),
)  # fmt: skip


def run_drawing() -> str:
    left, middle, right = 20, 150, 620
    parts = [
        text(left, 26, "package", 12, MUTED),
        text(middle, 26, "step, from top to bottom", 12, MUTED),
        text(right, 26, "files on the disk afterwards", 12, MUTED),
    ]
    y = 40.0
    for number, (package, title, detail, files) in enumerate(STEPS, 1):
        lines = textwrap.wrap(f"{number}. {title}", 62)
        height = 20 + 18 * len(lines) + (16 if detail else 0)
        height = max(height, 20 + 20 * len(files))
        if number > 1:
            parts.append(line(f"M{middle + 20} {y - 12:g}v10m-4 -5l4 5l4 -5", MUTED))
        parts.append(text(left, y + 23, package, 13, font_weight="600"))
        parts.append(box(middle, y, 440, height, FLOOR_COLOURS[number % 2]))
        parts += [text(middle + 12, y + 23 + 18 * i, words) for i, words in enumerate(lines)]
        if detail:
            parts.append(text(middle + 12, y + 22 + 18 * len(lines), detail, 12, MUTED))
        for i, file in enumerate(files):
            parts.append(text(right, y + 23 + 20 * i, file, 12, font_family=MONOSPACE))
        if files:
            parts.append(line(f"M{middle + 440} {y + 18:g}H{right - 8}", LINE))
        y += height + 14
    return picture(y + 4, "What a run does, step by step, and what it leaves on the disk", parts)
