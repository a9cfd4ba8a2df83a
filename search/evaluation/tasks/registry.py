"""The scoring of each task, and of each main score."""

from __future__ import annotations

from collections.abc import Mapping

from search.evaluation.tasks.classification import ClassificationScoring
from search.evaluation.tasks.dense import DenseScoring
from search.evaluation.tasks.detection import DetectionScoring
from search.evaluation.tasks.embedding import EmbeddingScoring
from search.evaluation.tasks.scoring import TaskScoring
from search.evaluation.tasks.segmentation import SegmentationScoring
from spaces.tasks.task import TaskName

SCORING: Mapping[TaskName, TaskScoring] = {
    scoring.task: scoring
    for scoring in (
        ClassificationScoring(),
        DetectionScoring(),
        EmbeddingScoring(),
        SegmentationScoring(),
        DenseScoring(),
    )
}
TRUTH_SCORES: Mapping[str, TaskName] = {
    "top1": "classification",
    "map": "detection",
    "recall1": "embedding",
    "miou": "segmentation",
}
"""The task of each score against ground truth that quality is based on."""


def scoring_of_score(main_score_name: str) -> TaskScoring:
    """Return the scoring whose main score against ground truth has this name."""
    return SCORING[TRUTH_SCORES[main_score_name]]
