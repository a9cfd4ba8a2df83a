"""A refused value is answered in plain words, with our keys, whatever it is."""

from __future__ import annotations

import datetime
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

import pytest
from pydantic import BaseModel
from tiny import with_changes

from search.config.base import BadConfig
from search.config.budget import Budget
from search.config.run import RunConfig

GOOD: dict[str, Any] = {
    "name": "x",
    "budget": "65%",
    "models": {
        "a": {"arch": "timm/resnet18", "weights": "x", "input": {}},
        "b": {"arch": "timm/resnet18", "weights": "y"},
    },
    "frames": {"folder": "f"},
    "truth": {"a": {"csv": "x.csv"}},
    "watch": {"interval": "6 h", "cameras": {"door": {"folder": "x"}}},
}
NAMES = {"models": "a", "truth": "a", "cameras": "door"}
VALUES: list[Any] = [
    None, True, -1, 0, 7, 10**400, 1.5, math.nan, math.inf, -0.5, "", "x", "1e-3", "7", "a\ud800",
    [], {}, [None], {1: 2}, {"q": 1}, datetime.date(2026, 1, 1), {3}, b"x", ["x"], [True, 1],
]  # fmt: skip
FOREIGN = ("Input", "input sh", "valid ", "dictionary", "pydantic", "string", "integer", "[key]")


def key_paths(annotation: Any, at: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the dotted names of all keys of a config."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield ".".join((*at, name))
            yield from key_paths(field.annotation, (*at, name))
    elif origin is dict and at[-1] in NAMES:
        yield from key_paths(parts[-1], (*at, NAMES[at[-1]]))
    elif origin in (typing.Union, UnionType, typing.Annotated):
        for part in parts:
            yield from key_paths(part, at)


def refusal(key: str, value: Any) -> str:
    """Return the message with which the value is refused, or nothing."""
    try:
        RunConfig(**with_changes(GOOD, {key: value}))
    except BadConfig as error:
        return str(error)
    return ""


@pytest.mark.parametrize("key", sorted({*key_paths(RunConfig)} - {"base"}))
def test_no_value_of_a_key_is_answered_in_words_of_a_library(key: str) -> None:
    messages = [refusal(key, value) for value in VALUES]
    assert sum(map(bool, messages)) >= 10
    for message in filter(None, messages):
        assert not [word for word in FOREIGN if word in message], message
        assert "\n" not in message and message.isprintable() and len(message) < 500


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", "7", "seed: must be a whole number, without quotes (given: '7')"),
        ("search.floor", "1e-3",
         "search.floor: must be a number, without an exponent such as e3 (given: '1e-3')"),
        ("seed", None, "seed: must be a whole number (given: nothing)"),
        ("name", True, "name: must be text, in quotes if need be (given: True)"),
        ("quality_floor", 97, "quality_floor: must be 1 or less (given: 97)"),
        ("models.a.arch", "resnet18", "models.a.arch: must be timm/NAME, effdet/NAME, "
         "torchvision/NAME, python:MODULE:FUNCTION, program:FILE or onnx:FILE, "
         "such as timm/resnet18 (given: 'resnet18')"),
        ("watch.cameras", {"a b": {"folder": "x"}}, "watch.cameras: the name 'a b' must "
         "have at most 100 letters"),
        ("serach", {}, "serach: unknown key; is search meant?"),
        ("search.trails", 7, "search.trails: unknown key; is trials meant?"),
        ("models.a.weigths", "x", "models.a.weigths: unknown key; is weights meant?"),
        ("watch.cameras.door.fodler", "x", "watch.cameras.door.fodler: unknown key; is folder "
         "meant?"),
        ("mlflow.zz", "x", "mlflow.zz: unknown key; the keys are experiment, tracking_uri"),
        ("frames", {"parts": [{"folder": "x", "strid": 2}]},
         "frames.parts.0.strid: unknown key; is stride meant?"),
        ("name", "x" * 999 + " ", f"letter or a digit first (given: '{'x' * 59}…)"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_would_be_right(key: str, value: Any, message: str) -> None:
    assert message in refusal(key, value)


def test_a_share_of_less_than_a_byte_is_refused() -> None:
    config = RunConfig(**with_changes(GOOD, {"budget": "0.1%"}))
    assert config.limits(1000).bytes == 1
    with pytest.raises(BadConfig, match=r"^budget: 0\.1% of the unmerged 999 bytes is not 1 byte"):
        config.limits(999)


def test_a_budget_keeps_its_bytes() -> None:
    assert Budget.parse("65%").count_bytes(33_333_333) == int(33_333_333 * 65.0 / 100)
    assert Budget.parse(9_007_199_254_740_993).unit == ""


def test_every_path_of_a_config_may_start_at_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    changes = {"out": "~/o", "cache": "~/c", "storage": "~/s.log", "models.a.weights": "~/w.pth"}
    config = RunConfig(**with_changes(GOOD, changes))
    places = (config.out_folder, config.cache_folder, Path(config.store),
              Path(config.model_specs()["a"].weights))  # fmt: skip
    assert [place.parent for place in places] == [tmp_path] * 4
    assert config.as_written()["out"] == "~/o"
