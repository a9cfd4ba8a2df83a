"""The colours of a plan's diagram, which a page can override by name.

The light colours are written into the picture. A dark page overrides them with `--pd-NAME`.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

_MODELS = (
    ("#dbe7fb", "#2457b8"), ("#cfeee6", "#0b6b5b"), ("#e8defa", "#6a3fb5"),
    ("#f9e3cf", "#9a4a0c"), ("#f8dbe6", "#a3265e"), ("#e3e7ec", "#465364"),
)  # fmt: skip
COLOURS = {
    "paper": "#ffffff",
    "ink": "#1b1f24",
    "quiet": "#59626d",
    "released": "#8a939e",
    "wash": "#f4f6f8",
    "edge": "#dde2e8",
    "none": "none",
    **{f"fill-{k}": fill for k, (fill, _) in enumerate(_MODELS)},
    **{f"line-{k}": line for k, (_, line) in enumerate(_MODELS)},
}
"""The colour of each name on a light background."""


def fill_of(model: int) -> str:
    """Return the name of the fill colour of a model's stages; after six models they repeat."""
    return f"fill-{model % len(_MODELS)}"


def line_of(model: int) -> str:
    """Return the name of the colour of a model's lines and arrows."""
    return f"line-{model % len(_MODELS)}"


def paint(element: ET.Element, **colours: str) -> ET.Element:
    """Set `fill` and `stroke` to colours by name; return the element."""
    for part, name in colours.items():
        element.set(part, COLOURS[name])
    names = " ".join(f"pd-{part}-{name}" for part, name in colours.items() if name != "none")
    element.set("class", f"{element.get('class', '')} {names}".strip())
    return element


def style() -> str:
    """Return the CSS rules that let a page override the colours."""
    rules = [".pd text{font-family:system-ui,-apple-system,'Segoe UI',sans-serif}"]
    for name, colour in COLOURS.items():
        for part in ("fill", "stroke"):
            rules.append(f".pd-{part}-{name}{{{part}:var(--pd-{name},{colour})}}")
    return "\n".join(rule for rule in rules if "none" not in rule)
