"""`merge-search watch --once`: rounds on real networks, pictures, processes and stores."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import StartCommand, wait_until
from servers import Server
from tiny import CLASSIFIER, Weights, load_tiny, with_changes
from watched import DAY, NIGHT, WINDOW, Watched, picture, watched_data

from search.data.frames import read_image
from search.drift.reference_storage import load
from search.tracking.client import registry
from search.tracking.target import Target
from search.watch.daemon import only_one
from search.watch.seen_labels import LEAST
from spaces.bundle import bundle_id
from spaces.stages import StagedModel

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data"
DATA = Path(os.environ.get("MERGE_SEARCH_DATA") or DEFAULT) / "cameras"


@pytest.fixture
def watched(weights: Weights, tmp_path: Path) -> Watched:
    return Watched.at(tmp_path / "watched", watched_data(weights))


def alias(watched: Watched, name: str = "champion") -> str | None:
    """The plan that MLflow's registry has for champion."""
    with registry(Target.of(watched.post.config), "watched") as known:
        entry = known.champion() if name == "champion" else known.challenger()
    return None if entry is None else entry.plan.plan


def taken_up(watched: Watched, part: str) -> tuple[str, ...]:
    """The windows that a part of the last search has been made larger by."""
    return load(watched.post.reference(part)).taken_up


def test_from_the_first_plan_to_one_for_the_night(watched: Watched) -> None:
    code, said = watched.once()
    assert code == 0 and "too few new frames: gate has 0 of 32" in said
    assert watched.in_service() is None

    watched.deliver(DAY)
    code, said = watched.once()
    assert code == 11 and "no plan is in service yet" in said, said
    first = watched.in_service()
    assert first is not None and alias(watched) == first
    assert watched.current() == watched.bundle_in_service()

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

    assert taken_up(watched, "gate-00000003") == ()  # by day nothing looked like it

    watched.deliver(NIGHT)
    code, said = watched.once()
    assert code == 0 and "gate as it was" in said, said
    assert taken_up(watched, "gate-00000003") == ("gate-00000004",)
    watched.deliver(DAY)
    assert watched.once()[0] == 0  # it has been there before
    assert taken_up(watched, "gate-00000003") == ("gate-00000004",)

    assert [known.number for known in watched.rounds] == list(range(1, 8))
    code, said = watched.call("history")
    assert code == 0 and "gate has changed" in said and "In service since" in said
    listed = json.loads(watched.printed("history", "--json", "--last", "2"))
    assert [known["number"] for known in listed] == [6, 7]


# The rule, and what a person does.


def test_a_rule_that_asks_for_labels_promotes_nothing_without_them(
    weights: Weights, tmp_path: Path
) -> None:
    data = with_changes(watched_data(weights), {"promotion.by": "truth"})
    watched = Watched.at(tmp_path / "watched", data)
    watched.deliver(DAY)
    code, said = watched.once()
    assert code == 10 and "not verified on ground truth" in said
    assert watched.in_service() is None and alias(watched) is None
    watched.deliver(DAY)
    code, said = watched.once()
    assert code == 0, said  # a person's turn: it is not searched again and again
    proposed = alias(watched, "challenger")

    # What a person promotes in MLflow is taken over, and what a person takes back, too.
    code, said = watched.call("promote", "--set", "promotion.by=fidelity")
    assert code == 0, said
    code, said = watched.once()
    assert code == 0 and "was made champion in MLflow" in said
    assert watched.in_service() == proposed
    watched.deliver(NIGHT)
    code, said = watched.once("--set", "promotion.by=fidelity", "--set", "promotion.slack=1.0")
    assert code == 11, said
    assert watched.rounds[-1].champion == watched.in_service() == alias(watched)
    assert watched.call("rollback", "--why", "too dark")[0] == 0
    watched.once()
    assert watched.in_service() == proposed == watched.rounds[-1].champion


def test_new_labels_decide_if_there_are_enough_of_them(weights: Weights, tmp_path: Path) -> None:
    data = with_changes(watched_data(weights), {"truth": {"a": {"csv": "labels.csv"}}})
    watched = Watched.at(tmp_path / "watched", data)
    model = load_tiny(weights, {"a": (CLASSIFIER, 1)})["a"]
    label(watched, model, 0, LEAST)
    watched.deliver(DAY)
    assert watched.once()[0] == 11
    watched.deliver(NIGHT)
    snapshot = tmp_path / "snapshot"
    shutil.copytree(watched.config.parent, snapshot, symlinks=True)
    for more, rule, by, told in [
        (LEAST - 1, "either", "fidelity", "fidelity, 8 new frames: challenger"),
        (LEAST, "either", "truth", f"kept on ground truth, {LEAST} new labels: challenger"),
        (0, "truth", "truth", f"kept on ground truth, {LEAST} old labels: challenger"),
        (LEAST, "fidelity", "fidelity", "fidelity, 8 new frames: challenger"),
    ]:
        label(watched, model, LEAST, more)
        code, said = watched.once("--set", f"promotion.by={rule}")
        verdict = watched.rounds[-1].verdict
        assert code in (10, 11) and verdict is not None, said
        assert verdict.by == by and told in said, said
        assert verdict.champion_quality is not None and verdict.challenger_quality is not None
        assert "points (" in verdict.reason
        shutil.rmtree(watched.config.parent)
        shutil.copytree(snapshot, watched.config.parent, symlinks=True)


