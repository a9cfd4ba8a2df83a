"""JSON that is nested beyond all measure is refused in one sentence, whoever reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.data.class_labels import real_truth
from search.data.coco.truth import coco_truth
from search.data.frames import Sampling
from search.results.search_result import Result
from search.study.optimize import join_study
from search.utils.records import read_record
from spaces.bundle import read_bundle_contents
from spaces.errors import MergeSearchError
from spaces.json_text import load_json
from spaces.plan import SharePlan

DEEP = "[" * 200_000


def test_nesting_is_a_value_error() -> None:
    assert load_json(' {"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError, match="nested too deep"):
        load_json(DEEP)


@pytest.mark.parametrize(
    "read",
    [
        lambda file: real_truth(file, file.parent, Sampling()),
        lambda file: coco_truth(file, file.parent, Sampling(), None),
        lambda file: read_record(Result, file),
        lambda file: read_bundle_contents(file.parent),
        lambda file: SharePlan.from_json(file.read_text()),
    ],
    ids=["real", "coco", "record", "bundle", "plan"],
)
def test_every_reader_of_json_refuses_nesting(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    file = tmp_path / "bundle.json"
    file.write_text(DEEP)
    (tmp_path / "plan.json").write_text('{"version": 1, "shares": []}')
    with pytest.raises(MergeSearchError) as caught:
        read(file)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_journal_of_nested_lines_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.log"
    file.write_text('{"op_code":' + DEEP + "\n")
    with pytest.raises(MergeSearchError, match=r"study\.log"):
        join_study(str(file), "study")
