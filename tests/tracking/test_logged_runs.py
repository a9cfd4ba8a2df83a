"""The MLflow runs of a search and of a metric comparison, in a sqlite store and on a server."""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from labelled import FinishedComparison
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from servers import Server, free_port
from tiny import FinishedRun, Weights, config_data, run_config, with_changes, write_config

from search.config.loading import load_config
from search.results.metric_comparison import SHARE_GROUPS, MetricComparison
from search.results.search_result import Result
from search.tracking.client import TrackerUnreachable, log_document
from search.tracking.payloads import search_run
from search.tracking.run_writer import PARENT_TAG
from search.tracking.target import ENVIRONMENT, Target
from search.utils.records import load_record
from spaces.plan import SharePlan


class LoggedRun:
    """The runs of the only search in an experiment."""

    def __init__(self, uri: str, experiment: str = "merge-search") -> None:
        self.client = MlflowClient(tracking_uri=uri)
        mlflow_experiment = self.client.get_experiment_by_name(experiment)
        assert mlflow_experiment is not None
        runs = list(self.client.search_runs([mlflow_experiment.experiment_id]))
        searches = [run for run in runs if run.data.tags.get("merge_search.kind") == "search"]
        (self.parent,) = [run for run in searches if PARENT_TAG not in run.data.tags]
        self.children = [
            run for run in runs if run.data.tags.get(PARENT_TAG) == self.parent.info.run_id
        ]

    def files(self, run: Run, folder: str | None = None) -> set[str]:
        return {entry.path for entry in self.client.list_artifacts(run.info.run_id, folder)}

    def read(self, run: Run, path: str, into: Path) -> bytes:
        return Path(self.client.download_artifacts(run.info.run_id, path, str(into))).read_bytes()


@pytest.fixture(scope="module")
def logged_run(tiny_run: FinishedRun) -> LoggedRun:
    return LoggedRun(Target.of(tiny_run.config).uri)


def test_runs_go_to_sqlite_beside_the_outputs_by_default(tiny_run: FinishedRun) -> None:
    target = Target.of(tiny_run.config)
    assert target.uri == f"sqlite:///{tiny_run.config.base / 'out' / 'mlflow.db'}"
    assert (tiny_run.config.base / "out" / "mlflow.db").is_file()
    assert not (tiny_run.config.base / "mlruns").exists() and not Path("mlruns").exists()


def test_every_candidate_and_the_baseline_are_children_of_one_parent(
    tiny_run: FinishedRun, logged_run: LoggedRun
) -> None:
    assert len(logged_run.children) == len(tiny_run.result.candidates) + 1
    assert {c.data.tags[PARENT_TAG] for c in logged_run.children} == {
        logged_run.parent.info.run_id
    }
    assert {run.info.status for run in (logged_run.parent, *logged_run.children)} == {"FINISHED"}
    kinds = sorted(run.data.tags["merge_search.kind"] for run in logged_run.children)
    assert kinds == ["baseline", *["candidate"] * len(tiny_run.result.candidates)]


def test_children_have_the_same_metrics_so_that_they_compare(logged_run: LoggedRun) -> None:
    metrics = {"bytes_mb", "macs_m", "saved_pct", "proxy", "fidelity", "quality_kept", "top1_a",
              "top5_a", "latency_ms", "kept_a", "kept_b", "fidelity_a", "fidelity_b"}  # fmt: skip
    for run in logged_run.children:
        assert set(run.data.metrics) == metrics


