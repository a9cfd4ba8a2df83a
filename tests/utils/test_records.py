"""JSON records are read strictly, and reading and writing them changes no byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from search.utils.records import (
    BadRecord,
    IsoTime,
    NoRecord,
    dump_record,
    load_record,
    read_record,
    write_record,
)


@dataclass(frozen=True)
class Inner:
    count: int
    share: float | None


@dataclass(frozen=True)
class Outer:
    version: Literal[1] = field(default=1, kw_only=True)
    name: str
    inner: list[Inner]
    by_name: Mapping[str, float | None]
    pair: tuple[float, float] | None
    anything: dict[str, Any]
    created: IsoTime
    later: str = "default"


GOOD = (
    '{"version": 1, "name": "a", "inner": [{"count": 1, "share": 0.5}], "by_name": {"x": null}, '
    '"pair": [0.25, 1.0], "anything": {"n": 1, "f": 1.0}, "created": "2026-05-04T12:00:00+00:00"}'
)


def test_a_record_holds_what_its_text_says() -> None:
    record = load_record(Outer, GOOD, "text")
    assert record.inner == [Inner(1, 0.5)] and record.pair == (0.25, 1.0)
    assert record.by_name == {"x": None} and record.later == "default"


def test_plain_data_keeps_its_integers_and_floats() -> None:
    numbers = load_record(Outer, GOOD, "text").anything
    assert [type(number) for number in numbers.values()] == [int, float]


def test_a_written_record_is_read_again(tmp_path: Path) -> None:
    record = load_record(Outer, GOOD, "text")
    write_record(tmp_path / "record.json", record)
    assert read_record(Outer, tmp_path / "record.json") == record
    assert list(dump_record(record))[:2] == ["version", "name"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"count": 1', '"count": 1.5', r"inner\[0\]\.count: input should be a valid integer"),
        ('"count": 1', '"count": "1"', r"inner\[0\]\.count: "),
        ('"count": 1', '"count": true', r"inner\[0\]\.count: "),
        ('"count": 1, ', "", r"inner\[0\]\.count: field required"),
        ('"count": 1', '"count": 1, "total": 2', r"inner\[0\]\.total: unexpected"),
        ('"name": "a"', '"name": 3', "name: input should be a valid string"),
        ('"name": "a"', '"name": 3, "nick": 4', r"name: .* \(and 1 more\)"),
        ('"version": 1', '"version": 2', "version: input should be 1"),
        ("[0.25, 1.0]", "[0.25]", r"pair\[1\]: field required"),
        ("2026-05-04", "last May", "created: "),
        ("{", "[", "expected"),
    ],
)
def test_an_error_names_the_source_and_the_key(old: str, new: str, message: str) -> None:
    with pytest.raises(BadRecord, match=f"^some file: .*{message}") as caught:
        load_record(Outer, GOOD.replace(old, new, 1), "some file")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", ["", "null", "[]", "1", GOOD[:-1], GOOD + GOOD, "\x00"])
def test_other_content_is_no_record(content: str) -> None:
    with pytest.raises(BadRecord, match=r"^some file: "):
        load_record(Outer, content, "some file")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoRecord, match=r"missing\.json: there is no such file"):
        read_record(Outer, tmp_path / "missing.json")
    with pytest.raises(BadRecord, match="cannot be read") as caught:
        read_record(Outer, tmp_path)
    assert not isinstance(caught.value, NoRecord)
    (tmp_path / "latin").write_bytes(b'{"name": "\xe9"}')
    with pytest.raises(BadRecord, match="latin: "):
        read_record(Outer, tmp_path / "latin")


def test_plain_types_are_records_too(tmp_path: Path) -> None:
    kind = dict[str, list[str]]
    assert load_record(kind, '{"a": ["x"]}', "text") == {"a": ["x"]}
    with pytest.raises(BadRecord, match=r"text: a\[0\]: "):
        load_record(kind, '{"a": [1]}', "text")
