"""A cluster of real processes measures what this process measures, also if a worker is killed."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from clusters import DaskCluster, KillingJob, SizesJob, dask_cluster, end, run_without_models
from commands import wait_until
from namespaces import other_machine
from PIL import Image
from servers import free_port, is_listening
from tiny import Weights, config_data

from search.config.base import BadConfig
from search.config.run import RunConfig
from search.data.frames import ImageFiles, JoinedFrames, RenderedScenes, Subset
from search.data.images import ImageFile
from search.data.synthetic.scenes import SceneSettings
from search.evaluation.evaluate import AnswersJob
from search.execution import dask_engine
from search.execution.dask_engine import ClusterFailed, DaskEngine
from search.execution.jobs import FrameJob, LocalEngine, shards_of
from search.metrics.fidelity import AgreementJob
from search.pipelines.deployment.cluster import (
    DeploymentRecipe,
    WorkerFailed,
    cluster_of,
    run_on_worker,
)
from search.pipelines.deployment.load import survey_models
from search.statistics.moments_job import MomentsJob
from search.statistics.similarity import Statistics
from search.statistics.streaming import Moments, PassSettings
from search.utils.progress import silent
from search.utils.reporter import SILENT
from spaces.deployment import Deployment
from spaces.plan import LINEAR, SharePlan

FRAMES = 40
"""Five batches of the statistics, three of agreement, three of answers."""


class Measured:
    """A deployment of two classifiers, frames in files, and the jobs of a run on them."""

    def __init__(self, config: RunConfig, frames: ImageFiles) -> None:
        self.config, self.frames = config, frames
        self.deployment: Deployment = survey_models(config, SILENT)
        self.recipe = DeploymentRecipe.of(config, self.deployment)
        self.local = LocalEngine(self.deployment)
        pairs, settings = self.deployment.pairs.legal, PassSettings(batch=8, positions=4)
        self.moments = MomentsJob(tuple(pairs), settings, len(frames))
        (self.first,) = self.local.run(self.moments, frames, silent)
        shares = self.deployment.shares((LINEAR,))
        maps = Statistics(self.first, self.deployment.facts).linear_maps(shares)
        plans = tuple(SharePlan((share,)) for share in shares[::9])
        self.agreement = AgreementJob(shares, maps)
        self.answers = AnswersJob(
            (SharePlan(), *plans), maps, frozenset(self.deployment.models), 8, "deployed"
        )

    @property
    def jobs(self) -> dict[str, FrameJob[Any]]:
        return {"moments": self.moments, "agreement": self.agreement, "answers": self.answers}

    def on(self, cluster: DaskCluster) -> DaskEngine:
        return DaskEngine(cluster.address, partial(run_on_worker, self.recipe))


@pytest.fixture(scope="module")
def measured(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("frames")
    scenes = RenderedScenes(SceneSettings(seed=4, width=96, height=72), FRAMES)
    paths = [folder / f"{k:02}.png" for k in range(FRAMES)]
    for k, path in enumerate(paths):
        Image.fromarray(scenes[k]).save(path)
    config = RunConfig(**config_data(weights), base=folder)
    return Measured(config, ImageFiles(tuple(paths)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with dask_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as running:
        yield running


def total(kind: str, parts: Sequence[Any]) -> Any:
    """Add up the results of the tasks of one job."""
    if kind == "moments":
        first, *others = parts
        for other in others:
            first.merge(other)
        return first
    if kind == "agreement":
        sums: dict[Any, float] = {}
        for part in parts:
            for share, agreement in part.items():
                sums[share] = sums.get(share, 0.0) + agreement
        return sums
    answers = [np.concatenate(arrays) for arrays in zip(*(p.answers for p in parts), strict=True)]
    return answers, [size for part in parts for size in part.frame_sizes]


def assert_equal(measured: Measured, kind: str, one: Any, other: Any) -> None:
    if kind == "moments":
        assert_same_similarities(measured, one, other)
    elif kind == "agreement":
        assert one == pytest.approx(other, rel=1e-6)
    else:
        for array, expected in zip(one[0], other[0], strict=True):
            np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)
        assert one[1] == other[1]


def assert_same_similarities(measured: Measured, one: Moments, other: Moments) -> None:
    assert one.frames == other.frames == FRAMES
    facts = measured.deployment.facts
    here, there = Statistics(other, facts), Statistics(one, facts)
    for pair in measured.deployment.pairs.legal:
        assert there.image_cka(pair) == pytest.approx(here.image_cka(pair), abs=1e-6)
        assert there.ridge(pair).explained == pytest.approx(here.ridge(pair).explained, abs=1e-6)


@pytest.mark.parametrize("kind", ["moments", "agreement", "answers"])
def test_a_cluster_measures_what_this_process_measures(
    kind: str, measured: Measured, cluster: DaskCluster
) -> None:
    job, counted = measured.jobs[kind], list[int]()
    here = total(kind, list(measured.local.run(job, measured.frames, silent)))
    there = total(kind, list(measured.on(cluster).run(job, measured.frames, counted.append)))
    assert_equal(measured, kind, there, here)
    assert sum(counted) == FRAMES and min(counted) >= 0


@pytest.mark.parametrize("kind", ["moments", "agreement", "answers"])
def test_the_task_of_a_killed_worker_is_done_again(
    kind: str, measured: Measured, cluster: DaskCluster, tmp_path: Path
) -> None:
    job = measured.jobs[kind]
    expected = total(kind, list(measured.local.run(job, measured.frames, silent)))
    paths = list(measured.frames.paths)
    slow = SlowImage(tmp_path / "slow.png", paths[FRAMES // 2])
    paths[FRAMES // 2] = slow.path
    frames = ImageFiles(tuple(paths))
    engine = measured.on(cluster)
    with ThreadPoolExecutor(1) as thread, slow:
        running = thread.submit(lambda: list(engine.run(job, frames, silent)))
        victim = slow.wait_for_reader()
        os.kill(victim, signal.SIGKILL)
        slow.arrive()
        assert_equal(measured, kind, total(kind, running.result()), expected)
    assert not psutil.pid_exists(victim)


@pytest.mark.durability
def test_a_cluster_behind_a_cable_that_is_unplugged_for_a_while_measures_the_same(
    measured: Measured, tmp_path: Path
) -> None:
    job = measured.agreement
    expected = total("agreement", list(measured.local.run(job, measured.frames, silent)))
    paths = list(measured.frames.paths)
    slow = SlowImage(tmp_path / "slow.png", paths[FRAMES // 2])
    paths[FRAMES // 2] = slow.path
    with (
        other_machine() as other,
        dask_cluster(tmp_path, 1, other.address, other.prefix) as cluster,
        ThreadPoolExecutor(1) as thread,
        slow,
    ):
        engine = measured.on(cluster)
        running = thread.submit(lambda: list(engine.run(job, ImageFiles(tuple(paths)), silent)))
        slow.wait_for_reader()
        other.unplug()
        slow.arrive()
        assert not wait([running], timeout=2).done
        other.plug_in()
        assert_equal(measured, "agreement", total("agreement", running.result()), expected)


class SlowImage:
    """An image file that does not arrive before a test wants it to: a named pipe until then.

    It arrives at the end of its block at the latest, so that a test that fails has no reader left.
    """

    def __init__(self, path: Path, image: ImageFile) -> None:
        os.mkfifo(path)
        self.path, self.content = path, image.read_bytes()
        self._writer = -1

    def __enter__(self) -> SlowImage:
        return self

    def __exit__(self, *error: object) -> None:
        if self.path.is_fifo():
            self.arrive()

    def wait_for_reader(self) -> int:
        """Wait until a process reads the file, and return its id."""
        wait_until(self._has_reader)
        wait_until(lambda: any(self._readers()))  # it may still be about to get its descriptor
        return next(self._readers())

    def _has_reader(self) -> bool:
        if self._writer < 0:
            with contextlib.suppress(OSError):  # there is no reader yet
                self._writer = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        return self._writer >= 0

    def _readers(self) -> Iterator[int]:
        """Yield the processes that have the file open for reading."""
        others = (pid for pid in psutil.pids() if pid != os.getpid())
        return (pid for pid in others if str(self.path) in opened_by(pid))

    def arrive(self) -> None:
        """Replace the pipe by the image, which whoever still reads the pipe gets, too."""
        reading = self._has_reader()
        copy = self.path.with_suffix(".copy")
        copy.write_bytes(self.content)
        os.replace(copy, self.path)
        if reading:
            with contextlib.suppress(BrokenPipeError), open(self._writer, "wb") as writer:
                writer.write(self.content)


def opened_by(pid: int) -> set[str]:
    """Return what a process has open; empty if it has ended."""
    opened = set[str]()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                opened.add(os.readlink(descriptor))
    return opened


def test_a_task_that_kills_its_workers_is_given_up(
    measured: Measured, cluster: DaskCluster
) -> None:
    engine = measured.on(cluster)
    with pytest.raises(ClusterFailed, match="died each time, 2 in all"):
        list(engine.run(KillingJob(FRAMES), measured.frames, silent))
    # its workers are started again, and go on
    assert list(engine.run(SizesJob(FRAMES), measured.frames, silent))


@pytest.mark.parametrize("parts", [1, 3])
def test_each_piece_runs_on_each_shard_in_the_order_of_the_frames(
    parts: int, measured: Measured, cluster: DaskCluster
) -> None:
    job = SizesJob(16, parts)
    results = list(measured.on(cluster).run(job, measured.frames, silent))
    shards = [range(0, 16), range(16, 32), range(32, 40)]
    assert [[k for k, _ in found] for found in results] == [
        list(shard) for shard in shards for _ in range(parts)
    ]


def test_results_do_not_depend_on_the_number_of_workers(
    measured: Measured, cluster: DaskCluster, tmp_path: Path
) -> None:
    with dask_cluster(tmp_path, workers=1) as single:
        for kind, job in measured.jobs.items():
            one = total(kind, list(measured.on(single).run(job, measured.frames, silent)))
            two = total(kind, list(measured.on(cluster).run(job, measured.frames, silent)))
            if kind == "moments":
                assert (one.hsic == two.hsic).all()
            elif kind == "agreement":
                assert one == two
            else:
                assert all((x == y).all() for x, y in zip(one[0], two[0], strict=True))


def test_a_frame_that_the_worker_does_not_have_is_named_with_its_machine(
    measured: Measured, cluster: DaskCluster, tmp_path: Path
) -> None:
    frames = ImageFiles((*measured.frames.paths, tmp_path / "missing.png"))
    with pytest.raises(WorkerFailed, match=f"worker on {socket.gethostname()}: image .*missing"):
        list(measured.on(cluster).run(measured.moments, frames, silent))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "0.0.1"}, "install the same version everywhere"),
        ({"fingerprints": (("a", "other"),)}, "weights of model 'a' differ"),
    ],
)
def test_a_worker_with_other_code_or_weights_is_refused(
    changes: dict[str, Any], message: str, measured: Measured, cluster: DaskCluster
) -> None:
    recipe = replace(measured.recipe, **changes)
    engine = DaskEngine(cluster.address, partial(run_on_worker, recipe))
    with pytest.raises(WorkerFailed, match=message):
        list(engine.run(SizesJob(FRAMES), measured.frames, silent))


def test_a_scheduler_that_does_not_answer_is_named(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_engine, "CONNECT_SECONDS", 1)
    address = f"tcp://127.0.0.1:{free_port()}"
    engine = DaskEngine(address, run_without_models)
    with pytest.raises(ClusterFailed, match=f"no scheduler answers at {address}"):
        list(engine.run(SizesJob(FRAMES), measured.frames, silent))


def test_workers_that_do_not_start_are_named(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = DaskEngine(2, run_without_models)
    for program, reason in (("/bin/false", "ended with code 1"), ("/no/python", "No such file")):
        monkeypatch.setattr(sys, "executable", program)
        with pytest.raises(ClusterFailed, match=f"2 workers do not start .*{reason}"):
            list(engine.run(SizesJob(FRAMES), measured.frames, silent))


def test_a_scheduler_that_dies_ends_the_run_with_a_sentence(
    measured: Measured, tmp_path: Path
) -> None:
    slow = SlowImage(tmp_path / "slow.png", measured.frames.paths[0])
    with dask_cluster(tmp_path, workers=1) as own, ThreadPoolExecutor(1) as thread, slow:
        engine = DaskEngine(own.address, run_without_models)
        frames = ImageFiles((slow.path,))
        running = thread.submit(lambda: list(engine.run(SizesJob(1), frames, silent)))
        slow.wait_for_reader()
        end(own.scheduler)
        with pytest.raises(ClusterFailed, match="connection to the scheduler was lost"):
            running.result()


def test_a_scheduler_without_workers_is_named(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dask_cluster(tmp_path, workers=0) as cluster:
        wait_until(lambda: is_listening(int(cluster.address.rpartition(":")[2])))
        monkeypatch.setattr(dask_engine, "CONNECT_SECONDS", 1)
        with pytest.raises(ClusterFailed, match=f"dask worker {cluster.address} --nthreads 1"):
            list(
                DaskEngine(cluster.address, run_without_models).run(
                    SizesJob(FRAMES), measured.frames, silent
                )
            )


def test_shards_hold_the_frames_and_name_no_others(measured: Measured) -> None:
    scenes = RenderedScenes(SceneSettings(seed=4, width=96, height=72), 5)
    joined = JoinedFrames((Subset(measured.frames, (7, 3, 9)), scenes))
    for size in (1, 2, 3, 8):
        shards = shards_of(joined, size)
        assert [i for shard in shards for i in shard.indices] == list(range(8))
        shown = [s.frames[k] for s in shards for k in range(len(s.frames))]
        assert all((one == joined[k]).all() for k, one in enumerate(shown))
        assert sum(pickle.dumps(shard).count(b".png") for shard in shards) == 3


def test_a_model_given_as_an_object_cannot_be_loaded_by_workers(measured: Measured) -> None:
    models = dict(measured.deployment.models)
    config = RunConfig(
        **{**measured.config.as_written(), "models": models, "execution": "dask", "dask": 2}
    )
    with pytest.raises(BadConfig, match="workers cannot load model 'a'"):
        cluster_of(config, measured.deployment)