def test_candidates_have_their_numbers_and_their_plan(
    tiny_run: FinishedRun, logged_run: LoggedRun, tmp_path: Path
) -> None:
    by_plan = {run.data.tags.get("merge_search.plan"): run for run in logged_run.children}
    for candidate in tiny_run.result.candidates:
        run = by_plan[candidate.hash]
        assert run.data.metrics["bytes_mb"] == candidate.bytes / 1e6
        assert run.data.metrics["top1_a"] == candidate.accuracy["a"]["top1"]
        assert run.data.metrics["quality_kept"] == candidate.quality_kept
        low, high = candidate.intervals["a"]["top1"]
        assert run.data.params["range95_top1_a"] == f"{low:.3f} to {high:.3f}"
        change, low, high = candidate.differences["a"]["top1"]
        expected = (
            f"{candidate.significance_by_model['a']}: {change:+.3f} ({low:.3f} to {high:.3f})"
        )
        assert run.data.params["verdict_a"] == expected
        chosen = run.data.tags["merge_search.chosen"]
        assert chosen == str(candidate.hash == tiny_run.result.chosen).lower()
        plan = SharePlan.from_json(logged_run.read(run, "plan.json", tmp_path).decode())
        assert plan.hash == candidate.hash


def test_the_hypervolume_is_logged_step_by_step(
    tiny_run: FinishedRun, logged_run: LoggedRun
) -> None:
    history = logged_run.client.get_metric_history(logged_run.parent.info.run_id, "hypervolume")
    by_step = {point.step: point.value for point in history}
    assert by_step == dict(enumerate(tiny_run.result.study["hypervolume"]))


def test_rank_agreement_is_logged_where_it_is_defined(
    tiny_run: FinishedRun, logged_run: LoggedRun
) -> None:
    metrics = logged_run.parent.data.metrics
    logged_agreement = {name: value for name, value in metrics.items() if name.startswith("rank_")}
    agreement = tiny_run.result.rank_agreement
    assert logged_agreement == {
        f"rank_{name}": rho for name, rho in agreement.items() if rho is not None
    }


def test_the_parent_holds_the_result_the_pictures_and_the_config(
    tiny_run: FinishedRun, logged_run: LoggedRun, tmp_path: Path
) -> None:
    assert {"result.json", "config.yaml", "stages.md"} <= logged_run.files(logged_run.parent)
    assert {"report.html", "explore.html", "trials.csv"} <= logged_run.files(logged_run.parent)
    assert logged_run.files(logged_run.parent, "pictures") >= {
        "pictures/front.svg", "pictures/similarity.png", "pictures/same_stage.png",
        "pictures/plan.svg",
    }  # fmt: skip
    content = logged_run.read(logged_run.parent, "result.json", tmp_path)
    assert load_record(Result, content, "result.json") == tiny_run.result
    picture = logged_run.read(logged_run.parent, "pictures/front.svg", tmp_path)
    assert picture == (tiny_run.out / "front.svg").read_bytes()


def test_the_parent_describes_the_run(tiny_run: FinishedRun, logged_run: LoggedRun) -> None:
    params = logged_run.parent.data.params
    assert (params["seed"], params["trials"], params["metric"]) == ("3", "40", "r2")
    assert params["frames_hash"] == tiny_run.result.frames["hash"]
    assert logged_run.parent.data.tags["merge_search.search"] == "tiny"


