"""A merged model as a model repository of Triton: its configs, and what its ensembles compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from numpy.typing import NDArray
from split_graphs import ANSWERS, EARLY, FRAMES, READS, SHARED, WRITES, write_graphs

from search.deploy.triton.repository import NoRepository, write_triton_repository

Arrays = dict[str, NDArray[np.float32]]
SCHEMA = {
    "ModelConfig": "name:string platform:string max_batch_size:int32 input:*Tensor output:*Tensor "
    "instance_group:*Group ensemble_scheduling:Ensembling",
    "Tensor": "name:string data_type:Type dims:*int64",
    "Group": "count:int32",
    "Ensembling": "step:*Step",
    "Step": "model_name:string model_version:int64 input_map:*Entry output_map:*Entry",
    "Entry": "key:string value:string",
}
"""The fields of Triton's ModelConfig that a repository uses; a star means repeated."""


@pytest.fixture(scope="module")
def config_type() -> Any:
    """Return a message that protobuf parses as Triton parses its ModelConfig."""
    field = descriptor_pb2.FieldDescriptorProto
    numbers = {"string": field.TYPE_STRING, "int32": field.TYPE_INT32, "int64": field.TYPE_INT64}
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", syntax="proto3")
    types = file.enum_type.add(name="Type")
    for number, name in enumerate(("TYPE_INVALID", "TYPE_FP32", "TYPE_INT64")):
        types.value.add(name=name, number=number)
    for message_name, fields in SCHEMA.items():
        message = file.message_type.add(name=message_name)
        for number, text in enumerate(fields.split(), start=1):
            name, _, kind = text.partition(":")
            label = field.LABEL_REPEATED if kind[0] == "*" else field.LABEL_OPTIONAL
            added = message.field.add(name=name, number=number, label=label)
            kind = kind.removeprefix("*")
            if kind in numbers:
                added.type = numbers[kind]
            else:
                added.type_name = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ModelConfig"))


def read_configs(repository: Path, config_type: Any) -> dict[str, Any]:
    return {
        path.parent.name: text_format.Parse(path.read_text(), config_type())
        for path in repository.glob("*/config.pbtxt")
    }


def write_repository(folder: Path, batch: int | str) -> Path:
    """Write the graphs, whole and in parts, and the repository made of them."""
    folder.mkdir()
    write_graphs(folder, batch)
    names = write_triton_repository(folder, list(READS), folder / "triton")
    assert sorted(names) == sorted(path.name for path in (folder / "triton").iterdir())
    return folder / "triton"


def shapes(tensors: Any) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in tensors}


def run_graph(path: Path, inputs: Arrays) -> Arrays:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    feed = {value.name: inputs[value.name] for value in session.get_inputs()}
    return dict(zip(names, session.run(None, feed), strict=True))


def run_model(repository: Path, configs: dict[str, Any], name: str, inputs: Arrays) -> Arrays:
    """Run a model as Triton does: an ensemble step by step, with the tensors that it maps."""
    config = configs[name]
    assert set(inputs) == {tensor.name for tensor in config.input}
    if config.platform == "onnxruntime_onnx":
        return run_graph(repository / name / "1" / "model.onnx", inputs)
    assert not any((repository / name / "1").iterdir())
    tensors, used = dict(inputs), set(shapes(config.output))
    for step in config.ensemble_scheduling.step:
        feed = {entry.key: tensors[entry.value] for entry in step.input_map}
        answers = run_model(repository, configs, step.model_name, feed)
        tensors |= {entry.value: answers[entry.key] for entry in step.output_map}
        used |= {entry.value for entry in step.input_map}
    assert used == set(tensors), "Triton refuses a tensor that nothing uses"
    return {tensor.name: tensors[tensor.name] for tensor in config.output}


