"""The rounds of a watch on the MLflow page, in a real browser."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from browsers import SCREENSHOTS
from mlflow.tracking import MlflowClient
from playwright.sync_api import Browser, expect
from servers import Server

from search.results.rounds import ROUND_VERSION, CameraRound, Decision, Round, RoundHistory
from search.tracking.target import Target
from search.tracking.watch_run import log_rounds

pytestmark = pytest.mark.ui

TIMEOUT = 60_000
"""Milliseconds to wait: the machine may be busy."""
DECISIONS: tuple[Decision, ...] = ("promoted", "unchanged", "waiting", "unchanged", "searched")


def write_history(folder: Path) -> RoundHistory:
    """Write five rounds of two cameras."""
    history, start = RoundHistory(folder), datetime(2026, 11, 20, tzinfo=UTC)
    for number, decision in enumerate(DECISIONS, 1):
        judged = decision != "waiting"
        moment = (start + timedelta(minutes=30 * number)).isoformat()
        cameras = {
            name: CameraRound(40, judged=64 * judged, p_value=0.5 if judged else None)
            for name in ("gate", "yard")
        }
        fidelity = {"classifier": 0.94, "detector": 0.99} if judged else {}
        history.write(
            Round(number, moment, moment, moment, cameras, decision, f"reason {number}",
                  "bd5ca8d9ee32", fidelity, version=ROUND_VERSION)
        )  # fmt: skip
    return history


def test_the_rounds_are_one_run_with_charts_over_time(
    tmp_path: Path, chromium: Browser, server: Server
) -> None:
    target = Target(server.uri, "street", None)
    log_rounds(target, write_history(tmp_path / "watch"), "street-watch")
    experiment = MlflowClient(target.uri).get_experiment_by_name("street")
    assert experiment is not None
    (run,) = MlflowClient(target.uri).search_runs([experiment.experiment_id])

    page = chromium.new_page(viewport={"width": 1300, "height": 1000})
    address = f"{server.uri}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}"
    page.goto(address)
    for text in ("street-watch watch", "reason 5", "bd5ca8d9ee32"):
        expect(page.get_by_text(text).first).to_be_visible(timeout=TIMEOUT)
    page.screenshot(path=SCREENSHOTS / "watch.png")
    page.goto(f"{address}/model-metrics")
    for chart in ("classifier", "detector", "gate", "yard"):
        expect(page.get_by_text(chart, exact=True).first).to_be_visible(timeout=TIMEOUT)
    page.screenshot(path=SCREENSHOTS / "watch-metrics.png")
