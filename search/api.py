"""The public functions of `search`, which import torch and MLflow; `import search` does not.

Everything else in this package is private and may change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from search.config import loading
from search.config.run import RunConfig
from search.deploy import promotion
from search.deploy.export import ExportFormat, ExportRequest
from search.deploy.promotion import PlanInService
from search.deploy.runtimes.graph_request import request_graphs
from search.pipelines import correlate as correlate_pipeline
from search.pipelines import exact as exact_pipeline
from search.pipelines import export as export_pipeline
from search.pipelines import run as run_pipeline
from search.pipelines import verify as verify_pipeline
from search.pipelines.export import ExportedBundle
from search.pipelines.split import run as split_pipeline
from search.pipelines.verify_inputs import VerificationInputs
from search.results.metric_comparison import MetricComparison
from search.results.search_result import Result
from search.results.split_result import SplitResult
from search.results.verification import Verification
from search.study.exact.branch_and_bound import ExactFront
from search.utils.reporter import SILENT, Reporter

AnyPath = str | PathLike[str]


def load_config(path: AnyPath, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and validate a config file.

    Each override is text of the form `dotted.key=value`, with the value in YAML.

    Raises:
        BadConfig: the file is missing or is not YAML, or a key or value is not accepted.

    Examples:
        >>> config = load_config("config.yaml", ["budget=80%", "search.trials=20"])
        >>> config.search.trials
        20
    """
    return loading.load_config(Path(path), overrides)


def run(config: RunConfig, reporter: Reporter | None = None) -> Result:
    """Search for the best plan, verify it, write the files under OUT, and log the run to MLflow.

    The result is the content of OUT/result.json. Without a reporter, the run is silent.

    Raises:
        BudgetTooSmall: no plan fits the budget.
        NotLogged: MLflow did not take the run; everything else is done and saved.
        MergeSearchError: anything else that the user can correct.

    Examples:
        >>> result = run(load_config("config.yaml", ["budget=80%", "search.trials=20"]))
        >>> best = result.chosen_candidate
        >>> best.hash == result.chosen and best.bytes <= result.budget_bytes
        True
    """
    return run_pipeline.run(config, reporter or SILENT)


def split_models(config: RunConfig, reporter: Reporter | None = None) -> SplitResult:
    """Split the models of the config between a device and a server, and log it to MLflow.

    Splits the unmerged models and, if OUT holds a finished run, the plans of its verified front;
    one model is enough. The result is the content of OUT/split/split.json.

    Raises:
        NoSplitSection: the config has no section `split`.
        NoSplitFits: the device can hold or compute no split.
        NotLogged: MLflow did not take the outcome; everything else is done and saved.
        MergeSearchError: anything else that the user can correct.

    Examples:
        >>> result = split_models(load_config("config.yaml", ["split.trials=20"]))
        >>> point = result.chosen_point
        >>> point.feasible and point.bytes > 0
        True
    """
    return split_pipeline.split_plans(config, reporter or SILENT)


def verify(
    out: AnyPath,
    plans: Sequence[str] = (),
    labels: Mapping[str, AnyPath] | None = None,
    images: Mapping[str, AnyPath] | None = None,
    classes: Mapping[str, Any] | None = None,
    frames: AnyPath | None = None,
    outside: bool = False,
    reporter: Reporter | None = None,
) -> Verification:
    """Verify plans of the finished run in OUT on new data.

    Args:
        out: output folder of the run.
        plans: plans to verify, by the first digits of their hashes; by default the candidates.
        labels: ground truth by model: a .csv file, a .json file, or a folder of class folders.
        images: folder of the images by model; by default that of the .json file.
        classes: names or COCO categories of the classes by model; by default as in the run.
        frames: folder of unlabelled frames for fidelity; by default the labelled frames.
        outside: accept labelled images outside the folder of their labels.
        reporter: receives progress and tables; by default none.

    Without labels and frames, the plans are measured on the data that the run itself held out.
    The verification is the content of OUT/verify/verified.json.

    Raises:
        NoSuchRun, NoSuchPlan: OUT holds no finished run, or the run no such plan.
        NotLogged: MLflow did not take the verification; everything else is done and saved.
        MergeSearchError: anything else that the user can correct.

    Examples:
        >>> verification = verify("out/tiny")
        >>> verification.against
        'Verified against ground truth on 12 frames (a)'
        >>> 0 <= verification.candidates[0].quality_kept
        True
    """
    inputs = VerificationInputs(
        labels={name: Path(path) for name, path in (labels or {}).items()},
        images={name: Path(path) for name, path in (images or {}).items()},
        classes=classes or {},
        frames=None if frames is None else Path(frames),
        outside=outside,
    )
    return verify_pipeline.verify(Path(out), plans, inputs, reporter or SILENT)