@pytest.mark.parametrize(("batch", "frames"), [("batch", 3), (1, 1)])
def test_an_ensemble_computes_the_answers_of_the_merged_model(
    tmp_path: Path, config_type: Any, batch: int | str, frames: int
) -> None:
    repository = write_repository(tmp_path / "bundle", batch)
    configs = read_configs(repository, config_type)
    generator = np.random.default_rng(1)
    inputs = {
        name: generator.standard_normal((frames, *shape), np.float32)
        for name, shape in FRAMES.items()
    }
    expected = run_graph(tmp_path / "bundle" / "model.onnx", inputs)
    for name, reads in {**READS, "merged": list(FRAMES)}.items():
        feed = {value: inputs[value] for value in reads}
        answers = run_model(repository, configs, name, feed)
        assert set(answers) == set(WRITES.get(name, ANSWERS))
        for output, values in answers.items():
            np.testing.assert_allclose(values, expected[output], rtol=1e-5)


def test_every_config_describes_its_graph(tmp_path: Path, config_type: Any) -> None:
    for batch, largest, first in (("batch", 1024, ()), (1, 0, (1,))):
        repository = write_repository(tmp_path / str(batch), batch)
        configs = read_configs(repository, config_type)
        assert set(configs) == {"trunk", "a_tail", "b_tail", "a", "b", "merged"}
        sides = {**FRAMES, **ANSWERS, EARLY: (4, 10, 14), SHARED: (8, 8, 12)}
        whole = {name: (*first, *shape) for name, shape in sides.items()}
        for name, config in configs.items():
            assert config.name == name and config.max_batch_size == largest
            for tensor, shape in shapes([*config.input, *config.output]).items():
                assert shape == whole[tensor]
            if config.platform == "onnxruntime_onnx":
                graph = onnx.load(repository / name / "1" / "model.onnx").graph
                assert list(shapes(config.input)) == [value.name for value in graph.input]
                assert list(shapes(config.output)) == [value.name for value in graph.output]
                assert [group.count for group in config.instance_group] == [1]
        assert set(shapes(configs["trunk"].output)) == {EARLY, SHARED}


def test_graphs_that_share_their_weights_get_files_of_their_own(
    tmp_path: Path, config_type: Any
) -> None:
    """Triton reads nothing outside the folder of a model."""
    write_graphs(tmp_path, "batch")
    for path in tmp_path.glob("*.onnx"):
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location=f"{path.stem}.data",
                  size_threshold=0)  # fmt: skip
    repository = tmp_path / "triton"
    write_triton_repository(tmp_path, list(READS), repository)
    for path in repository.glob("*/1/*"):
        assert path.name == "model.onnx"
        graph = onnx.load(path, load_external_data=False).graph
        assert not any(tensor.external_data for tensor in graph.initializer)


def test_models_that_share_nothing_have_no_trunk(tmp_path: Path, config_type: Any) -> None:
    write_graphs(tmp_path, "batch")
    (tmp_path / "trunk.onnx").unlink()
    for name in READS:
        (tmp_path / f"{name}_alone.onnx").rename(tmp_path / f"{name}.onnx")
    write_triton_repository(tmp_path, list(READS), tmp_path / "triton")
    configs = read_configs(tmp_path / "triton", config_type)
    assert set(configs) == {"a_tail", "b_tail", "a", "b", "merged"}
    assert [step.model_name for step in configs["a"].ensemble_scheduling.step] == ["a_tail"]


def test_a_repository_that_means_two_things_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoRepository, match=r"without model\.onnx there is no model repository"):
        write_triton_repository(tmp_path, ["a", "b"], tmp_path / "triton")
    write_graphs(tmp_path, "batch")
    (tmp_path / "merged.onnx").write_bytes((tmp_path / "b.onnx").read_bytes())
    with pytest.raises(NoRepository, match="would hold merged twice"):
        write_triton_repository(tmp_path, ["a", "merged"], tmp_path / "triton")
    assert not (tmp_path / "triton").exists()
