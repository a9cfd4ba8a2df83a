"""Folders: hidden files are no frames, links are followed once, other files are counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import local_paths, save_noise_image

from search.data.class_labels import folder_truth, real_truth
from search.data.frames import BadFrames, ImageFiles, Sampling, folder_frames, remarks_of
from search.data.image_folders import read_folder


def images(*paths: Path) -> None:
    for seed, path in enumerate(paths):
        save_noise_image(path, seed=seed)


def names(frames: ImageFiles, folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in local_paths(frames)]


def test_hidden_files_and_folders_are_no_frames(tmp_path: Path) -> None:
    images(tmp_path / "a.png", tmp_path / "._a.png", tmp_path / ".cache/b.png",
           tmp_path / "day/.thumbnails/c.png", tmp_path / "day/d.png")  # fmt: skip
    (tmp_path / ".DS_Store").write_bytes(b"folder settings")
    frames = folder_frames(tmp_path, Sampling())
    assert names(frames, tmp_path) == ["a.png", "day/d.png"]
    assert remarks_of(frames).notes == ()


def test_a_folder_below_a_hidden_one_is_read(tmp_path: Path) -> None:
    images(tmp_path / ".data/frames/a.png")
    assert len(folder_frames(tmp_path / ".data/frames", Sampling())) == 1


def test_a_hidden_folder_is_no_class(tmp_path: Path) -> None:
    images(tmp_path / ".ipynb_checkpoints/x.png", tmp_path / "cat/a.png", tmp_path / "dog/b.png")
    truth = folder_truth(tmp_path, Sampling())
    assert [sorted(labels) for labels in truth.labels] == [[0], [1]]


def test_linked_folders_are_followed_once_and_never_in_circles(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "frames", tmp_path / "elsewhere"
    images(folder / "a/1.png", elsewhere / "2.png", elsewhere / "deep/3.png")
    (folder / "0-again").symlink_to(folder / "a")
    (folder / "link").symlink_to(elsewhere)
    (folder / "link-too").symlink_to(elsewhere)
    (folder / "part").symlink_to(elsewhere / "deep")
    (folder / "up").symlink_to(tmp_path)
    (elsewhere / "back").symlink_to(folder)
    frames = folder_frames(folder, Sampling())
    assert names(frames, folder) == ["a/1.png", "link/2.png", "link/deep/3.png"]


def test_a_link_to_the_folder_itself_and_to_images_is_followed(tmp_path: Path) -> None:
    images(tmp_path / "real/a.png", tmp_path / "other.png")
    (tmp_path / "frames").symlink_to(tmp_path / "real")
    (tmp_path / "real/b.png").symlink_to(tmp_path / "other.png")
    assert len(folder_frames(tmp_path / "frames", Sampling())) == 2


def test_files_of_other_types_are_counted_by_suffix_in_one_line(tmp_path: Path) -> None:
    images(tmp_path / "a.png")
    for name in ("a.txt", "b/b.TXT", "c.heic", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    (note,) = remarks_of(folder_frames(tmp_path, Sampling())).notes
    assert note == (
        f"frames folder {tmp_path}: 4 files of other types left out: .txt 2, without suffix 1, "
        ".heic 1"
    )


def test_many_suffixes_are_not_all_named(tmp_path: Path) -> None:
    for k in range(20):
        (tmp_path / f"a.x{k:02}").touch()
    (note,) = read_folder(tmp_path).remarks()
    assert note.startswith("20 files of other types left out: .x00 1, .x01 1,")
    assert note.endswith(".x07 1, others 12")


def test_one_file_of_another_type_is_named_in_class_folders_and_for_real_labels(
    tmp_path: Path,
) -> None:
    images(tmp_path / "cat/ILSVRC2012_val_00000001.png")
    (tmp_path / "cat/list.csv").touch()
    (tmp_path / "real.json").write_text("[[3]]")
    for truth in (
        folder_truth(tmp_path, Sampling()),
        real_truth(tmp_path / "real.json", tmp_path / "cat", Sampling()),
    ):
        (note,) = remarks_of(truth.frames).notes
        assert note.endswith(": 1 file of another type left out: .csv 1")


def test_a_folder_that_has_the_name_of_an_image_is_no_image(tmp_path: Path) -> None:
    images(tmp_path / "a.png", tmp_path / "b.png/c.png")
    assert len(folder_frames(tmp_path, Sampling())) == 2


def test_a_folder_of_hidden_images_holds_no_images(tmp_path: Path) -> None:
    images(tmp_path / "._a.png")
    with pytest.raises(BadFrames, match="holds no images"):
        folder_frames(tmp_path, Sampling())


def test_a_sub_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(tmp_path / "a.png", tmp_path / "lost+found/b.png")
    monkeypatch.setattr("os.scandir", _without_rights(tmp_path / "lost+found"))
    frames = folder_frames(tmp_path, Sampling())
    assert len(frames) == 1
    assert "1 folders cannot be read" in remarks_of(frames).notes[0]


def _without_rights(locked: Path):  # type: ignore[no-untyped-def]
    import os

    scandir = os.scandir

    def scan(path: str):  # type: ignore[no-untyped-def]
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    return scan