def label(watched: Watched, model: StagedModel, first: int, count: int) -> None:
    """Add pictures and labels to the config's; right is what the model itself answers."""
    file = watched.config.parent / "labels.csv"
    if not file.exists():
        file.write_text("path,label_index\n")
    for index in range(first, first + count):
        found = picture(DAY, 1000 + index)
        found.save(file.parent / f"labelled-{index}.png")
        answer = model(model.prepare_frames([np.asarray(found)])).argmax()
        with file.open("a") as table:
            table.write(f"labelled-{index}.png,{answer}\n")


# What goes wrong.


def test_a_damaged_result_that_waits_for_mlflow_does_not_hold_up_the_rounds(
    watched: Watched,
) -> None:
    kept = watched.post.config.out_folder / "unlogged" / "0123456789ab"
    kept.mkdir(parents=True)
    (kept / "result.json").write_text("{")
    for number in (1, 2):
        code, said = watched.once()
        assert code == 0 and f"rounds 1 to {number}" in said, said
        assert "unlogged/0123456789ab/result.json is not what was kept there" in said
    assert kept.is_dir()


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
    code, said = watched.once()
    assert code == 11, said
    known = watched.rounds[-1].cameras
    assert known["gate"].judged == WINDOW and first.name in str(known["gate"].fault)
    assert known["yard"].judged == 0 and "nowhere" in str(known["yard"].fault)
    watched.once()
    assert "rests after a fault" in str(watched.rounds[-1].cameras["yard"].fault)


def test_a_round_that_fails_says_why_and_is_made_up_for(
    watched: Watched, weights: Weights
) -> None:
    watched.deliver(DAY)
    code, said = watched.once("--set", "models.a.weights=gone.safetensors")
    assert code == 1 and "gone.safetensors" in said
    assert watched.rounds[-1].decision == "failed" and watched.in_service() is None
    code, said = watched.once()  # the same frames, since no round has judged them
    assert code == 11, said
    assert [known.decision for known in watched.rounds] == ["failed", "promoted"]


def test_mlflow_is_told_when_it_is_back(weights: Weights, tmp_path: Path, server: Server) -> None:
    mlflow = {"tracking_uri": server.uri, "experiment": "watched"}
    data = with_changes(watched_data(weights), {"mlflow": mlflow})
    watched = Watched.at(tmp_path / "watched", data)
    watched.deliver(DAY)
    server.stop()
    code, said = watched.once()
    assert code == 11 and "the next round tells it again" in said, said
    first = watched.in_service()
    server.start()
    assert watched.once()[0] == 0
    assert alias(watched) == first and watched.in_service() == first
    with registry(Target.of(watched.post.config), "watched") as known:
        entry = known.champion()
        assert entry is not None
        fetched = known.fetch(entry, tmp_path / "fetched")
    assert bundle_id(fetched) == entry.plan.bundle

    # A machine that has lost its folder gets the plan in service from there.
    shutil.rmtree(watched.post.service.folder)
    shutil.rmtree(watched.post.config.out_folder / "bundle")
    assert watched.once()[0] == 0 and watched.in_service() == first


def test_only_one_watches_a_config(watched: Watched, start: StartCommand) -> None:
    with only_one(watched.post.folder):
        code, said = watched.once()
        assert code == 5 and f"(number {os.getpid()}) watches" in said
        assert watched.call("watch")[0] == 5
    with watched.post.round_of_ones_own():
        code, said = watched.once("--due", "2026-01-01T00:00:00+0000")
        assert code == 5 and "does a round" in said
    # The lock of a process that was killed is nobody's.
    watched.deliver(DAY)
    victim = start("watch", watched.config, "--once")
    wait_until(lambda: (watched.post.folder / "round.lock").exists())
    assert victim.kill()
    assert watched.once()[0] == 11


