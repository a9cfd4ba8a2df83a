"""The scripts in docs/how-to/share-work-between-machines.md measure what one process measures.

Each is taken from the page and run by a shell, as the machine would that it is for. `/shared` is a
folder of the test, and the processes of `merge-search` are forked.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked_program import forked_program
from tiny import Weights, config_data, with_changes, write_config

from search.config.loading import load_config

PAGE = Path(__file__).parents[2] / "docs/how-to/share-work-between-machines.md"
SHARDS = 3
STEPS = ("stats", "fidelity")


def named_blocks() -> dict[str, str]:
    """Return the text of each file on the page, by the name in its comment."""
    fences = re.findall(r"(?ms)^```(?:sh|yaml)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"))
    files = {}
    for text in fences:
        name = re.search(r"(?m)^# ([\w-]+\.\w+)\b", text)
        if name:
            files[name[1]] = text
    return files


FILES = named_blocks()
SBATCH = r"""#!/bin/sh
# Stands for Slurm: does at once what a job does once its turn has come, and prints a number.
while [ $# -gt 0 ]; do
    case $1 in
        --export=ALL,*) export "${1#--export=ALL,}" ;;
        --wrap=*) wrapped=${1#--wrap=} ;;
        --*) ;;
        *) script=$1 ;;
    esac
    shift
done
if [ -n "${wrapped:-}" ]; then sh -c "$wrapped" >&2 || exit
else
    export SLURM_ARRAY_TASK_COUNT=$(sed -n 's/^#SBATCH --array=1-//p' "$script")
    for SLURM_ARRAY_TASK_ID in $(seq "$SLURM_ARRAY_TASK_COUNT"); do
        export SLURM_ARRAY_TASK_ID
        bash "$script" >&2 || exit
    done
fi
echo 7
"""
SSH = """#!/bin/sh
# Stands for a machine that is reached by ssh: its command runs in a shell of its own here.
shift
exec sh -c "$*"
"""


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    """Return a folder of programs: merge-search, one that stands for Slurm, and one for ssh."""
    with forked_program() as folder:
        for name, script in {"sbatch": SBATCH, "ssh": SSH}.items():
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
        yield folder


def shell(
    script: str, folder: Path, programs: Path, environment: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    """Run a script with /shared in the folder, and these programs first on its path."""
    path = os.pathsep.join(map(str, (programs, os.environ["PATH"])))
    process = subprocess.run(
        ["sh", "-c", script.replace("/shared", str(folder))],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, **environment},
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process


def tiny_config(weights: Weights) -> dict[str, Any]:
    changes = {"search.metric": "fidelity", "verify.fidelity_frames": 2, "frames.count": 18,
               "statistics.batch": 4, "search.adapters": ["linear"]}  # fmt: skip
    return with_changes(config_data(weights), changes)


def cached_values(folder: Path) -> dict[str, str]:
    """Return the content of the cache: agreements, and which statistics there are."""
    cache = load_config(folder / "my-cameras.yaml").cache_folder
    agreements = {path.name: path.read_text() for path in (cache / "notes").rglob("*.json")}
    return agreements | {path.name: "" for path in (cache / "statistics").iterdir()}


@pytest.fixture(scope="module")
def single(
    weights: Weights, tmp_path_factory: pytest.TempPathFactory, programs: Path
) -> dict[str, str]:
    """Return what one process caches."""
    folder = tmp_path_factory.mktemp("single")
    write_config(folder, tiny_config(weights), "my-cameras.yaml")
    shell("merge-search similarity /shared/my-cameras.yaml", folder, programs)
    return cached_values(folder)


@pytest.fixture
def shared(weights: Weights, tmp_path: Path) -> Path:
    """Return a folder with the config."""
    write_config(tmp_path, tiny_config(weights), "my-cameras.yaml")
    return tmp_path


def test_the_page_has_every_script() -> None:
    assert {"statistics.yaml", "shards.sbatch", "submit.sh", "shards.sh"} == set(FILES)


@pytest.mark.durability
def test_the_kubernetes_job_measures_every_shard(
    single: dict[str, str], shared: Path, programs: Path
) -> None:
    """Its containers' command runs once per index, as a cluster starts it."""
    job = yaml.safe_load(FILES["statistics.yaml"])
    spec = job["spec"]
    assert (job["kind"], job["apiVersion"]) == ("Job", "batch/v1")
    assert spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # as an indexed job with a limit per index must have
    (container,) = pod["containers"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment["SHARDS"] == str(spec["completions"]) == str(SHARDS)
    assert environment["STEP"] == "stats" and container["command"] == ["/bin/sh", "-c"]
    (script,) = container["args"]
    for step in STEPS:
        for index in range(spec["completions"]):
            of_pod = {**environment, "STEP": step, "JOB_COMPLETION_INDEX": str(index)}
            shell(script, shared, programs, of_pod)
        shell(f"merge-search {step} merge /shared/my-cameras.yaml", shared, programs)
    assert cached_values(shared) == single


@pytest.mark.durability
def test_the_slurm_array_measures_every_shard(
    single: dict[str, str], shared: Path, programs: Path
) -> None:
    script = FILES["shards.sbatch"]
    assert script.startswith("#!/bin/sh\n") and f"#SBATCH --array=1-{SHARDS}\n" in script
    (shared / "shards.sbatch").write_text(script.replace("/shared", str(shared)))
    shell(FILES["submit.sh"], shared, programs)
    assert cached_values(shared) == single


@pytest.mark.durability
def test_the_loop_over_ssh_measures_every_shard(
    single: dict[str, str], shared: Path, programs: Path
) -> None:
    shell(FILES["shards.sh"], shared, programs)
    assert cached_values(shared) == single


def test_a_shard_that_fails_over_ssh_ends_the_loop(
    weights: Weights, tmp_path: Path, programs: Path
) -> None:
    data = with_changes(tiny_config(weights), {"frames.count": 10})  # two batches, three shards
    write_config(tmp_path, data, "my-cameras.yaml")
    with pytest.raises(AssertionError, match="use fewer shards"):
        shell(FILES["shards.sh"], tmp_path, programs)
    assert not (load_config(tmp_path / "my-cameras.yaml").cache_folder / "statistics").exists()
