"""What a runtime would refuse: each rule has a graph that breaks it, and one that keeps it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import pytest
from onnx import parser

from search.deploy.runtimes.graph_check import check_graph, name_part
from search.deploy.runtimes.operator_list import OperatorList, Restriction
from search.deploy.runtimes.registry import IR_VERSION, OPSET, TARGETS
from search.deploy.runtimes.target import RuntimeTarget

LISTED = [target for target in TARGETS.values() if target.operators is not None]
MAP = "float[1, 2, 8, 8] x"
CONSTANTS = """
    float[2] ones = {1, 1}, float[1] scale = {0.5}, int8[1] zero = {0}, int8[1] offset = {1},
    float[2, 2, 1, 1] kernel = {1, 1, 1, 1},
    float[4] twice = {1, 1, 2, 2}, float[4] tenfold = {1, 1, 10, 10},
    int64[1] first = {0}, int64[1] second = {1}, int64[1] third = {2}, int64[1] last = {-1},
    int64[8] margins = {0, 0, 1, 1, 0, 0, 1, 1}, bool yes = {1},
    float[1, 2, 2, 2] grid = {0, 0, 0, 0, 0, 0, 0, 0}, int64[1, 1] place = {0},
    float[1, 2, 8, 8] rest = {1}, float[2, 1, 1] three = {1, 1}, float[1, 2, 1, 1] four = {1, 1}