def test_the_environment_takes_precedence_over_the_config(
    tiny_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_data = tiny_run.config.as_written()
    data = with_changes(own_data, {"mlflow.tracking_uri": "sqlite:///other.db"})
    config = load_config(write_config(tmp_path, data))
    assert Target.of(config).uri == "sqlite:///other.db"
    uri = f"sqlite:///{tmp_path / 'environment.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    target = Target.of(config)
    assert target.uri == uri
    log_document(tiny_run.result, tiny_run.out, target)
    assert len(LoggedRun(uri).children) == len(tiny_run.result.candidates) + 1


def test_artifacts_of_a_direct_database_lie_beside_the_config(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = load_config(Path(__file__).parents[2] / "runs" / "quickstart.yaml")
    for uri, beside_config in (("sqlite:///elsewhere.db", True), ("http://127.0.0.1:5000", False)):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        target = Target.of(config)
        assert target.uri == uri
        assert bool(target.artifacts and str(config.base) in target.artifacts) == beside_config


def test_a_config_with_a_server_creates_no_local_folder(
    tiny_run: FinishedRun, tmp_path: Path
) -> None:
    data = with_changes(
        tiny_run.config.as_written(), {"mlflow.tracking_uri": "http://127.0.0.1:5000"}
    )
    config = write_config(tmp_path, data)
    shutil.rmtree(tmp_path / "out")
    assert Target.of(load_config(config)).artifacts is None
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_real_server_accepts_a_run(
    tiny_run: FinishedRun, server: Server, tmp_path: Path
) -> None:
    message = log_document(tiny_run.result, tiny_run.out, Target(server.uri, "merge-search", None))
    logged_run = LoggedRun(server.uri)
    assert logged_run.parent.info.run_id in message
    assert len(logged_run.children) == len(tiny_run.result.candidates) + 1
    content = logged_run.read(logged_run.parent, "result.json", tmp_path)
    assert load_record(Result, content, "result.json") == tiny_run.result


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")


SECRET = "s3cret-word"


def unreachable_uri(credentials: str = "") -> str:
    return f"http://{credentials}127.0.0.1:{free_port()}"


@pytest.mark.usefixtures("no_retries")
def test_the_error_about_an_unreachable_server_is_one_line_without_credentials(
    tiny_run: FinishedRun,
) -> None:
    uri = unreachable_uri(f"me:{SECRET}@")
    with pytest.raises(TrackerUnreachable) as failure:
        log_document(tiny_run.result, tiny_run.out, Target(uri, "x", None))
    text = str(failure.value)
    assert uri.rpartition("@")[2] in text and str(tiny_run.out) in text
    assert "did not take the run" in text and "\n" not in text
    assert SECRET not in text and failure.value.exit_code == 1


@pytest.mark.usefixtures("no_retries")
def test_the_result_stays_in_out_when_the_server_is_unreachable(
    tmp_path: Path, weights: Weights
) -> None:
    data: dict[str, Any] = with_changes(config_data(weights), {"search.trials": 5})
    path = write_config(
        tmp_path, with_changes(data, {"mlflow.tracking_uri": unreachable_uri(f"me:{SECRET}@")})
    )
    with pytest.raises(TrackerUnreachable):
        run_config(path)
    out = tmp_path / "out" / "tiny"
    text = (out / "result.json").read_text()
    assert load_record(Result, text, "result.json").chosen
    assert (out / "front.svg").is_file()
    assert SECRET not in text


@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize("uri", ["nonsense://x", "sqlite:////proc/none/x.db"])
def test_an_invalid_store_uri_is_refused(tiny_run: FinishedRun, uri: str) -> None:
    with pytest.raises(TrackerUnreachable, match="did not take the run"):
        log_document(tiny_run.result, tiny_run.out, Target(uri, "x", None))


def test_a_damaged_store_is_refused_within_seconds(tiny_run: FinishedRun, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"damaged" * 1000)
    began = time.monotonic()
    with pytest.raises(TrackerUnreachable, match="not a database"):
        log_document(
            tiny_run.result, tiny_run.out, Target(f"sqlite:///{tmp_path}/x.db", "x", None)
        )
    assert time.monotonic() - began < 20


@pytest.fixture(scope="module")
def logged_comparison(tiny_comparison: FinishedComparison) -> Run:
    client = MlflowClient(tracking_uri=Target.of(tiny_comparison.config).uri)
    experiment = client.get_experiment_by_name("merge-search")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`merge_search.search` = 'tiny'")
    (run,) = runs
    return run


def test_a_metric_comparison_is_one_finished_run_of_its_own_kind(
    tiny_comparison: FinishedComparison, logged_comparison: Run
) -> None:
    tags, params = logged_comparison.data.tags, logged_comparison.data.params
    comparison = tiny_comparison.comparison
    assert logged_comparison.info.status == "FINISHED" and PARENT_TAG not in tags
    assert tags["merge_search.kind"] == "correlate"
    assert tags["merge_search.frames"] == params["frames_hash"] == comparison.frames["hash"]
    assert (params["seed"], params["shares"], params["winner"]) == ("3", "88", comparison.winner)
    assert params["models"] == "a=timm/test_efficientnet, b=timm/test_efficientnet"
    assert params["version_torch"] == comparison.versions["torch"]


def test_every_defined_number_of_a_metric_comparison_is_logged(
    tiny_comparison: FinishedComparison, logged_comparison: Run
) -> None:
    metrics, comparison = logged_comparison.data.metrics, tiny_comparison.comparison
    expected = {f"seconds_{name}": seconds for name, seconds in comparison.metric_seconds.items()}
    expected["seconds_statistics"] = comparison.seconds["statistics"]
    for name, groups in comparison.reporting.metrics.items():
        for group in SHARE_GROUPS:
            suffix = name if group == "all" else f"{group}_{name}"
            for coefficient, symbol in (("pearson", "r"), ("spearman", "rho"), ("kendall", "tau")):
                value = groups[group][coefficient].value
                if value is not None:
                    expected[f"{symbol}_{suffix}"] = value
    assert metrics == expected
    assert {"r_fidelity", "r_cross_fidelity", "r_within_fidelity"} <= set(metrics)
    assert "r_within_size" not in metrics  # one size per recipient stage: nothing to correlate


def test_the_run_of_a_metric_comparison_has_its_files_pictures_and_table(
    tiny_comparison: FinishedComparison, logged_comparison: Run, tmp_path: Path
) -> None:
    client = MlflowClient(tracking_uri=Target.of(tiny_comparison.config).uri)
    run = logged_comparison.info.run_id

    def names(folder: str | None = None) -> set[str]:
        return {entry.path for entry in client.list_artifacts(run, folder)}

    def content(name: str) -> bytes:
        return Path(client.download_artifacts(run, name, str(tmp_path))).read_bytes()

    assert {"league.json", "guides.csv", "guides.json", "config.yaml", "pictures"} <= names()
    pictures = {"pictures/points.png", "pictures/maps.png", "pictures/bars.png"}
    assert names("pictures") == pictures
    for name in ("league.json", "guides.csv"):
        assert content(name) == (tiny_comparison.out / name).read_bytes()
    assert (
        load_record(MetricComparison, content("league.json"), "league.json")
        == tiny_comparison.comparison
    )
    table = json.loads(content("guides.json"))
    ranking = [row[table["columns"].index("guide")] for row in table["data"]]
    assert ranking == tiny_comparison.comparison.deciding.ranking


def test_mlflow_prints_nothing(tiny_run: FinishedRun) -> None:
    assert "INFO" not in tiny_run.output and ENVIRONMENT == "MLFLOW_TRACKING_URI"


def test_every_child_describes_its_plan_with_the_same_keys(
    tiny_run: FinishedRun, logged_run: LoggedRun
) -> None:
    keys = {"shares", "donor", "recipient", "stages", "adapter", "budget_mb", "plan"}
    by_plan = {run.data.tags["merge_search.plan"]: run for run in logged_run.children}
    assert len(by_plan) == len(logged_run.children)
    for run in logged_run.children:
        assert keys <= set(run.data.params)
        assert run.data.tags["merge_search.frames"] == tiny_run.result.frames["hash"]
    for candidate in tiny_run.result.candidates:
        params = by_plan[candidate.hash].data.params
        plan = SharePlan.from_dict(candidate.plan)
        assert params["shares"] == str(len(plan.shares))
        for share in plan.shares:
            assert share.donor.model in params["donor"] and str(share.adapter) in params["adapter"]
            assert f"{share.donor.stage} -> {share.recipient.stage}" in params["stages"]


def test_every_child_has_its_own_name(tiny_run: FinishedRun, logged_run: LoggedRun) -> None:
    names = [str(run.info.run_name) for run in logged_run.children]
    assert len(set(names)) == len(names)
    for candidate in tiny_run.result.candidates:
        (name,) = [n for n in names if n.endswith(candidate.hash[:6])]
        assert name.startswith(f"{candidate.bytes / 1e6:.1f} MB, ")
    assert f"{tiny_run.result.unmerged_bytes / 1e6:.1f} MB, unmerged" in names


def test_every_child_has_its_measured_latency(
    tiny_run: FinishedRun, logged_run: LoggedRun
) -> None:
    result = tiny_run.result
    assert set(result.latency_ms) == {"unmerged", *(c.hash for c in result.candidates)}
    assert all(value > 0 for value in result.latency_ms.values())
    for run in logged_run.children:
        plan = run.data.tags["merge_search.plan"]
        expected = result.latency_ms.get(plan, result.latency_ms["unmerged"])
        assert run.data.metrics["latency_ms"] == expected


def test_the_parent_names_its_frames_and_its_labels(
    tiny_run: FinishedRun, logged_run: LoggedRun
) -> None:
    result = tiny_run.result
    assert logged_run.parent.inputs is not None
    datasets = {entry.dataset.name: entry for entry in logged_run.parent.inputs.dataset_inputs}
    assert set(datasets) == {"tiny frames", "tiny labels of a"}
    frames, labels = datasets["tiny frames"].dataset, datasets["tiny labels of a"].dataset
    assert frames.digest == result.frames["hash"]
    assert json.loads(frames.source) == result.config["frames"]
    assert json.loads(str(frames.profile)) == {"frames": result.frames["count"]}
    assert labels.digest == result.truth["a"]["hash"]
    contexts = {tag.value for entry in datasets.values() for tag in entry.tags}
    assert contexts == {"search", "truth of a"}


def test_system_metrics_are_logged_with_their_times(
    tiny_run: FinishedRun, logged_run: LoggedRun
) -> None:
    samples = json.loads((tiny_run.out / "system.json").read_text())
    name = "system/process_memory_megabytes"
    history = logged_run.client.get_metric_history(logged_run.parent.info.run_id, name)
    assert (
        [(p.timestamp, p.value) for p in history] == [(s["time"], s[name]) for s in samples] != []
    )
    assert all(s[name] > 100 for s in samples)


def test_the_note_on_the_parent_lists_every_candidate(
    tiny_run: FinishedRun, logged_run: LoggedRun
) -> None:
    note = logged_run.parent.data.tags["mlflow.note.content"]
    for candidate in tiny_run.result.candidates:
        assert candidate.hash in note and f"{candidate.bytes / 1e6:.2f}" in note
    assert f"**{tiny_run.result.chosen}**" in note
    rows = [line.split(" | ") for line in note.splitlines() if line.startswith("| ")]
    assert rows[0][3] == "quality kept"
    assert {row[3] for row in rows[2:]} == {"-"}  # the networks of the run are untrained


def test_the_trials_table_lists_every_plan_in_order(tiny_run: FinishedRun) -> None:
    rows = list(csv.DictReader((tiny_run.out / "trials.csv").read_text().splitlines()))
    study = tiny_run.result.study
    assert len(rows) == study["trials"] == len({row["plan"] for row in rows})
    assert [float(row["hypervolume"]) for row in rows] == pytest.approx(
        study["hypervolume"], abs=1e-6
    )
    by_plan = {row["plan"]: row for row in rows}
    for record in tiny_run.result.front:
        row = by_plan[record.hash]
        assert row["feasible"] == "yes"
        assert float(row["bytes_mb"]) == pytest.approx(record.bytes / 1e6)
        assert float(row["proxy"]) == pytest.approx(record.proxy, abs=1e-6)


def test_the_interactive_page_needs_no_network(tiny_run: FinishedRun) -> None:
    page = (tiny_run.out / "explore.html").read_text()
    assert "<script src=" not in page and "cdn.plot.ly" not in page.partition("</h2>")[0]
    assert page.count('class="plotly-graph-div"') == 3
    for candidate in tiny_run.result.candidates:
        assert candidate.hash in page


def test_the_interactive_page_shows_fidelity_if_the_baseline_is_at_chance(
    tiny_run: FinishedRun,
) -> None:
    """The networks of the run are untrained."""
    page = (tiny_run.out / "explore.html").read_text()
    assert "fidelity (1 = unmerged)" in page and "quality kept (1" not in page
    assert "no quality kept, as unmerged accuracy is at chance" in page
    assert '"label":"fidelity"' in page and '"label":"quality kept"' not in page
    assert "verified front" not in page and "verified (95%)" not in page


def test_a_note_on_many_candidates_fits_into_a_tag(tiny_run: FinishedRun) -> None:
    result = tiny_run.result
    many = replace(result, candidates=result.candidates * 200)
    assert len(search_run.search_note(many)) < 8000


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~/runs", "{home}/runs"),
        ("sqlite:///~/mlflow.db", "sqlite:///{home}/mlflow.db"),
        ("http://host/~me", "http://host/~me"),
    ],
)
def test_a_tilde_in_the_path_of_the_tracking_uri_is_the_home_folder(
    given: str,
    expected: str,
    tiny_run: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config(tiny_run.path, [f"mlflow.tracking_uri={given}"])
    assert Target.of(config).uri == expected.format(home=tmp_path)
    assert config.as_written()["mlflow"]["tracking_uri"] == given
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert Target.of(tiny_run.config).uri == expected.format(home=tmp_path)


def test_candidates_with_precisions_have_their_words_and_bytes(
    mixed_result: Result, precise_run: FinishedRun
) -> None:
    metrics = [search_run.measured_metrics(mixed_result, c) for c in mixed_result.candidates]
    named = {"bytes_float32", "bytes_float16", "bytes_int8"}
    for logged, candidate in zip(metrics, mixed_result.candidates, strict=True):
        assert {name for name in logged if re.fullmatch("bytes_.*[0-9]", name)} == named
        assert sum(logged[name] for name in named) == candidate.bytes
        words = search_run.candidate_parameters(mixed_result, candidate)["precision"]
        assert words == candidate.precision_text or words == "weights in float32"
    unmerged = search_run.unmerged_metrics(mixed_result)
    assert unmerged["bytes_float32"] == mixed_result.unmerged_bytes
    assert unmerged["bytes_int8"] == unmerged["bytes_float16"] == 0
    assert (
        search_run.search_parameters(precise_run.result)["search.precision"]
        == "float32, float16, int8"
    )
    assert len(
        search_run.search_note(mixed_result)
    ) < 8000 and "precision" in search_run.search_note(mixed_result)


def test_a_real_run_with_precisions_is_logged(precise_run: FinishedRun) -> None:
    logged = LoggedRun(Target.of(precise_run.config).uri)
    words = precise_run.result.chosen_candidate.precision_text
    assert logged.parent.data.params["precision"] == words
    assert logged.parent.data.params["search.precision"] == "float32, float16, int8"
    assert logged.children
    for child in logged.children:
        assert child.data.params["precision"].startswith("weights in ")
        assert "bytes_int8" in child.data.metrics


def test_a_search_without_precisions_has_the_names_of_before(tiny_run: FinishedRun) -> None:
    result = tiny_run.result
    candidate = result.candidates[0]
    assert {
        name for name in search_run.measured_metrics(result, candidate) if "bytes" in name
    } == {"bytes_mb"}
    names = {
        *search_run.search_parameters(result),
        *search_run.candidate_parameters(result, candidate),
    }
    assert not {name for name in names if "precision" in name}
    assert "precision" not in search_run.search_note(result)
