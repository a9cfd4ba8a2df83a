"""What a run leaves in MLflow: in a sqlite store, and in a real server's."""

from __future__ import annotations

import csv
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from labelled import Compared
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


class Logged:
    """What a store holds of one run."""

    def __init__(self, uri: str, experiment: str = "merge-search") -> None:
        self.client = MlflowClient(tracking_uri=uri)
        known = self.client.get_experiment_by_name(experiment)
        assert known is not None
        runs = list(self.client.search_runs([known.experiment_id]))
        (self.parent,) = [run for run in runs if PARENT_TAG not in run.data.tags]
        self.children = [run for run in runs if PARENT_TAG in run.data.tags]

    def files(self, run: Run, folder: str | None = None) -> set[str]:
        return {entry.path for entry in self.client.list_artifacts(run.info.run_id, folder)}

    def read(self, run: Run, path: str, into: Path) -> bytes:
        return Path(self.client.download_artifacts(run.info.run_id, path, str(into))).read_bytes()


@pytest.fixture(scope="module")
def logged(tiny_run: FinishedRun) -> Logged:
    return Logged(Target.of(tiny_run.config).uri)


def test_runs_go_to_sqlite_beside_the_outputs_by_default(tiny_run: FinishedRun) -> None:
    target = Target.of(tiny_run.config)
    assert target.uri == f"sqlite:///{tiny_run.config.base / 'out' / 'mlflow.db'}"
    assert (tiny_run.config.base / "out" / "mlflow.db").is_file()
    assert not (tiny_run.config.base / "mlruns").exists() and not Path("mlruns").exists()


def test_every_candidate_and_the_baseline_are_children_of_one_parent(
    tiny_run: FinishedRun, logged: Logged
) -> None:
    assert len(logged.children) == len(tiny_run.result.candidates) + 1
    assert {c.data.tags[PARENT_TAG] for c in logged.children} == {logged.parent.info.run_id}
    assert {run.info.status for run in (logged.parent, *logged.children)} == {"FINISHED"}
    kinds = sorted(run.data.tags["merge_search.kind"] for run in logged.children)
    assert kinds == ["baseline", *["candidate"] * len(tiny_run.result.candidates)]


def test_children_have_the_same_metrics_so_that_they_compare(logged: Logged) -> None:
    shared = {"bytes_mb", "macs_m", "saved_pct", "proxy", "fidelity", "quality_kept", "top1_a",
              "top5_a", "latency_ms", "kept_a", "kept_b", "fidelity_a", "fidelity_b"}  # fmt: skip
    for run in logged.children:
        assert set(run.data.metrics) == shared


def test_candidates_carry_their_numbers_and_their_plan(
    tiny_run: FinishedRun, logged: Logged, tmp_path: Path
) -> None:
    by_plan = {run.data.tags.get("merge_search.plan"): run for run in logged.children}
    for candidate in tiny_run.result.candidates:
        run = by_plan[candidate.hash]
        assert run.data.metrics["bytes_mb"] == candidate.bytes / 1e6
        assert run.data.metrics["top1_a"] == candidate.accuracy["a"]["top1"]
        assert run.data.metrics["quality_kept"] == candidate.quality_kept
        low, high = candidate.intervals["a"]["top1"]
        assert run.data.params["range95_top1_a"] == f"{low:.3f} to {high:.3f}"
        change, low, high = candidate.differences["a"]["top1"]
        told = f"{candidate.significance_by_model['a']}: {change:+.3f} ({low:.3f} to {high:.3f})"
        assert run.data.params["verdict_a"] == told
        chosen = run.data.tags["merge_search.chosen"]
        assert chosen == str(candidate.hash == tiny_run.result.chosen).lower()
        plan = SharePlan.from_json(logged.read(run, "plan.json", tmp_path).decode())
        assert plan.hash == candidate.hash


def test_the_hypervolume_is_logged_step_by_step(tiny_run: FinishedRun, logged: Logged) -> None:
    history = logged.client.get_metric_history(logged.parent.info.run_id, "hypervolume")
    by_step = {point.step: point.value for point in history}
    assert by_step == dict(enumerate(tiny_run.result.study["hypervolume"]))


def test_rank_agreement_is_logged_where_it_is_defined(
    tiny_run: FinishedRun, logged: Logged
) -> None:
    metrics = logged.parent.data.metrics
    held = {name: value for name, value in metrics.items() if name.startswith("rank_")}
    agreement = tiny_run.result.rank_agreement
    assert (
        held == {f"rank_{name}": rho for name, rho in agreement.items() if rho is not None} != {}
    )


