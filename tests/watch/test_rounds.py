"""Rounds of `merge-search watch --once` on real networks, pictures, processes and stores."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from camera_files import real_camera, second_by_second
from commands import StartCommand, wait_until
from process_killer import kill_before_step
from servers import Server
from tiny import CLASSIFIER, Weights, load_tiny, with_changes
from watched import DAY, NIGHT, WINDOW, Watched, picture, watched_data

from search.data.images import read_image
from search.drift.reference_storage import load
from search.tracking.client import open_registry
from search.tracking.target import Target
from search.watch.daemon import watcher_lock
from search.watch.seen_labels import MIN_NEW_LABELS
from search.watch.windows import WindowStore
from spaces.bundle_files import bundle_id
from spaces.stages import StagedModel


@pytest.fixture
def watched(weights: Weights, tmp_path: Path) -> Watched:
    return Watched.at(tmp_path / "watched", watched_data(weights))


def plan_in_registry(watched: Watched, name: str = "champion") -> str | None:
    """Return the hash of the plan with that alias in MLflow's registry."""
    with open_registry(Target.of(watched.run_config), "watched") as versions:
        entry = versions.champion() if name == "champion" else versions.challenger()
    return None if entry is None else entry.plan.plan


def windows_added(watched: Watched, part: str) -> tuple[str, ...]:
    """Return the windows that extended the reference of a part of the last search."""
    return load(watched.workspace.reference_file(part)).taken_up


def test_rounds_put_a_first_plan_in_service_and_search_again_at_night(watched: Watched) -> None:
    code, output = watched.once()
    assert code == 0 and "too few new frames: gate has 0 of 32" in output
    assert watched.in_service() is None

    watched.deliver(DAY)
    code, output = watched.once()
    assert code == 11 and "no plan is in service yet" in output, output
    first = watched.in_service()
    assert first is not None and plan_in_registry(watched) == first
    assert watched.current() == watched.bundle_in_service()

    watched.deliver(DAY, 5)
    assert watched.once()[0] == 0 and "gate has 5 of 32" in watched.rounds[-1].reason
    watched.deliver(DAY)
    code, output = watched.once()
    assert code == 0 and "gate is unchanged" in output, output
    assert watched.in_service() == first

    watched.deliver(NIGHT)
    code, output = watched.once()
    assert code in (10, 11) and "gate has changed" in output, output
    last = watched.rounds[-1]
    assert last.promotion is not None and last.promotion.by == "fidelity"
    assert last.champion == watched.in_service() == plan_in_registry(watched)
    assert last.promotion.promoted == (code == 11) and last.promotion.difference

    assert windows_added(watched, "gate-00000003") == ()  # nothing by day resembled it

    watched.deliver(NIGHT)
    code, output = watched.once()
    assert code == 0 and "gate is unchanged" in output, output
    assert windows_added(watched, "gate-00000003") == ("gate-00000004",)
    watched.deliver(DAY)
    assert watched.once()[0] == 0  # the camera is as by day before
    assert windows_added(watched, "gate-00000003") == ("gate-00000004",)

    assert [ended.number for ended in watched.rounds] == list(range(1, 8))
    code, output = watched.call("history")
    assert code == 0 and "gate has changed" in output and "In service since" in output
    listed = json.loads(watched.printed("history", "--json", "--last", "2"))
    assert [ended["number"] for ended in listed] == [6, 7]


def test_frames_that_wait_for_the_next_window_count_in_the_comparison(
    weights: Weights, tmp_path: Path
) -> None:
    cameras = {"gate": {"folder": "gate"}, "yard": {"folder": "yard"}}
    data = with_changes(watched_data(weights), {"watch.cameras": cameras})
    watched = Watched.at(tmp_path / "watched", data)
    yard = watched.config.parent / "yard"
    yard.mkdir()
    watched.deliver(DAY, WINDOW + 5)
    for path in sorted(watched.gate.iterdir())[WINDOW:]:
        shutil.move(path, yard / path.name)
    code, output = watched.once()
    record = watched.rounds[-1].promotion
    assert code == 11 and record is not None, output
    assert record.measured_on == f"{WINDOW + 5} new frames"


# The promotion rule, and actions of a person


