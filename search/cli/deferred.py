"""The functions behind the commands, imported when a command first uses them.

They import torch, Optuna and MLflow, which takes seconds: `--help` must not wait for that, and a
command shows that it is starting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.cli import app
from spaces.lazy import lazy_attributes

if TYPE_CHECKING:
    from search.config.loading import load_config as load_config
    from search.deploy.benchmark import benchmark_bundle as benchmark_bundle
    from search.deploy.export import FORMATS as FORMATS
    from search.deploy.export import ExportRequest as ExportRequest
    from search.deploy.promotion import promote as promote
    from search.deploy.promotion import rollback as rollback
    from search.deploy.runtimes.graph_request import request_graphs as request_graphs
    from search.deploy.serving.serve import ServeSettings as ServeSettings
    from search.deploy.serving.serve import serve_split as serve_split
    from search.fleet.fleet_round import do_fleet_round as do_fleet_round
    from search.fleet.fleet_table import show_fleet as show_fleet
    from search.pipelines.config_check.check import check_config as check_config
    from search.pipelines.correlate import correlate as correlate
    from search.pipelines.device.add_measurements import add_measurements as add_measurements
    from search.pipelines.exact import find_exact_front as find_exact_front
    from search.pipelines.export import Int8Request as Int8Request
    from search.pipelines.export import export as export
    from search.pipelines.run import run as run
    from search.pipelines.sharding.fidelity_shards import (
        measure_fidelity_shard as measure_fidelity_shard,
    )
    from search.pipelines.sharding.fidelity_shards import (
        merge_fidelity_shards as merge_fidelity_shards,
    )
    from search.pipelines.sharding.statistics_shards import (
        measure_statistics_shard as measure_statistics_shard,
    )
    from search.pipelines.sharding.statistics_shards import (
        merge_statistics_shards as merge_statistics_shards,
    )
    from search.pipelines.sharding.verification_shards import (
        measure_verification_shard as measure_verification_shard,
    )
    from search.pipelines.sharding.verification_shards import (
        merge_verification_shards as merge_verification_shards,
    )
    from search.pipelines.similarity import measure_similarity as measure_similarity
    from search.pipelines.split.export_split import export_split as export_split
    from search.pipelines.split.export_split import holds_split as holds_split
    from search.pipelines.split.run import split_plans as split_plans
    from search.pipelines.verify import verify as verify
    from search.pipelines.verify_inputs import VerificationInputs as VerificationInputs
    from search.report.console_tables import print_plan as print_plan
    from search.results.rounds import EXIT_CODES as EXIT_CODES
    from search.results.rounds import RoundHistory as RoundHistory
    from search.statistics.streaming import Shard as Shard
    from search.study.optimize import join_study as join_study
    from search.tracking.client import pages as pages
    from search.tracking.client import serve as serve
    from search.tracking.outbox import sync as sync
    from search.tracking.target import Target as Target
    from search.utils.files import json_bytes as json_bytes
    from search.utils.records import dump_record as dump_record
    from search.watch.daemon import RoundProcess as RoundProcess
    from search.watch.daemon import watch as watch
    from search.watch.daemon import watcher_lock as watcher_lock
    from search.watch.history_table import show_history as show_history
    from search.watch.round import do_round as do_round
    from search.watch.workspace import Workspace as Workspace
    from search.watch.workspace import watch_config as watch_config

_MODULES = {
    "load_config": "search.config.loading",
    "benchmark_bundle": "search.deploy.benchmark",
    "FORMATS": "search.deploy.export",
    "ExportRequest": "search.deploy.export",
    "ServeSettings": "search.deploy.serving.serve",
    "serve_split": "search.deploy.serving.serve",
    "request_graphs": "search.deploy.runtimes.graph_request",
    "promote": "search.deploy.promotion",
    "rollback": "search.deploy.promotion",
    "do_fleet_round": "search.fleet.fleet_round",
    "show_fleet": "search.fleet.fleet_table",
    "check_config": "search.pipelines.config_check.check",
    "correlate": "search.pipelines.correlate",
    "add_measurements": "search.pipelines.device.add_measurements",
    "find_exact_front": "search.pipelines.exact",
    "Int8Request": "search.pipelines.export",
    "export": "search.pipelines.export",
    "run": "search.pipelines.run",
    "measure_fidelity_shard": "search.pipelines.sharding.fidelity_shards",
    "merge_fidelity_shards": "search.pipelines.sharding.fidelity_shards",
    "measure_statistics_shard": "search.pipelines.sharding.statistics_shards",
    "merge_statistics_shards": "search.pipelines.sharding.statistics_shards",
    "measure_verification_shard": "search.pipelines.sharding.verification_shards",
    "merge_verification_shards": "search.pipelines.sharding.verification_shards",
    "measure_similarity": "search.pipelines.similarity",
    "split_plans": "search.pipelines.split.run",
    "export_split": "search.pipelines.split.export_split",
    "holds_split": "search.pipelines.split.export_split",
    "verify": "search.pipelines.verify",
    "VerificationInputs": "search.pipelines.verify_inputs",
    "print_plan": "search.report.console_tables",
    "EXIT_CODES": "search.results.rounds",
    "RoundHistory": "search.results.rounds",
    "Shard": "search.statistics.streaming",
    "join_study": "search.study.optimize",
    "pages": "search.tracking.client",
    "serve": "search.tracking.client",
    "sync": "search.tracking.outbox",
    "Target": "search.tracking.target",
    "json_bytes": "search.utils.files",
    "dump_record": "search.utils.records",
    "RoundProcess": "search.watch.daemon",
    "watcher_lock": "search.watch.daemon",
    "watch": "search.watch.daemon",
    "show_history": "search.watch.history_table",
    "do_round": "search.watch.round",
    "Workspace": "search.watch.workspace",
    "watch_config": "search.watch.workspace",
}
_load = lazy_attributes(__name__, _MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        return _load(name)
    with app.reporter().working("starting"):
        return _load(name)
