"""The tags and parameters that every run in MLflow has: where its numbers come from.

The payload modules read no clock, so that logging a document again sends the same data.
"""

from __future__ import annotations

from typing import Any

from search.results.documents import Provenance


def common_tags(document: Provenance) -> dict[str, str]:
    """Return the tags of every run of the document."""
    return {
        "merge_search.search": document.name,
        "merge_search.frames": str(document.frames["hash"]),
    }


def provenance_parameters(document: Provenance) -> dict[str, Any]:
    """Return the seed, the frames and the versions that the document's numbers depend on."""
    return {
        "seed": document.seed,
        "frames": document.frames["count"],
        "frames_hash": document.frames["hash"],
        **{f"version_{name}": number for name, number in document.versions.items()},
    }
