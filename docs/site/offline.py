"""A hook of mkdocs: a page that would load anything from another host stops the build."""

from __future__ import annotations

import re
from typing import Any

LOADED = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'> ]+"
    r"|<link\b[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload|icon)\b"
    r"[^>]*\bhref=[\"']?(?:https?:)?//[^\"'> ]+",
    re.IGNORECASE,
)


def foreign(html: str) -> list[str]:
    """Return the elements of a page that load something from another host."""
    return LOADED.findall(html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    if loaded := foreign(output):
        raise SystemExit(f"{page.file.src_path} loads from another host: {loaded}")
    return output
