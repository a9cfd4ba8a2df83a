"""Answers of plans in files: some of the frames each, measured on any machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open

from search.data.frames import FrameSet
from search.evaluation.evaluate import AnswersJob, ShardAnswers
from search.execution.jobs import FrameJob, ResultT
from search.statistics.streaming import Shard
from search.utils.progress import Progress
from search.utils.tensors import read_header, write_tensors
from spaces.errors import MergeSearchError

FORMAT = "merge-search answers"
ANSWERS_VERSION = 1
"""Part of the key of each file: increase it when the answers or the form of the files change."""


class BadAnswers(MergeSearchError):
    """A file of answers is damaged, or of other plans, models or frames."""


@dataclass(frozen=True)
class StoredAnswers:
    """The answers of one shard of the frames, job by job of a verification."""

    key: str
    """Hash of the models, plans, frames and settings of all shards together."""
    shard: Shard
    jobs: Sequence[ShardAnswers]

    def save(self, path: Path) -> None:
        """Write the file, completely or not at all.

        Raises:
            CannotWrite: the folder cannot be written to, or the disk is full.
        """
        tensors: dict[str, torch.Tensor] = {}
        for number, job in enumerate(self.jobs):
            sizes = torch.tensor([*job.frame_sizes], dtype=torch.int64).reshape(-1, 2)
            tensors[f"{number}/sizes"] = sizes
            for output, array in enumerate(job.answers):
                tensors[f"{number}/{output}"] = torch.from_numpy(array).contiguous()
        header = {
            "key": self.key,
            "shard": str(self.shard),
            "outputs": [len(job.answers) for job in self.jobs],
        }
        write_tensors(path, tensors, FORMAT, header)

    @classmethod
    def load(cls, path: Path) -> StoredAnswers:
        """Return the answers exactly as `save` has written them.

        Raises:
            BadAnswers: the file is missing, damaged or of another kind.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = read_header(file, FORMAT)
                jobs = [
                    _read_job(file, number, outputs)
                    for number, outputs in enumerate(header["outputs"])
                ]
                return cls(str(header["key"]), Shard.parse(header["shard"]), jobs)
        except (
            OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError,
            MergeSearchError,
        ) as error:  # fmt: skip
            raise BadAnswers(
                f"{path}: not a complete file of answers ({type(error).__name__}); delete it, and "
                "measure it again with --shard"
            ) from error


def _read_job(file: Any, number: int, outputs: int) -> ShardAnswers:
    arrays = [file.get_tensor(f"{number}/{output}").numpy() for output in range(outputs)]
    sizes = file.get_tensor(f"{number}/sizes").tolist()
    return ShardAnswers(arrays, [(height, width) for height, width in sizes])


JobKey = tuple[frozenset[str], str]
"""The models that answer, and the hash of the frames."""


def key_of(job: AnswersJob, frames: FrameSet) -> JobKey:
    """Return what tells the jobs of one verification apart."""
    return job.names, frames.hash


@dataclass(frozen=True)
class StoredAnswersEngine:
    """Does no job: it returns the answers that were stored."""

    answers: Mapping[JobKey, ShardAnswers]
    """The answers on all frames by job."""

    def run(
        self, job: FrameJob[ResultT], frames: FrameSet, progress: Progress
    ) -> Iterator[ResultT]:
        """Yield the stored answers of an `AnswersJob`.

        Raises:
            BadAnswers: there are none of all these frames.
        """
        assert isinstance(job, AnswersJob)
        stored = self.answers.get(key_of(job, frames))
        if stored is None or len(stored.frame_sizes) != len(frames):
            raise BadAnswers(
                f"the shards do not hold the answers to all {len(frames)} frames: measure them "
                "again with --shard"
            )
        progress(len(frames))
        yield cast(ResultT, stored)
