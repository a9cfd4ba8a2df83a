"""`merge-search watch --once`: rounds on real networks, pictures, processes and stores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import Weights
from watched import DAY, NIGHT, Watched, watched_data

from search.target import Target
from search.tracking import registry

pytest_plugins = ["tiny_fixtures", "server_fixtures", "command_fixtures"]


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def watched(weights: Weights, tmp_path: Path) -> Watched:
    return Watched.at(tmp_path / "watched", watched_data(weights))


def alias(watched: Watched, name: str = "champion") -> str | None:
    """The plan that MLflow's registry has for champion."""
    with registry(Target.of(watched.post.config), "watched") as known:
        entry = known.champion() if name == "champion" else known.challenger()
    return None if entry is None else str(entry.standing["plan"])


def test_from_the_first_plan_to_one_for_the_night(watched: Watched) -> None:
    code, said = watched.once()
    assert code == 0 and "too few new frames: gate has 0 of 32" in said
    assert watched.in_service() is None

    watched.deliver(DAY)
    code, said = watched.once()
    assert code == 11 and "no plan is in service yet" in said, said
    first = watched.in_service()
    assert first is not None and alias(watched) == first

    watched.deliver(DAY, 5)
    assert watched.once()[0] == 0 and "gate has 5 of 32" in watched.rounds[-1].reason
    watched.deliver(DAY)
    code, said = watched.once()
    assert code == 0 and "gate as it was" in said, said
    assert watched.in_service() == first

    watched.deliver(NIGHT)
    code, said = watched.once()
    assert code in (10, 11) and "gate has changed" in said, said
    last = watched.rounds[-1]
    assert last.verdict is not None and last.verdict.by == "fidelity"
    assert last.champion == watched.in_service() == alias(watched)
    assert last.verdict.promoted == (code == 11) and last.verdict.difference

    watched.deliver(NIGHT)
    code, said = watched.once()
    assert code == 0 and "gate as it was" in said, said
    watched.deliver(DAY)
    assert watched.once()[0] == 0  # it has been there before

    assert [known.number for known in watched.rounds] == list(range(1, 8))
    code, said = watched.call("history")
    assert code == 0 and "gate has changed" in said and "In service since" in said
    listed = json.loads(watched.printed("history", "--json", "--last", "2"))
    assert [known["number"] for known in listed] == [6, 7]
