"""YAML has one plain meaning, or is refused with line, column and cure, and without its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import Weights, config_data, with_changes, write_config

from search.config.base import BadConfig
from search.config.loading import load_config
from search.config.yaml_text import MOST_VALUES, NotYaml, read_yaml

LAUGHS = "a0: &a0 [x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
MERGED_LAUGHS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: *a{i - 1}, k: *a{i - 1}, l: *a{i - 1}}}\n" for i in range(1, 60)
)
LADDER = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{k: *a{i - 1}}}\n" for i in range(1, 999))


def refusal(text: str) -> str:
    with pytest.raises(NotYaml) as caught:
        read_yaml(text)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 250
    return message


@pytest.mark.parametrize(
    ("text", "place", "key"),
    [
        ("seed: 1\nout: x\nseed: 2\n", "line 3, column 1", "given twice (before in line 1)"),
        ("seed: 1\n\"seed\": 2\n", "line 2, column 1", "'seed' is given twice"),
        ("models:\n  a: {arch: x, arch: y}\n", "line 2, column 16", "'arch' is given twice"),
        ("parts:\n  - stride: 1\n    count: 1\n    stride: 1", "line 4, column 5", "in line 2"),
        ("classes: {1: a, 1: b}", "line 1, column 17", "'1' is given twice"),
        ("a: &a {b: 1}\nc: {<<: *a, d: 1, d: 2}", "line 2, column 19", "'d'"),
    ],
)  # fmt: skip
def test_a_key_given_twice_is_refused_with_its_line(text: str, place: str, key: str) -> None:
    message = refusal(text)
    assert message.startswith(place) and key in message


def test_a_merged_key_may_be_given_again() -> None:
    assert read_yaml("a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}") == {
        "a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2},
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["a: &a {b: *a}", "a: &a [*a]", "a: &a {<<: *a}", "a: &a {b: &b {c: [*a]}, d: *b}"]
)
def test_a_value_that_refers_to_itself_is_refused(text: str) -> None:
    assert refusal(text) == "line 1, column 4: a value refers to itself"


@pytest.mark.parametrize("text", [LAUGHS, MERGED_LAUGHS], ids=["aliases", "merges"])
def test_aliases_that_multiply_are_refused(text: str) -> None:
    assert f"more than {MOST_VALUES} values" in refusal(text)


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, "{a: " * 200_000, "- " * 200_000, LADDER,
     "\n".join(" " * level + "a:" for level in range(999))],
    ids=["lists", "mappings", "items", "aliases", "lines"],
)  # fmt: skip
def test_a_text_nested_too_deep_is_refused(text: str) -> None:
    assert "nested deeper than 50 levels" in refusal(text)


@pytest.mark.parametrize(
    ("number", "value"),
    [("1:30", "90"), ("010", "8"), ("-010", "-8"), ("1:30.5", "90.5"), ("0_7", "7")],
)
def test_numbers_to_another_base_are_refused_with_their_value(number: str, value: str) -> None:
    message = refusal(f"budget: {number}")
    assert message.startswith(f"line 1, column 9: YAML reads {number} as {value}: write a number")


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("10", 10), ("1_000", 1000), ("0x10", 16), ("0.5", 0.5), ("-1.5e-3", -0.0015),
     ("'010'", "010"), ("'1:30'", "1:30"), ("08", "08"), ("24 MB", "24 MB")],
)  # fmt: skip
def test_plain_numbers_and_text_stay_as_they_are(text: str, value: Any) -> None:
    assert read_yaml(text) == value == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("storage: *s3cret", "write text with a * in quotes"),
        ("storage: !s3cret x", "write text with a ! in quotes"),
        ("storage: s3cret: x", "in quotes"),
        ("storage: @s3cret", "in quotes"),
        ('storage: "s3cret\\q"', "single quotes"),
        ("storage: 's3cret", "end of stream"),
        ("storage: &s3cret 1\nout: &s3cret 2", "before"),
        ("storage: [s3cret", "',' or ']'"),
        ("storage: s3cret\n\tout: x", "tab"),
        ("storage: s3cret\n out: x", "indentation"),
        ("- s3cret\nout: x", "indentation"),
        ("storage: !!timestamp s3cret", "in quotes"),
        ("storage: !!bool s3cret", "in quotes"),
        ("{[s3cret]: x}", "must be text"),
        ("storage: s3cret\n---\nout: x", "second document"),
        ("storage: s3cret\x00", "character number 16"),
    ],
)
def test_an_error_of_syntax_shows_no_value(text: str, cure: str) -> None:
    message = refusal(text)
    assert cure in message and "s3" not in message


def test_a_date_that_does_not_exist_is_refused() -> None:
    assert refusal("name: 2026-13-45") == (
        "line 1, column 7: this timestamp cannot be read; write text in quotes"
    )


@pytest.mark.parametrize("text", ["mlflow: {tracking_uri: ${URI}}", "adapters: [${URI}]"])
def test_a_variable_between_braces_gets_the_hint_to_quote_it(text: str) -> None:
    assert refusal(text).endswith('write "${NAME}" in quotes between { } or [ ]')


def test_an_override_of_an_anchored_section_leaves_its_aliases_as_they_are(
    tmp_path: Path, weights: Weights
) -> None:
    data = with_changes(config_data(weights), {"truth": {}})
    data["models"]["b"] = data["models"]["a"]  # PyYAML writes an anchor and an alias
    path = write_config(tmp_path, data)
    path.write_text(yaml.safe_dump(data))
    assert "*id001" in path.read_text()
    config = load_config(path, ["models.a.cut=blocks"])
    assert (config.models["a"].cut, config.models["b"].cut) == ("blocks", "stages")


def test_the_config_and_the_override_are_named(tmp_path: Path, weights: Weights) -> None:
    path = write_config(tmp_path, config_data(weights))
    with pytest.raises(BadConfig, match=r"^--set storage: the value is not YAML \(line 1, col"):
        load_config(path, ["storage=*s3cret"])
    path.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(BadConfig, match=r"config\.yaml: line 2, column 1: the key 'seed' is give"):
        load_config(path)
    path.write_bytes("name: xy".encode("utf-16"))
    with pytest.raises(BadConfig, match=r"cannot be read as UTF-8, .* save it as UTF-8 text$"):
        load_config(path)