def test_a_rule_that_asks_for_labels_promotes_nothing_without_them(
    weights: Weights, tmp_path: Path
) -> None:
    data = with_changes(watched_data(weights), {"promotion.by": "truth"})
    watched = Watched.at(tmp_path / "watched", data)
    watched.deliver(DAY)
    code, output = watched.once()
    assert code == 10 and "not verified on ground truth" in output
    assert watched.in_service() is None and plan_in_registry(watched) is None
    watched.deliver(DAY)
    code, output = watched.once()
    assert code == 0, output  # a person has to act: no search in every round
    proposed = plan_in_registry(watched, "challenger")

    # Promotions and rollbacks in MLflow take effect here.
    code, output = watched.call("promote", "--set", "promotion.by=fidelity")
    assert code == 0, output
    code, output = watched.once()
    assert code == 0 and "was made champion in MLflow" in output
    assert watched.in_service() == proposed
    watched.deliver(NIGHT)
    code, output = watched.once("--set", "promotion.by=fidelity", "--set", "promotion.slack=1.0")
    assert code == 11, output
    assert watched.rounds[-1].champion == watched.in_service() == plan_in_registry(watched)
    assert watched.call("rollback", "--why", "too dark")[0] == 0
    watched.once()
    assert watched.in_service() == proposed == watched.rounds[-1].champion


def test_enough_new_labels_decide_about_promotion(weights: Weights, tmp_path: Path) -> None:
    data = with_changes(watched_data(weights), {"truth": {"a": {"csv": "labels.csv"}}})
    watched = Watched.at(tmp_path / "watched", data)
    model = load_tiny(weights, {"a": (CLASSIFIER, 1)})["a"]
    label(watched, model, 0, MIN_NEW_LABELS)
    watched.deliver(DAY)
    assert watched.once()[0] == 11
    watched.deliver(NIGHT)
    snapshot = tmp_path / "snapshot"
    shutil.copytree(watched.config.parent, snapshot, symlinks=True)
    enough = MIN_NEW_LABELS
    for more, rule, by, expected in [
        (enough - 1, "either", "fidelity", "fidelity, 32 new frames: challenger"),
        (enough, "either", "truth", f"kept on ground truth, {enough} new labels: challenger"),
        (0, "truth", "truth", f"kept on ground truth, {enough} old labels: challenger"),
        (enough, "fidelity", "fidelity", "fidelity, 32 new frames: challenger"),
    ]:
        label(watched, model, enough, more)
        code, output = watched.once("--set", f"promotion.by={rule}")
        record = watched.rounds[-1].promotion
        assert code in (10, 11) and record is not None, output
        assert record.by == by and expected in output, output
        assert record.champion_quality is not None and record.challenger_quality is not None
        assert "points (" in record.reason
        shutil.rmtree(watched.config.parent)
        shutil.copytree(snapshot, watched.config.parent, symlinks=True)


def test_at_chance_a_round_is_shown_without_a_percentage_of_quality_kept(
    weights: Weights, tmp_path: Path
) -> None:
    changes = {"truth": {"a": {"csv": "labels.csv"}}, "promotion.by": "truth"}
    watched = Watched.at(tmp_path / "watched", with_changes(watched_data(weights), changes))
    write_random_labels(watched, MIN_NEW_LABELS)
    watched.deliver(DAY)
    assert watched.once()[0] == 11
    watched.deliver(NIGHT)
    code, output = watched.once()
    assert code in (10, 11), output
    reason = "no baseline: unmerged, a is no better than chance on the labels"
    for ended in watched.rounds:
        record = ended.promotion
        assert record is not None and record.challenger_quality is not None
        assert record.by == "truth" and record.at_chance == ("a",)
    code, shown = watched.call("history")
    kept = [line for line in shown.splitlines() if "quality kept on ground truth" in line]
    assert code == 0 and len(kept) == 2
    for line in kept:
        assert line.endswith(f"-, plan in service - ({reason})") and "%" not in line
    assert "it keeps" not in shown + output and "points (" not in shown + output


def write_random_labels(watched: Watched, count: int) -> None:
    """Write as many labelled pictures for the config's ground truth, of all classes in turn."""
    rows = []
    for index in range(count):
        picture(DAY, 1000 + index).save(watched.config.parent / f"labelled-{index}.png")
        rows.append(f"labelled-{index}.png,{index % 7}\n")
    (watched.config.parent / "labels.csv").write_text("path,label_index\n" + "".join(rows))


def label(watched: Watched, model: StagedModel, first: int, count: int) -> None:
    """Add pictures to the config's ground truth, labelled with the model's own answers."""
    file = watched.config.parent / "labels.csv"
    if not file.exists():
        file.write_text("path,label_index\n")
    for index in range(first, first + count):
        labelled = picture(DAY, 1000 + index)
        labelled.save(file.parent / f"labelled-{index}.png")
        answer = model(model.prepare_frames([np.asarray(labelled)])).argmax()
        with file.open("a") as table:
            table.write(f"labelled-{index}.png,{answer}\n")


