"""cron, systemd, Compose and Kubernetes understand the files in docs/how-to/schedule.md."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import wait_until

from search.utils.schedule import Schedule

DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "schedule.md"
HOME = "/srv/street"
PROGRAM = f"{HOME}/.venv/bin/merge-search"


def blocks() -> dict[str, tuple[str, str]]:
    """Return the language and the text of each file, by the name in its first comment."""
    fences = re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", DOCS.read_text(encoding="utf-8"))
    files = {}
    for language, text in fences:
        comment = next(line for line in text.splitlines() if re.match(r"# \S", line))
        files[comment.removeprefix("# ").rpartition("/")[2]] = (language, text)
    assert len(files) == len(fences)
    return files


BLOCKS = blocks()
UNITS = {name: text for name, (language, text) in BLOCKS.items() if language == "ini"}
(SCRIPT,) = (text for language, text in BLOCKS.values() if language == "sh")
(CRONTAB,) = (text for language, text in BLOCKS.values() if language == "crontab")


def manifest(kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all(BLOCKS["street.yaml"][1])
    (document,) = (d for d in documents if d["kind"] == kind)
    return dict(document)


CRON_JOB = manifest("CronJob")["spec"]
POD = CRON_JOB["jobTemplate"]["spec"]["template"]["spec"]
(ROUND,) = POD["containers"]
EXIT_CODES = {
    int(code)
    for code in re.findall(r"(?m)^\| (\d+) \|", DOCS.read_text(encoding="utf-8"))
}  # fmt: skip


def test_the_page_has_a_file_for_every_scheduler() -> None:
    assert set(UNITS) == {
        "merge-search.service", "merge-search-round.service", "merge-search-round.timer",
        "merge-search-failed.service",
    }  # fmt: skip
    assert {"compose.yaml", "street.yaml", "round"} < set(BLOCKS)
    assert EXIT_CODES == {0, 1, 5, 10, 11, 70}


# cron.


def test_cron_accepts_the_lines_of_the_crontab() -> None:
    lines = [line for line in CRONTAB.splitlines() if re.match(r"[\d*]", line)]
    assert lines
    for line in lines:
        *fields, command = line.split(maxsplit=5)
        Schedule.cron(" ".join(fields))
        assert command == f"{HOME}/round"


def write_script(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("code", sorted(EXIT_CODES))
def test_cron_sends_mail_about_failures_and_promotions(code: int, tmp_path: Path) -> None:
    write_script(
        tmp_path / ".venv/bin/merge-search", f'echo "ran: $*"; echo more >&2; exit {code}'
    )
    script = SCRIPT.replace(HOME, str(tmp_path))
    process = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert process.returncode == code and process.stderr == ""
    mail = f"ran: watch watch.yaml --once\nmore\nexit code {code}\n"
    assert process.stdout == (mail if code in (1, 11, 70) else "")


# systemd.


def unit(name: str) -> RawConfigParser:
    parser = RawConfigParser(strict=True, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNITS[name])
    return parser


def test_the_units_start_the_documented_commands() -> None:
    service, round_unit = (
        unit("merge-search.service")["Service"],
        unit("merge-search-round.service"),
    )
    assert service["ExecStart"] == f"{PROGRAM} watch watch.yaml"
    assert round_unit["Service"]["ExecStart"] == f"{PROGRAM} watch watch.yaml --once"
    assert {"10", "11"} <= set(round_unit["Service"]["SuccessExitStatus"].split())
    assert round_unit["Unit"]["OnFailure"] in UNITS
    timer = unit("merge-search-round.timer")["Timer"]
    assert timer["Persistent"] == "true"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for name, text in UNITS.items():
        (tmp_path / name).write_text(text.replace(PROGRAM, "/bin/true"))
    command = ["systemd-analyze", "verify", *(str(tmp_path / name) for name in UNITS)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


# Kubernetes and Compose.


def test_the_cron_job_is_consistent() -> None:
    assert manifest("CronJob")["apiVersion"] == "batch/v1"
    Schedule.cron(CRON_JOB["schedule"], CRON_JOB["timeZone"])
    assert CRON_JOB["concurrencyPolicy"] == "Forbid" and CRON_JOB["startingDeadlineSeconds"] > 0
    assert POD["restartPolicy"] == "Never"  # else podFailurePolicy is refused
    mounted = {mount["name"]: mount["mountPath"] for mount in ROUND["volumeMounts"]}
    assert set(mounted) == {volume["name"] for volume in POD["volumes"]}
    (claim,) = (v["persistentVolumeClaim"] for v in POD["volumes"] if v["name"] == "data")
    assert claim["claimName"] == manifest("PersistentVolumeClaim")["metadata"]["name"]
    for rule in CRON_JOB["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {"containerName": ROUND["name"], "values": []})
        assert codes["containerName"] == ROUND["name"]
        assert set(codes["values"]) <= EXIT_CODES - {0, 10, 11}


def start(folder: Path, body: str) -> subprocess.Popen[bytes]:
    """Start the command of the container, with a script in place of `merge-search`."""
    write_script(folder / "merge-search", body)
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.Popen([*ROUND["command"], *ROUND["args"]], env=path, cwd=folder)


@pytest.mark.parametrize("code", sorted(EXIT_CODES))
def test_only_failures_fail_the_job(code: int, tmp_path: Path) -> None:
    process = start(tmp_path, f'echo "$*" > arguments; exit {code}')
    assert process.wait(600) == (0 if code in (10, 11) else code)
    assert (tmp_path / "arguments").read_text() == "watch /config/watch.yaml --once\n"


def test_stopping_a_pod_stops_its_round_gently(tmp_path: Path) -> None:
    body = (
        "trap 'sleep 0.3; touch ended; exit 143' TERM\ntouch started\nwhile :; do sleep 0.1; done"
    )
    process = start(tmp_path, body)
    wait_until((tmp_path / "started").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(600) == 143 and (tmp_path / "ended").exists()


def test_the_compose_file_starts_the_watch_and_keeps_its_data() -> None:
    compose = yaml.safe_load(BLOCKS["compose.yaml"][1])
    watch = compose["services"]["watch"]
    assert watch["command"][:2] == ["merge-search", "watch"] and watch["restart"]
    config = watch["command"][2]
    places = [volume.split(":")[:2] for volume in watch["volumes"]]
    assert config in [place for _, place in places]
    named_volumes = {source for source, _ in places if not source.startswith(".")}
    assert named_volumes == set(compose["volumes"])
