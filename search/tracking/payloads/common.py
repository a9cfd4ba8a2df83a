"""What is told to MLflow of every result: when it was, its tags, and what its numbers depend on.

Nothing here, nor in the `logbook_*` modules beside it, reads a clock, so telling it again tells
the same.
"""

from __future__ import annotations

from typing import Any

from search.results.documents import Provenance


def tags(outcome: Provenance) -> dict[str, str]:
    return {
        "merge_search.search": outcome.name,
        "merge_search.frames": str(outcome.frames["hash"]),
    }


def origin(outcome: Provenance) -> dict[str, Any]:
    """The parameters of every result: what its numbers depend on."""
    return {
        "seed": outcome.seed,
        "frames": outcome.frames["count"],
        "frames_hash": outcome.frames["hash"],
        **{f"version_{name}": number for name, number in outcome.versions.items()},
    }
