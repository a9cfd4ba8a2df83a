"""Measure how every part of a search scales, and print one JSON object of all of it.

    MERGE_SEARCH_DATA=/path/to/folder OMP_NUM_THREADS=1 python bench/scale.py [PART ...]

The parts are scripts of this folder, whose last line is a JSON object each; they say what their
numbers are. Without any PART all run, which takes hours of one core. `growth` repeats the powers
of the number of models by which times grow.

- frames: reading and preparing camera frames (scale_frames.py)
- statistics: memory and time of large networks (scale_statistics.py)
- screening: fidelity of up to eight models, in full and screened (screening.py)
- search: the first trials, the smallest plan, and workers (scale_search.py)
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from samplers import ROOT

BENCH = Path(__file__).parent
PARTS = {
    "frames": ["scale_frames.py"],
    "statistics": ["scale_statistics.py"],
    "screening": ["screening.py", "runs/eight.yaml", "--models", "2", "3", "4", "6", "8"],
    "search": ["scale_search.py"],
}


def main() -> None:
    parts = sys.argv[1:] or [*PARTS]
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    report = {part: run_script(*PARTS[part]) for part in parts}
    print(json.dumps({**report, "growth": growth(report)}))


def run_script(name: str, *arguments: str) -> dict[str, Any]:
    """Run a script of this folder, print what it prints, and return its last line."""
    command = [sys.executable, str(BENCH / name), *arguments]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        sys.exit(f"{name} has failed")
    record: dict[str, Any] = json.loads(lines[-1])
    return record


def growth(report: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the power of the number of models by which each time grows."""
    powers = dict(report.get("screening", {}).get("growth", {}))
    if "search" in report:
        powers["smallest plan"] = report["search"]["smallest"]["exponent"]
    return powers


if __name__ == "__main__":
    main()
