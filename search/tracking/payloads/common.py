"""What is told to MLflow of every result: when it was, its tags, and what its numbers depend on.

Nothing here, nor in the `logbook_*` modules beside it, reads a clock, so telling it again tells
the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from search.utils.timing import milliseconds


class Outcome(Protocol):
    """What every result says of where it comes from."""

    @property
    def name(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def frames(self) -> Mapping[str, Any]: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def seconds(self) -> Mapping[str, float]: ...
    @property
    def created(self) -> str: ...
    @property
    def versions(self) -> Mapping[str, str]: ...


def span(outcome: Outcome) -> tuple[int, int]:
    """When the work began and when it was done, in milliseconds since 1970."""
    done = milliseconds(outcome.created)
    return done - int(sum(outcome.seconds.values()) * 1000), done


def tags(outcome: Outcome) -> dict[str, str]:
    return {
        "merge_search.search": outcome.name,
        "merge_search.frames": str(outcome.frames["hash"]),
    }


def origin(outcome: Outcome) -> dict[str, Any]:
    """The parameters of every result: what its numbers depend on."""
    return {
        "seed": outcome.seed,
        "frames": outcome.frames["count"],
        "frames_hash": outcome.frames["hash"],
        **{f"version_{name}": number for name, number in outcome.versions.items()},
    }
