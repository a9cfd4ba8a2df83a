"""`merge-search fidelity`: the fidelity of each share, in shards that are then put together.

A shard has some of the shares, on all held-out frames: how much a share keeps does not depend on
the other shares, whereas which frames it is measured on depends on the first of them. The shares
of one donor stay together, since most of what is solved for their maps is the donor's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.config.base import BadConfig
from search.config.run import RunConfig
from search.data.frames import BadFrames, FrameSet, split_parts
from search.metrics.fidelity import (
    PairFidelity,
    agreement_in_part,
    agreement_path,
    split_progress,
)
from search.metrics.fidelity_cache import Agreement, AgreementRecord
from search.pipelines.deployment.load import load_deployment
from search.pipelines.prepare import (
    check_statistics_cached,
    measured_shares,
    observe,
    open_frames,
    part_cache_folders,
)
from search.pipelines.sharding.shard_files import (
    BadShards,
    check_complete,
    check_share_of_work,
    shard_files,
    shard_name,
)
from search.statistics.streaming import Shard
from search.utils.files import make_folder, short_hash
from search.utils.records import BadRecord, read_record, write_record
from search.utils.reporter import Reporter
from spaces.deployment import Deployment
from spaces.plan import Share

FIDELITY_SHARDS = "fidelity"


@dataclass(frozen=True)
class FidelityShardRecord:
    """The JSON file of a shard: OUT/fidelity/K-of-N.json."""

    shard: str
    """Its number and the number of shards, as in 3/8."""
    key: str
    """Hash of the models, frames, settings and shares of all shards together."""
    parts: list[AgreementRecord]
    """The agreements of the shard's shares on each part of the frames."""


def measure_fidelity_shard(config: RunConfig, shard: Shard, reporter: Reporter) -> Path:
    """Measure the fidelity of one shard of the shares that a run of the config needs.

    Return its file.

    Raises:
        BadConfig: the config's metric does not measure every share.
        BadStatistics: the statistics are not in the cache.
        BadFrames: there are more shards than donors.
    """
    _check_metric(config)
    deployment = load_deployment(config, reporter)
    shares = measured_shares(deployment, config.search.adapter_specs)
    own = shares_of_shard(shares, shard)
    frames = open_frames(config, reporter)
    check_statistics_cached(config, deployment, frames)
    observed = observe(config, deployment, frames, reporter)
    folder = make_folder(config.out_folder) / FIDELITY_SHARDS
    reporter.step(f"Fidelity of {len(own)} of {len(shares)} legal shares, shard {shard}")
    with reporter.progress("shares", len(own)) as progress:
        part_progress = split_progress(progress, len(observed.parts))
        measured = [
            agreement_in_part(part, observed, own, part_progress) for part in observed.parts
        ]
    path = folder / f"{shard_name(shard)}.json"
    folders = [part.cache_folder for part in observed.parts]
    key = _key([agreement_path(folder, shares) for folder in folders])
    records = [agreement.record() for agreement in measured]
    write_record(path, FidelityShardRecord(str(shard), key, records))
    return path


def merge_fidelity_shards(
    config: RunConfig, files: Sequence[Path], reporter: Reporter
) -> list[Path]:
    """Put the shards together in the cache, where every other command reads their agreements.

    Without `files`, take all shards under OUT. Return the file of each part of the frames.

    Raises:
        BadConfig: the config's metric does not measure every share.
        BadShards: a file is damaged or of another config, or a shard is missing or given twice.
    """
    _check_metric(config)
    listed = shard_files(config.out_folder / FIDELITY_SHARDS, files, ".json")
    deployment = load_deployment(config, reporter)
    shares = measured_shares(deployment, config.search.adapter_specs)
    paths = _cache_paths(config, deployment, open_frames(config, reporter), shares)
    reporter.step(f"Joining {len(listed)} shards")
    records = _load_shards(listed, _key(paths), len(paths))
    joined = [
        _joined([record.parts[part] for record in records], shares) for part in range(len(paths))
    ]
    make_folder(config.cache_folder, "cache")
    for path, agreement in zip(paths, joined, strict=True):
        agreement.save(path)
    return paths


def shares_of_shard(shares: Sequence[Share], shard: Shard) -> list[Share]:
    """Return the shares of a shard: those of every N-th donor, from the K-th.

    Raises:
        BadFrames: there are more shards than donors.
    """
    donors = list(dict.fromkeys(share.donor for share in shares))
    check_share_of_work(shard, len(donors), "donors")
    own = {*shard.of(donors)}
    return [share for share in shares if share.donor in own]


def _check_metric(config: RunConfig) -> None:
    metric = config.search.metric
    if metric != PairFidelity.name:
        raise BadConfig(
            f"search.metric is {metric}, which does not measure the fidelity of every share: "
            f"with {PairFidelity.name} there are shards, with any metric `execution: dask`"
        )


def _cache_paths(
    config: RunConfig, deployment: Deployment, frames: FrameSet, shares: Sequence[Share]
) -> list[Path]:
    halves = split_parts(frames, config.verify.fidelity_frames)
    folders = part_cache_folders(config, deployment, halves)
    return [agreement_path(folder, shares) for folder in folders]


def _key(paths: Sequence[Path]) -> str:
    """Return a hash of the names of the cache files, which say what the agreements depend on."""
    names = " ".join(f"{path.parent.name}/{path.name}" for path in paths)
    return short_hash(names)


def _load_shards(files: Sequence[Path], key: str, parts: int) -> list[FidelityShardRecord]:
    """Return the records of all shards.

    Raises:
        BadShards: a file is damaged or of another config, or a shard is missing or given twice.
    """
    records = {file: _read_shard(file) for file in files}
    for file, record in records.items():
        if record.key != key or len(record.parts) != parts:
            raise BadShards(
                f"{file} is not of this config: its models, weights, frames, adapters or "
                "statistics settings differ"
            )
    check_complete([(file, Shard.parse(records[file].shard)) for file in files])
    return [*records.values()]


def _read_shard(file: Path) -> FidelityShardRecord:
    try:
        record = read_record(FidelityShardRecord, file)
        Shard.parse(record.shard)
    except (BadRecord, BadFrames) as error:
        raise BadShards(f"{error}; {_remedy(file)}") from error
    return record


def _joined(records: Sequence[AgreementRecord], shares: Sequence[Share]) -> Agreement:
    """Return the agreements of all shares on one part of the frames.

    Raises:
        BadShards: a share has none, or the shards were measured on other frames.
    """
    sums = {name: total for record in records for name, total in record.sums.items()}
    missing = [str(share) for share in shares if str(share) not in sums]
    frames = {record.frames for record in records}
    if missing or len(frames) > 1:
        what = f"the agreement of {missing[0]} is missing" if missing else "their frames differ"
        raise BadShards(f"a shard is damaged, since {what}: measure all of them again")
    return Agreement(frames.pop(), {share: sums[str(share)] for share in shares})


def _remedy(file: Path) -> str:
    return f"{file.name} is not a complete shard: delete it, and measure it again with --shard"
