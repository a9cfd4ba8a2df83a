"""Frames: ordered, hashed by content, and refused by name when they are not whole."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import STREET, save_image

from search.data.frames import (
    BadFrames,
    FrameSet,
    ImageFiles,
    Joined,
    RenderedScenes,
    Sampling,
    Subset,
    batches,
    folder_frames,
    overlap,
    read_image,
    repeated,
    split,
    split_parts,
)
from search.data.synthetic.scenes import render
from search.statistics.streaming import PassSettings


def photos(folder: Path, count: int = 6) -> ImageFiles:
    for k in range(count):
        save_image(folder / f"{k:03}.png", seed=k)
    return folder_frames(folder, Sampling())


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.jpg", "c.JPEG", "a/a.bmp"):
        save_image(tmp_path / name, seed=1)
    (tmp_path / "notes.txt").write_text("no image")
    frames = folder_frames(tmp_path, Sampling())
    assert [p.relative_to(tmp_path).as_posix() for p in frames.paths] == [
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
@pytest.mark.parametrize("kept", [0, 3, 40, -60])
def test_a_broken_image_is_named(tmp_path: Path, suffix: str, kept: int) -> None:
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, {".jpg": "jpeg"}.get(suffix, suffix[1:]))
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole.getvalue()[:kept])
    with pytest.raises(BadFrames, match="cannot be read") as caught:
        folder_frames(tmp_path, Sampling())[0]
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_image_of_other_bytes_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("not an image at all")
    with pytest.raises(BadFrames, match=r"a\.jpg"):
        folder_frames(tmp_path, Sampling())[0]


def test_an_image_that_vanished_is_named_by_reading_and_by_hashing(tmp_path: Path) -> None:
    frames = photos(tmp_path, 2)
    frames.paths[1].unlink()
    with pytest.raises(BadFrames, match=r"001\.png"):
        frames[1]
    with pytest.raises(BadFrames, match=r"001\.png"):
        _ = frames.hash


def test_a_missing_folder_a_file_and_a_folder_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, told in (("gone", "no such"), ("file", "no such"), ("empty", "holds no images")):
        with pytest.raises(BadFrames, match=told) as caught:
            folder_frames(tmp_path / name, Sampling())
        assert str(tmp_path / name) in str(caught.value)


def test_an_offset_beyond_the_last_image_is_refused(tmp_path: Path) -> None:
    photos(tmp_path, 3)
    with pytest.raises(BadFrames, match="offset"):
        folder_frames(tmp_path, Sampling(offset=3))


@pytest.mark.parametrize(
    ("sampling", "taken"),
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
def test_sampling_by_hand(sampling: Sampling, taken: list[int]) -> None:
    assert list(sampling.indices(10)) == taken


@given(
    st.integers(0, 200),
    st.none() | st.integers(1, 50),
    st.integers(1, 9),
    st.integers(0, 20),
)
def test_sampling_takes_as_many_as_it_may_in_order(
    available: int, count: int | None, stride: int, offset: int
) -> None:
    taken = list(Sampling(count, stride, offset).indices(available))
    candidates = list(range(offset, available, stride))
    assert set(taken) <= set(candidates) and taken == sorted(set(taken))
    assert len(taken) == min(len(candidates), len(candidates) if count is None else count)


def test_the_hash_is_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    one, other = photos(tmp_path / "one"), photos(tmp_path / "other")
    for path in other.paths:
        path.rename(path.with_name("x" + path.name))
    assert folder_frames(tmp_path / "other", Sampling()).hash == one.hash


def test_the_hash_changes_with_any_content_order_or_number(tmp_path: Path) -> None:
    frames = photos(tmp_path)
    hashes = {
        frames.hash,
        ImageFiles(frames.paths[:-1]).hash,
        ImageFiles(frames.paths[::-1]).hash,
        ImageFiles((*frames.paths, frames.paths[0])).hash,
    }
    save_image(frames.paths[3], seed=99)
    hashes.add(ImageFiles(frames.paths).hash)
    assert len(hashes) == 5


def test_the_hash_of_scenes_changes_with_settings_and_count_alone() -> None:
    same = {RenderedScenes(STREET, 5).hash, RenderedScenes(replace(STREET), 5).hash}
    assert len(same) == 1
    others = {
        RenderedScenes(STREET, 6).hash,
        RenderedScenes(replace(STREET, seed=6), 5).hash,
        RenderedScenes(replace(STREET, night=0.5), 5).hash,
    }
    assert len(others | same) == 4


def test_scenes_are_what_the_renderer_draws() -> None:
    frames = RenderedScenes(STREET, 3)
    assert len(frames) == 3
    assert (frames[2] == render(STREET, 2).image).all()


@given(st.integers(2, 80), st.data())
def test_a_split_is_disjoint_and_complete(count: int, data: st.DataObject) -> None:
    unseen = data.draw(st.integers(1, count - 1))
    frames = RenderedScenes(STREET, count)
    seen, kept = split(frames, unseen)
    assert len(kept) == unseen
    assert sorted((*seen.indices, *kept.indices)) == list(range(count))
    assert seen.hash != kept.hash


def test_a_split_hands_on_the_frames_themselves(tmp_path: Path) -> None:
    frames = photos(tmp_path, 5)
    for part in split(frames, 2):
        for k, index in enumerate(part.indices):
            assert (part[k] == frames[index]).all()


def test_joined_sets_are_their_frames_one_after_another(tmp_path: Path) -> None:
    one, other = photos(tmp_path, 3), RenderedScenes(STREET, 2)
    both = Joined((one, other))
    assert len(both) == 5
    for k in range(5):
        assert (both[k] == (one[k] if k < 3 else other[k - 3])).all()
    with pytest.raises(IndexError):
        both[5]
    assert Joined((one,)).hash == one.hash
    assert len({both.hash, Joined((other, one)).hash, one.hash, other.hash}) == 4


def scenes_of(counts: list[int]) -> Joined:
    """Sets of so many scenes, each of a seed of its own."""
    seeded = (replace(STREET, seed=20 + k) for k in range(len(counts)))
    return Joined(tuple(RenderedScenes(s, n) for s, n in zip(seeded, counts, strict=True)))


@given(st.lists(st.integers(2, 40), min_size=1, max_size=5), st.data())
def test_each_part_is_split_for_itself(counts: list[int], data: st.DataObject) -> None:
    unseen = data.draw(st.integers(1, counts[0] - 1))
    frames = scenes_of(counts)
    halves = split_parts(frames, unseen)
    assert halves[0] == split(frames.parts[0], unseen)
    assert halves[:-1] == (split_parts(scenes_of(counts[:-1]), unseen) if counts[1:] else [])
    for (seen, kept), part in zip(halves, frames.parts, strict=True):
        assert sorted((*seen.indices, *kept.indices)) == list(range(len(part)))
    for (_, kept), count in zip(halves[1:], counts[1:], strict=True):
        assert len(kept) == max(1, min(unseen, count // 4))


def test_what_parts_keep_and_show_is_that_of_the_whole() -> None:
    frames = scenes_of([9, 8, 5])
    seen, kept = split(frames, 3)
    halves = split_parts(frames, 3)
    assert kept.indices == (0, 3, 6, 9, 13, 17)
    assert sorted((*seen.indices, *kept.indices)) == list(range(22))
    for whole, parts in ((seen, [s for s, _ in halves]), (kept, [k for _, k in halves])):
        pictures = [part[k] for part in parts for k in range(len(part))]
        assert all((whole[k] == picture).all() for k, picture in enumerate(pictures))
    assert split(Joined(frames.parts[:1]), 3)[0].hash == split(frames.parts[0], 3)[0].hash


def test_a_split_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(BadFrames, match=r"verify\.fidelity_frames keeps 5"):
        split(RenderedScenes(STREET, 5), 5)


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_batches_cover_all_frames_once_in_order(tmp_path: Path, size: int) -> None:
    frames: FrameSet = Subset(photos(tmp_path, 7), (0, 2, 1, 5, 4, 3, 6))
    listed = list(batches(frames, size))
    assert [i for indices, _ in listed for i in indices] == list(range(7))
    assert all(len(pictures) == len(indices) <= size for indices, pictures in listed)
    flat = [picture for _, pictures in listed for picture in pictures]
    assert all((flat[i] == frames[i]).all() for i in range(7))


def test_frames_that_two_sets_have_in_common_are_counted(tmp_path: Path) -> None:
    frames = photos(tmp_path, 6)
    assert overlap(ImageFiles(frames.paths[:4]), ImageFiles(frames.paths[3:])) == 1
    assert overlap(ImageFiles(frames.paths[:3]), ImageFiles(frames.paths[3:])) == 0
    assert overlap(RenderedScenes(STREET, 5), RenderedScenes(STREET, 9)) == 5
    assert overlap(RenderedScenes(STREET, 5), RenderedScenes(replace(STREET, seed=6), 9)) == 0
    assert overlap(frames, RenderedScenes(STREET, 9)) == 0
    other = RenderedScenes(replace(STREET, seed=6), 9)
    joined = Joined((ImageFiles(frames.paths[2:]), other))
    assert overlap(frames, joined) == overlap(joined, frames) == 4
    assert overlap(Subset(frames, (0, 1, 5)), joined) == 1
    assert overlap(Subset(joined, (0, 4, 5)), RenderedScenes(other.settings, 1)) == 1


def test_frames_that_a_set_has_twice_are_counted(tmp_path: Path) -> None:
    frames = photos(tmp_path, 3)
    assert repeated(frames) == 0
    assert repeated(Joined((frames, RenderedScenes(STREET, 2), ImageFiles(frames.paths[1:])))) == 2


@pytest.mark.parametrize(("count", "batch", "told"), [(15, 8, "two batches of 8"), (9, 3, "4")])
def test_fewer_frames_than_two_batches_are_refused(count: int, batch: int, told: str) -> None:
    with pytest.raises(BadFrames, match=told):
        PassSettings(batch=batch).demand(count)