# Faults


def test_a_damaged_unlogged_result_does_not_hold_up_rounds(
    watched: Watched,
) -> None:
    damaged = watched.run_config.out_folder / "unlogged" / "0123456789ab"
    damaged.mkdir(parents=True)
    (damaged / "result.json").write_text("{")
    for number in (1, 2):
        code, output = watched.once()
        assert code == 0 and f"rounds 1 to {number}" in output, output
        assert "unlogged/0123456789ab/result.json has changed since it was queued" in output
    assert damaged.is_dir()


def test_a_dead_camera_and_damaged_pictures_do_not_stop_the_others(
    weights: Weights, tmp_path: Path
) -> None:
    cameras = {"gate": {"folder": "gate"}, "yard": {"folder": "nowhere"}}
    data = with_changes(watched_data(weights), {"watch.cameras": cameras})
    watched = Watched.at(tmp_path / "watched", data)
    watched.deliver(DAY, WINDOW + 1)
    first = min(watched.gate.iterdir())
    first.write_bytes(first.read_bytes()[:99])
    os.utime(first, (1e9, 1e9))
    code, output = watched.once()
    assert code == 11, output
    records = watched.rounds[-1].cameras
    assert records["gate"].judged == WINDOW and first.name in str(records["gate"].fault)
    assert records["yard"].judged == 0 and "nowhere" in str(records["yard"].fault)
    watched.once()
    assert "pausing after a fault" in str(watched.rounds[-1].cameras["yard"].fault)


def test_a_failed_round_names_its_cause_and_the_next_round_repeats_its_work(
    watched: Watched, weights: Weights
) -> None:
    watched.deliver(DAY)
    code, output = watched.once("--set", "models.a.weights=gone.safetensors")
    assert code == 1 and "gone.safetensors" in output
    assert watched.rounds[-1].decision == "failed" and watched.in_service() is None
    code, output = watched.once()  # on the same frames, since no round has compared them
    assert code == 11, output
    assert [ended.decision for ended in watched.rounds] == ["failed", "promoted"]


def test_mlflow_catches_up_when_it_is_back(
    weights: Weights, tmp_path: Path, server: Server
) -> None:
    mlflow = {"tracking_uri": server.uri, "experiment": "watched"}
    data = with_changes(watched_data(weights), {"mlflow": mlflow})
    watched = Watched.at(tmp_path / "watched", data)
    watched.deliver(DAY)
    server.stop()
    code, output = watched.once()
    assert code == 11 and "the next round logs it again" in output, output
    first = watched.in_service()
    server.start()
    assert watched.once()[0] == 0
    assert plan_in_registry(watched) == first and watched.in_service() == first
    with open_registry(Target.of(watched.run_config), "watched") as versions:
        entry = versions.champion()
        assert entry is not None
        fetched = versions.download_bundle(entry, tmp_path / "fetched")
    assert bundle_id(fetched) == entry.plan.bundle

    # A machine that has lost its folder gets the plan in service from there.
    shutil.rmtree(watched.champions.folder)
    shutil.rmtree(watched.run_config.out_folder / "bundle")
    assert watched.once()[0] == 0 and watched.in_service() == first


def test_only_one_process_watches_a_config(
    watched: Watched, start: StartCommand, tmp_path: Path
) -> None:
    with watcher_lock(watched.workspace.folder):
        code, output = watched.once()
        assert code == 5 and f"(number {os.getpid()}) watches" in output
        assert watched.call("watch")[0] == 5
    with watched.workspace.round_lock():
        code, output = watched.once("--due", "2026-01-01T00:00:00+0000")
        assert code == 5 and "does a round" in output
    # A killed process gives up its lock.
    watched.deliver(DAY)
    in_the_round = kill_before_step(0, tmp_path / "steps")
    assert start("watch", watched.config, "--once", prepare=in_the_round).exit_code() == -9
    assert (watched.workspace.folder / "round.lock").exists()
    assert watched.once()[0] == 11


def test_an_invalid_watch_is_refused_in_one_sentence(weights: Weights, tmp_path: Path) -> None:
    data = watched_data(weights)
    del data["watch"]
    code, output = Watched.at(tmp_path / "none", data).once()
    assert code == 1 and "no section `watch`" in output and len(output.splitlines()) == 1
    for change, expected in (
        ({"watch.interval": "often"}, "interval 'often'"),
        ({"watch.schedule": "* * * * *"}, "exactly one of schedule, interval"),
        ({"watch.cameras": {}}, "watch.cameras"),
        ({"watch.window": 8}, "watch.window"),
        ({"watch.cameras.gate": {"stream": "ftp://me:secret@there"}}, "must begin with rtsp://"),
    ):
        folder = tmp_path / expected.replace("/", "_")
        code, output = Watched.at(folder, with_changes(watched_data(weights), change)).once()
        assert code == 1 and expected in output and "secret" not in output, output


