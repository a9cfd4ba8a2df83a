"""The candidates of the quickstart on MLflow's pages, in a real browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from browsers import SCREENSHOTS
from mlflow.tracking import MlflowClient
from playwright.sync_api import Browser, Locator, Page
from servers import free_port, wait_for

from search.results.search_result import Result
from search.tracking.payloads.search_run import (
    candidate_run_name,
    measured_metrics,
    unmerged_metrics,
)
from search.utils.records import read_record
from spaces.plan import SharePlan

pytestmark = pytest.mark.ui

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "runs" / "quickstart.yaml"
MERGE_SEARCH = [sys.executable, "-W", "ignore", "-c", "from search.cli.main import main; main()"]
TIMEOUT = 60_000
"""Milliseconds to wait: the machine may be busy."""
CELLS = """async (names) => {
  const grids = [...names.parentElement.parentElement.querySelectorAll("[role=grid]")];
  const values = grids.at(-1);
  const rest = () => new Promise((done) => setTimeout(done, 120));
  const cells = {};
  for (let top = 0; top <= values.scrollHeight; top += 150) {
    for (let left = 0; left <= values.scrollWidth; left += 300) {
      values.scrollTo(left, top);
      await rest();
      grids.forEach((grid, number) => {
        for (const cell of grid.firstElementChild.children) {
          const at = [cell.style.top, number, cell.style.left].map((side) => parseInt(side));
          cells[at.join(" ")] = cell.innerText.trim();
        }
      });
    }
  }
  return cells;
}"""
"""Names are in a separate grid, and MLflow renders only the visible part."""


@dataclass(frozen=True)
class ServedSearch:
    """A search, and the addresses of the MLflow server that shows it."""

    result: Result
    store: str
    experiment: str
    candidates: str
    """Addresses that `merge-search ui` printed."""


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedSearch]:
    """Run and serve the quickstart with the commands of the README."""
    folder = tmp_path_factory.mktemp("quickstart")
    store = f"sqlite:///{folder / 'mlflow.db'}"
    settings = [f"--set=out={folder / 'out'}", f"--set=mlflow.tracking_uri={store}"]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    run = [*MERGE_SEARCH, "run", str(CONFIG), *settings]
    subprocess.run(run, check=True, cwd=folder, env=environment)
    port = free_port()
    log = folder / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [*MERGE_SEARCH, "ui", str(CONFIG), *settings, "--port", str(port)],
            stdout=file, stderr=file, env=environment, cwd=folder, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}", server, log)
        addresses = dict(re.findall(r"(?m)^(MLflow UI|Candidates): (\S+)$", log.read_text()))
        result = read_record(Result, folder / "out" / "result.json")
        yield ServedSearch(result, store, addresses["MLflow UI"], addresses["Candidates"])
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(600)


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 2600, "height": 1500})
    new_page = context.new_page()
    new_page.set_default_timeout(TIMEOUT)
    yield new_page
    context.close()


def close_assistant(page: Page) -> None:
    """Close the assistant, which takes a third of the page."""
    button = page.get_by_role("button", name="Close").first
    if button.is_visible():
        button.click()


def metrics_table(page: Page) -> dict[str, list[float]]:
    """Return the values of each metric on the page, run by run."""
    grid: Locator = page.locator(".ReactVirtualized__Grid[role=grid]").filter(has_text="bytes_mb")
    grid.scroll_into_view_if_needed()
    rows: dict[int, dict[tuple[int, int], str]] = {}
    for at, text in grid.evaluate(CELLS).items():
        top, number, left = map(int, at.split())
        rows.setdefault(top, {})[number, left] = text
    table = [[text for _, text in sorted(row.items())] for _, row in sorted(rows.items())]
    return {name: [float(value) for value in values] for name, *values in table}


def assert_shows(table: dict[str, list[float]], expected: Sequence[dict[str, float]]) -> None:
    """Assert that a table has all metrics, and a column with the values of each run.

    MLflow writes three digits after the point, or four in all.
    """
    assert set(table) == set(expected[0])
    columns = [
        dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)
    ]
    assert len(columns) == len(expected)
    for metrics in expected:
        equal = [c for c in columns if c == pytest.approx(metrics, rel=1e-3, abs=5.1e-4)]
        assert equal, metrics
        columns.remove(equal[0])


def expected_metrics(result: Result) -> list[dict[str, float]]:
    """Return the metrics in result.json of the unmerged models and of each candidate."""
    return [unmerged_metrics(result), *(measured_metrics(result, c) for c in result.candidates)]


def test_selected_children_show_all_their_metrics_when_compared(
    quickstart: ServedSearch, page: Page
) -> None:
    page.goto(quickstart.experiment)
    page.get_by_text("matching runs").wait_for()
    close_assistant(page)
    page.locator(".ag-row button").first.click()  # opens the parent
    for name in [candidate_run_name(c) for c in quickstart.result.candidates]:
        page.get_by_text(name, exact=True).first.wait_for()
    rows = page.locator(".ag-row input.ag-checkbox-input")
    assert rows.count() == len(quickstart.result.candidates) + 2
    page.screenshot(path=SCREENSHOTS / "mlflow-runs.png")
    for row in rows.all()[1:]:
        row.check()
    page.get_by_role("button", name="Compare").click()
    page.get_by_text(f"Comparing {len(quickstart.result.candidates) + 1} Runs").first.wait_for()
    close_assistant(page)
    page.get_by_text("quality_kept").first.wait_for()
    page.screenshot(path=SCREENSHOTS / "mlflow-compared.png", full_page=True)
    assert_shows(metrics_table(page), expected_metrics(quickstart.result))


def test_the_address_that_ui_prints_shows_the_same_comparison(
    quickstart: ServedSearch, page: Page
) -> None:
    page.goto(quickstart.candidates)
    page.get_by_text("quality_kept").first.wait_for()
    close_assistant(page)
    page.screenshot(path=SCREENSHOTS / "mlflow-candidates.png", full_page=True)
    assert_shows(metrics_table(page), expected_metrics(quickstart.result))
    text = page.inner_text("body")
    assert f"Comparing {len(quickstart.result.candidates) + 1} Runs" in text
    chosen = quickstart.result.chosen_candidate
    assert chosen is not None
    (share,) = SharePlan.from_dict(chosen.plan).shares
    stages = f"{share.donor.stage} -> {share.recipient.stage}"
    for fact in ("detector", "linear", stages, chosen.precision_text):
        assert fact in text


def test_the_page_of_the_parent_describes_the_search_and_shows_its_pictures(
    quickstart: ServedSearch, page: Page
) -> None:
    client = MlflowClient(tracking_uri=quickstart.store)
    (parent,) = client.search_runs(["1"], "tags.`merge_search.kind` = 'search'")
    overview = quickstart.experiment.replace("/runs", f"/runs/{parent.info.run_id}")
    page.goto(overview)
    page.get_by_text(str(quickstart.result.chosen)).first.wait_for()
    close_assistant(page)
    text = page.inner_text("body")
    assert "quickstart frames" in text and "blocks.5" in text
    page.screenshot(path=SCREENSHOTS / "mlflow-parent.png", full_page=True)
    page.goto(f"{overview}/artifacts/pictures/front.svg")
    page.get_by_text("similarity.png").first.wait_for()
    page.wait_for_timeout(2000)
    page.screenshot(path=SCREENSHOTS / "mlflow-pictures.png")
    page.goto("about:blank")  # otherwise only the fragment changes, and MLflow does not load
    page.goto(f"{overview}/artifacts/report.html")
    page.frame_locator("iframe").locator("h1").first.wait_for()
    page.screenshot(path=SCREENSHOTS / "mlflow-report.png")


def test_the_interactive_page_draws_all_its_figures_without_a_network(
    quickstart: ServedSearch, chromium: Browser, tmp_path: Path
) -> None:
    client = MlflowClient(tracking_uri=quickstart.store)
    (parent,) = client.search_runs(["1"], "tags.`merge_search.kind` = 'search'")
    file = client.download_artifacts(parent.info.run_id, "explore.html", str(tmp_path))
    context = chromium.new_context(viewport={"width": 1300, "height": 1700})
    page, urls, errors = context.new_page(), list[str](), list[str]()
    page.on("request", lambda request: urls.append(request.url))
    page.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    page.goto(Path(file).as_uri())
    page.locator("#figure-2 svg").first.wait_for()
    assert page.locator(".plotly-graph-div .main-svg").count() >= 3
    assert errors == [] and not [url for url in urls if url.startswith("http")]
    page.screenshot(path=SCREENSHOTS / "explore.png", full_page=True)
    context.close()


def test_the_registry_shows_the_challenger(quickstart: ServedSearch, page: Page) -> None:
    page.goto(quickstart.experiment.partition("#")[0] + "#/models/quickstart")
    page.get_by_text("challenger").first.wait_for()
    close_assistant(page)
    page.screenshot(path=SCREENSHOTS / "mlflow-registry.png")
