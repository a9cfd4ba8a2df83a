"""CSV files and class folders as people have them: read as meant, or refused with the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import save_noise_image

from search.config.base import BadConfig
from search.config.data import TruthConfig
from search.config.run import RunConfig
from search.data.class_labels import folder_truth
from search.data.class_names import read_class_names
from search.data.frames import Sampling
from search.data.ground_truth import BadTruth, ClassTruth, check_classes
from search.data.label_table import csv_truth
from search.data.labelled_images import ImageRoot
from search.pipelines.open_data import open_ground_truth

NAMES = ("cat", "dog", "7")


def truth_of(folder: Path, text: str | bytes, **options: Any) -> ClassTruth:
    """Read a CSV file beside two images."""
    for k in range(2):
        save_noise_image(folder / f"{k}.png", seed=k)
    file = folder / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return csv_truth(file, Sampling(), **options)


def refusal(folder: Path, text: str, **options: Any) -> str:
    with pytest.raises(BadTruth) as caught:
        truth_of(folder, text, **options)
    assert str(caught.value).startswith(f"labels {folder / 'labels.csv'}: ")
    return str(caught.value)


def labels(truth: ClassTruth) -> list[set[int]]:
    return [set(classes) for classes in truth.labels]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("path", ["path", "File", "filename", " image "])
@pytest.mark.parametrize("label", ["label_index", "label", "Class", "class_id", "target"])
def test_usual_delimiters_and_column_names_are_accepted(
    tmp_path: Path, delimiter: str, path: str, label: str
) -> None:
    rows = [[label, "size", path], ["3", "1,5", "0.png"], ["4.0", "2", "1.png"]]
    quoted = [[f'"{cell}"' if "," in cell else cell for cell in row] for row in rows]
    text = "\n".join(delimiter.join(row) for row in quoted)
    assert labels(truth_of(tmp_path, text)) == [{3}, {4}]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_of_a_spreadsheet_is_accepted(tmp_path: Path, encoding: str) -> None:
    text = "path\tlabel\r\n0.png\t3\r\n\r\n1.png\t4\r\n"
    assert labels(truth_of(tmp_path, text.encode(encoding))) == [{3}, {4}]


def test_columns_of_the_documented_names_count_first(tmp_path: Path) -> None:
    text = "path,label,label_index,image\n0.png,9,3,x\n1.png,9,4,y\n"
    assert labels(truth_of(tmp_path, text)) == [{3}, {4}]


def test_classes_may_be_named(tmp_path: Path) -> None:
    text = "path,label\n0.png,dog\n1.png,7\n"
    truth = truth_of(tmp_path, text, names=NAMES)
    assert labels(truth) == [{1}, {2}] and truth.names == NAMES
    several = truth_of(tmp_path, "path,label_indices\n0.png,dog;cat\n1.png,0\n", names=NAMES)
    assert labels(several) == [{0, 1}, {0}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,label\n0.png,dog\n", "line 2: label 'dog' of 0.png must be a whole number; for"),
        ("path,label\n0.png,1\n\n1.png\n", "line 4: has no label or no path"),
        ("path,label,class\n0.png,1,1\n", "its columns are path, label, class"),
        ("a,b\n0.png,1\n", "its columns are a, b"),
        ("path,label\n", "its columns are path, label, without a row"),
        ("path,label\n0.png,1\n1.png,2\n0.png,3\n", "lines 2 and 4 give 0.png the labels '1' and"),
        ("path,label\n0.png,1\nx/../0.png,2\n", "lines 2 and 3 give x/../0.png the labels"),
        ("path,label\n../0.png,1\n", "line 2: image ../0.png is not inside"),
        ("path,label\nC:\\0.png,1\n", "line 2: image C:/0.png is not inside"),
    ],
)
def test_a_refusal_names_the_line(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in refusal(tmp_path, text)


def test_a_label_that_no_class_has_is_refused(tmp_path: Path) -> None:
    for label in ("cow", "3"):
        text = refusal(tmp_path, f"path,label\n0.png,{label}\n", names=NAMES)
        assert "must be a number below 3 or one of `classes`: cat, dog, 7" in text


def test_an_image_may_be_listed_twice_with_one_label(tmp_path: Path) -> None:
    assert labels(truth_of(tmp_path, "path,label\n0.png,1\n0.png,1\n")) == [{1}, {1}]


def test_images_outside_the_folder_need_permission(tmp_path: Path) -> None:
    save_noise_image(tmp_path / "0.png", seed=0)
    inner = tmp_path / "inner"
    inner.mkdir()
    for name in ("../0.png", str(tmp_path / "0.png")):
        text = f"path,label\n{name},1\n"
        assert "outside: true" in refusal(inner, text)
        truth = truth_of(inner, text, root=ImageRoot(inner, outside=True))
        assert list(truth.frames.identities()) == [tmp_path / "0.png"]


def test_paths_may_have_backslashes(tmp_path: Path) -> None:
    save_noise_image(tmp_path / "day" / "5.png", seed=5)
    assert labels(truth_of(tmp_path, "path,label\nday\\5.png,1\n")) == [{1}]


def class_folders(folder: Path, *names: str) -> Path:
    for k, name in enumerate(names):
        save_noise_image(folder / name / f"{k}.png", seed=k)
    return folder


def test_a_class_folder_without_images_keeps_its_number(tmp_path: Path) -> None:
    class_folders(tmp_path, "ant", "cat", ".thumbnails")
    (tmp_path / "bee").mkdir()
    truth = folder_truth(tmp_path, Sampling())
    assert labels(truth) == [{0}, {2}]
    assert truth.coverage_note(3) == "no images of bee"


def test_class_folders_may_follow_the_order_of_the_network(tmp_path: Path) -> None:
    class_folders(tmp_path, "ant", "cat")
    truth = folder_truth(tmp_path, Sampling(), ("cat", "bee", "ant"))
    assert labels(truth) == [{2}, {0}] and truth.coverage_note(3) == "no images of bee"
    with pytest.raises(BadTruth, match="ant is none of `classes`, which are cat, dog"):
        folder_truth(tmp_path, Sampling(), ("cat", "dog"))


def test_more_class_folders_than_classes_are_refused_and_fewer_are_named(tmp_path: Path) -> None:
    truth = folder_truth(class_folders(tmp_path, "ant", "bee", "cat"), Sampling())
    check_classes(truth, 3, "a")
    assert truth.coverage_note(3) is None
    assert truth.coverage_note(5) == (
        "the labels name 3 of its 5 classes (ant, bee, cat), taken as classes 0 to 2"
    )
    with pytest.raises(BadTruth, match=r"truth.a: the labels name 3 classes \(ant, bee, cat\)"):
        check_classes(truth, 2, "a")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "line 1: is empty"),
        (b"cat\n\ndog\n", "line 2: is empty"),
        (b"cat\ncat\n", "names the class 'cat' more than once"),
        (b"\xff\xfe\xff", "cannot be read"),
    ],
)
def test_a_list_of_classes_that_is_none_is_refused(
    tmp_path: Path, text: bytes, reason: str
) -> None:
    (tmp_path / "classes.txt").write_bytes(text)
    with pytest.raises(BadTruth) as caught:
        read_class_names(tmp_path / "classes.txt")
    assert reason in str(caught.value) and str(tmp_path / "classes.txt") in str(caught.value)


def config_with(folder: Path, **section: Any) -> RunConfig:
    model = {"arch": "timm/test_efficientnet", "weights": "none", "num_classes": 3}
    return RunConfig(
        name="a",
        models={"a": model, "b": model},
        frames={"folder": "frames"},
        budget="80%",
        truth={"a": section},
        base=folder,
    )


def test_the_config_takes_the_classes_from_a_list_or_a_file(tmp_path: Path) -> None:
    class_folders(tmp_path / "val", "ant", "cat")
    (tmp_path / "classes.txt").write_text("cat\nbee\nant\n\n", encoding="utf-8-sig")
    for classes in ("classes.txt", ["cat", "bee", "ant"]):
        config = config_with(tmp_path, image_folder="val", classes=classes)
        truth = open_ground_truth(config, "a", "classification")
        assert isinstance(truth, ClassTruth) and labels(truth) == [{2}, {0}]
    table = tmp_path / "sub" / "labels.csv"
    table.parent.mkdir()
    table.write_text("path,label\n../val/ant/0.png,ant\n")
    config = config_with(tmp_path, csv="sub/labels.csv", classes="classes.txt", outside=True)
    truth = open_ground_truth(config, "a", "classification")
    assert isinstance(truth, ClassTruth) and labels(truth) == [{2}]


@pytest.mark.parametrize(
    "section",
    [
        {"real": "a.json", "classes": ["cat"]},
        {"csv": "a.csv", "classes": {1: "cat"}},
        {"image_folder": "a", "outside": True},
        {"csv": "a.csv", "classes": []},
        {"csv": "a.csv", "classes": ""},
    ],
)
def test_keys_that_do_not_go_with_the_labels_are_refused(section: dict[str, Any]) -> None:
    with pytest.raises(BadConfig, match=r"truth\.a"):
        config_with(Path("."), **section)


def test_a_config_without_the_new_keys_is_written_as_before() -> None:
    written = TruthConfig(csv="a.csv").model_dump(exclude_none=True)
    assert set(written) == {"csv", "stride", "offset"}