def test_references_are_rebuilt_for_other_weights(watched: Watched, weights: Weights) -> None:
    watched.deliver(DAY)
    assert watched.once()[0] == 11
    watched.deliver(DAY)
    code, output = watched.once("--set", f"models.a.weights={weights(CLASSIFIER, 5)}")
    assert code in (10, 11) and "agrees with the unmerged models on" in output, output
    assert "gate has changed" not in output


def test_a_damaged_champion_record_is_never_treated_as_missing(watched: Watched) -> None:
    watched.deliver(DAY)
    assert watched.once()[0] == 11
    record = watched.champions.record_file
    record.write_text(record.read_text()[:50])
    watched.deliver(NIGHT)
    code, output = watched.once()
    assert code == 1 and str(record) in output and len(output.splitlines()) == 1
    assert record.read_text() == record.read_text()[:50]


def test_the_watcher_starts_rounds_until_it_is_stopped(
    watched: Watched, start: StartCommand
) -> None:
    watched.deliver(DAY)
    watcher = start("watch", watched.config, "--quiet", "--set", "watch.interval=1 s")
    wait_until(lambda: len(watched.rounds) >= 2 or not watcher.is_running)
    assert watcher.is_running, watcher.output
    watcher.send(signal.SIGTERM)
    assert watcher.exit_code() == 143, watcher.output
    decisions = [ended.decision for ended in watched.rounds]
    assert decisions[:2] == ["promoted", "waiting"], watcher.output
    assert watched.rounds[1].missed > 0  # the first took longer than a second


def test_unneeded_files_of_earlier_rounds_are_removed(weights: Weights, tmp_path: Path) -> None:
    changes = {"watch.remember": 1, "promotion.slack": 1.0}
    watched = Watched.at(tmp_path / "watched", with_changes(watched_data(weights), changes))
    counts = []
    for settings in (
        DAY,
        NIGHT,
        replace(DAY, seed=24, rain=1.0, camera_pitch=35.0, camera_height=8.0),
    ):
        watched.deliver(settings)
        code, output = watched.once()
        assert code == 11, output
        counts.append(files(watched))
    # the config's own frames and the last window
    assert counts[1]["statistics"] == counts[2]["statistics"] == 2
    assert counts[1]["windows"] == counts[2]["windows"] == 1
    assert [count["trials"] for count in counts] == [1, 1, 1]
    assert [count["references"] for count in counts] == [2, 2, 2]
    assert [count["bundles"] for count in counts] == [1, 2, 2]


def files(watched: Watched) -> dict[str, int]:
    cache, workspace = watched.run_config.cache_folder, watched.workspace
    return {
        "statistics": len([*cache.glob("statistics/*.safetensors")]),
        "windows": len(WindowStore(workspace, ("gate",)).windows("gate")),
        "trials": len([*workspace.folder.glob("trials-*.log")]),
        "references": len([*workspace.folder.glob("references/*")]),
        "bundles": len([*workspace.out.glob("service/bundles/*")]),
    }


@pytest.mark.data
def test_three_real_cameras_are_watched(weights: Weights, tmp_path: Path) -> None:
    square = second_by_second(real_camera("pets2009_s2l1_view1/frames"), tmp_path / "square")
    street = second_by_second(real_camera("street_traffic_ckuhn"), tmp_path / "street")
    cameras = {
        "square": {"folder": str(square)},
        "street": {"folder": str(street)},
        "parking": {"video": str(real_camera("car-detection.mp4")), "every": 0.1},
    }
    data = with_changes(watched_data(weights), {"watch.cameras": cameras})
    watched = Watched.at(tmp_path / "watched", data)
    code, output = watched.once()
    assert code == 11, output
    records = watched.rounds[-1].cameras
    assert {name: record.judged for name, record in records.items()} == dict.fromkeys(
        cameras, WINDOW
    )
    assert all(record.drifted for record in records.values()), "none is like the rendered street"
    watched.once()
    assert watched.rounds[-1].decision in ("unchanged", "promoted", "searched")
    pictures = sorted((watched.workspace.folder / "cameras" / "parking").rglob("*.jpg"))
    assert read_image(pictures[0]).shape == (432, 768, 3)
