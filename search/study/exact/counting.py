"""The number of different plans of a space."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.study.exact.branch_and_bound import TooLarge
from search.study.exact.partial_plans import PartialPlans
from search.study.exact.plan_table import PlanTable
from search.study.exact.segment_graph import SegmentGraph
from search.study.exact.segments import Ints
from search.study.problem import Problem

MAX_COMBINATIONS = 10_000_000
"""Limit on the combinations of `replaced`, by which plans are counted."""
COMBINATIONS_PER_BATCH = 20_000


def count_plans(problem: Problem) -> int:
    """Return the number of different canonical plans, whatever their precisions.

    Every share of a plan is live, so these are all choices of shares without a cycle. For a given
    combination of `replaced` a plan is a tree in the segment graph that leads all segments' ends
    to the input. The number of trees is the determinant of the graph's Laplacian without the
    input's row and column (Tutte 1948, the matrix-tree theorem for directed graphs).

    Raises:
        TooLarge: there are more than MAX_COMBINATIONS combinations of `replaced`.
    """
    table = PlanTable(problem)
    graph = SegmentGraph(table)
    options = [table.replaced_options(segment) for segment in range(len(table.segments))]
    combinations = prod(len(replaced) for replaced in options)
    if combinations > MAX_COMBINATIONS:
        raise TooLarge(
            f"the plans cannot be counted: their recipients form {combinations:,} combinations of"
            f" stages, and the limit is {MAX_COMBINATIONS:,}"
        )
    total = 0
    for start in range(0, combinations, COMBINATIONS_PER_BATCH):
        number = np.arange(start, min(start + COMBINATIONS_PER_BATCH, combinations))
        indices = np.unravel_index(number, [len(replaced) for replaced in options])
        replaced = np.stack([opts[index] for opts, index in zip(options, indices, strict=True)])
        total += sum(_determinants(_laplacians(graph, replaced)))
    return total


def _laplacians(graph: SegmentGraph, replaced: Ints) -> NDArray[Any]:
    """Return (n, s, s) Laplacians over the s segments that end in a tap.

    `replaced` is (segments, n).
    """
    undecided = np.full_like(replaced, graph.undecided)
    partial = PartialPlans(replaced, undecided, undecided)
    edges = graph.share_count.take(graph.table_index(partial))
    tapped = [number for number, segment in enumerate(graph.table.segments) if segment.taps]
    laplacians = np.zeros((replaced.shape[1], len(tapped), len(tapped)), np.int64)
    for row, segment in enumerate(tapped):
        laplacians[:, row, row] = edges[segment].sum(axis=0)
        for edge, start in enumerate(graph.starts.tolist()):
            if start in tapped:
                laplacians[:, row, tapped.index(start)] -= edges[segment, edge]
    return laplacians


def _determinants(matrices: NDArray[Any]) -> list[int]:
    """Return the exact determinants of Laplacians (n, s, s).

    Bareiss's elimination (1968), in which all divisions come out even. A leading minor is 0 only
    if some segments can depend on nothing but each other; then the determinant is 0.
    """
    values = matrices.astype(object)
    before = np.ones(len(values), object)
    for k in range(values.shape[1] - 1):
        pivot = values[:, k, k]
        for row in range(k + 1, values.shape[1]):
            for column in range(k + 1, values.shape[1]):
                cross = values[:, row, k] * values[:, k, column]
                values[:, row, column] = (values[:, row, column] * pivot - cross) // before
        before = np.where(pivot == 0, 1, pivot)
    return [int(value) for value in values[:, -1, -1]]