def test_the_parent_holds_the_result_the_pictures_and_the_config(
    tiny_run: FinishedRun, logged: Logged, tmp_path: Path
) -> None:
    assert {"result.json", "config.yaml", "stages.md"} <= logged.files(logged.parent)
    assert {"report.html", "explore.html", "trials.csv"} <= logged.files(logged.parent)
    assert logged.files(logged.parent, "pictures") >= {
        "pictures/front.svg", "pictures/similarity.png", "pictures/same_stage.png",
        "pictures/plan.svg",
    }  # fmt: skip
    held = logged.read(logged.parent, "result.json", tmp_path)
    assert load_record(Result, held, "result.json") == tiny_run.result
    picture = logged.read(logged.parent, "pictures/front.svg", tmp_path)
    assert picture == (tiny_run.out / "front.svg").read_bytes()


def test_the_parent_names_what_the_run_was(tiny_run: FinishedRun, logged: Logged) -> None:
    told = logged.parent.data.params
    assert (told["seed"], told["trials"], told["metric"]) == ("3", "40", "r2")
    assert told["frames_hash"] == tiny_run.result.frames["hash"]
    assert logged.parent.data.tags["merge_search.search"] == "tiny"


def test_the_environment_goes_before_the_config(
    tiny_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tiny_run.config.as_written()
    data = with_changes(written, {"mlflow.tracking_uri": "sqlite:///other.db"})
    config = load_config(write_config(tmp_path, data))
    assert Target.of(config).uri == "sqlite:///other.db"
    uri = f"sqlite:///{tmp_path / 'environment.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    target = Target.of(config)
    assert target.uri == uri
    log_document(tiny_run.result, tiny_run.out, target)
    assert len(Logged(uri).children) == len(tiny_run.result.candidates) + 1


def test_a_database_used_directly_does_not_scatter_artifacts_where_the_user_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = load_config(Path(__file__).parents[2] / "runs" / "quickstart.yaml")
    for uri, placed in (("sqlite:///elsewhere.db", True), ("http://127.0.0.1:5000", False)):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        target = Target.of(config)
        assert target.uri == uri
        assert bool(target.artifacts and str(config.base) in target.artifacts) == placed


def test_a_server_needs_no_folder_here(tiny_run: FinishedRun, tmp_path: Path) -> None:
    data = with_changes(
        tiny_run.config.as_written(), {"mlflow.tracking_uri": "http://127.0.0.1:5000"}
    )
    config = write_config(tmp_path, data)
    shutil.rmtree(tmp_path / "out")
    assert Target.of(load_config(config)).artifacts is None
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_real_server_takes_a_run(tiny_run: FinishedRun, server: Server, tmp_path: Path) -> None:
    said = log_document(tiny_run.result, tiny_run.out, Target(server.uri, "merge-search", None))
    logged = Logged(server.uri)
    assert logged.parent.info.run_id in said
    assert len(logged.children) == len(tiny_run.result.candidates) + 1
    held = logged.read(logged.parent, "result.json", tmp_path)
    assert load_record(Result, held, "result.json") == tiny_run.result


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")


SECRET = "s3cret-word"


def nobody(credentials: str = "") -> str:
    return f"http://{credentials}127.0.0.1:{free_port()}"


@pytest.mark.usefixtures("impatient")
def test_an_unreachable_server_is_told_in_a_sentence_without_credentials(
    tiny_run: FinishedRun,
) -> None:
    uri = nobody(f"me:{SECRET}@")
    with pytest.raises(TrackerUnreachable) as caught:
        log_document(tiny_run.result, tiny_run.out, Target(uri, "x", None))
    text = str(caught.value)
    assert uri.rpartition("@")[2] in text and str(tiny_run.out) in text
    assert "did not take the run" in text and "\n" not in text
    assert SECRET not in text and caught.value.exit_code == 1


@pytest.mark.usefixtures("impatient")
def test_the_result_is_kept_when_the_server_is_not_there(tmp_path: Path, weights: Weights) -> None:
    data: dict[str, Any] = with_changes(config_data(weights), {"search.trials": 5})
    path = write_config(
        tmp_path, with_changes(data, {"mlflow.tracking_uri": nobody(f"me:{SECRET}@")})
    )
    with pytest.raises(TrackerUnreachable):
        run_config(path)
    out = tmp_path / "out" / "tiny"
    kept = (out / "result.json").read_text()
    assert load_record(Result, kept, "result.json").chosen
    assert (out / "front.svg").is_file()
    assert SECRET not in kept


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("uri", ["nonsense://x", "sqlite:////proc/none/x.db"])
def test_a_store_that_is_none_is_told_in_a_sentence(tiny_run: FinishedRun, uri: str) -> None:
    with pytest.raises(TrackerUnreachable, match="did not take the run"):
        log_document(tiny_run.result, tiny_run.out, Target(uri, "x", None))


def test_a_damaged_store_is_noticed_within_seconds(tiny_run: FinishedRun, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"damaged" * 1000)
    began = time.monotonic()
    with pytest.raises(TrackerUnreachable, match="not a database"):
        log_document(
            tiny_run.result, tiny_run.out, Target(f"sqlite:///{tmp_path}/x.db", "x", None)
        )
    assert time.monotonic() - began < 20


@pytest.fixture(scope="module")
def logged_league(tiny_league: Compared) -> Run:
    client = MlflowClient(tracking_uri=Target.of(tiny_league.config).uri)
    known = client.get_experiment_by_name("merge-search")
    assert known is not None
    runs = client.search_runs([known.experiment_id], "tags.`merge_search.search` = 'tiny'")
    (run,) = runs
    return run


def test_a_league_is_one_finished_run_of_its_own_kind(
    tiny_league: Compared, logged_league: Run
) -> None:
    tags, told = logged_league.data.tags, logged_league.data.params
    league = tiny_league.league
    assert logged_league.info.status == "FINISHED" and PARENT_TAG not in tags
    assert tags["merge_search.kind"] == "correlate"
    assert tags["merge_search.frames"] == told["frames_hash"] == league.frames["hash"]
    assert (told["seed"], told["shares"], told["winner"]) == ("3", "88", league.winner)
    assert told["models"] == "a=timm/test_efficientnet, b=timm/test_efficientnet"
    assert told["version_torch"] == league.versions["torch"]


def test_a_league_logs_every_number_that_is_defined(
    tiny_league: Compared, logged_league: Run
) -> None:
    logged, league = logged_league.data.metrics, tiny_league.league
    wanted = {f"seconds_{name}": taken for name, taken in league.metric_seconds.items()}
    wanted["seconds_statistics"] = league.seconds["statistics"]
    for name, groups in league.reporting.metrics.items():
        for group in SHARE_GROUPS:
            suffix = name if group == "all" else f"{group}_{name}"
            for coefficient, symbol in (("pearson", "r"), ("spearman", "rho"), ("kendall", "tau")):
                value = groups[group][coefficient].value
                if value is not None:
                    wanted[f"{symbol}_{suffix}"] = value
    assert logged == wanted
    assert {"r_fidelity", "r_cross_fidelity", "r_within_fidelity"} <= set(logged)
    assert "r_within_size" not in logged  # one size per recipient stage: nothing to correlate


def test_a_league_keeps_its_files_its_pictures_and_its_table(
    tiny_league: Compared, logged_league: Run, tmp_path: Path
) -> None:
    client = MlflowClient(tracking_uri=Target.of(tiny_league.config).uri)
    run = logged_league.info.run_id

    def listed(folder: str | None = None) -> set[str]:
        return {entry.path for entry in client.list_artifacts(run, folder)}

    def held(name: str) -> bytes:
        return Path(client.download_artifacts(run, name, str(tmp_path))).read_bytes()

    assert {"league.json", "guides.csv", "guides.json", "config.yaml", "pictures"} <= listed()
    pictures = {"pictures/points.png", "pictures/maps.png", "pictures/bars.png"}
    assert listed("pictures") == pictures
    for name in ("league.json", "guides.csv"):
        assert held(name) == (tiny_league.out / name).read_bytes()
    assert load_record(MetricComparison, held("league.json"), "league.json") == tiny_league.league
    table = json.loads(held("guides.json"))
    ranking = [row[table["columns"].index("guide")] for row in table["data"]]
    assert ranking == tiny_league.league.deciding.ranking


def test_mlflow_stays_behind_its_door(tiny_run: FinishedRun) -> None:
    assert "INFO" not in tiny_run.output and ENVIRONMENT == "MLFLOW_TRACKING_URI"


def test_every_child_says_the_same_things_of_its_plan(
    tiny_run: FinishedRun, logged: Logged
) -> None:
    keys = {"shares", "donor", "recipient", "stages", "adapter", "budget_mb", "plan"}
    by_plan = {run.data.tags["merge_search.plan"]: run for run in logged.children}
    assert len(by_plan) == len(logged.children)
    for run in logged.children:
        assert keys <= set(run.data.params)
        assert run.data.tags["merge_search.frames"] == tiny_run.result.frames["hash"]
    for candidate in tiny_run.result.candidates:
        told = by_plan[candidate.hash].data.params
        plan = SharePlan.from_dict(candidate.plan)
        assert told["shares"] == str(len(plan.shares))
        for share in plan.shares:
            assert share.donor.model in told["donor"] and str(share.adapter) in told["adapter"]
            assert f"{share.donor.stage} -> {share.recipient.stage}" in told["stages"]


def test_runs_can_be_told_apart_by_their_names(tiny_run: FinishedRun, logged: Logged) -> None:
    names = [str(run.info.run_name) for run in logged.children]
    assert len(set(names)) == len(names)
    for candidate in tiny_run.result.candidates:
        (name,) = [n for n in names if n.endswith(candidate.hash[:6])]
        assert name.startswith(f"{candidate.bytes / 1e6:.1f} MB, ")
    assert f"{tiny_run.result.unmerged_bytes / 1e6:.1f} MB, unmerged" in names


def test_every_child_has_its_measured_latency(tiny_run: FinishedRun, logged: Logged) -> None:
    result = tiny_run.result
    assert set(result.latency_ms) == {"unmerged", *(c.hash for c in result.candidates)}
    assert all(value > 0 for value in result.latency_ms.values())
    for run in logged.children:
        plan = run.data.tags["merge_search.plan"]
        wanted = result.latency_ms.get(plan, result.latency_ms["unmerged"])
        assert run.data.metrics["latency_ms"] == wanted


def test_the_parent_names_its_frames_and_its_labels(tiny_run: FinishedRun, logged: Logged) -> None:
    result = tiny_run.result
    assert logged.parent.inputs is not None
    held = {entry.dataset.name: entry for entry in logged.parent.inputs.dataset_inputs}
    assert set(held) == {"tiny frames", "tiny labels of a"}
    frames, labels = held["tiny frames"].dataset, held["tiny labels of a"].dataset
    assert frames.digest == result.frames["hash"]
    assert json.loads(frames.source) == result.config["frames"]
    assert json.loads(str(frames.profile)) == {"frames": result.frames["count"]}
    assert labels.digest == result.truth["a"]["hash"]
    contexts = {tag.value for entry in held.values() for tag in entry.tags}
    assert contexts == {"search", "truth of a"}


def test_what_the_machine_was_doing_is_logged_at_its_time(
    tiny_run: FinishedRun, logged: Logged
) -> None:
    seen = json.loads((tiny_run.out / "system.json").read_text())
    name = "system/process_memory_megabytes"
    history = logged.client.get_metric_history(logged.parent.info.run_id, name)
    assert [(p.timestamp, p.value) for p in history] == [(s["time"], s[name]) for s in seen] != []
    assert all(s[name] > 100 for s in seen)


def test_the_note_on_the_parent_tells_of_every_candidate(
    tiny_run: FinishedRun, logged: Logged
) -> None:
    note = logged.parent.data.tags["mlflow.note.content"]
    for candidate in tiny_run.result.candidates:
        assert candidate.hash in note and f"{candidate.bytes / 1e6:.2f}" in note
    assert f"**{tiny_run.result.chosen}**" in note


def test_the_trials_are_a_table_of_every_plan_in_its_order(tiny_run: FinishedRun) -> None:
    rows = list(csv.DictReader((tiny_run.out / "trials.csv").read_text().splitlines()))
    study = tiny_run.result.study
    assert len(rows) == study["trials"] == len({row["plan"] for row in rows})
    assert [float(row["hypervolume"]) for row in rows] == pytest.approx(
        study["hypervolume"], abs=1e-6
    )
    by_plan = {row["plan"]: row for row in rows}
    for record_ in tiny_run.result.front:
        row = by_plan[record_.hash]
        assert row["feasible"] == "yes"
        assert float(row["bytes_mb"]) == pytest.approx(record_.bytes / 1e6)
        assert float(row["proxy"]) == pytest.approx(record_.proxy, abs=1e-6)


def test_the_explorer_needs_no_network(tiny_run: FinishedRun) -> None:
    page = (tiny_run.out / "explore.html").read_text()
    assert "<script src=" not in page and "cdn.plot.ly" not in page.partition("</h2>")[0]
    assert page.count('class="plotly-graph-div"') == 3
    for candidate in tiny_run.result.candidates:
        assert candidate.hash in page


def test_a_note_on_many_candidates_is_still_taken(tiny_run: FinishedRun) -> None:
    result = tiny_run.result
    many = replace(result, candidates=result.candidates * 200)
    assert len(search_run.search_note(many)) < 8000
