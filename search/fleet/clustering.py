"""Clusters of cameras by their distances. The only door to scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sklearn.cluster import AgglomerativeClustering

from search.fleet.signature import Scale, Signature


def cluster_cameras(
    signatures: Mapping[str, Signature], scale: Scale, tolerance: float
) -> list[list[str]]:
    """Return the clusters of cameras, each sorted by name, in the order of their first names.

    Clusters are merged while the mean distance between their cameras is less than `tolerance`. So
    their number follows from the cameras; it depends neither on the order of the cameras nor on a
    seed.
    """
    names = sorted(signatures)
    if len(names) < 2:
        return [names] if names else []
    distances = np.zeros((len(names), len(names)))
    for row, one in enumerate(names):
        for column, other in enumerate(names[:row]):
            distance = scale.distance(signatures[one], signatures[other])
            distances[row, column] = distances[column, row] = distance
    merging = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=tolerance
    )
    labels = merging.fit_predict(distances)
    clusters: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        clusters.setdefault(int(label), []).append(name)
    return list(clusters.values())
