"""`merge-search verify --shard`: a verification in shards of the frames, then put together.

A shard has whole batches of each of the frame sets, so that the networks see the same batches as
in one process. What they answer is stored; it is scored once all answers are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from search.data.frames import batch_ranges, frames_at
from search.evaluation.evaluate import ShardAnswers, VerificationJob, verification_jobs
from search.evaluation.stored_answers import (
    ANSWERS_VERSION,
    StoredAnswers,
    StoredAnswersEngine,
    key_of,
)
from search.pipelines.finished_run import LoadedRun
from search.pipelines.prepare import check_statistics_cached
from search.pipelines.sharding.shard_files import (
    TENSOR_FILES,
    BadShards,
    check_complete,
    check_share_of_work,
    shard_files,
    shard_name,
)
from search.pipelines.verify import PreparedPlans, open_plans, prepare_plans, report_plans
from search.pipelines.verify_inputs import VerificationInputs
from search.results.documents import DOCUMENT_FOLDERS
from search.results.verification import Verification
from search.statistics.streaming import Shard
from search.utils.files import short_hash
from search.utils.progress import Progress
from search.utils.reporter import Reporter
from search.utils.timing import StepTimings

SHARD_FOLDER = "shards"


def measure_verification_shard(
    out: Path,
    hash_prefixes: Sequence[str],
    inputs: VerificationInputs,
    shard: Shard,
    reporter: Reporter,
) -> Path:
    """Run plans of the run in OUT, and the unmerged models, on one shard of the frames.

    Return the file of their answers.

    Raises:
        BadStatistics: the statistics of the search are not in the cache.
        BadFrames: there are more shards than batches.
    """
    timings = StepTimings()
    opened = open_plans(LoadedRun.from_folder(out), hash_prefixes, inputs, timings, reporter)
    check_statistics_cached(opened.config, opened.deployment, opened.frames)
    prepared = prepare_plans(opened, timings, reporter)
    jobs = _jobs(prepared)
    ranges = [_frames_of_shard(job, shard) for job in jobs]
    check_share_of_work(shard, max(len(_batches(job)) for job in jobs), "batches of frames")
    reporter.step(f"Answers of {len(prepared.plans)} plans and the unmerged models, shard {shard}")
    with reporter.progress("frames", sum(map(len, ranges))) as progress:
        answers = [
            _answers(prepared, job, indices, progress)
            for job, indices in zip(jobs, ranges, strict=True)
        ]
    path = _folder(out) / f"{shard_name(shard)}{TENSOR_FILES}"
    StoredAnswers(_key(prepared, jobs), shard, answers).save(path)
    return path


def merge_verification_shards(
    out: Path, hash_prefixes: Sequence[str], inputs: VerificationInputs, reporter: Reporter
) -> Verification:
    """Finish the verification whose shards are in OUT/verify/shards, as `verify` does.

    No model runs. The shards stay.

    Raises:
        BadAnswers: a file is damaged.
        BadShards: a shard is of another verification, is missing or comes twice.
        NotLogged: as `verify`.
    """
    files = shard_files(_folder(out), (), TENSOR_FILES)
    finished, timings = LoadedRun.from_folder(out), StepTimings()
    opened = open_plans(finished, hash_prefixes, inputs, timings, reporter)
    prepared = prepare_plans(opened, timings, reporter)
    jobs = _jobs(prepared)
    reporter.step(f"Joining {len(files)} shards")
    with reporter.working("shards"):
        shards = _load_shards(files, _key(prepared, jobs))
        answers = {
            key_of(*job): ShardAnswers.joined(
                shard.jobs[k] for shard in shards if shard.jobs[k].frame_sizes
            )
            for k, job in enumerate(jobs)
        }
    joined = prepared.on(StoredAnswersEngine(answers))
    return report_plans(finished, joined, timings, reporter)


def _folder(out: Path) -> Path:
    return out / DOCUMENT_FOLDERS[Verification] / SHARD_FOLDER


def _jobs(prepared: PreparedPlans) -> list[VerificationJob]:
    return verification_jobs(
        prepared.setup, prepared.share_plans, prepared.fidelity_frames, prepared.truth
    )


def _batches(job: VerificationJob) -> list[range]:
    return batch_ranges(len(job.frames), job.job.batch)


def _frames_of_shard(job: VerificationJob, shard: Shard) -> range:
    """Return the frames of a shard: consecutive ones, in whole batches."""
    batches = _batches(job)
    start, stop = (
        len(batches) * number // shard.count for number in (shard.number - 1, shard.number)
    )
    own = batches[start:stop]
    return range(own[0].start, own[-1].stop) if own else range(0)


def _answers(
    prepared: PreparedPlans, job: VerificationJob, indices: range, progress: Progress
) -> ShardAnswers:
    if not indices:  # a small set of frames has no batch for every shard
        return ShardAnswers([], [])
    engine = prepared.observed.engine
    return ShardAnswers.joined(engine.run(job.job, frames_at(job.frames, indices), progress))


def _key(prepared: PreparedPlans, jobs: Sequence[VerificationJob]) -> str:
    """Return a hash of all that the answers depend on."""
    observed, setup = prepared.observed, prepared.setup
    inputs = {
        "models": observed.deployment.fingerprints,
        "statistics": [part.cache_folder.name for part in observed.parts],
        "plans": [plan.hash for plan in prepared.share_plans],
        "refined": _refined_digest(prepared),
        "batch": setup.batch,
        "jobs": [(sorted(job.names), frames.hash) for job, frames in jobs],
    }
    return short_hash(f"{ANSWERS_VERSION} {inputs}")


def _refined_digest(prepared: PreparedPlans) -> str:
    """Return a hash of the refined maps: training need not give the same ones everywhere."""
    digest = hashlib.sha256()
    maps = prepared.setup.maps
    for share in sorted(share for share in maps if share.refined_in):
        for tensor in (maps[share].weight, maps[share].bias):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _load_shards(files: Sequence[Path], key: str) -> list[StoredAnswers]:
    """Return all shards in their order.

    Raises:
        BadAnswers: a file is damaged.
        BadShards: a shard is of another verification, is missing or comes twice.
    """
    shards = [StoredAnswers.load(file) for file in files]
    for file, shard in zip(files, shards, strict=True):
        if shard.key != key:
            raise BadShards(
                f"{file} is not of this verification: its plans, labels, frames, models or "
                "refined maps differ; delete it, or give the same options again"
            )
    check_complete([(file, shard.shard) for file, shard in zip(files, shards, strict=True)])
    return sorted(shards, key=lambda shard: shard.shard.number)
