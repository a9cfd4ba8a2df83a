"""The task of each name."""

from __future__ import annotations

from collections.abc import Mapping

from spaces.tasks.classification import Classification
from spaces.tasks.dense import Dense
from spaces.tasks.detection import Detection
from spaces.tasks.embedding import Embedding
from spaces.tasks.segmentation import Segmentation
from spaces.tasks.task import Task, TaskName

TASKS: Mapping[TaskName, Task] = {
    task.name: task
    for task in (Classification(), Detection(), Embedding(), Segmentation(), Dense())
}