def export(
    out: AnyPath,
    to: AnyPath,
    plan: str | None = None,
    formats: Sequence[ExportFormat] = (),
    split: bool = False,
    targets: Sequence[str] = (),
    points: int = 1,
    reporter: Reporter | None = None,
) -> ExportedBundle:
    """Export a plan of the finished run in OUT as a bundle.

    `to` is the folder to write: new, empty, or a bundle to replace. `plan` names a plan by the
    first digits of its hash; by default the chosen plan. `formats` may add "onnx"; "program",
    a torch.export program; and "triton", a model repository for Triton. `split` adds a graph for
    each part that can run by itself; `targets` adds graphs for runtimes: "onnxruntime",
    "openvino", "tensorrt", "litert", "hailo", "rknn". With `points`, the bundle holds that many
    verified plans, of which `bundle.use` chooses one.

    Raises:
        NoSuchRun, NoSuchPlan: OUT holds no finished run, or the run no such plan.
        TooFewPlans: the run verified fewer plans than `points`.
        CannotWrite: the folder holds other files, or cannot be written to.
        MergeSearchError: anything else that the user can correct.

    Examples:
        >>> bundle = export("out/tiny", to="bundle")
        >>> (bundle.folder / "weights.safetensors").exists()
        True
        >>> len(bundle.checks)
        2
    """
    request = ExportRequest(formats, request_graphs(split, targets), points)
    return export_pipeline.export(Path(out), plan, Path(to), request, reporter or SILENT)


def correlate(config: RunConfig, reporter: Reporter | None = None) -> MetricComparison:
    """Compare how well the metrics predict the accuracy of merged models.

    Merges every legal single share and measures it on ground truth. The comparison is the content
    of OUT/correlate/league.json.

    Raises:
        NothingToCorrelate: no model has ground truth, or none scores above 0 on it.
        NotLogged: MLflow did not take the comparison; everything else is done and saved.
        MergeSearchError: anything else that the user can correct.

    Examples:
        >>> comparison = correlate(load_config("config.yaml", ["name=metrics"]))
        >>> "r2" in comparison.metrics
        True
    """
    return correlate_pipeline.correlate(config, reporter or SILENT)


def exact(config: RunConfig, reporter: Reporter | None = None) -> ExactFront:
    """Compute the exact front of the config by proxy and bytes, and write OUT/exact.json.

    Raises:
        TooLarge: the search space is too large to be searched exhaustively.
        MergeSearchError: anything else that the user can correct.

    Examples:
        >>> front = exact(load_config("config.yaml")).front
        >>> sizes = [plan.bytes for plan in front]
        >>> sizes == sorted(sizes)
        True
    """
    return exact_pipeline.find_exact_front(config, reporter or SILENT)


def promote(config: RunConfig, reporter: Reporter | None = None) -> PlanInService:
    """Put the challenger of the config in service, if the promotion rule allows it.

    Raises:
        NoSuchVersion: there is no challenger.
        NotPromoted: the promotion rule does not allow it; the message says why.
        TrackerUnreachable: MLflow does not answer.

    Examples:
        >>> served = promote(load_config("config.yaml"))
        >>> served.model, served.plan.unmerged_bytes > served.plan.bytes
        ('tiny', True)
    """
    return promotion.promote(config, reporter or SILENT)


def rollback(
    config: RunConfig, why: str = "by hand", reporter: Reporter | None = None
) -> PlanInService:
    """Put the previous champion of the config back in service, and record the reason.

    Raises:
        NoSuchVersion: there is no champion, or it replaced none.
        TrackerUnreachable: MLflow does not answer.

    Examples:
        >>> try:
        ...     served = rollback(load_config("config.yaml"), why="it misses lorries")
        ... except MergeSearchError as error:
        ...     print(error)
        version ... of tiny replaced no champion: there is nothing to roll back to
    """
    return promotion.rollback(config, why, reporter or SILENT)