def test_what_cannot_be_watched_is_told_in_a_sentence(weights: Weights, tmp_path: Path) -> None:
    data = watched_data(weights)
    del data["watch"]
    code, said = Watched.at(tmp_path / "none", data).once()
    assert code == 1 and "no section `watch`" in said and len(said.splitlines()) == 1
    for change, told in (
        ({"watch.interval": "often"}, "interval 'often'"),
        ({"watch.schedule": "* * * * *"}, "exactly one of schedule, interval"),
        ({"watch.cameras": {}}, "watch.cameras"),
        ({"watch.window": 8}, "watch.window"),
        ({"watch.cameras.gate": {"stream": "ftp://me:secret@there"}}, "must begin with rtsp://"),
    ):
        folder = tmp_path / told.replace("/", "_")
        code, said = Watched.at(folder, with_changes(watched_data(weights), change)).once()
        assert code == 1 and told in said and "secret" not in said, said


def test_with_other_weights_all_is_looked_at_anew(watched: Watched, weights: Weights) -> None:
    watched.deliver(DAY)
    assert watched.once()[0] == 11
    watched.deliver(DAY)
    code, said = watched.once("--set", f"models.a.weights={weights(CLASSIFIER, 5)}")
    assert code in (10, 11) and "agrees with its models on" in said, said
    assert "gate has changed" not in said


def test_a_damaged_record_is_never_taken_for_none(watched: Watched) -> None:
    watched.deliver(DAY)
    assert watched.once()[0] == 11
    record = watched.post.service.record
    record.write_text(record.read_text()[:50])
    watched.deliver(NIGHT)
    code, said = watched.once()
    assert code == 1 and str(record) in said and len(said.splitlines()) == 1
    assert record.read_text() == record.read_text()[:50]


def test_the_watcher_starts_rounds_until_it_is_stopped(watched: Watched, tmp_path: Path) -> None:
    watched.deliver(DAY)
    command = [sys.executable, "-m", "search", "watch", str(watched.config), "--quiet",
               "--set", "watch.interval=1 s"]  # fmt: skip
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            wait_until(lambda: len(watched.rounds) >= 2, 180)
        finally:
            process.terminate()
            code = process.wait(60)
    told = (tmp_path / "said").read_text()
    assert code == 143, told
    assert [known.decision for known in watched.rounds][:2] == ["promoted", "waiting"], told
    assert watched.rounds[1].missed > 0  # the first took longer than a second


def test_what_is_not_looked_back_on_any_more_takes_no_room(
    weights: Weights, tmp_path: Path
) -> None:
    changes = {"watch.remember": 1, "promotion.slack": 1.0}
    watched = Watched.at(tmp_path / "watched", with_changes(watched_data(weights), changes))
    held = []
    for settings in (
        DAY,
        NIGHT,
        replace(DAY, seed=24, rain=1.0, camera_pitch=35.0, camera_height=8.0),
    ):
        watched.deliver(settings)
        code, said = watched.once()
        assert code == 11, said
        held.append(files(watched))
    # the config's own frames, and the last window
    assert held[1]["statistics"] == held[2]["statistics"] == 2
    assert held[1]["windows"] == held[2]["windows"] == 1
    assert [known["trials"] for known in held] == [1, 1, 1]
    assert [known["references"] for known in held] == [2, 2, 2]
    assert [known["bundles"] for known in held] == [1, 2, 2]


def files(watched: Watched) -> dict[str, int]:
    out, post = watched.post.config.out_folder, watched.post
    return {
        "statistics": len([*post.config.cache_folder.glob("statistics/*.safetensors")]),
        "windows": len(post.windows("gate")),
        "trials": len([*post.folder.glob("trials-*.log")]),
        "references": len([*post.folder.glob("references/*")]),
        "bundles": len([*out.glob("service/bundles/*")]),
    }


@pytest.mark.data
def test_three_real_cameras(weights: Weights, tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip("no cameras in the folder that MERGE_SEARCH_DATA names")
    cameras = {
        "square": {"folder": str(DATA / "pets2009_s2l1_view1" / "frames")},
        "street": {"folder": str(DATA / "street_traffic_ckuhn")},
        "parking": {"video": str(DATA / "car-detection.mp4"), "every": 0.1},
    }
    data = with_changes(watched_data(weights), {"watch.cameras": cameras})
    watched = Watched.at(tmp_path / "watched", data)
    code, said = watched.once()
    assert code == 11, said
    known = watched.rounds[-1].cameras
    assert {name: camera.judged for name, camera in known.items()} == dict.fromkeys(
        cameras, WINDOW
    )
    assert all(camera.drifted for camera in known.values())  # none looks like the rendered street
    watched.once()
    assert watched.rounds[-1].decision in ("unchanged", "promoted", "searched")
    pictures = sorted((watched.post.folder / "cameras" / "parking").rglob("*.jpg"))
    assert read_image(pictures[0]).shape == (432, 768, 3)
