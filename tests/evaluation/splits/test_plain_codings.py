"""Plain codings round to levels and no more, and their principal components are those of SVD."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from links import FRAMES, UNSEEN, link_setup, one_share, split_at
from torch import Tensor

from search.evaluation.evaluate import UNMERGED_PLAN
from search.evaluation.splits.crossing import crossing_batches, frame_sizes
from search.evaluation.splits.link_scores import LinkSetup, ShownFrames
from search.evaluation.splits.plain_codings import PlainCoder, PlainMap, pack_bits, unpack_bits
from search.evaluation.splits.plain_statistics import SplitStatistics, split_statistics
from search.evaluation.splits.score_splits import SplitCandidate, score_splits
from search.statistics.observed import Observed
from search.utils.progress import silent
from spaces.split.split import Split


@pytest.fixture(scope="module")
def setup(mixed: Observed) -> LinkSetup:
    return link_setup(mixed, one_share(mixed))


@pytest.fixture(scope="module")
def splits(mixed: Observed) -> list[Split]:
    """Return a split of two tensors, and one with a pooled tensor."""
    return [
        split_at(one_share(mixed), "det:blocks.4"),
        split_at(UNMERGED_PLAN, "det:blocks.2", "cls:pool"),
    ]


@pytest.fixture(scope="module")
def statistics(setup: LinkSetup, splits: list[Split]) -> dict[Split, SplitStatistics]:
    return split_statistics(setup, splits, FRAMES)


@pytest.fixture(scope="module")
def crossing(setup: LinkSetup, splits: list[Split]) -> dict[Split, list[Tensor]]:
    """Return what crosses for all frames that the statistics have seen."""
    batches = [*crossing_batches(setup, splits, FRAMES)]
    return {
        split: [torch.cat(parts) for parts in zip(*(b[split] for b in batches), strict=True)]
        for split in splits
    }


SIZES = [(1, 1)] * len(FRAMES)


def rows(tensor: Tensor) -> Tensor:
    return tensor.movedim(1, -1).reshape(-1, tensor.shape[1]).double()


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_packed_levels_are_read_back(bits: int, values: list[int]) -> None:
    levels = (np.array(values) >> (8 - bits)).astype(np.uint8)
    packed = pack_bits(levels, bits)
    assert len(packed) == -(-len(levels) * bits // 8)
    assert (unpack_bits(packed, bits, len(levels)) == levels).all()


def test_packed_levels_follow_each_other_from_the_highest_bit() -> None:
    assert pack_bits(np.array([5, 2, 7], np.uint8), 3) == bytes([0b10101011, 0b10000000])


@pytest.mark.parametrize("bits", [8, 4, 1])
def test_a_channel_is_off_by_half_a_level_at_most(
    bits: int,
    splits: list[Split],
    statistics: dict[Split, SplitStatistics],
    crossing: dict[Split, list[Tensor]],
) -> None:
    for split in splits:
        coder = statistics[split].by_channel(bits)
        received = coder.decode(coder.encode(crossing[split], SIZES))
        for own, sent, got in zip(coder.maps, crossing[split], received, strict=True):
            half = (own.high - own.low) / (2**bits - 1) / 2
            assert got.shape == sent.shape
            assert ((rows(got) - rows(sent)).abs() <= half + 1e-4 * sent.abs().max()).all()


def test_one_range_for_all_channels_holds_every_value(
    splits: list[Split],
    statistics: dict[Split, SplitStatistics],
    crossing: dict[Split, list[Tensor]],
) -> None:
    for split in splits:
        coder = statistics[split].by_tensor(8)
        for own, sent in zip(coder.maps, crossing[split], strict=True):
            assert torch.allclose(own.low, sent.min(), atol=1e-4)
            assert torch.allclose(own.high, sent.max(), atol=1e-4)


def test_components_are_the_right_singular_vectors(
    splits: list[Split],
    statistics: dict[Split, SplitStatistics],
    crossing: dict[Split, list[Tensor]],
) -> None:
    for split in splits:
        for own, sent in zip(statistics[split].tensors, crossing[split], strict=True):
            centred = rows(sent) - rows(sent).mean(0)
            _, singular, _ = torch.linalg.svd(centred, full_matrices=False)
            explained = (singular**2 / len(centred)).float()
            count = min(len(explained), 8)
            assert torch.allclose(own.variances[:count], explained[:count], rtol=1e-2, atol=1e-4)
            values = centred.float() @ own.components.T
            assert torch.allclose(own.component_range[0], values.amin(0), atol=1e-2)
            assert torch.allclose(own.component_range[1], values.amax(0), atol=1e-2)
            assert own.rank(0.0) == 1 and own.rank(1.0) <= len(own.mean)
            rank = own.rank(0.9)
            assert explained[:rank].sum() >= 0.899 * explained.sum()
            assert explained[: rank - 1].sum() <= 0.901 * explained.sum()


def error(sent: Sequence[Tensor], received: Sequence[Tensor]) -> float:
    pairs = zip(sent, received, strict=True)
    return sum(float((a - b).square().mean() / a.var()) for a, b in pairs)


def test_more_components_and_bits_are_closer_and_larger(
    splits: list[Split],
    statistics: dict[Split, SplitStatistics],
    crossing: dict[Split, list[Tensor]],
) -> None:
    split = splits[0]
    found = []
    for explained, bits in ((0.5, 3), (0.9, 4), (0.99, 6), (0.999, 8)):
        coder = statistics[split].principal(explained, bits)
        messages = coder.encode(crossing[split], SIZES)
        size = sum(map(len, messages))
        found.append((size, -error(crossing[split], coder.decode(messages))))
    assert sorted(found) == found
    assert sorted(distortion for _, distortion in found) == [distortion for _, distortion in found]
    assert statistics[split].ranks(1.0).count(" of ") == len(crossing[split])


def test_values_beyond_the_range_are_clipped() -> None:
    own = PlainMap(torch.zeros(1), torch.eye(1), torch.zeros(1), torch.ones(1), (1, 1, 2))
    coder = PlainCoder((own,), 2)
    tensor = torch.tensor([-3.0, 5.0]).reshape(1, 1, 1, 2)
    assert coder.decode(coder.encode([tensor], SIZES[:1]))[0].flatten().tolist() == [0, 1]
    with pytest.raises(ValueError, match="9 bits"):
        PlainCoder((own,), 9)


def test_a_finer_plain_coding_keeps_more_answers(
    setup: LinkSetup, splits: list[Split], statistics: dict[Split, SplitStatistics]
) -> None:
    own = statistics[splits[0]]
    coders = [own.principal(0.5, 2), own.principal(1.0, 8), own.by_channel(8)]
    shown = ShownFrames.unlabelled(UNSEEN, setup.models)
    candidates = [SplitCandidate(splits[0], coder) for coder in coders]
    coarse, fine, channels = score_splits(setup, candidates, [shown], silent).methods
    assert coarse.mean_bytes < fine.mean_bytes
    assert coarse.mean_fidelity < min(fine.mean_fidelity, channels.mean_fidelity)
    first = next(crossing_batches(setup, splits[:1], UNSEEN))[splits[0]]
    sizes = frame_sizes(UNSEEN[k] for k in range(setup.batch))
    assert [len(m) for m in coders[0].encode(first, sizes)] == coarse.all_bytes[:4].tolist()
