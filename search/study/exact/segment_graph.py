"""A graph whose best paths bound the quality that a partial plan can still reach."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from search.study.exact.partial_plans import PartialPlans
from search.study.exact.plan_table import PlanTable
from search.study.exact.segments import NO_SHARE, Bools, Floats, Ints

SMALLEST_QUALITY = 1e-15
"""A share counts as keeping at least this quality, so that 0 means "depends on itself"."""


class SegmentGraph:
    """The nodes are the segments' ends and the input, the edges are the shares.

    With s segments, 2s edges lead to each segment's end:

    - Edge t < s stands for the suffix donors of segment t. It starts at the end of segment t,
      because such a donor depends on segment t's share.
    - Edge s + t stands for the prefix donors of segment t. It starts at the end of the segment
      before t, or at the input. If segment t itself has no share, its own edge s + t is the
      unmerged segment, of quality 1.

    Which donors belong to an edge depends on its donors' segment t: a suffix donor's position is
    at least `replaced`, a prefix donor's position is at most `retained`. That number is the
    edge's *donor limit*. An undecided number takes the value that allows most donors.

    The tables are indexed by segment, its `replaced`, edge and donor limit.
    """

    def __init__(self, table: PlanTable) -> None:
        self.table = table
        self.count = len(table.segments)
        self.undecided = max(len(segment.stages) for segment in table.segments) + 2
        """Code for a `replaced` or `retained` that is not decided."""
        shape = (self.count, self.undecided + 1, 2 * self.count, self.undecided + 1)
        self.quality = np.zeros(shape)
        """The highest quality of a share on the edge; 0 if there is none."""
        self.best_share = np.full(shape, NO_SHARE)
        """The share that keeps this quality."""
        self.noise = np.full(shape, np.inf)
        """The lowest noise of roundings of a share on the edge."""
        self.share_count = np.zeros(shape, np.intp)
        """How many shares are on the edge; an unmerged segment counts as 1."""
        self.starts = np.concatenate([np.arange(self.count), table.previous])
        """(2s,): the segment at whose end each edge starts, or INPUT."""
        for segment in range(self.count):
            for replaced in (0, self.undecided):
                self.quality[segment, replaced, self.count + segment] = 1.0
                self.noise[segment, replaced, self.count + segment] = table.own_noise[segment]
                self.share_count[segment, replaced, self.count + segment] = 1
        undominated = {*table.undominated_shares()}
        # By rising quality: the last share written into an entry is the best one.
        for share in np.argsort(table.quality[:-1]).tolist():
            self._add_share(share, share in undominated)

    def _add_share(self, share: int, undominated: bool) -> None:
        table = self.table
        segment, replaced = int(table.recipient_segment[share]), table.recipient_position[share]
        donor, position = int(table.donor_segment[share]), int(table.donor_position[share])
        edges = (
            # a suffix donor if its segment's replaced <= position
            (donor, slice(0, position + 1), table.suffix_noise[share]),
            # a prefix donor if its segment's retained >= position
            (self.count + donor, slice(position, None), table.prefix_noise[share]),
        )
        for code in (int(replaced), self.undecided):
            for edge, limits, noise in edges:
                self.share_count[segment, code, edge, limits] += 1
                if undominated:
                    lowest = self.noise[segment, code, edge, limits]
                    np.minimum(lowest, noise, out=lowest)
                    quality = max(table.quality[share], SMALLEST_QUALITY)
                    self.quality[segment, code, edge, limits] = quality
                    self.best_share[segment, code, edge, limits] = share

    def table_index(self, partial: PartialPlans) -> Ints:
        """Return the flat index of every plan's edges in the tables, (segments, edges, n)."""
        undecided, replaced = partial.replaced == self.undecided, partial.replaced
        suffix_limit = np.where(undecided, 0, replaced)
        # While `retained` is undecided, the whole prefix may hold donors, at no cost.
        whole_prefix = np.where(undecided, self.undecided, np.maximum(replaced, 1) - 1)
        prefix_limit = np.where(partial.retained == self.undecided, whole_prefix, partial.retained)
        donor_limit = np.concatenate([suffix_limit, prefix_limit])
        segments, edges = np.ogrid[: self.count, : 2 * self.count]
        row = (segments * (self.undecided + 1))[:, :, None] + replaced[:, None, :]
        index: Ints = (row * (2 * self.count) + edges[:, :, None]) * (
            self.undecided + 1
        ) + donor_limit
        return index

    def edge_quality(self, partial: PartialPlans) -> Floats:
        """Return the highest quality that each edge can keep, (segments, edges, n).

        It is 0 without a share.
        """
        quality: Floats = self.quality.take(self.table_index(partial))
        for segment, columns, share, from_prefix in self._decided_shares(partial):
            edge = self.table.donor_segment[share] + self.count * from_prefix
            quality[segment][:, columns] = 0.0
            quality[segment, edge, columns] = np.maximum(
                self.table.quality[share], SMALLEST_QUALITY
            )
        return quality

    def edge_noise(self, partial: PartialPlans) -> Floats:
        """Return the lowest noise of roundings on each edge, (segments, edges, n).

        It is infinite without a share.
        """
        noise: Floats = self.noise.take(self.table_index(partial))
        for segment, columns, share, from_prefix in self._decided_shares(partial):
            edge = self.table.donor_segment[share] + self.count * from_prefix
            noise[segment][:, columns] = np.inf
            noise[segment, edge, columns] = np.where(
                from_prefix, self.table.prefix_noise[share], self.table.suffix_noise[share]
            )
        return noise

    def _decided_shares(self, partial: PartialPlans) -> Iterator[tuple[int, Ints, Ints, Bools]]:
        """Yield each segment with the plans whose share in it is decided.

        These are their columns, their shares, and whether the donor of each is a prefix donor.
        """
        table = self.table
        for segment, shares in enumerate(partial.shares):
            columns = np.flatnonzero(shares >= 0)
            if len(columns):
                share = shares[columns]
                replaced = partial.replaced[table.donor_segment[share], columns]
                yield segment, columns, share, table.donor_position[share] < replaced

    def end_noise(self, partial: PartialPlans) -> Floats:
        """Return the lowest noise at each segment's end, (segments, n).

        The noise of a path is the sum of its edges. It is never negative, although edges may be.
        """
        if not self.table.is_noisy:
            return np.zeros((self.count, len(partial)))
        edge_noise = self.edge_noise(partial)
        ends = np.full((self.count + 1, len(partial)), np.inf)
        ends[-1] = 0.0
        for _ in range(self.count):
            before = ends.copy()
            for segment in range(self.count):
                lowest = (edge_noise[segment] + ends[self.starts]).min(axis=0)
                ends[segment] = np.maximum(lowest, 0.0)
            if np.array_equal(before, ends):
                break
        return ends[:-1]

    def end_quality(self, edge_quality: Floats) -> Floats:
        """Return the highest quality at each segment's end and at the input, (segments + 1, n).

        The input comes last, with quality 1. The quality of a path is the product of its edges;
        the best paths are found by relaxation (Bellman 1958). An end that no path reaches from
        the input has quality 0.
        """
        ends = np.zeros((self.count + 1, edge_quality.shape[2]))
        ends[-1] = 1.0
        for _ in range(self.count):
            before = ends.copy()
            for segment in range(self.count):
                ends[segment] = (edge_quality[segment] * ends[self.starts]).max(axis=0)
            if np.array_equal(before, ends):
                break
        return ends

    def best_shares(self, partial: PartialPlans) -> Ints:
        """Return complete plans of the highest quality, (segments, n), regardless of bytes."""
        quality = self.edge_quality(partial)
        candidates = self.best_share.take(self.table_index(partial))
        arriving = quality * self.end_quality(quality)[self.starts]
        edge = arriving.argmax(axis=1)
        chosen: Ints = np.take_along_axis(candidates, edge[:, None], 1)[:, 0]
        return np.where(partial.shares >= 0, partial.shares, chosen)
