"""Frames are ordered and hashed by content; damaged files are refused by name."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import STREET, local_paths, save_noise_image

from search.data.frames import (
    BadFrames,
    FrameSet,
    ImageFiles,
    JoinedFrames,
    RenderedScenes,
    Sampling,
    Subset,
    batches,
    count_duplicates,
    count_overlap,
    folder_frames,
    split_frames,
    split_parts,
)
from search.data.images import read_image
from search.data.synthetic.scenes import SceneSettings, render
from search.statistics.streaming import PassSettings


def photos(folder: Path, count: int = 6) -> ImageFiles:
    for k in range(count):
        save_noise_image(folder / f"{k:03}.png", seed=k)
    return folder_frames(folder, Sampling())


def test_a_folder_is_read_in_path_order(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.jpg", "c.JPEG", "a/a.bmp"):
        save_noise_image(tmp_path / name, seed=1)
    (tmp_path / "notes.txt").write_text("no image")
    frames = folder_frames(tmp_path, Sampling())
    assert [p.relative_to(tmp_path).as_posix() for p in local_paths(frames)] == [
        "a/a.bmp", "a/z.jpg", "b.png", "c.JPEG",
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_kind_of_image_is_read_as_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (8, 5), 0).save(path)
    frame = read_image(path)
    assert frame.shape == (5, 8, 3) and frame.dtype == np.uint8


def test_a_lossless_image_is_read_to_the_bit(tmp_path: Path) -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (folder_frames(tmp_path, Sampling())[0] == pixels).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("end", [0, 3, 40, -60])
def test_a_truncated_image_is_named(tmp_path: Path, suffix: str, end: int) -> None:
    complete = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(complete, {".jpg": "jpeg"}.get(suffix, suffix[1:]))
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(complete.getvalue()[:end])
    with pytest.raises(BadFrames, match="cannot be read") as caught:
        folder_frames(tmp_path, Sampling())[0]
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("not an image at all")
    with pytest.raises(BadFrames, match=r"a\.jpg"):
        folder_frames(tmp_path, Sampling())[0]


def test_a_deleted_image_is_named_when_read_and_when_hashed(tmp_path: Path) -> None:
    frames = photos(tmp_path, 2)
    local_paths(frames)[1].unlink()
    with pytest.raises(BadFrames, match=r"001\.png"):
        frames[1]
    with pytest.raises(BadFrames, match=r"001\.png"):
        _ = frames.hash


def test_a_missing_folder_a_file_and_a_folder_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, message in (("gone", "no such"), ("file", "no such"), ("empty", "holds no images")):
        with pytest.raises(BadFrames, match=message) as caught:
            folder_frames(tmp_path / name, Sampling())
        assert str(tmp_path / name) in str(caught.value)


def test_an_offset_past_the_last_image_is_refused(tmp_path: Path) -> None:
    photos(tmp_path, 3)
    with pytest.raises(BadFrames, match="offset"):
        folder_frames(tmp_path, Sampling(offset=3))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (Sampling(stride=3), [0, 3, 6, 9]),
        (Sampling(stride=3, offset=1), [1, 4, 7]),
        (Sampling(count=3), [0, 3, 6]),
        (Sampling(count=2, stride=2), [0, 4]),
        (Sampling(count=20), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (Sampling(count=1, offset=9), [9]),
    ],
)
def test_sampling_gives_the_expected_indices(sampling: Sampling, expected: list[int]) -> None:
    assert list(sampling.indices(10)) == expected


@given(
    st.integers(0, 200),
    st.none() | st.integers(1, 50),
    st.integers(1, 9),
    st.integers(0, 20),
)
def test_sampling_gives_as_many_candidates_as_allowed_in_order(
    available: int, count: int | None, stride: int, offset: int
) -> None:
    indices = list(Sampling(count, stride, offset).indices(available))
    candidates = list(range(offset, available, stride))
    assert set(indices) <= set(candidates) and indices == sorted(set(indices))
    assert len(indices) == min(len(candidates), len(candidates) if count is None else count)


def test_the_hash_depends_on_content_and_not_on_location(tmp_path: Path) -> None:
    one, other = photos(tmp_path / "one"), photos(tmp_path / "other")
    for path in local_paths(other):
        path.rename(path.with_name("x" + path.name))
    assert folder_frames(tmp_path / "other", Sampling()).hash == one.hash


def test_the_hash_changes_with_content_order_and_count(tmp_path: Path) -> None:
    frames = photos(tmp_path)
    hashes = {
        frames.hash,
        ImageFiles(frames.paths[:-1]).hash,
        ImageFiles(frames.paths[::-1]).hash,
        ImageFiles((*frames.paths, frames.paths[0])).hash,
    }
    save_noise_image(local_paths(frames)[3], seed=99)
    hashes.add(ImageFiles(frames.paths).hash)
    assert len(hashes) == 5


def test_the_hash_of_scenes_depends_only_on_settings_and_count() -> None:
    same = {RenderedScenes(STREET, 5).hash, RenderedScenes(replace(STREET), 5).hash}
    assert len(same) == 1
    others = {
        RenderedScenes(STREET, 6).hash,
        RenderedScenes(replace(STREET, seed=6), 5).hash,
        RenderedScenes(replace(STREET, night=0.5), 5).hash,
    }
    assert len(others | same) == 4


def test_hashes_and_content_keys_never_change(tmp_path: Path) -> None:
    """Result files, caches and lists of seen labels written by earlier versions hold them."""
    for k in range(5):
        Image.fromarray(np.full((4, 4, 3), k * 10, np.uint8)).save(tmp_path / f"{k}.bmp")
    settings = SceneSettings(seed=5, width=128, height=96, night=0.4, rain=0.4)
    files, scenes = folder_frames(tmp_path, Sampling()), RenderedScenes(settings, 6)
    some_files = Subset(files, (0, 3, 1))
    joined = JoinedFrames((some_files, Subset(scenes, (1, 4))))
    sets: list[FrameSet] = [files, scenes, some_files, joined, Subset(joined, (0, 4, 2))]
    assert [frames.hash for frames in sets] == [
        "d6401387bcd0a476", "870ee1a3e74201a7", "75ade838f53c7c88", "9152b0e6f86af9e5",
        "a659c45403e4549f",
    ]  # fmt: skip
    keys = [[str(key) for key in frames.content_keys()] for frames in sets]
    assert [hashlib.sha256(repr(k).encode()).hexdigest()[:16] for k in keys] == [
        "7c9737f2d93b1864", "7b3dc27711f0efc5", "23d73952569ea30d", "02169b3779fbd4b9",
        "3446aa7506f374af",
    ]  # fmt: skip


def test_rendered_frames_are_the_images_of_the_renderer() -> None:
    frames = RenderedScenes(STREET, 3)
    assert len(frames) == 3
    assert (frames[2] == render(STREET, 2).image).all()


@given(st.integers(2, 80), st.data())
def test_a_split_is_disjoint_and_complete(count: int, data: st.DataObject) -> None:
    count_held_out = data.draw(st.integers(1, count - 1))
    frames = RenderedScenes(STREET, count)
    others, held_out = split_frames(frames, count_held_out)
    assert len(held_out) == count_held_out
    assert sorted((*others.indices, *held_out.indices)) == list(range(count))
    assert others.hash != held_out.hash


def test_a_split_returns_the_frames_unchanged(tmp_path: Path) -> None:
    frames = photos(tmp_path, 5)
    for part in split_frames(frames, 2):
        for k, index in enumerate(part.indices):
            assert (part[k] == frames[index]).all()


def test_joined_frames_follow_one_another(tmp_path: Path) -> None:
    one, other = photos(tmp_path, 3), RenderedScenes(STREET, 2)
    both = JoinedFrames((one, other))
    assert len(both) == 5
    for k in range(5):
        assert (both[k] == (one[k] if k < 3 else other[k - 3])).all()
    with pytest.raises(IndexError):
        both[5]
    assert JoinedFrames((one,)).hash == one.hash
    assert len({both.hash, JoinedFrames((other, one)).hash, one.hash, other.hash}) == 4


def scenes_of(counts: list[int]) -> JoinedFrames:
    """Join rendered sets of these sizes, each with its own seed."""
    seeded = (replace(STREET, seed=20 + k) for k in range(len(counts)))
    return JoinedFrames(tuple(RenderedScenes(s, n) for s, n in zip(seeded, counts, strict=True)))


@given(st.lists(st.integers(2, 40), min_size=1, max_size=5), st.data())
def test_each_part_is_split_on_its_own(counts: list[int], data: st.DataObject) -> None:
    count_held_out = data.draw(st.integers(1, counts[0] - 1))
    frames = scenes_of(counts)
    halves = split_parts(frames, count_held_out)
    assert halves[0] == split_frames(frames.parts[0], count_held_out)
    assert halves[:-1] == (
        split_parts(scenes_of(counts[:-1]), count_held_out) if counts[1:] else []
    )
    for (others, held_out), part in zip(halves, frames.parts, strict=True):
        assert sorted((*others.indices, *held_out.indices)) == list(range(len(part)))
    for (_, held_out), count in zip(halves[1:], counts[1:], strict=True):
        assert len(held_out) == max(1, min(count_held_out, count // 4))


def test_the_split_of_joined_frames_is_the_union_of_the_splits_of_its_parts() -> None:
    frames = scenes_of([9, 8, 5])
    others, held_out = split_frames(frames, 3)
    halves = split_parts(frames, 3)
    assert held_out.indices == (0, 3, 6, 9, 13, 17)
    assert sorted((*others.indices, *held_out.indices)) == list(range(22))
    for joined, parts in ((others, [o for o, _ in halves]), (held_out, [h for _, h in halves])):
        pictures = [part[k] for part in parts for k in range(len(part))]
        assert all((joined[k] == picture).all() for k, picture in enumerate(pictures))
    assert (
        split_frames(JoinedFrames(frames.parts[:1]), 3)[0].hash
        == split_frames(frames.parts[0], 3)[0].hash
    )


def test_a_split_without_frames_for_the_statistics_is_refused() -> None:
    with pytest.raises(BadFrames, match=r"verify\.fidelity_frames keeps 5"):
        split_frames(RenderedScenes(STREET, 5), 5)


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_batches_cover_every_frame_once_in_order(tmp_path: Path, size: int) -> None:
    frames: FrameSet = Subset(photos(tmp_path, 7), (0, 2, 1, 5, 4, 3, 6))
    all_batches = list(batches(frames, size))
    assert [i for indices, _ in all_batches for i in indices] == list(range(7))
    assert all(len(pictures) == len(indices) <= size for indices, pictures in all_batches)
    flat = [picture for _, pictures in all_batches for picture in pictures]
    assert all((flat[i] == frames[i]).all() for i in range(7))


def test_frames_shared_by_two_sets_are_counted(tmp_path: Path) -> None:
    frames = photos(tmp_path, 6)
    assert count_overlap(ImageFiles(frames.paths[:4]), ImageFiles(frames.paths[3:])) == 1
    assert count_overlap(ImageFiles(frames.paths[:3]), ImageFiles(frames.paths[3:])) == 0
    assert count_overlap(RenderedScenes(STREET, 5), RenderedScenes(STREET, 9)) == 5
    assert (
        count_overlap(RenderedScenes(STREET, 5), RenderedScenes(replace(STREET, seed=6), 9)) == 0
    )
    assert count_overlap(frames, RenderedScenes(STREET, 9)) == 0
    other = RenderedScenes(replace(STREET, seed=6), 9)
    joined = JoinedFrames((ImageFiles(frames.paths[2:]), other))
    assert count_overlap(frames, joined) == count_overlap(joined, frames) == 4
    assert count_overlap(Subset(frames, (0, 1, 5)), joined) == 1
    assert count_overlap(Subset(joined, (0, 4, 5)), RenderedScenes(other.settings, 1)) == 1


def test_frames_repeated_in_a_set_are_counted(tmp_path: Path) -> None:
    frames = photos(tmp_path, 3)
    assert count_duplicates(frames) == 0
    assert (
        count_duplicates(
            JoinedFrames((frames, RenderedScenes(STREET, 2), ImageFiles(frames.paths[1:])))
        )
        == 2
    )


@pytest.mark.parametrize(("count", "batch", "message"), [(15, 8, "two batches of 8"), (9, 3, "4")])
def test_fewer_frames_than_two_batches_are_refused(count: int, batch: int, message: str) -> None:
    with pytest.raises(BadFrames, match=message):
        PassSettings(batch=batch).check_frame_count(count, 16)
