"""Write the graphs of a bundle as a model repository of Triton Inference Server.

    DIR/trunk/         the representations that several models read
    DIR/NAME_tail/     the rest of the model NAME
    DIR/NAME/          an ensemble: from frames to the answers of NAME
    DIR/merged/        an ensemble of all of them, or the whole merged model as one graph

Every graph lies in the folder of its version with all its weights, as Triton demands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.deploy.triton.model_config import FREE, Step, Tensor, TritonModel, render_config
from spaces.entry_graphs import TRUNK
from spaces.errors import MergeSearchError
from spaces.graph_export import LARGEST_BATCH, missing_packages

if TYPE_CHECKING:
    import onnx

MERGED, TAIL = "merged", "_tail"
VERSION, CONFIG = "1", "config.pbtxt"


class NoRepository(MergeSearchError):
    """The graphs of a bundle cannot be a model repository."""


def write_triton_repository(graphs: Path, models: Sequence[str], repository: Path) -> list[str]:
    """Write the repository into a new folder; return the names of its models.

    `graphs` is a folder with model.onnx, or with NAME.onnx for each of `models` and, if they share
    anything, trunk.onnx. If it holds both, model.onnx is left out: each model can then be run at
    a rate of its own, and nothing is in memory twice.

    Raises:
        NoRepository: there are no such graphs, or two models would have the same name.
        ExporterMissing: onnx is not installed.
    """
    parts = {f"{name}{TAIL}": graphs / f"{name}.onnx" for name in models}
    if all(path.is_file() for path in parts.values()):
        trunk = {TRUNK: graphs / "trunk.onnx"} if (graphs / "trunk.onnx").is_file() else {}
        sources = {**trunk, **parts}
        ensembles = [MERGED, *models]
    else:
        sources, ensembles = {MERGED: graphs / "model.onnx"}, []
    if missing := [path.name for path in sources.values() if not path.is_file()]:
        raise NoRepository(f"{graphs}: without {', '.join(missing)} there is no model repository")
    _check_names([*sources, *ensembles])
    written = {
        name: _write_graph(name, source, repository / name) for name, source in sources.items()
    }
    for name in ensembles:
        tails = [f"{m}{TAIL}" for m in models if name in (MERGED, m)]
        _write_ensemble(build_ensemble(name, tails, written), repository / name)
    return [*sources, *ensembles]


def build_ensemble(
    name: str, tails: Sequence[str], graphs: Mapping[str, TritonModel]
) -> TritonModel:
    """Return an ensemble that runs tails, and the trunk before them if one of them reads it."""
    read = {t.name: t for tail in tails for t in graphs[tail].inputs}
    steps, inputs = [], dict(read)
    trunk = graphs.get(TRUNK)
    given = [] if trunk is None else [t.name for t in trunk.outputs if t.name in read]
    if trunk is not None and given:
        steps.append(Step(TRUNK, tuple(t.name for t in trunk.inputs), tuple(given)))
        inputs = {t.name: t for t in trunk.inputs} | inputs
    outputs = []
    for tail in tails:
        graph = graphs[tail]
        answers = tuple(t.name for t in graph.outputs)
        steps.append(Step(tail, tuple(t.name for t in graph.inputs), answers))
        outputs += list(graph.outputs)
    return TritonModel(
        name=name,
        inputs=tuple(tensor for key, tensor in inputs.items() if key not in given),
        outputs=tuple(outputs),
        largest_batch=min(graphs[step.model].largest_batch for step in steps),
        steps=tuple(steps),
    )


def _check_names(names: Sequence[str]) -> None:
    """Refuse models whose names mean another part of the repository."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise NoRepository(
            f"the model repository would hold {', '.join(twice)} twice: in it, {MERGED}, {TRUNK} "
            f"and NAME{TAIL} have meanings of their own; rename the model"
        )


def _write_graph(name: str, source: Path, folder: Path) -> TritonModel:
    """Write a graph with all its weights in one file; return its description."""
    try:
        import onnx
    except ImportError as error:
        raise missing_packages(error) from error

    model = onnx.load(source)
    described = _describe_graph(name, model)
    version = folder / VERSION
    version.mkdir(parents=True)
    onnx.save(model, version / "model.onnx")
    (folder / CONFIG).write_text(render_config(described), encoding="utf-8")
    return described


def _write_ensemble(ensemble: TritonModel, folder: Path) -> None:
    (folder / VERSION).mkdir(parents=True)  # empty, but Triton demands it
    (folder / CONFIG).write_text(render_config(ensemble), encoding="utf-8")


def _describe_graph(name: str, model: onnx.ModelProto) -> TritonModel:
    inputs, outputs = (
        tuple(_tensor(value) for value in values)
        for values in (model.graph.input, model.graph.output)
    )
    free = all(tensor.dims[0] == FREE for tensor in (*inputs, *outputs))
    return TritonModel(name, inputs, outputs, LARGEST_BATCH if free else 0)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    # Triton writes the types of numbers as ONNX does, but for two floats.
    data_type = TensorProto.DataType.Name(tensor.elem_type)
    shorter = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}.get(data_type, data_type)
    dims = tuple(side.dim_value or FREE for side in tensor.shape.dim)
    return Tensor(value.name, f"TYPE_{shorter}", dims)