"""


@dataclass(frozen=True)
class Case:
    """A node whose text has a gap, with a text for the gap that is refused, and one that is not.

    `inputs` are those of the graph with the two texts.
    """

    node: str
    refused: str
    allowed: str
    inputs: tuple[str, str] = (MAP, MAP)


ROW, BATCH = ("float[1, 2, 8] x", MAP), ("float[2, 2, 8, 8] x", MAP)
STEPS = (f"{MAP}, int64[1] steps", MAP)
CASES = {
    "Resize attribute mode": Case("Resize <mode = {}> (x, , twice)", '"cubic"', '"linear"'),
    "Resize attribute coordinate_transformation_mode": Case(
        "Resize <coordinate_transformation_mode = {}> (x, , twice)",
        '"half_pixel_symmetric"',
        '"half_pixel"',
    ),
    "Resize attribute nearest_mode": Case(
        "Resize <nearest_mode = {}> (x, , twice)", '"nearest"', '"floor"'
    ),
    "Resize input 2": Case("Resize (x, , {})", "tenfold", "twice"),
    "MaxPool rank ": Case("MaxPool <kernel_shape = {}> (x)", "[2]", "[2, 2]", ROW),
    "MaxPool attribute dilations": Case(
        "MaxPool <kernel_shape = [2, 2], dilations = {}> (x)", "[2, 2]", "[1, 1]"
    ),
    "MaxPool attribute strides": Case(
        "MaxPool <kernel_shape = [2, 2], strides = {}> (x)", "[9, 1]", "[8, 1]"
    ),
    "MaxPool attribute pads": Case(
        "MaxPool <kernel_shape = [9, 9], pads = {}> (x)", "[8, 8, 1, 1]", "[7, 7, 1, 1]"
    ),
    "MaxPool attribute ceil_mode": Case(
        "MaxPool <kernel_shape = [2, 2], ceil_mode = {}> (x)", "1", "0"
    ),
    "InstanceNormalization rank ": Case(
        "InstanceNormalization (x, ones, ones){}", "", "", ("float[1, 2] x", MAP)
    ),
    "InstanceNormalization input 1": Case(
        "InstanceNormalization (x, {}, ones)", "by", "ones", (f"{MAP}, float[2] by", MAP)
    ),
    "InstanceNormalization input 2": Case(
        "InstanceNormalization (x, ones, {})", "by", "ones", (f"{MAP}, float[2] by", MAP)
    ),
    "QuantizeLinear input 2": Case(
        "DequantizeLinear <axis = 0> (q, scale, {})", "offset", "zero"
    ),
    "Slice input 3": Case("Slice (x, first, second, {})", "steps", "third", STEPS),
    "Slice input 4": Case("Slice (x, first, second, third, {})", "third", "second"),
    "Slice axes ": Case("Slice (x, first, second, {})", "first", "last"),
    "ReduceSum input 1": Case("ReduceSum (x, {})", "steps", "third", STEPS),
    "ReduceSum axes ": Case("ReduceSum (x, {})", "last", "second"),
    "ReduceMax attribute keepdims": Case("ReduceMax <axes = [1], keepdims = {}> (x)", "0", "1"),
    "GridSample rank ": Case(
        "GridSample (x, grid){}", "", "", ("float[1, 2, 8, 8, 8] x", MAP)
    ),
    "ScatterND attribute reduction": Case(
        'ScatterND <reduction = {}> (x, place, rest)', '"add"', '"none"'
    ),
    "Softmax batch ": Case("Softmax (x){}", "", "", BATCH),
    "Conv attribute pads": Case("Conv <pads = {}> (x, kernel)", "[16, 0, 0, 0]", "[15, 0, 0, 0]"),
    "ConvTranspose attribute strides": Case(
        "ConvTranspose <strides = {}> (x, kernel)", "[3, 3]", "[2, 2]"
    ),
    "Pad attribute mode": Case("Pad <mode = {}> (x, margins)", '"reflect"', '"constant"'),
    "EyeLike input 0": Case("EyeLike ({})", "x", "kernel", ("float[2, 2] x", MAP)),
    "Mul channel ": Case("Mul (x, {})", "three", "four"),
    "Conv input 1": Case(
        "Conv (x, {})", "by", "kernel", (f"{MAP}, float[2, 2, 1, 1] by", MAP)
    ),
}  # fmt: skip
"""By operator, part and name or number: a case of each restriction in any list."""


def graph(nodes: str, inputs: str = MAP, opset: int = OPSET) -> onnx.ModelProto:
    """Return a graph that computes `y`; only the constants that it reads are in it."""
    text = f"""<ir_version: {IR_VERSION}, opset_import: ["": {opset}]>
        g ({inputs}) => (float y) <{CONSTANTS}> {{ {nodes} }}"""
    model = parser.parse_model(text)
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.output[0].ClearField("type")  # to be inferred
    return model


def sentences(target: str, nodes: str, inputs: str = MAP, opset: int = OPSET) -> list[str]:
    return check_graph(graph(nodes, inputs, opset), TARGETS[target])


def case_of(restriction: Restriction) -> Case:
    names = [f"{o} {restriction.part} {restriction.which}" for o in restriction.operators]
    (case,) = {CASES[name] for name in names if name in CASES}
    return case


RESTRICTIONS = [
    pytest.param(
        target,
        restriction,
        id=f"{target.name} {'/'.join(sorted(restriction.operators)[:2])} {restriction.part} "
        f"{restriction.which}",
    )
    for target in LISTED
    if target.operators
    for restriction in target.operators.restrictions
]


@pytest.mark.parametrize(("target", "restriction"), RESTRICTIONS)
def test_each_restriction_of_a_list_refuses_its_graph_and_only_that(
    target: RuntimeTarget, restriction: Restriction
) -> None:
    case = case_of(restriction)
    refused = graph(f"y = {case.node.format(case.refused)}", case.inputs[0])
    allowed = graph(f"y = {case.node.format(case.allowed)}", case.inputs[1])
    about = f": {name_part(case.node.partition(' ')[0], restriction)} is "
    assert any(about in sentence for sentence in check_graph(refused, target))
    assert not any(about in sentence for sentence in check_graph(allowed, target))


def test_every_case_is_of_a_restriction() -> None:
    used = [case_of(r) for t in LISTED if t.operators for r in t.operators.restrictions]
    assert {id(case) for case in used} == {id(case) for case in CASES.values()}


def test_a_graph_of_plain_operators_suits_every_runtime() -> None:
    nodes = "c = Conv (x, kernel) r = Relu (c) y = Add (r, x)"
    assert [sentences(target, nodes) for target in TARGETS] == [[]] * len(TARGETS)


def test_a_sentence_counts_the_nodes_and_names_the_first() -> None:
    model = graph(
        'a = Resize <mode = "cubic"> (x, , twice) y = Resize <mode = "cubic"> (a, , twice)'
    )
    model.graph.node[0].name = "enlarge"
    (sentence,) = check_graph(model, TARGETS["rknn"])
    assert sentence == (
        "Resize: 2 nodes (first: enlarge): mode is cubic, allowed: nearest or linear"
    )


def test_an_operator_is_refused_by_the_lists_that_lack_it() -> None:
    refusing = {target for target in TARGETS if sentences(target, "y = Neg (x)")}
    assert refusing == {"rknn", "hailo"}
    assert sentences("rknn", "y = Neg (x)") == [
        "Neg: 1 node (first: y): not an operator of RKNN-Toolkit2 2.1.0"
    ]


def test_an_operator_of_another_domain_is_refused() -> None:
    model = graph("y = com.microsoft.Gelu (x)")
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    found = check_graph(model, TARGETS["onnxruntime"])
    assert "1 node (first: y): com.microsoft is no domain of ONNX" in found


@pytest.mark.parametrize("target", TARGETS)
def test_a_newer_operator_set_or_file_format_is_refused(target: str) -> None:
    newer = graph("y = Relu (x)", opset=OPSET + 1)
    newer.ir_version = IR_VERSION + 1
    opset, file_format = check_graph(newer, TARGETS[target])
    assert opset.startswith("operator set 18: ")
    assert file_format.startswith("file format 9: ")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("nodes", "inputs", "fault"),
    [
        ("y = Relu (x)", "float[1, 2, 2, 8, 8] x", "tensors of more than 4 dimensions (first: x)"),
        ("y = Unsqueeze (x, first)", MAP, "1 tensor of more than 4 dimensions (first: y)"),
        ("y = Relu (x)", "float[batch, 8] x", "with a dimension that is not fixed (first: x)"),
        ("y = Reshape (x, shape)", f"{MAP}, int64[2] shape", "not fixed (first: y)"),
        ("y = Reshape (x, shape)", f"{MAP}, int64[n] shape", "of unknown shape (first: y)"),
        ("s = Shape (x) y = Reshape (x, s)", MAP, "Shape: 1 node (first: s): computes a shape"),
        ("y = Relu (x)", "double[1, 2] x", "2 tensors in float64 (first: x)"),
    ],
)
def test_shapes_and_types_that_no_runtime_takes_are_refused(
    target: str, nodes: str, inputs: str, fault: str
) -> None:
    assert any(fault in sentence for sentence in sentences(target, nodes, inputs))


@pytest.mark.parametrize(
    ("nodes", "inputs", "fault"),
    [
        (
            "y = Relu (x)",
            "int64[1, 2] x",
            "2 tensors that are inputs or outputs, and not in float32",
        ),
        ("y = ArgMax <axis = 1> (x)", MAP, "1 tensor computed in int64 (first: y)"),
        (
            "w = DequantizeLinear (zero, scale) y = Mul (x, w)",
            MAP,
            "1 tensor stored in fewer bits",
        ),
    ],
)
def test_types_are_those_that_compilers_take(nodes: str, inputs: str, fault: str) -> None:
    for target in TARGETS.values():
        found = sentences(target.name, nodes, inputs)
        assert any(fault in sentence for sentence in found) == (not target.compressed_weights)


def test_weights_may_lie_beside_the_graph_where_the_runtime_reads_them_there() -> None:
    model = graph("y = Conv (x, kernel)")
    (kernel,) = model.graph.initializer
    kernel.ClearField("float_data")
    kernel.data_location = onnx.TensorProto.EXTERNAL
    refused = ["1 tensor stored in a file beside the graph (first: kernel)"]
    for target in TARGETS.values():
        assert check_graph(model, target) == ([] if target.weights_beside else refused)


def test_a_list_or_a_target_that_contradicts_itself_cannot_be_built() -> None:
    relu = frozenset({"Relu"})
    with pytest.raises(ValueError, match="no 'colour'"):
        Restriction(relu, "colour")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="both values and limits"):
        Restriction(relu, "rank", values=(4,), limits=(1, 4))
    with pytest.raises(ValueError, match=r"restricted, but not listed: \['Relu'\]"):
        OperatorList("a compiler 1.0", "a page", frozenset(), (Restriction(relu, "rank"),))
    with pytest.raises(ValueError, match="only runtimes that are run here"):
        RuntimeTarget(
            "box", "Box", OPSET, IR_VERSION, True, True, True, "", TARGETS["rknn"].operators
        )


def test_a_target_is_registered_under_its_name() -> None:
    assert {name: target.name for name, target in TARGETS.items()} == {n: n for n in TARGETS}
